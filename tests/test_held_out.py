"""What any ancestor was trained on is held out for nobody."""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import flags, generated, outcome, path_of

from src.data.squad_loader import load_from_identity
from src.data.trained_contexts import context_hash
from src.inference.prompts import prompts_of_flags
from src.report.measure import measure_pipeline
from src.report.pipelines import find_pipelines
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.errors import UserError
from src.utils.payload import load_payload, save_payload


def four_by_four(path, first=0):
    """A SQuAD file of 4 titles, each of 4 contexts with 4 questions."""
    data = []
    for a in range(first, first + 4):
        paragraphs = []
        for c in range(4):
            names = [f"Ada{a}{c}{n}" for n in range(4)]
            context = f"In 12{a}{c} " + ", ".join(names) + " met."
            qas = [
                {"id": f"{a}-{c}-{n}", "question": f"Who came as number {n}?",
                 "answers": [{"text": name, "answer_start": context.index(name)}]}
                for n, name in enumerate(names)
            ]
            paragraphs.append({"context": context, "qas": qas})
        data.append({"title": f"Meeting {a}", "paragraphs": paragraphs})
    Path(path).write_text(json.dumps({"version": "1.1", "data": data}))


def contexts_in(path):
    articles = json.loads(Path(path).read_text())["data"]
    return {paragraph["context"] for article in articles for paragraph in article["paragraphs"]}


@pytest.fixture
def trained_on_four(workplace):
    """SFT trained on four.json: 12 contexts to train on, 4 held out."""
    workplace("kgram", [])
    four_by_four("four.json")
    ended = outcome("main_squad", [*flags("main_squad", "kgram"), "--dataset", "four.json"])
    assert ended.code == 0, ended.err
    return path_of("main_squad")


def measured(*argv):
    ended = outcome("eval_dpo", ["--model_type", "kgram", "--predictions", "out.json", *argv])
    return ended, json.loads(Path("out.json").read_text()) if ended.code == 0 else {}


def test_a_file_that_was_trained_on_is_not_held_out(trained_on_four):
    """`eval_dpo.py --dataset four.json`: of 64 questions 48 were trained on and are left out."""
    sft = ["--checkpoint", trained_on_four, "--dataset", "four.json"]
    ended, answers = measured(*sft)
    assert ended.code == 0 and len(answers) == 16, ended.err
    assert "four.json: 16 held out" in "\n".join(ended.err)
    line = "--dataset four.json: 48 of 64 questions are left out, their contexts were trained on"
    assert any(said.startswith(line) for said in ended.err)
    counts = {"questions": 16, "trained_on": 0, "left_out_as_trained_on": 48}
    assert ended.result.items() >= counts.items()
    # All of them, where that is asked for, and marked beside every metric.
    ended, answers = measured(*sft, "--include_trained")
    assert len(answers) == 64 and "48 of 64 trained on" in "\n".join(ended.err)
    rows = [line for line in ended.out if line.startswith(("checkpoints/", "rule: "))]
    assert all("(48 of 64 trained on)" in row for row in rows if "[" in row) and len(rows) > 4
    assert (ended.result["questions"], ended.result["trained_on"]) == (64, 48)


def test_blanks_and_file_names_do_not_hide_what_was_trained_on(trained_on_four):
    content = json.loads(Path("four.json").read_text())
    for article in content["data"]:
        article["title"] += " anew"
        for paragraph in article["paragraphs"]:
            paragraph["context"] += "  \n"
    Path("again").mkdir()
    Path("again/dev.json").write_text(json.dumps(content))
    four_by_four("again/train.json", first=5)
    ended, answers = measured("--checkpoint", trained_on_four, "--dataset", "again")
    assert ended.code == 0 and len(answers) == 16, ended.err
    # Of what was never seen, nothing is left out.
    ended, answers = measured("--checkpoint", trained_on_four, "--dataset", "again",
                              "--split", "train")
    assert len(answers) == 64 and not any("left out, their" in line for line in ended.err)


def test_a_split_of_which_nothing_is_held_out_is_refused_in_one_line(workplace):
    workplace("kgram", [])
    Path("data").mkdir()
    four_by_four("data/train.json")
    four_by_four("data/dev.json", first=5)
    data = ["--dataset", "data", "--num_examples", "64"]
    ended = outcome("main_squad", [*flags("main_squad", "kgram"), *data])
    assert ended.code == 0, ended.err
    split = ["--checkpoint", path_of("main_squad"), "--split", "train"]
    ended, _ = measured(*split)
    assert ended.code == 2 and not ended.out
    line = "--dataset data --split train given, but nothing of it is held out: all 16 contexts"
    assert line in ended.err[-1]
    assert "add --include_trained" in ended.err[-1]
    ended, answers = measured(*split, "--include_trained")
    assert ended.code == 0 and len(answers) == 64
    assert any("64 trained on (0 more" in line for line in ended.err)
    assert any(line.startswith("trained on ") for line in ended.out)


@pytest.mark.parametrize("stage", ["train_dpo", "train_reward_model", "train_ppo"])
def test_later_stages_hold_out_only_what_no_ancestor_was_trained_on(stage, trained_on_four):
    """`--dataset OTHER`, whose dev file was trained on in part, and then as a whole."""
    Path("other").mkdir()
    four_by_four("other/train.json", first=5)
    shutil.copy("four.json", "other/dev.json")
    own = ["--reward", "f1"] if stage == "train_ppo" else []
    argv = [*flags(stage, "kgram"), *own, "--dataset", "other", "--eval_limit", "100"]
    ended = outcome(stage, argv)
    assert ended.code == 0, ended.err
    assert any("48 of 64 questions are left out" in line for line in ended.err)
    found = load_checkpoint(path_of(stage))
    trained = contexts_in("other/train.json") | contexts_in("four.json")
    assert len(found.trained_on) == 12 + 16 and len(trained) == 32
    # What this stage was trained on is held out for nobody, nor what its parent was.
    kept = {context_hash(context) for context in trained} & set(found.trained_on.tolist())
    assert len(kept) == 28
    content = json.loads(Path("four.json").read_text())
    encoded = {context_hash(c) for c in contexts_in("four.json")} & kept
    content["data"] = [a for a in content["data"]
                       if context_hash(a["paragraphs"][0]["context"]) in encoded]
    Path("other/dev.json").write_text(json.dumps(content))
    again = [*argv, "--overwrite"]
    ended = outcome(stage, again)
    assert ended.code == 2 and "nothing of it is held out: all 12 contexts" in ended.err[-1]
    ended = outcome(stage, [*again, "--include_trained"])
    assert ended.code == 0, ended.err
    assert any(line.startswith(f"{stage} trained on, after step 0") for line in ended.err)
    assert any("against the model it started from (trained on):" in line for line in ended.err)
    assert load_checkpoint(path_of(stage)).metrics["trained_on_questions"] == 48


def test_what_the_reward_model_was_trained_on_is_held_out_for_no_policy(trained_on_four):
    """Its scores there are not what they are elsewhere."""
    four_by_four("other.json", first=5)
    argv = [*flags("train_reward_model", "kgram"), "--dataset", "other.json"]
    assert outcome("train_reward_model", argv).code == 0
    ended, answers = measured("--checkpoint", trained_on_four, "--dataset", "other.json")
    assert ended.code == 0 and len(answers) == 16, ended.err
    Path(path_of("train_reward_model")).unlink()
    assert len(measured("--checkpoint", trained_on_four, "--dataset", "other.json")[1]) == 64


NO_PROMPT = argparse.Namespace(prompt=None, question=None, prompts_file=None)


def test_the_report_and_generation_leave_out_what_was_trained_on(trained_on_four, monkeypatch):
    """DPO was trained on contexts that are held out in the data of SFT."""
    held = [p.context for p in load_from_identity(load_checkpoint(trained_on_four).data).validation]
    content = json.loads(Path("four.json").read_text())
    (article,) = [a for a in content["data"] if a["paragraphs"][0]["context"] in held]
    Path("mine").mkdir()
    four_by_four("mine/dev.json", first=5)
    Path("mine/train.json").write_text(json.dumps({"version": "1.1", "data": [
        {**article, "paragraphs": article["paragraphs"][:3]}]}))
    argv = [*flags("train_dpo", "kgram"), "--dataset", "mine"]
    assert outcome("train_dpo", argv).code == 0
    ended = outcome("report", ["--limit", "100"])
    assert ended.code == 0, ended.err
    assert any("12 questions of four.json are left out" in line for line in ended.err)
    assert not any("--include_trained" in line for line in ended.err)  # which it has not
    assert "4 held-out questions, greedy answers" in Path("report/report.html").read_text()
    # SFT's own checkpoint saw none of them; DPO's data are others.
    monkeypatch.setattr(sys, "stdin", None)
    assert {answered["context"] for answered in generated()} <= set(held)
    assert len(prompts_of_flags(NO_PROMPT, load_checkpoint(trained_on_four))) == 3
    dpo = load_checkpoint(path_of("train_dpo"))
    sft_data = dataclasses.replace(dpo, data=load_checkpoint(trained_on_four).data)
    assert len(prompts_of_flags(NO_PROMPT, sft_data)) == 1
    Path("mine/train.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    assert outcome("train_dpo", [*argv, "--overwrite"]).code == 0
    pipeline = find_pipelines(["checkpoints"])[0]
    assert measure_pipeline(pipeline, 100, 0, torch.device("cpu"), {}) is None
    (note,) = [note for note in pipeline.notes if "nothing of it is held out" in note]
    assert "eval_dpo.py --include_trained evaluates on them" in note


def test_the_set_of_contexts_is_small_and_checked(trained_on_four):
    found = load_checkpoint(trained_on_four)
    held_out = load_from_identity(found.data).validation
    trained = contexts_in("four.json") - {p.context for p in held_out}
    assert found.trained_on.tolist() == sorted(map(context_hash, trained))
    assert context_hash("a  b\nc ") == context_hash("a b c") != context_hash("a bc")
    payload = load_payload(trained_on_four)
    for wrong in (None, [1, 2], torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)):
        save_payload("wrong.pt", {**payload, "trained_on": wrong})
        with pytest.raises(UserError, match="found no trained_on in it"):
            load_checkpoint("wrong.pt")
