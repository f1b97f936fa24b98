"""generate_from_checkpoint.py: prompts from everywhere, samples, scores, and how wrong ones end."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import generated, outcome, refusal

from src.data.encoding import split_prompt
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.constants import STAGES

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "Context: The Boru Fair began in 1204.\nQuestion: When did it begin?\nAnswer:"


def generate(*more, model_type="kgram"):
    return outcome("generate_from_checkpoint", ["--model_type", model_type, *more])


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
        nats += logp.max().item()
        if tokens[-1] == found.tokenizer.eos_id:
            break
    assert said["logp_nats"] == pytest.approx([nats], abs=1e-3)
    text = [t for t in tokens if t != found.tokenizer.eos_id]
    assert said["answers"] == [found.tokenizer.decode(text).strip()]
    assert said["stopped"] == [tokens[-1] == found.tokenizer.eos_id]


def test_prompts_come_from_a_file_of_json_lines(kgram):
    rows = [{"prompt": PROMPT}, {"context": "The Boru Fair began in 1204.",
                                 "question": "When did it begin?"}, {"prompt": "Once"}]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    ended = generate("--prompts_file", "prompts.jsonl", "--json", "--max_new_tokens", "4")
    assert ended.code == 0, ended.err
    said = [json.loads(line) for line in ended.out]
    assert [{k: v for k, v in row.items() if k in ("prompt", "context", "question")}
            for row in said] == rows
    assert said[0]["answers"] == said[1]["answers"]


def test_a_pipe_is_read_line_by_line(kgram, monkeypatch):
    piped = PROMPT.replace("\n", "\\n") + "\n\nOnce upon a time\n"
    for text in (piped, piped.replace("\n", "\r\n")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        ended = generate("--json", "--max_new_tokens", "4")
        assert [json.loads(line)["prompt"] for line in ended.out] == [PROMPT, "Once upon a time"]


@pytest.mark.parametrize("closed", [False, True])
def test_without_any_prompt_three_held_out_questions_are_answered(closed, kgram, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None if closed else io.StringIO(""))
    ended = generate("--json", "--max_new_tokens", "4")
    assert ended.code == 0 and "three held-out questions" in ended.err[-4]
    said = [json.loads(line) for line in ended.out]
    assert len(said) == 3
    for row, line in zip(said, ended.err[-3:], strict=True):
        assert row["question"] in line and "gold: " in line
    assert len({row["context"] for row in said}) == 3


def test_a_long_context_is_cut_as_at_evaluation_and_that_is_said(kgram):
    """The first tokens and the line's end, of a raw prompt of that form too; the question stays."""
    words = [f"w{i}" for i in range(2000)]
    question = ["--question", "Who?", "--max_new_tokens", "4", "--json"]
    long = generate("--context", " ".join(words), *question)
    assert long.code == 0 and "the context is cut to its first" in long.err[-1]
    raw = f"Context: {' '.join(words)}\nQuestion: Who?\nAnswer:"
    again = generate("--prompt", raw, "--max_new_tokens", "4", "--json")
    said = [json.loads(ended.out[0])["answers"] for ended in (long, again)]
    assert said[0] == said[1]
    other = generate("--context", " ".join([*words[:1900], "another", "end"]), *question)
    assert json.loads(other.out[0])["answers"] == said[0]


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
    """The normalised score, the same as one plain row read to its EOS."""
    monkeypatch.chdir(chain_of(model_type).folder)
    path = f"checkpoints/{model_type}_train_reward_model/final.pt"
    argv = ["--checkpoint", path, "--prompt", PROMPT, "--answer", "1204"]
    ended = generate(*argv, model_type=model_type)
    assert ended.code == 0 and len(ended.out) == 1, ended.err
    found = load_checkpoint(path)
    encode = found.tokenizer.encode
    context, question = map(encode, split_prompt(PROMPT))
    prompt, answer = [*context, *question], [*encode(" 1204"), found.tokenizer.eos_id]
    row = torch.tensor([[*prompt, *answer]])
    hidden, _ = found.model.backbone(row, torch.tensor([row.shape[1]]))
    logp = found.model.backbone.logits(hidden[0]).log_softmax(-1)[len(prompt) - 1 : -1]
    of_answer = logp.gather(1, torch.tensor(answer)[:, None]).sum()
    score = found.model.normalise(found.model.raw_score(hidden[0, -1], of_answer))
    assert float(ended.out[0]) == pytest.approx(score.item(), abs=1e-3)
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
        (["--prompt", "word " * 3000], "tokens given (without its context), expected at most"),
        (["--prompt", "Once", "--max_new_tokens", "100000"], "--max_new_tokens 100000 given"),
        (["--prompts_file", "nowhere.jsonl"], "--prompts_file nowhere.jsonl given"),
        (["--prompts_file", "bad.jsonl"], "bad.jsonl line 1: expected a JSON object"),
        (["--prompts_file", "keys.jsonl"], "keys.jsonl line 2: expected a JSON object with texts"),
        (["--prompts_file", "empty.jsonl"], "found an empty file"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt given, expected a checkpoint file there"),
        (["--checkpoint", "bad.jsonl"], "expected a checkpoint"),
        (["--checkpoint", "checkpoints"], "checkpoints given, a folder, expected a file in it"),
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
        (["--prompt", "x", "--answer", "y", "--temperature", "1"], "scored, not sampled"),
        (["--prompt", "x", "--answer", "y", "--max_new_tokens", "3"], "scored, not sampled"),
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


def test_equal_prompts_get_different_samples(kgram):
    """A prompt's samples depend on its place, so three equal lines have three different ones. How
    many prompts come after it plays no part."""
    line = json.dumps({"prompt": PROMPT}) + "\n"
    Path("three.jsonl").write_text(3 * line)
    Path("two.jsonl").write_text(2 * line)
    argv = ["--temperature", "1", "--max_new_tokens", "12", "--num_samples", "2"]
    three = [r["answers"] for r in generated("--prompts_file", "three.jsonl", *argv)]
    assert len({tuple(answers) for answers in three}) == 3
    assert [r["answers"] for r in generated("--prompts_file", "two.jsonl", *argv)] == three[:2]
    assert [r["answers"] for r in generated("--prompt", PROMPT, *argv)] == three[:1]


@pytest.mark.parametrize("value", ["1e-39", "1e-300", "0.0009"])
def test_a_temperature_that_float32_cannot_divide_by_is_refused(value, kgram):
    """Logits divided by 1e-39 are infinite in float32, and log-probabilities then NaN."""
    line = refusal("generate_from_checkpoint", ["--prompt", PROMPT, "--temperature", value])
    assert f"'{value}' given, expected 0 (greedy) or at least 0.001" in line
    line = refusal("train_ppo", ["--temperature", value])
    assert f"'{value}' given, expected a number of at least 0.001" in line


def test_the_least_temperature_is_as_good_as_greedy(kgram):
    (greedy,) = generated("--prompt", PROMPT)
    (sampled,) = generated("--prompt", PROMPT, "--temperature", "0.001")
    assert sampled["answers"] == greedy["answers"]
    assert all(math.isfinite(logp) for logp in sampled["logp_nats"])


def test_a_typed_line_end_is_one_wherever_it_is_typed(kgram, monkeypatch):
    """In flags and in a pipe. JSON has escapes of its own, so a file's text stays as it is."""
    typed = PROMPT.replace("\n", "\\n")
    flag = generated("--prompt", typed)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed + "\n"))
    assert generated() == flag == generated("--prompt", PROMPT)
    assert flag[0]["prompt"] == PROMPT
    (two,) = generated("--context", "One\\ntwo.", "--question", "Who?")
    assert two["context"] == "One\ntwo."
    Path("file.jsonl").write_text(json.dumps({"prompt": "the \\nu of it"}))
    assert generated("--prompts_file", "file.jsonl")[0]["prompt"] == "the \\nu of it"


def test_a_long_answer_is_told_to_be_shorter(kgram):
    """The advice is not to lower --max_new_tokens, which has no part in scoring."""
    argv = ["--model_type", "kgram", "--prompt", PROMPT, "--checkpoint",
            "checkpoints/kgram_train_reward_model/final.pt", "--answer"]
    for answer, line in (("word " * 2000, "given, expected at most 1022 in the model's block of"),
                         ("word " * 510, "shorten it or the --answer of ")):
        ended = outcome("generate_from_checkpoint", [*argv, answer])
        assert ended.code == 2 and line in ended.err[-1], ended.err
        assert "max_new_tokens" not in ended.err[-1]
