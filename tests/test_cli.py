"""The whole chain by its scripts: what each writes and says, and how it ends when used wrongly."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SHAPES, SMALL, call, flags, outcome, refusal

from src.evaluation import exact_match, f1_score
from src.names import MODEL_TYPES, STAGES
from src.utils.checkpoint_utils import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
METRICS = {
    "em", "f1", "answer_loss_nats", "preference_accuracy", "reward", "win_rate", "kl_nats",
}  # fmt: skip
PROMPT = "Context: The Boru Fair began in 1204.\nQuestion: When did it begin?\nAnswer:"


@pytest.fixture
def kgram(workplace):
    """A folder with the k-gram's whole chain, made the current one."""
    return workplace("kgram")


def generate(*more, model_type="kgram"):
    return outcome("generate_from_checkpoint", ["--model_type", model_type, *more])


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
        assert child.lineage[0]["sha256"] == sft.sha256
        assert child.lineage[0]["seed"] == 0 and child.lineage[0]["metrics"] == sft.metrics
    assert [a["sha256"] for a in ppo.lineage] == [sft.sha256, reward.sha256]
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
                )  # fmt: skip
            finally:
                os.chdir(before)
        return made[model_type]

    return evaluated


def test_evaluation_finds_dpo_and_its_parent_by_itself(evaluated, model_type):
    ended, table, _ = evaluated(model_type)
    assert ended.code == 0, ended.err
    dpo, sft = (f"checkpoints/{model_type}_{stage}/final.pt" for stage in ("train_dpo", STAGES[0]))
    assert list(table["policies"]) == [dpo, sft]
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
    assert any(line == f"mine.json: {number} questions, 0.0% of the golds cut off"
               for line in ended.err)  # fmt: skip


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


@pytest.mark.parametrize("flag", ["--output", "--predictions"])
def test_a_file_that_could_not_be_written_is_refused_before_the_work(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("nowhere/table.json", str(tmp_path)):
        assert f"{flag} {path} given" in refusal("eval_dpo", [flag, path])


# --- generation ---


def test_one_prompt_prints_its_answer_alone(chain_of, model_type, monkeypatch):
    """On stdout the answer; the lineage in a line on stderr."""
    monkeypatch.chdir(chain_of(model_type).folder)
    path = f"checkpoints/{model_type}_train_ppo/final.pt"
    argv = ["--checkpoint", path, "--max_new_tokens", "5"]
    ended = generate(*argv, "--prompt", PROMPT, model_type=model_type)
    assert ended.code == 0 and len(ended.err) == 1
    for stage in ("main_squad", "train_reward_model", "train_ppo"):
        assert stage in ended.err[0]
    assert "data pico" in ended.err[0] and "tokenizer pico" in ended.err[0]
    (result,) = ended.result["results"]
    assert "\n".join(ended.out) == result["answers"][0]
    # The same prompt in its two parts is the same prompt.
    parts = ["--context", "The Boru Fair began in 1204.", "--question", "When did it begin?"]
    assert generate(*argv, *parts, model_type=model_type).out == ended.out


def test_the_log_prob_of_an_answer_is_that_of_its_tokens(chain_of, model_type, monkeypatch):
    """Greedy answers, log-probs at temperature 1, against scoring the same text."""
    from src.data.squad_dataset import split_prompt

    monkeypatch.chdir(chain_of(model_type).folder)
    ended = generate("--prompt", PROMPT, "--max_new_tokens", "3", "--json", model_type=model_type)
    said = json.loads("\n".join(ended.out))
    assert set(said) == {"prompt", "answers", "logp_nats", "stopped"} and said["prompt"] == PROMPT
    found = load_checkpoint(f"checkpoints/{model_type}_main_squad/final.pt")
    context, question = map(found.tokenizer.encode, split_prompt(PROMPT))
    tokens, nats = [], 0.0
    for _ in range(3):
        row = torch.tensor([[*context, *question, *tokens]])
        hidden, _ = found.model(row, torch.tensor([row.shape[1]]))
        logp = found.model.logits(hidden[0, -1]).log_softmax(-1)
        tokens.append(int(logp.argmax()))
        nats += float(logp.max())
        if tokens[-1] == found.tokenizer.stop_id:
            break
    assert said["logp_nats"] == pytest.approx([nats], abs=1e-3)
    text = [t for t in tokens if t != found.tokenizer.stop_id]
    assert said["answers"] == [found.tokenizer.decode(text).strip()]
    assert said["stopped"] == [tokens[-1] == found.tokenizer.stop_id]


def test_prompts_come_from_a_file_of_json_lines(kgram):
    rows = [{"prompt": PROMPT}, {"context": "The Boru Fair began in 1204.",
                                 "question": "When did it begin?"}, {"prompt": "Once"}]  # fmt: skip
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    ended = generate("--prompts_file", "prompts.jsonl", "--json", "--max_new_tokens", "4")
    assert ended.code == 0, ended.err
    said = [json.loads(line) for line in ended.out]
    assert [{k: v for k, v in row.items() if k in ("prompt", "context", "question")}
            for row in said] == rows  # fmt: skip
    assert said[0]["answers"] == said[1]["answers"]


def test_a_pipe_is_read_line_by_line(kgram, monkeypatch):
    piped = PROMPT.replace("\n", "\\n") + "\n\nOnce upon a time\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
    ended = generate("--json", "--max_new_tokens", "4")
    assert [json.loads(line)["prompt"] for line in ended.out] == [PROMPT, "Once upon a time"]


@pytest.mark.parametrize("closed", [False, True])
def test_without_any_prompt_three_held_out_questions_are_answered(closed, kgram, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None if closed else io.StringIO(""))
    ended = generate("--json", "--max_new_tokens", "4")
    assert ended.code == 0 and "three held-out questions" in ended.err[-1]
    said = [json.loads(line) for line in ended.out]
    assert len(said) == 3 and all(row["question"] in row["question"] for row in said)
    assert len({row["context"] for row in said}) == 3


def test_a_terminal_is_asked(kgram, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    lines = iter(["Once upon", "", PROMPT.replace("\n", "\\n")])

    def answer(_prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    ended = generate("--json", "--max_new_tokens", "4")
    assert [json.loads(line)["prompt"] for line in ended.out] == ["Once upon", PROMPT]


def test_sampling_gives_as_many_answers_as_asked_and_the_seed_decides(kgram):
    argv = ["--prompt", PROMPT, "--temperature", "1", "--num_samples", "4", "--json"]
    first, again, other = (
        json.loads(generate(*argv, "--seed", seed).out[0]) for seed in ("1", "1", "2")
    )
    assert len(first["answers"]) == 4 and len(set(first["answers"])) > 1
    assert first == again != other
    alone = json.loads(generate(*argv, "--top_k", "1").out[0])
    assert len(set(alone["answers"])) == 1, "top_k 1 leaves nothing to draw"


def test_a_reward_checkpoint_scores_an_answer(chain_of, model_type, monkeypatch):
    """The normalised score, the same as one plain row read to its stop token."""
    from src.data.squad_dataset import split_prompt

    monkeypatch.chdir(chain_of(model_type).folder)
    path = f"checkpoints/{model_type}_train_reward_model/final.pt"
    argv = ["--checkpoint", path, "--prompt", PROMPT, "--answer", "1204"]
    ended = generate(*argv, model_type=model_type)
    assert ended.code == 0 and len(ended.out) == 1, ended.err
    found = load_checkpoint(path)
    encode = found.tokenizer.encode
    context, question = map(encode, split_prompt(PROMPT))
    row = torch.tensor([[*context, *question, *encode(" 1204"), found.tokenizer.stop_id]])
    hidden, _ = found.model.trunk(row, torch.tensor([row.shape[1]]))
    assert float(ended.out[0]) == pytest.approx(float(found.model.score(hidden[0, -1])), abs=1e-3)
    said = json.loads(generate(*argv, "--json", model_type=model_type).out[0])
    assert said["answer"] == "1204"
    assert said["score"] == pytest.approx(float(ended.out[0]), abs=1e-4)


def test_a_policy_scores_nothing_and_a_reward_model_says_nothing(kgram):
    ended = generate("--prompt", PROMPT, "--answer", "1204")
    assert ended.code == 2 and "expected no --answer" in ended.err[-1]
    reward = ["--checkpoint", "checkpoints/kgram_train_reward_model/final.pt"]
    ended = generate(*reward, "--prompt", PROMPT)
    assert ended.code == 2 and "expected --answer with it" in ended.err[-1]


@pytest.mark.parametrize("script", ["generate_from_checkpoint", "eval_dpo", *STAGES[1:]])
def test_a_model_type_that_is_not_the_checkpoint_s_names_both(script, kgram):
    path = "checkpoints/kgram_main_squad/final.pt"
    ended = outcome(script, ["--model_type", "lstm", "--checkpoint", path])
    assert ended.code == 2
    assert ended.err == [
        f"{script}: --model_type lstm given, but {path} holds a kgram, add --model_type kgram"
    ]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--prompt", ""], "an empty prompt given, expected some text"),
        (["--prompt", " \n "], "an empty prompt given"),
        (["--context", "Some text.", "--question", " "], "an empty prompt given"),
        (["--prompt", "word " * 3000], "tokens given, expected at most"),
        (["--prompt", "Once", "--max_new_tokens", "100000"], "tokens given, expected at most"),
        (["--prompts_file", "nowhere.jsonl"], "--prompts_file nowhere.jsonl given"),
        (["--prompts_file", "bad.jsonl"], "expected JSON lines"),
        (["--prompts_file", "keys.jsonl"], "keys.jsonl line 2: expected texts under prompt"),
        (["--prompts_file", "empty.jsonl"], "found an empty file"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt given, expected a checkpoint file there"),
        (["--checkpoint", "bad.jsonl"], "expected a checkpoint"),
        (["--checkpoint", "checkpoints"], "checkpoints given, expected a checkpoint file there"),
    ],
)
def test_generation_refuses_in_one_line(more, line, kgram):
    Path("bad.jsonl").write_text('{"prompt": "x"\n')
    Path("keys.jsonl").write_text('{"prompt": "x"}\n{"question": "no context"}\n')
    Path("empty.jsonl").write_text("\n")
    ended = generate(*more)
    assert ended.code == 2 and not ended.out
    assert len([words for words in ended.err if not words.startswith("kgram: ")]) == 1, ended.err
    assert line in ended.err[-1] and ended.err[-1].startswith("generate_from_checkpoint: ")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--prompt", "x", "--top_p", "2"], "--top_p"),
        (["--prompt", "x", "--top_p", "0"], "--top_p"),
        (["--prompt", "x", "--temperature", "-1"], "--temperature"),
        (["--prompt", "x", "--temperature", "nan"], "--temperature"),
        (["--prompt", "x", "--top_k", "-1"], "--top_k"),
        (["--prompt", "x", "--num_samples", "0"], "--num_samples"),
        (["--prompt", "x", "--max_new_tokens", "0"], "--max_new_tokens"),
        (["--prompt", "x", "--top_k", "5"], "add --temperature 1"),
        (["--prompt", "x", "--num_samples", "2"], "add --temperature 1"),
        (["--prompt", "x", "--prompts_file", "y"], "--prompt and --prompts_file given"),
        (["--prompt", "x", "--question", "y", "--context", "z"], "--prompt and --question given"),
        (["--context", "z"], "expected both or neither"),
        (["--question", "y"], "expected both or neither"),
        (["--model_type", "rnn"], "rnn"),
        (["--nosuchflag"], "--nosuchflag"),
    ],
)
def test_meaningless_flags_of_generation_are_refused(more, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in refusal("generate_from_checkpoint", more)


def run_script(script, *argv, **options):
    """A script as people run it, in a process of its own in the current folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / f"{script}.py"), *argv]
    return subprocess.run(command, capture_output=True, env=environment, timeout=120, **options)


def test_a_pipe_of_bytes_that_are_no_text_ends_in_one_line(kgram):
    ended = run_script("generate_from_checkpoint", "--model_type", "kgram", input=b"\xff\xfe x\n")
    assert ended.returncode == 2 and not ended.stdout
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 2 and "expected UTF-8 text" in lines[1]


def test_a_prompt_that_is_no_text_is_answered_all_the_same(kgram):
    """Bytes on the command line that are no UTF-8 come as lone surrogates, which cannot be printed.
    """
    argv = ["--model_type", "kgram", "--json", "--prompt", b"caf\xe9 au lait"]
    ended = run_script("generate_from_checkpoint", *argv)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["prompt"] == "caf? au lait"


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
                                "--checkpoint", reward])  # fmt: skip
        assert ended.code == 2 and len(ended.err) == 1
        assert "a checkpoint of train_reward_model, expected one of main_squad" in ended.err[0]
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--output_dir", "new",
                                  "--reward_checkpoint", sft])  # fmt: skip
    assert ended.code == 2 and "a checkpoint of main_squad" in ended.err[-1]


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
        ("train_dpo", ["--beta", "0"], ["--beta"]),
        ("train_dpo", ["--label_smoothing", "0.6"], ["--label_smoothing"]),
        ("train_dpo", ["--loss_type", "ipo", "--label_smoothing", "0.1"], ["ipo", "smoothing"]),
        ("train_dpo", ["--loss_type", "hinge"], ["hinge"]),
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


def test_flags_are_inherited_from_the_parent_and_said(kgram, capsys):
    """The later stages read the data of the first, and may be told otherwise."""
    ended = outcome("train_dpo", [*flags("train_dpo", "kgram"), "--output_dir", "new"])
    assert any("pico, inherited from checkpoints/kgram_main_squad/final.pt" in line
               for line in ended.err)  # fmt: skip
    found = load_checkpoint("new/final.pt")
    assert found.flags["num_examples"] == 60 and found.flags["dataset"] == "pico"
    # What is not said stays the parent's: the harder data, no more of it.
    argv = [*flags("train_dpo", "kgram"), "--output_dir", "harder", "--difficulty", "3"]
    assert outcome("train_dpo", argv).code == 0
    found = load_checkpoint("harder/final.pt")
    assert (found.data["difficulty"], found.data["num_examples"]) == (3, 60)


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
               for n, s in enumerate(spans)]  # fmt: skip
        data.append({"title": f"t{a}", "paragraphs": [{"context": context, "qas": qas}]})
    (folder / "long.json").write_text(json.dumps({"version": "1.1", "data": data}))
    for stage in STAGES:
        first = ["--dataset", "long.json", "--block_size", block] if stage == STAGES[0] else []
        ended = outcome(stage, [*flags(stage, model_type), *first, "--max_steps", "2"])
        assert ended.code == 0, ended.err
    ended = evaluate(model_type=model_type)
    assert ended.code == 0, ended.err
    assert any("of the golds cut off" in line and " 0.0%" not in line for line in ended.err)
