"""--pairs: preference data of any origin, through DPO and the reward model."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from conftest import flags, outcome, refusal

from src.data.squad_loader import load_squad
from src.data.squad_parse import BadRow
from src.data.tokenizers.tokenizer import load_tokenizer
from src.data.trained_contexts import context_hash
from src.preference.pair_batches import count_pairs
from src.preference.pair_files import load_given_pairs, unit_of
from src.preference.pair_rows import in_template, read_pair
from src.preference.pairs import given_pairs, policy_scores
from src.training import reporting
from src.training.progress import Progress
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PICO = load_tokenizer("pico")
DPO, REWARD = "train_dpo", "train_reward_model"


def message(role, content):
    return {"role": role, "content": content}


def dialogue(number, answer):
    return f"\n\nHuman: Say number {number // 2}.\n\nAssistant: {answer}"


def answers(number):
    """Chosen and rejected: every prompt has two pairs of its own."""
    return f"It is {number}.", f"It is not {number}, but {number % 7} or so."


SHAPES = {
    "prompt": lambda n, yes, no: {
        "prompt": f"Say number {n // 2}.", "chosen": yes, "rejected": no
    },
    "context": lambda n, yes, no: {
        "context": f"The number of the day is {n // 4}.", "question": f"Which, {n // 2}?",
        "chosen": yes, "rejected": no,
    },
    "messages": lambda n, yes, no: {
        "chosen": [message("user", f"Say number {n // 2}."), message("assistant", yes)],
        "rejected": [message("user", f"Say number {n // 2}."), message("assistant", no)],
    },
    "dialogues": lambda n, yes, no: {"chosen": dialogue(n, yes), "rejected": dialogue(n, no)},
}


def rows_of(shape, count=300):
    return [SHAPES[shape](n, *answers(n)) for n in range(count)]


def json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def logged(folder):
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --- the rows ---


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_same_pair(shape):
    row = read_pair(SHAPES[shape](6, " yes ", "no\n"))
    assert row[2:] == ("yes", "no")
    expected = {
        "prompt": (None, "Say number 3."),
        "context": ("The number of the day is 1.", "Which, 3?"),
        "messages": (None, "Say number 3."),
        "dialogues": (None, "\n\nHuman: Say number 3.\n\nAssistant:"),
    }
    assert row.prompt() == expected[shape]


def test_messages_by_hand():
    """Several turns, a prompt of its own, lists as CSV has them."""
    turns = [message("user", "Hi"), message("assistant", "Hello!"), message("user", "Who?")]
    sides = {"chosen": [*turns, message("assistant", "I.")],
             "rejected": [*turns, message("assistant", "You.")]}
    told = "User: Hi\n\nAssistant: Hello!\n\nUser: Who?\n\nAssistant:"
    assert read_pair(sides) == (None, told, "I.", "You.")
    assert read_pair({key: json.dumps(side) for key, side in sides.items()})[1] == told
    assert read_pair({key: json.dumps(side, indent=2) for key, side in sides.items()})[1] == told
    assert read_pair({key: str(side) for key, side in sides.items()})[1] == told
    last = {key: side[-1:] for key, side in sides.items()}
    assert read_pair(last | {"prompt": turns})[1] == told
    assert read_pair(last | {"prompt": "Who?"})[1] == "Who?"
    assert read_pair(sides | {"prompt": "Who?"})[1] == told


def test_dialogues_end_their_prompt_where_the_last_speaker_begins():
    """Not in the middle of what both answers begin with."""
    for start in ("\n\nHuman: a\n\nAssistant:", "Q: 1+1\nA:", "Question: 1+1\nAnswer:"):
        row = read_pair({"chosen": f"{start} I think so", "rejected": f"{start} I think not"})
        assert row == (None, start, "I think so", "I think not")
    row = read_pair({"chosen": "The sum of 2 and 3 is five", "rejected": "The sum of 2 and 3 is 9"})
    assert row == (None, "The sum of 2 and 3 is", "five", "9")


def test_messages_in_csv_are_read_as_such(tmp_path):
    """`datasets` writes no comma between them there, so that they are neither JSON nor Python."""
    path = tmp_path / "a.csv"
    rows = [
        {
            side: [message("user", f"It's {n}?"), message("assistant", f'a "{side}" one')]
            for side in ("chosen", "rejected")
        }
        for n in range(12)
    ]
    datasets.Dataset.from_list(rows).to_csv(str(path))
    pairs = load_given_pairs(str(path))
    found = sorted([*pairs.train, *pairs.held_out])
    assert found == sorted(
        (None, f"It's {n}?", 'a "chosen" one', 'a "rejected" one') for n in range(12)
    )


def test_a_prompt_in_the_form_of_the_questions_is_one():
    text = "Context: It is 3.\nQuestion: Which?\nAnswer:"
    row = read_pair({"prompt": text, "chosen": "3", "rejected": "4"})
    assert in_template(row) == ("It is 3.", "Which?", "3", "4")
    plain = read_pair({"prompt": "Which?", "chosen": "3", "rejected": "4"})
    assert in_template(plain) == plain


@pytest.mark.parametrize("empty", [None, ""])
def test_a_table_has_the_columns_of_all_shapes(empty):
    """A pair of a whole prompt was dropped for its empty context."""
    row = {"context": empty, "question": empty, "prompt": "Which?", "chosen": "3", "rejected": "4"}
    assert read_pair(row) == (None, "Which?", "3", "4")
    asked = {"context": "It is 3.", "question": "Which?", "prompt": empty}
    assert read_pair(row | asked) == ("It is 3.", "Which?", "3", "4")
    sides = {"chosen": [message("user", "q"), message("assistant", "yes")],
             "rejected": [message("user", "q"), message("assistant", "no")]}
    assert read_pair(row | sides | {"prompt": empty}) == (None, "q", "yes", "no")


user = [message("user", "q")]
yes, no = [message("assistant", "yes")], [message("assistant", "no")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x", "text where an object belongs"),
        ({"prompt": "p", "chosen": "a"}, "no 'rejected'"),
        ({"prompt": "p", "chosen": "a", "rejected": "a "}, "chosen and rejected are the same"),
        ({"prompt": "p", "chosen": " ", "rejected": "a"}, "empty chosen"),
        ({"prompt": "", "chosen": "b", "rejected": "a"}, "empty prompt"),
        ({"prompt": 3, "chosen": "b", "rejected": "a"}, "'prompt' is a number, expected text"),
        ({"prompt": "p", "chosen": None, "rejected": "a"}, "'chosen' is null, expected text"),
        ({"context": "c", "chosen": "b", "rejected": "a"}, "no 'question'"),
        ({"chosen": "Yes it is", "rejected": "No"}, "begin differently"),
        ({"chosen": user + yes, "rejected": "no"}, "one of chosen and rejected is a list"),
        ({"chosen": user + yes, "rejected": user + yes}, "chosen and rejected are the same"),
        ({"chosen": user + yes, "rejected": user}, "has no answer after"),
        ({"chosen": user + yes + user, "rejected": user + no}, "several messages after"),
        ({"chosen": user + user, "rejected": user + no}, "of role 'user', expected assistant"),
        ({"chosen": yes, "rejected": no}, "no prompt: no messages before the answers"),
        ({"chosen": [], "rejected": []}, "no message in chosen or rejected"),
        ({"chosen": [{"role": "user"}], "rejected": no}, "a message without 'content'"),
        ({"chosen": [3], "rejected": no}, "a number where a message of role and content belongs"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "a"}, "lone surrogate in the chosen"),
    ],
)
def test_what_cannot_be_used_says_why(row, reason):
    with pytest.raises(BadRow) as fault:
        read_pair(row)
    assert reason in str(fault.value) and "\n" not in str(fault.value)


# --- held out ---


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_is_on_one_side_only(shape, tmp_path):
    """300 pairs of 150 prompts (75 contexts of two questions): about a tenth is held out."""
    path = json_lines(tmp_path / "a.jsonl", rows_of(shape))
    given = load_given_pairs(path)
    assert len(given.train) + len(given.held_out) == 300
    assert 26 <= len(given.held_out) <= 34
    assert given.trained_on == frozenset()
    assert not {unit_of(r) for r in given.train} & {unit_of(r) for r in given.held_out}
    counts = f"{len(given.train)} pairs to train on, {len(given.held_out)} held out"
    assert counts in given.report.notes[-1]
    assert given.identity["train_pairs"] == len(given.train)
    shuffled = rows_of(shape)
    random.Random(0).shuffle(shuffled)
    again = load_given_pairs(json_lines(tmp_path / "b.jsonl", shuffled))
    assert {r for r in again.held_out} == {r for r in given.held_out}
    assert again.identity["fingerprint"] != given.identity["fingerprint"]


def test_reserved_prompts_are_never_trained_on(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", rows_of("context"))
    every = {f"The number of the day is {n}." for n in range(75)}
    reserved = {text for text in every if text.endswith("7.")}
    given = load_given_pairs(path, reserved=reserved)
    assert not {unit_of(row) for row in given.train} & reserved
    assert reserved <= {unit_of(row) for row in given.held_out}
    assert "28 pairs are of held-out contexts or prompts" in given.report.notes[0]
    with pytest.raises(UserError, match="all 300 pairs are of held-out contexts"):
        load_given_pairs(path, reserved=every)


def test_what_earlier_stages_have_not_read_is_held_out_first(tmp_path):
    """All but 15 prompts (30 pairs) were trained on: those are held out; else it is counted."""
    path = json_lines(tmp_path / "a.jsonl", rows_of("prompt"))
    prompts = [f"Say number {n}." for n in range(150)]
    known = frozenset(map(context_hash, prompts[15:]))
    given = load_given_pairs(path, trained_on=known)
    assert {unit_of(row) for row in given.held_out} == set(prompts[:15])
    unseen = given_pairs(given.held_out, PICO, 512, trained_on=known)
    assert (unseen.seen, unseen.kind) == (0, "held out")
    every = frozenset(map(context_hash, prompts))
    unseen = given_pairs(given.held_out, PICO, 512, trained_on=every)
    assert (unseen.seen, unseen.kind) == (30, "trained on")
    unseen = given_pairs(given.held_out, PICO, 512, trained_on={context_hash(prompts[3])})
    assert (unseen.seen, unseen.kind) == (2, "2 of 30 trained on")


def test_one_context_is_split_by_question(tmp_path):
    rows = [row | {"context": "One."} for row in rows_of("context", 40)]
    given = load_given_pairs(json_lines(tmp_path / "a.jsonl", rows))
    assert {r.question for r in given.train}.isdisjoint(r.question for r in given.held_out)
    assert len(given.held_out) == 4


def test_splits_of_their_own_are_kept_and_made_disjoint(tmp_path):
    json_lines(tmp_path / "train.jsonl", rows_of("prompt", 40))
    json_lines(tmp_path / "test.jsonl", rows_of("prompt", 44)[36:])
    given = load_given_pairs(str(tmp_path))
    assert len(given.train) == 36 and len(given.held_out) == 8
    assert "dropped: 4 training pairs on a context or prompt of the held-out split" in (
        given.report.lines()[0]
    )


def test_so_many_held_out_pairs_are_kept_as_are_asked_for(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", rows_of("prompt"))
    whole, few = load_given_pairs(path), load_given_pairs(path, limit=5)
    assert len(few.held_out) == 5 and set(few.held_out) <= set(whole.held_out)
    assert few.train == whole.train
    assert few.identity["fingerprint"] == whole.identity["fingerprint"]


def test_a_hub_set_through_the_real_library(tmp_path):
    """A folder of the set's name, where the library looks first; chosen as messages."""
    place = tmp_path / "org/feedback/data"
    place.mkdir(parents=True)
    table = datasets.Dataset.from_list(rows_of("messages", 60))
    for split in ("train_prefs", "test_prefs"):
        part = table.select(range(40) if split.startswith("train") else range(40, 60))
        part.to_parquet(str(place / f"{split}-00000-of-00001.parquet"))
    readme = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
        f"  - split: {name}\n    path: data/{name}*\n" for name in ("train_prefs", "test_prefs")
    )
    (tmp_path / "org/feedback/README.md").write_text(f"{readme}---\n")
    load = (
        "from src.preference.pair_files import load_given_pairs as load\n"
        "given = load('org/feedback')\nprint(len(given.train), len(given.held_out))\n"
        "print(given.train[0])"
    )
    child = subprocess.run(
        [sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
                          "HF_HOME": str(tmp_path / "cache")},
    )
    counts, first = child.stdout.splitlines()
    assert counts == "40 20" and "question='Say number 0.', chosen='It is 0.'" in first


# --- trees ---


def test_pairs_of_one_prompt_share_it_and_score_as_alone(chain_of):
    """Six pairs on three questions of one context: a tree; each pair's log-probabilities are those
    that it has by itself."""
    path = chain_of("kgram").folder / "checkpoints/kgram_main_squad/final.pt"
    model = load_checkpoint(path).model
    rows = [read_pair(row | {"context": "It is 1."}) for row in rows_of("context", 6)]
    together = given_pairs(rows, PICO, 512)
    assert len(together.trees.trees) == 1 and count_pairs(together.trees.trees) == 6
    (_, questions) = together.trees.trees[0]
    assert [len(ids) for _, ids in questions] == [4, 4, 4]
    scores = policy_scores(model, together.trees.trees, PICO.eos_id)
    for pair, row in zip(together.in_order(), scores, strict=True):
        alone = next(r for r in rows if r.chosen == pair.chosen)
        one = policy_scores(model, given_pairs([alone], PICO, 512).trees.trees, PICO.eos_id)
        assert row.tolist() == pytest.approx(one[0].tolist(), abs=1e-4)


def test_prompts_that_begin_alike_share_their_beginning_and_not_their_interval():
    start = "You are asked for a number, and you answer it in as few words as you can, " * 4
    rows = [read_pair(row | {"prompt": start + row["prompt"]}) for row in rows_of("prompt", 20)]
    found = given_pairs(rows, PICO, 512)
    assert len(found.trees.trees) < 10
    assert len(set(found.groups())) == 10
    texts = {
        PICO.decode([*context, *tokens]) for context, qs in found.trees.trees for tokens, _ in qs
    }
    assert texts == {f"{start}Say number {n}." for n in range(10)}


def test_a_pair_of_a_long_prompt_is_printed_in_one_line(capsys):
    prompt = "Add up.\n" + "1 + " * 200 + "1 ="
    row = read_pair({"prompt": prompt, "chosen": "201", "rejected": "200"})
    reporting.say_pairs(Progress(), torch.zeros(1, 2), given_pairs([row], PICO, 2048))
    [line] = capsys.readouterr().err.splitlines()
    assert " 1 + 1 =  chosen: '201' 0.00" in line and len(line) < 400


def test_long_contexts_are_cut_and_long_prompts_and_answers_dropped():
    long = "word " * 200
    rows = [
        {"context": long, "question": "q?", "chosen": "a", "rejected": "b"},
        {"context": "c", "question": "q?", "chosen": "a", "rejected": long},
        {"prompt": long, "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
    ]
    found = given_pairs([read_pair(row) for row in rows], PICO, 64)
    assert found.trees.dropped == 2
    for context, questions in found.trees.trees:
        for tokens, ids in questions:
            assert len(context) + len(tokens) + max(map(len, ids)) + 1 <= 64


# --- the stages ---


def own_tasks(path):
    rows = [{"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(60)]
    return json_lines(path, rows)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stage", [DPO, REWARD])
def test_three_hundred_rows_of_each_shape_train(stage, shape, workplace, model_type):
    """Both stages end well, say what they trained on, and keep it in identity and lineage."""
    workplace(model_type, ["main_squad"])
    path = json_lines(Path("mine.jsonl"), [*rows_of(shape), {"prompt": "p", "chosen": "a"}])
    ended = outcome(stage, [*flags(stage, model_type), "--pairs", path, "--eval_limit", "30"])
    assert ended.code == 0, ended.err
    said = "\n".join(ended.err)
    assert "dropped: 1 no 'rejected'; first: mine.jsonl, row 301 (with prompt, chosen)" in said
    assert "pairs to train on" in said and "training pairs: " in said
    final = load_checkpoint(f"checkpoints/{model_type}_{stage}/final.pt")
    assert final.data["pairs"]["pairs"] == path and len(final.data["pairs"]["fingerprint"]) == 64
    assert final.as_ancestor()["pairs"] == final.data["pairs"]
    last = [r for r in logged(f"checkpoints/{model_type}_{stage}") if "eval_length_rule" in r][-1]
    assert last["eval_length_rule"] == pytest.approx(100)  # every chosen answer is the shorter one
    if stage == DPO:
        assert 0 <= last["eval_preference_accuracy"] <= 100 and "eval_reward_margin" in last
        assert "eval_chosen_logp_nats" in last and "em" in final.metrics
    else:
        assert {"eval_accuracy", "eval_margin_nats"} <= last.keys()
        assert not any(name.startswith("eval_accuracy_") and name.split("_")[2] not in (
            "low", "high", "gain") for name in last)


def test_dpo_learns_what_pairs_prefer(kgram):
    """300 rows that say the short answer is better: on prompts not trained on it is preferred."""
    path = json_lines(Path("mine.jsonl"), rows_of("context"))
    argv = [*flags(DPO, "kgram"), "--pairs", path, "--output_dir", "new", "--max_steps", "30",
            "--lr", "0.01", "--batch_size", "8"]
    ended = outcome(DPO, argv)
    assert ended.code == 0, ended.err
    found = [r for r in logged("new") if "eval_reward_accuracy" in r]
    assert found[0]["eval_reward_accuracy"] == pytest.approx(50)
    assert found[-1]["eval_reward_accuracy"] > 90


def test_epochs_are_over_all_pairs(kgram):
    """3 by default, over 60 prompts of one tree each (they share no beginning) in batches of 8."""
    rows = [{"prompt": f"{chr(97 + n % 26)}{n} number?", "chosen": "a", "rejected": "b"}
            for n in range(60)]
    path = json_lines(Path("mine.jsonl"), rows)
    argv = ["--model_type", "kgram", "--eval_limit", "6", "--batch_size", "8", "--pairs", path]
    for more, epochs in (([], 3), (["--epochs", "1"], 1)):
        out = f"epochs{epochs}"
        ended = outcome(REWARD, [*argv, "--output_dir", out, *more])
        assert ended.code == 0, ended.err
        assert load_checkpoint(f"{out}/final.pt").flags["max_steps"] == epochs * 7


@pytest.mark.parametrize("loss", ["kto", "simpo", "orpo", "nll", "hinge", "ipo"])
def test_every_loss_takes_several_pairs_of_a_prompt(loss, kgram):
    """One question of two pairs each; kto needs an answer of another question below each pair."""
    path = json_lines(Path("mine.jsonl"), rows_of("prompt"))
    argv = [*flags(DPO, "kgram"), "--pairs", path, "--output_dir", "new", "--loss_type", loss]
    ended = outcome(DPO, argv)
    assert ended.code == 0, ended.err


def test_what_pairs_trained_on_is_held_out_for_nobody(kgram):
    """Their contexts are in the checkpoint; the questions of its data, not trained on, are not."""
    path = json_lines(Path("mine.jsonl"), rows_of("context"))
    ended = outcome(DPO, [*flags(DPO, "kgram"), "--pairs", path, "--output_dir", "new"])
    assert ended.code == 0, ended.err
    parent = set(load_checkpoint("checkpoints/kgram_main_squad/final.pt").trained_on.tolist())
    mine = set(load_checkpoint("new/final.pt").trained_on.tolist()) - parent
    given = load_given_pairs(path)
    assert mine == {context_hash(unit_of(row)) for row in given.train}


def test_nothing_inherits_pairs(kgram):
    path = json_lines(Path("mine.jsonl"), rows_of("context"))
    assert outcome(DPO, [*flags(DPO, "kgram"), "--pairs", path, "--overwrite"]).code == 0
    parent = "checkpoints/kgram_train_dpo/final.pt"
    argv = [*flags(DPO, "kgram"), "--checkpoint", parent, "--output_dir", "again"]
    ended = outcome(DPO, argv)
    assert ended.code == 0, ended.err
    again = load_checkpoint("again/final.pt")
    assert "pairs" not in again.data and again.flags["pairs"] is None
    assert again.lineage[-1]["pairs"]["pairs"] == path
    assert "kinds" not in again.data and any("sampled" in line for line in ended.err)


@pytest.mark.parametrize("stage", [DPO, REWARD])
def test_without_the_parents_data_em_is_left_out_and_not_zero(stage, workplace):
    """The file that SFT was trained on is gone: pairs need it not."""
    workplace("kgram", [])
    own_tasks(Path("tasks.jsonl"))
    argv = [*flags("main_squad", "kgram"), "--dataset", "tasks.jsonl"]
    assert outcome("main_squad", argv).code == 0
    Path("tasks.jsonl").unlink()
    assert "tasks.jsonl" in refusal_of(stage, flags(stage, "kgram"))
    path = json_lines(Path("mine.jsonl"), rows_of("prompt"))
    argv = [*flags(stage, "kgram"), "--pairs", path]
    ended = outcome(stage, argv)
    assert ended.code == 0, ended.err
    assert any("EM, F1 and answer loss are left out" in line for line in ended.err)
    final = load_checkpoint(f"checkpoints/kgram_{stage}/final.pt")
    assert final.data["dataset"] == "tasks.jsonl"
    assert not {"em", "f1", "answer_loss_nats"} & final.metrics.keys()
    kept = "preference_accuracy" if stage == DPO else "accuracy"
    assert kept in final.metrics and f"{kept}_gain" in final.metrics
    names = {name for record in logged(f"checkpoints/kgram_{stage}") for name in record}
    assert not any("em" in name.split("_") or "f1" in name.split("_") for name in names)
    assert outcome(stage, [*argv, "--resume"]).code == 0
    Path(f"checkpoints/kgram_{stage}/final.pt").unlink()
    ended = outcome(stage, ["--model_type", "kgram", "--resume"])
    assert ended.code == 0, ended.err


def refusal_of(stage, argv):
    ended = outcome(stage, argv)
    assert ended.code == 2, ended.err
    return ended.err[-1]


def test_pairs_of_held_out_questions_are_not_trained_on(kgram):
    """The parent's held-out contexts stay what EM is measured on."""
    data = load_squad("pico", num_examples=60)
    rows = [
        {"context": p.context, "question": q.text, "chosen": q.answers[0], "rejected": "nothing"}
        for p in (data.train[:8] + data.validation[:8])
        for q in p.questions[:2]
    ]
    path = json_lines(Path("mine.jsonl"), rows)
    ended = outcome(DPO, [*flags(DPO, "kgram"), "--pairs", path, "--output_dir", "new",
                          "--eval_limit", "100"])
    assert ended.code == 0, ended.err
    assert load_checkpoint("new/final.pt").data["pairs"]["held_out_pairs"] == 16
    held_out = json_lines(Path("held_out.jsonl"), rows[16:])
    line = refusal_of(DPO, [*flags(DPO, "kgram"), "--pairs", held_out, "--output_dir", "no"])
    assert "all 16 pairs are of held-out contexts or prompts" in line


def test_a_model_of_own_prompts_takes_rows_of_prompts(workplace):
    workplace("kgram", [])
    own_tasks(Path("tasks.jsonl"))
    argv = [*flags("main_squad", "kgram"), "--dataset", "tasks.jsonl"]
    assert outcome("main_squad", argv).code == 0
    rows = [{"prompt": f"{n} + 1 =", "chosen": str(n + 1), "rejected": "no"} for n in range(60)]
    path = json_lines(Path("mine.jsonl"), rows)
    ended = outcome(DPO, [*flags(DPO, "kgram"), "--pairs", path])
    assert ended.code == 0, ended.err
    path = json_lines(Path("other.jsonl"), rows_of("context"))
    line = refusal_of(REWARD, [*flags(REWARD, "kgram"), "--pairs", path])
    assert "rows of context and question given to a model of prompts of your own" in line


def test_resume_knows_its_pairs(kgram):
    """A finished run and one that was stopped: other pairs in the file are not what it began with.
    """
    path = json_lines(Path("mine.jsonl"), rows_of("prompt"))
    argv = [*flags(REWARD, "kgram"), "--pairs", path, "--output_dir", "new"]
    assert outcome(REWARD, argv).code == 0
    assert outcome(REWARD, [*argv, "--resume"]).code == 0
    shutil.copytree("new", "stopped")
    Path("stopped/final.pt").unlink()
    json_lines(Path("mine.jsonl"), rows_of("prompt", 299))
    for folder in ("new", "stopped"):
        ended = outcome(REWARD, ["--model_type", "kgram", "--output_dir", folder, "--resume"])
        assert ended.code == 2, ended.err
        assert "the pairs of --pairs mine.jsonl is not what" in ended.err[-1]


def test_made_and_given_pairs_are_one_too_many():
    for stage in (DPO, REWARD):
        line = refusal(stage, ["--pairs", "x.jsonl", "--corruptions", "sentence=1"])
        assert "--corruptions sentence=1 given with --pairs, expected one of them" in line
        assert "--pairs '' given, expected a name" in refusal(stage, ["--pairs", ""])


same = {"prompt": "p", "chosen": "a", "rejected": "a"}
long = {"prompt": "p ", "chosen": "a " * 2000, "rejected": "b"}
BROKEN = {
    "empty": ("a.jsonl", b"", "no usable pair; it is empty"),
    "no JSON": ("a.jsonl", b"torn\nlines\n", "2 no JSON where an object belongs; first: a.jsonl, "
                "row 1"),
    "cut short": ("a.json", json.dumps(rows_of("prompt")).encode()[:-40], "the file ends early"),
    "not UTF-8": ("a.jsonl", "[]".encode("utf-16"), "byte 0 is not UTF-8"),
    "a text": ("a.json", b'"chosen"', "expected rows of prompt (or context and question), chosen"),
    "no rejected": ("a.jsonl", b'{"prompt": "p", "chosen": "a"}\n', "1 no 'rejected'; first: "),
    "questions": ("a.json", json.dumps(
        [{"context": "c", "question": "q", "answers": ["a"]}] * 9).encode(), "9 no 'chosen'"),
    "equal": ("a.jsonl", json.dumps(same).encode(), "1 chosen and rejected are the same"),
    "empty answers": ("a.jsonl", json.dumps(same | {"chosen": ""}).encode(), "1 empty chosen"),
    "one prompt": ("a.jsonl", json.dumps(same | {"chosen": "b"}).encode(),
                   "1 pairs of one prompt, of which none can be held out"),
    "gzip": ("a.jsonl.gz", gzip.compress(b"[]" * 99)[:-9], "no sound gzip file"),
    "parquet": ("a.parquet", b"PAR1 and no more", "no sound parquet file"),
    "CSV": ("a.csv", b'prompt,chosen,rejected\np,"a', "no sound CSV"),
    "too long": ("a.jsonl", b"\n".join(json.dumps(long | {"prompt": f"{n}"}).encode()
                                       for n in range(9)), "none of 8 training pairs fits a block"),
    "no file": ("", b"", "--pairs a.jsonl: no such file or folder; expected a data file"),
    "no data in a folder": ("a.jsonl/notes.bin", b"x", "--pairs a.jsonl: the datasets library"),
    "messages": ("a.jsonl", json.dumps({"chosen": [{"content": "a"}], "rejected": []}).encode(),
                 "1 no 'role'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_clear_line(name, workplace):
    """Exit code 2, and the last line says the file and what is wrong with it."""
    file, content, reason = BROKEN[name]
    workplace("kgram", ["main_squad"])
    if file:
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_bytes(content)
    path = "a.jsonl" if not file or "/" in file else file
    line = refusal_of(REWARD, [*flags(REWARD, "kgram"), "--pairs", path])
    assert reason in line and path in line
    assert not Path("checkpoints/kgram_train_reward_model/final.pt").exists()
