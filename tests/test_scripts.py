"""The whole chain by its scripts: what each writes and says, and how it ends when used wrongly."""

import json
import os
from pathlib import Path

import pytest
from conftest import SHAPES, SMALL, call, flags, outcome, refusal

from src.evaluation.squad_metrics import exact_match, f1_score
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.constants import MODEL_TYPES, STAGES
from src.utils.exit_handling import command

METRICS = {
    "em", "f1", "answer_loss_nats", "preference_accuracy", "reward", "win_rate", "kl_nats",
    "entropy_nats", "sample_tokens",
}


def evaluate(*more, model_type="kgram"):
    return outcome("eval_dpo", ["--model_type", model_type, *more])


# --- the chain ---


def test_the_chain_leaves_what_it_should(chain_of, model_type):
    """Each stage's files, and its whole lineage with the very hashes of its ancestors' files."""
    folder = chain_of(model_type).folder
    made = {}
    for stage in STAGES:
        place = folder / f"checkpoints/{model_type}_{stage}"
        assert {"final.pt", "last.pt", "metrics.jsonl", "args.json"} <= set(os.listdir(place))
        made[stage] = found = load_checkpoint(place / "final.pt")
        assert (found.stage, found.model_type) == (stage, model_type)
        assert found.metrics == chain_of(model_type).metrics[stage]
        args = json.loads((place / "args.json").read_text())
        assert args["model_type"] == model_type and args["max_steps"] == 4
        steps = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        trained = [line for line in steps if "loss" in line]
        assert [line["step"] for line in trained] == [1, 2, 3, 4]
        assert all(line["examples_per_second"] > 0 for line in trained)
    sft, dpo, reward, ppo = (made[stage] for stage in STAGES)
    assert sft.lineage == []
    for child in (dpo, reward):
        assert [a["stage"] for a in child.lineage] == ["main_squad"]
        assert child.lineage[0]["seed"] == 0 and child.lineage[0]["metrics"] == sft.metrics
    for child, parents in ((dpo, [sft]), (reward, [sft]), (ppo, [sft, reward])):
        assert [a["sha256"] for a in child.lineage] == [parent.sha256 for parent in parents]
        assert [a["flags"] for a in child.lineage] == [parent.flags for parent in parents]
    assert all(found.data == sft.data for found in made.values())


@pytest.fixture(scope="module")
def evaluated(chain_of):
    """evaluated(model_type): how eval_dpo.py ends without flags but a limit, with its files."""
    made = {}

    def evaluated(model_type):
        if model_type not in made:
            before = Path.cwd()
            os.chdir(chain_of(model_type).folder)
            try:
                made[model_type] = evaluate(
                    "--limit", "9", "--output", "table.json", "--predictions", "answers.json",
                    model_type=model_type,
                ), json.loads(Path("table.json").read_text()), json.loads(
                    Path("answers.json").read_text()
                )
            finally:
                os.chdir(before)
        return made[model_type]

    return evaluated


def test_evaluation_finds_dpo_ppo_and_their_parent_by_itself(evaluated, model_type):
    ended, table, _ = evaluated(model_type)
    assert ended.code == 0, ended.err
    dpo, ppo, sft = (
        f"checkpoints/{model_type}_{stage}/final.pt"
        for stage in ("train_dpo", "train_ppo", "main_squad")
    )
    assert list(table["policies"]) == [dpo, ppo, sft]
    assert ended.result == table
    for metrics in table["policies"].values():
        assert set(metrics) == METRICS
        for interval in metrics.values():
            assert set(interval) == {"value", "low", "high"}
            assert interval["low"] <= interval["value"] + 1e-9
            assert interval["value"] <= interval["high"] + 1e-9
    # Measured against itself: no KL, every answer a tie.
    parent = table["policies"][sft]
    assert parent["kl_nats"]["value"] == pytest.approx(0, abs=1e-4)
    assert parent["win_rate"] == {"value": 50.0, "low": 50.0, "high": 50.0}
    text = "\n".join(ended.out)
    assert dpo in text and sft in text and "  Q: " in text
    for rule in ("random span", "first of type", "majority", "perfect copy"):
        assert f"rule: {rule}" in text


def test_predictions_are_in_the_official_format(evaluated, chain_of, model_type, monkeypatch):
    """{question id: answer}: scored by hand they give the table's EM and F1."""
    from src.data.squad_loader import load_from_identity

    monkeypatch.chdir(chain_of(model_type).folder)
    ended, table, answers = evaluated(model_type)
    policy = load_checkpoint(f"checkpoints/{model_type}_train_dpo/final.pt")
    golds = {
        q.id: q.answers for p in load_from_identity(policy.data).validation for q in p.questions
    }
    assert len(answers) == 9 and answers.keys() <= golds.keys()
    assert all(isinstance(answer, str) for answer in answers.values())
    first = table["policies"][policy.path]
    for name, metric in (("em", exact_match), ("f1", f1_score)):
        scores = [metric(answer, golds[key]) for key, answer in answers.items()]
        assert first[name]["value"] == pytest.approx(100 * sum(scores) / len(scores))


def squad_file(path, articles=2):
    """An official file: two paragraphs an article, two questions each, ids q0, q1, ..."""
    data, number = [], 0
    for a in range(articles):
        paragraphs = []
        for p in range(2):
            context = f"The Boru Fair {a} began in 12{a}{p}. It ended in Tessel {p}."
            qas = []
            for text, answer in (("When did it begin?", f"12{a}{p}"), ("Where?", f"Tessel {p}")):
                found = [{"text": answer, "answer_start": context.index(answer)}]
                qas.append({"id": f"q{number}", "question": text, "answers": found})
                number += 1
            paragraphs.append({"context": context, "qas": qas})
        data.append({"title": f"Fair {a}", "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return number


def test_a_file_is_measured_on_as_a_whole(kgram):
    number = squad_file(Path("mine.json"))
    ended = evaluate("--dataset", "mine.json", "--predictions", "out.json")
    assert ended.code == 0, ended.err
    answers = json.loads(Path("out.json").read_text())
    assert set(answers) == {f"q{n}" for n in range(number)}
    told = f"mine.json: {number} held out (0 more leave no room for an answer); windows cut off 0"
    assert any(line.startswith(told) for line in ended.err)


def test_a_folder_has_splits_to_choose_from(kgram):
    Path("data").mkdir()
    squad_file(Path("data/train-v1.1.json"), articles=3)
    squad_file(Path("data/dev-v1.1.json"), articles=1)
    for split, number in ((["--split", "train"], 12), ([], 4), (["--split", "validation"], 4)):
        assert evaluate("--dataset", "data", *split, "--predictions", "out.json").code == 0
        assert len(json.loads(Path("out.json").read_text())) == number


def test_the_sample_depends_on_the_seed_alone(kgram):
    squad_file(Path("mine.json"), articles=9)

    def ids(*more):
        ended = evaluate("--dataset", "mine.json", "--predictions", "out.json", *more)
        assert ended.code == 0, ended.err
        return list(json.loads(Path("out.json").read_text()))

    sft = ["--checkpoint", "checkpoints/kgram_main_squad/final.pt"]
    first = ids("--limit", "7")
    assert len(first) == 7
    assert ids("--limit", "7", *sft) == first
    assert ids("--limit", "7", "--seed", "1") != first
    assert len(ids("--limit", "10000")) == 36


def test_policies_of_any_stage_are_compared(kgram):
    paths = [f"checkpoints/kgram_{stage}/final.pt" for stage in (STAGES[0], STAGES[3])]
    ended = evaluate("--limit", "4", "--checkpoint", *paths)
    assert ended.code == 0 and list(ended.result["policies"]) == paths
    reward = "checkpoints/kgram_train_reward_model/final.pt"
    ended = evaluate("--checkpoint", reward)
    assert ended.code == 2 and "a checkpoint of train_reward_model" in ended.err[-1]


def test_without_a_reward_checkpoint_its_columns_are_left_out_and_that_is_said(workplace):
    workplace("kgram", ["main_squad", "train_dpo"])
    ended = evaluate("--limit", "4")
    assert ended.code == 0
    assert any("no reward checkpoint at" in line for line in ended.err)
    for metrics in ended.result["policies"].values():
        assert set(metrics) == METRICS - {"reward", "win_rate"}
    ended = evaluate("--reward_checkpoint", "nowhere.pt")
    assert ended.code == 2 and "nowhere.pt given, expected a checkpoint file" in ended.err[-1]


def test_an_sft_parent_that_is_another_now_is_refused(kgram):
    """A table against the wrong parent would mislead."""
    ended = outcome("main_squad", [*flags("main_squad", "kgram"), "--overwrite", "--lr", "0.2"])
    assert ended.code == 0, ended.err
    ended = evaluate()
    assert ended.code == 2
    assert "is not the file that checkpoints/kgram_train_dpo/final.pt started from" in ended.err[-1]


@pytest.mark.parametrize("flag", ["--output", "--per_question", "--predictions"])
def test_a_file_that_could_not_be_written_is_refused_before_the_work(flag, tmp_path, monkeypatch):
    """A pipe or device as well: a file would take its place, which root may do to /dev/null."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for path in ("nowhere/table.json", str(tmp_path), "pipe"):
        assert f"{flag} {path} given" in refusal("eval_dpo", [flag, path])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"{flag} new.json given, which cannot be" in refusal("eval_dpo", [flag, "new.json"])


# --- wrong commands ---


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_missing_parent_names_the_command_to_run(stage, model_type, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(stage, ["--model_type", model_type])
    assert f"checkpoints/{model_type}_main_squad/final.pt given" in line
    assert f"run: python main_squad.py --model_type {model_type}" in line


def test_other_missing_parents_name_their_commands(workplace):
    workplace("kgram", ["main_squad"])
    assert "run: python train_dpo.py --model_type kgram" in evaluate().err[-1]
    ended = outcome("train_ppo", flags("train_ppo", "kgram"))
    assert ended.code == 2
    assert "run: python train_reward_model.py --model_type kgram" in ended.err[-1]


def test_a_reward_checkpoint_is_no_policy_and_a_policy_no_reward(kgram):
    reward, sft = (f"checkpoints/kgram_{s}/final.pt" for s in ("train_reward_model", "main_squad"))
    for stage in STAGES[1:]:
        ended = outcome(stage, [*flags(stage, "kgram"), "--output_dir", "new",
                                "--checkpoint", reward])
        assert ended.code == 2 and len(ended.err) == 1
        assert "a checkpoint of train_reward_model, expected one of main_squad" in ended.err[0]
        assert ended.err[0].endswith("run: python main_squad.py --model_type kgram")
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--output_dir", "new",
                                  "--reward_checkpoint", sft])
    assert ended.code == 2 and "a checkpoint of main_squad" in ended.err[-1]
    assert ended.err[-1].endswith("run: python train_reward_model.py --model_type kgram")


@pytest.mark.parametrize(
    ("script", "more", "words"),
    [
        ("main_squad", ["--n_embd", "255", "--n_head", "4"], ["255", "4"]),
        ("main_squad", ["--model_type", "kgram", "--kgram_k", "0"], ["--kgram_k", "0"]),
        ("main_squad", ["--n_layer", "0"], ["--n_layer"]),
        ("main_squad", ["--n_head", "3", "--n_kv_head", "2", "--n_embd", "48"], ["3", "2"]),
        ("main_squad", ["--model_type", "lstm", "--n_head", "4"], ["n_head"]),
        ("main_squad", ["--model_type", "lstm", "--kgram_k", "4"], ["kgram_k"]),
        ("main_squad", ["--kgram_k", "4"], ["kgram_k"]),
        ("main_squad", ["--lr", "-1"], ["--lr"]),
        ("main_squad", ["--lr", "nan"], ["--lr"]),
        ("main_squad", ["--batch_size", "0"], ["--batch_size"]),
        ("main_squad", ["--max_steps", "-3"], ["--max_steps"]),
        ("main_squad", ["--epochs", "0"], ["--epochs"]),
        ("main_squad", ["--difficulty", "9"], ["--difficulty"]),
        ("main_squad", ["--lm_weight", "-0.1"], ["--lm_weight"]),
        ("main_squad", ["--tokenizer", "nosuch"], ["nosuch"]),
        ("main_squad", ["--dataset", "nosuch.json"], ["nosuch.json"]),
        ("main_squad", ["--device", "tpu"], ["tpu"]),
        ("main_squad", ["--resume", "--overwrite"], ["--resume", "--overwrite"]),
        ("main_squad", ["--learning_rate", "1"], ["--learning_rate"]),
        ("main_squad", ["--max_step", "1"], ["--max_step"]),
        ("main_squad", ["--block_size", "8"], ["block"]),
        ("main_squad", ["--block_size", "262145"], ["--block_size", "262144"]),
        ("train_dpo", ["--beta", "0"], ["--beta"]),
        ("train_dpo", ["--label_smoothing", "0.6"], ["--label_smoothing"]),
        ("train_dpo", ["--loss_type", "ipo", "--label_smoothing", "0.1"], ["ipo", "smoothing"]),
        ("train_dpo", ["--loss_type", "kto", "--label_smoothing", "0.1"], ["kto", "smoothing"]),
        ("train_dpo", ["--loss_type", "hing"], ["hing"]),
        ("train_dpo", ["--gamma", "1"], ["--gamma", "sigmoid", "no margin"]),
        ("train_dpo", ["--loss_type", "orpo", "--gamma", "1"], ["--gamma", "orpo"]),
        ("train_dpo", ["--loss_type", "nll", "--beta", "2"], ["--beta", "nll", "one term"]),
        ("train_dpo", ["--loss_type", "nll", "--nll_weight", "0"], ["--nll_weight", "nll"]),
        ("train_dpo", ["--corruptions", "nonsense=1"], ["nonsense"]),
        ("train_reward_model", ["--corruptions", "shifted=0"], ["shifted=0"]),
        ("train_reward_model", ["--corruptions", "shifted=-1"], ["shifted=-1"]),
        ("eval_dpo", ["--limit", "0"], ["--limit"]),
        ("eval_dpo", ["--split", "test"], ["--split"]),
        ("eval_dpo", ["--corruptions", "x"], ["x"]),
    ],
)
def test_bad_commands_end_in_one_line(script, more, words, workplace):
    """With exit code 2, whatever is found out first; words for people may come before it."""
    workplace("transformer")
    data = ["--dataset", "pico", "--num_examples", "60"] if script == "main_squad" else []
    small = [] if script == "eval_dpo" else ["--output_dir", "new", *SMALL, *data]
    ended = outcome(script, [*small, *more])
    assert ended.code == 2, ended.err
    assert ended.err[-1].startswith(f"{script}") and not ended.out
    assert all(word in ended.err[-1] for word in words), ended.err[-1]
    assert not any("Traceback" in line for line in ended.err)


def test_a_package_that_is_missing_is_named_with_what_to_do(capsys):
    @command
    def script(argv=None):
        import no_such_package  # noqa: F401

    with pytest.raises(SystemExit) as ended:
        script()
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1
    assert "no_such_package is not installed" in line and "requirements.txt" in line


def test_flags_are_inherited_from_the_parent_and_said(kgram, capsys):
    """The later stages read the data of the first, and may be told otherwise."""
    ended = outcome("train_dpo", [*flags("train_dpo", "kgram"), "--output_dir", "new"])
    assert any("pico, inherited from checkpoints/kgram_main_squad/final.pt" in line
               for line in ended.err)
    found = load_checkpoint("new/final.pt")
    assert found.flags["num_examples"] == 60 and found.flags["dataset"] == "pico"
    # What is not said stays the parent's: the harder data, no more of it.
    argv = [*flags("train_dpo", "kgram"), "--output_dir", "harder", "--difficulty", "3"]
    ended = outcome("train_dpo", argv)
    assert ended.code == 0 and "data: pico, as the flags say" in ended.err
    found = load_checkpoint("harder/final.pt")
    assert (found.data["difficulty"], found.data["num_examples"]) == (3, 60)


def test_without_dataset_squad_is_tried_and_what_is_used_instead_is_said(tmp_path, monkeypatch):
    waited = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("src.data.squad_loader._fetched_within", waited.append)  # and gets nothing
    argv = ["--model_type", "kgram", *SMALL, *SHAPES["kgram"], "--num_examples", "60"]
    ended = outcome("main_squad", argv)
    assert ended.code == 0 and len(waited) == 1, ended.err
    assert "data: pico, as the flags say" in ended.err
    assert load_checkpoint("checkpoints/kgram_main_squad/final.pt").data["dataset"] == "pico"


def test_every_model_trains_from_a_file_of_your_own(workplace, model_type):
    folder = workplace(model_type, [])
    squad_file(folder / "mine.json", articles=6)
    argv = ["--model_type", model_type, *SMALL, *SHAPES[model_type], "--dataset", "mine.json"]
    assert call("main_squad", argv)["em"] >= 0
    found = load_checkpoint(f"checkpoints/{model_type}_main_squad/final.pt")
    assert found.data["dataset"] == "mine.json"
    Path("mine.json").write_text(Path("mine.json").read_text().replace("Tessel", "Tassel"))
    ended = outcome("train_dpo", ["--model_type", model_type, *SMALL])
    assert ended.code == 2
    assert "its content is not what the checkpoint was trained on" in ended.err[-1]
    # Nor is a part of it taken, of which the held-out articles might have been trained on.
    some = ["--num_examples", "2", "--output_dir", "some"]
    ended = outcome("train_dpo", ["--model_type", model_type, *SMALL, *some])
    assert ended.code == 2 and "is not what the checkpoint was trained on" in ended.err[-1]


@pytest.mark.parametrize("block", ["120", "56"])
def test_long_contexts_and_golds_pass_through_the_whole_chain(block, model_type, workplace):
    """A block in which most golds do not fit: what is cut off is counted, nothing breaks."""
    folder = workplace(model_type, [])
    data = []
    for a in range(6):
        context = f"A{a} " + " ".join(f"word{i} of the tale" for i in range(300))
        spans = [context[:300].strip(), context[40:60].strip(), context[3000:3500].strip()]
        qas = [{"id": f"q{a}{n}", "question": "What is it about?",
                "answers": [{"text": s, "answer_start": context.index(s)}]}
               for n, s in enumerate(spans)]
        data.append({"title": f"t{a}", "paragraphs": [{"context": context, "qas": qas}]})
    (folder / "long.json").write_text(json.dumps({"version": "1.1", "data": data}))
    for stage in STAGES:
        first = ["--dataset", "long.json", "--block_size", block] if stage == STAGES[0] else []
        ended = outcome(stage, [*flags(stage, model_type), *first, "--max_steps", "2"])
        assert ended.code == 0, ended.err
    ended = evaluate(model_type=model_type)
    assert ended.code == 0, ended.err
    assert any("windows cut off" in line and " 0.0%" not in line for line in ended.err)


@pytest.mark.parametrize("script", ["main_squad", "train_dpo", "eval_dpo"])
def test_an_empty_name_is_refused(script, tmp_path, monkeypatch):
    """What an unset variable of a shell gives: not the default folder, which holds a run."""
    monkeypatch.chdir(tmp_path)
    flag = "--checkpoint" if script == "eval_dpo" else "--output_dir"
    ended = outcome(script, [flag, ""])
    assert ended.code == 2 and f"{flag} '' given, expected a name" in ended.err[-1]
    assert not list(tmp_path.iterdir())


def test_a_difficulty_of_data_that_have_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = outcome("main_squad", ["--dataset", "mine.json", "--difficulty", "3"])
    assert ended.code == 2 and "--difficulty 3 given with --dataset mine.json" in ended.err[-1]


@pytest.mark.parametrize("script", ["train_dpo", "eval_dpo"])
def test_a_difficulty_of_inherited_data_that_have_none_is_refused(script, workplace):
    folder = workplace("kgram", [])
    squad_file(folder / "mine.json", articles=6)
    data = ["--dataset", "mine.json"]
    call("main_squad", ["--model_type", "kgram", *SMALL, *SHAPES["kgram"], *data])
    parent = ["--checkpoint", "checkpoints/kgram_main_squad/final.pt", "--model_type", "kgram"]
    ended = outcome(script, [*parent, "--difficulty", "3"])
    assert ended.code == 2
    assert "--difficulty 3 given, but the data is mine.json, expected it left out" in ended.err[-1]
