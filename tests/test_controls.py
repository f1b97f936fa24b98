"""Controls: a reward that is noise, SFT continued for the same compute, and processed tokens."""

import contextlib
import json
import math
import signal
from pathlib import Path
from unittest import mock

import pytest
from conftest import FIRST, SHAPES, call, flags, outcome, refusal

from src.rl.rewards import noise_reward, reward_function
from src.training import reporting
from src.training.progress import Progress, tokens_read
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.payload import load_payload, save_payload

# --- noise ---


def test_noise_is_a_pure_function_of_seed_question_and_answer():
    about = ("an answer", ("gold",), "a context", "a question?")
    reward = noise_reward(*about, seed=3)
    assert reward == noise_reward(*about, seed=3) == reward_function("noise", seed=3)(*about)
    assert reward == noise_reward("an answer", ("other",), "a context", "a question?", seed=3)
    others = {
        noise_reward("an answer.", *about[1:], seed=3),
        noise_reward("an answer", ("gold",), "a contex", "ta question?", seed=3),
        noise_reward("an answer", ("gold",), "a context", "another?", seed=3),
        noise_reward(*about, seed=4),
    }
    assert len(others | {reward}) == 5


def test_noise_is_a_draw_from_the_standard_normal_distribution():
    draws = [noise_reward(str(n), (), "", "", seed=0) for n in range(20_000)]
    mean = sum(draws) / len(draws)
    variance = sum(x * x for x in draws) / len(draws) - mean**2
    assert abs(mean) < 4 / math.sqrt(len(draws)) and abs(variance - 1) < 0.05
    for bound, share in ((-1, 0.1587), (0, 0.5), (1.645, 0.95)):
        assert sum(x < bound for x in draws) / len(draws) == pytest.approx(share, abs=0.015)


def test_ppo_with_noise_needs_no_reward_model(workplace):
    workplace("kgram", ["main_squad"])
    argv = [*flags("train_ppo", "kgram"), "--reward", "noise", "--log_every", "1"]
    first = call("train_ppo", [*argv, "--output_dir", "a"])
    again = call("train_ppo", [*argv, "--output_dir", "b"])
    other = call("train_ppo", [*argv, "--output_dir", "c", "--seed", "1"])
    assert first == again and first != other
    assert [e["stage"] for e in load_payload("a/final.pt")["lineage"]] == ["main_squad"]


# --- processed tokens ---

TREES = [([1, 2, 3], [([4, 5], [[6], [7, 8]])])]  # 10 tokens


def test_a_pass_without_gradients_counts_a_third():
    progress = Progress()
    progress.count(TREES, gradient=2)
    progress.count(TREES, forward=3)
    assert progress.processed_tokens == pytest.approx(30) and tokens_read(TREES) == 10


def lines_of(path):
    with open(path) as log:
        return [r for r in map(json.loads, log) if "loss" in r]


def test_every_stage_stores_what_it_has_processed(workplace):
    folder = workplace("kgram")
    for stage in ("main_squad", "train_dpo", "train_reward_model", "train_ppo"):
        path = folder / f"checkpoints/kgram_{stage}"
        metrics = load_payload(path / "final.pt")["metrics"]
        # Each step logs its tokens a second and its seconds.
        read = sum(r["tokens_per_second"] * r["seconds"] for r in lines_of(path / "metrics.jsonl"))
        passes = {
            "main_squad": 1, "train_dpo": 4 / 3, "train_reward_model": 1,
            # sampling, reference, reward model and critic; two epochs of policy and critic
            "train_ppo": 4 / 3 + 4,
        }[stage]
        assert metrics["processed_tokens"] == pytest.approx(passes * read, rel=1e-6, abs=1)


def test_a_resumed_run_has_processed_as_many_tokens(workplace):
    workplace("kgram", ["main_squad"])
    for stage in ("main_squad", "train_dpo", "train_ppo"):
        argv = [*flags(stage, "kgram"), "--save_every", "1"]
        argv += ["--reward", "f1"] if stage == "train_ppo" else []
        whole = call(stage, [*argv, "--output_dir", f"whole/{stage}"])
        parts = [*argv, "--output_dir", f"parts/{stage}"]
        with stopped_after(2):
            assert outcome(stage, parts).code == 130
        resumed = call(stage, [*parts, "--resume"])
        assert resumed["processed_tokens"] == whole["processed_tokens"] > 0


@contextlib.contextmanager
def stopped_after(steps):
    """SIGINT arrives during a step, once so many are logged."""
    log_step, left = reporting.log_step, [steps]

    def stopping(*args, **named):
        log_step(*args, **named)
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGINT)

    with mock.patch.object(reporting, "log_step", stopping):
        yield


# --- SFT continued ---


def continued(*more):
    return [
        "--model_type", "kgram", "--checkpoint", "checkpoints/kgram_main_squad/final.pt",
        "--output_dir", "continued", "--eval_limit", "6", "--batch_size", "2", *more,
    ]


def test_sft_is_continued_for_as_many_tokens_as_other_stages_processed(workplace):
    workplace("kgram")
    finals = [f"checkpoints/kgram_{stage}/final.pt" for stage in ("train_dpo", "train_ppo")]
    wanted = sum(load_payload(path)["metrics"]["processed_tokens"] for path in finals)
    result = call("main_squad", continued("--same_compute_as", ",".join(finals)))
    lines = lines_of("continued/metrics.jsonl")
    last = lines[-1]["tokens_per_second"] * lines[-1]["seconds"]
    assert wanted <= result["processed_tokens"] < wanted + last + 1
    found, parent = (
        load_checkpoint(p) for p in ("continued/final.pt", "checkpoints/kgram_main_squad/final.pt")
    )
    assert [a["sha256"] for a in found.lineage] == [parent.sha256]
    assert found.data == parent.data and found.model.config == parent.model.config
    # It starts where its parent ended.
    with open("continued/metrics.jsonl") as log:
        first = json.loads(log.readline())
    ended = load_payload("checkpoints/kgram_main_squad/final.pt")["metrics"]
    assert first["eval_answer_loss_nats"] == pytest.approx(ended["answer_loss_nats"], abs=1e-5)
    assert lines[-1]["loss"] < lines_of("checkpoints/kgram_main_squad/metrics.jsonl")[0]["loss"]
    # A finished run answers --resume, and is measured beside its parent.
    assert call("main_squad", [*continued("--same_compute_as", ",".join(finals)), "--resume"])
    paths = ["checkpoints/kgram_main_squad/final.pt", "continued/final.pt"]
    table = call("eval_dpo", ["--model_type", "kgram", "--limit", "6", "--checkpoint", *paths])
    assert table["policies"][paths[1]]["kl_nats"]["value"] != 0


def test_a_control_without_contexts_processes_as_many_tokens_as_the_flag_says(workplace):
    """Its steps were planned with the contexts, which it does not read."""
    workplace("kgram", [])
    argv = ["--model_type", "kgram", *SHAPES["kgram"], *FIRST, "--eval_limit", "6"]
    argv += ["--batch_size", "2", "--max_tokens", "6000", "--control", "no_context"]
    found = call("main_squad", argv)["processed_tokens"]
    last = lines_of("checkpoints/kgram_main_squad/metrics.jsonl")[-1]
    assert 6000 <= found < 6000 + last["tokens_per_second"] * last["seconds"] + 1


def test_a_run_is_resumed_without_the_checkpoint_that_said_how_long_it_is(workplace):
    workplace("kgram", ["main_squad", "train_dpo"])
    other = Path("checkpoints/kgram_train_dpo/final.pt")
    argv = continued("--same_compute_as", str(other), "--save_every", "1")
    with stopped_after(1):
        assert outcome("main_squad", argv).code == 130
    other.unlink()
    assert outcome("main_squad", [*argv, "--resume"]).code == 0


def test_a_continued_model_learns_from_its_own_role(tmp_path, monkeypatch):
    """Also once it is resumed, which holds for every stage."""
    monkeypatch.chdir(tmp_path)
    call("main_squad", [*flags("main_squad", "kgram"), "--shares", "30,40,30"])
    argv = continued("--max_tokens", "3000", "--save_every", "1")
    with stopped_after(1):
        ended = outcome("main_squad", argv)
    said = [line for line in ended.err if "main_squad trains on demonstrations" in line]
    again = outcome("main_squad", [*argv, "--resume"])
    assert again.code == 0 and said and said[0] in again.err
    assert again.result["processed_tokens"] >= 3000
    for stage, role in (("train_dpo", "comparisons"), ("train_ppo", "prompts")):
        argv = [*flags(stage, "kgram"), "--save_every", "1"]
        argv += ["--reward", "f1"] if stage == "train_ppo" else []
        with stopped_after(1):
            assert outcome(stage, argv).code == 130
        ended = outcome(stage, [*argv, "--resume"])
        assert ended.code == 0
        assert any(f"{stage} trains on {role}" in line for line in ended.err)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--dataset", "pico"], "--dataset given with --checkpoint"),
        (["--n_embd", "8"], "--n_embd given with --checkpoint"),
        (["--tokenizer", "gpt2"], "--tokenizer given with --checkpoint"),
        (["--shares", "30,40,30"], "--shares given with --checkpoint"),
        (["--no_pointer"], "--pointer given with --checkpoint"),
        (["--max_tokens", "9", "--max_steps", "2"], "--max_tokens and --max_steps given"),
        (["--max_tokens", "9", "--same_compute_as", "x"], "--max_tokens and --same_compute_as"),
        (["--max_tokens", "9", "--epochs", "1"], "--max_tokens and --epochs given"),
        (["--same_compute_as", "nowhere.pt"], "nowhere.pt"),
        (["--same_compute_as", ""], "--same_compute_as '' given, expected a name"),
    ],
)
def test_what_contradicts_a_continued_run_is_refused(more, line, workplace):
    workplace("kgram", ["main_squad"])
    ended = outcome("main_squad", continued(*more))
    assert ended.code == 2 and line in ended.err[-1]


def test_a_continued_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--checkpoint given without --output_dir" in refusal("main_squad", ["--checkpoint", "x"])


def test_a_checkpoint_that_does_not_say_its_tokens_is_refused(workplace):
    workplace("kgram", ["main_squad"])
    payload = load_payload("checkpoints/kgram_main_squad/final.pt")
    del payload["metrics"]["processed_tokens"]
    save_payload("old.pt", payload)
    ended = outcome("main_squad", continued("--same_compute_as", "old.pt"))
    assert ended.code == 2 and "does not say how many tokens" in ended.err[-1]
