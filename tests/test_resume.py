"""N steps in one go == stopped anywhere and resumed, in all four stages and all three models."""

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import SMALL, call, flags, outcome, refusal
from test_run import Toy, run_in

from src.training import reporting
from src.training.loop import save_last
from src.training.optimizer import make_optimizer
from src.training.progress import Progress
from src.training.run import set_up_torch
from src.utils.constants import STAGES
from src.utils.errors import UserError
from src.utils.payload import load_payload
from tests.faults.runs import assert_same, assert_same_runs, records

ROOT = Path(__file__).resolve().parent.parent
# What makes a run depend on as much state as it can.
MORE = {
    "train_ppo": ["--kl_target", "0.01", "--kl_horizon", "50", "--ppo_epochs", "2"],
}


def argv_of(stage, model_type, *more):
    often = ["--save_every", "100", "--eval_every", "3", "--lr", "0.01", "--max_steps", "6"]
    return [*flags(stage, model_type), *often, *MORE.get(stage, []), *more]


def folder_of(stage, model_type):
    return Path(f"checkpoints/{model_type}_{stage}")


def stop_after(monkeypatch, *steps):
    """Send this process SIGTERM in the middle of these steps, each the first time it comes."""
    left, log_step = list(steps), reporting.log_step

    def stopping(run, step, *args, **shown):
        if step + 1 in left:
            left.remove(step + 1)
            os.kill(os.getpid(), signal.SIGTERM)
        log_step(run, step, *args, **shown)

    monkeypatch.setattr(reporting, "log_step", stopping)
    return left


def undisturbed(workplace, stage, model_type):
    """The folder of a run in one go, in a workplace of its own."""
    place = workplace(model_type, STAGES[: STAGES.index(stage)], name="whole")
    call(stage, argv_of(stage, model_type))
    return place / folder_of(stage, model_type)


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_ends_as_in_one_go(stage, model_type, workplace, monkeypatch, capsys):
    """Stopped once after step 1, 3 (where an evaluation falls) or the last; and three times."""
    whole = undisturbed(workplace, stage, model_type)
    log = records(whole)
    assert [r["step"] for r in log if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in log if "eval_em" in r] == ([0, 3, 6] if "eval_em" in log[0] else [])
    for ks in ((1,), (3,), (6,), (2, 3, 5)):
        place = workplace(
            model_type, STAGES[: STAGES.index(stage)], name="-".join(map(str, ks))
        )
        left = stop_after(monkeypatch, *ks)
        for number, k in enumerate(ks):
            ended = outcome(stage, argv_of(stage, model_type, *(["--resume"] if number else [])))
            assert ended.code == 143
            line = f"{stage}: stopped by SIGTERM after step {k}, saved; continue with --resume"
            assert ended.err[-1] == line
        assert not left and not (folder_of(stage, model_type) / "final.pt").exists()
        # --resume alone takes the stored flags.
        ended = outcome(stage, ["--model_type", model_type, "--resume"])
        assert ended.code == 0, ended.err
        assert any(f"resumed after step {ks[-1]}" in line for line in ended.err)
        assert_same_runs(whole, place / folder_of(stage, model_type))
        monkeypatch.undo()


@pytest.mark.parametrize("stage", ["main_squad", "train_ppo"])
def test_a_resumed_run_in_bfloat16_ends_as_in_one_go(stage, workplace, monkeypatch, capsys):
    """Weights stay float32; what is sampled and scored in bfloat16 comes again to the last bit."""
    before = STAGES[: STAGES.index(stage)]
    argv = argv_of(stage, "transformer", "--dtype", "bfloat16")
    try:
        place = workplace("transformer", before, name="whole")
        call(stage, argv)
        whole = place / folder_of(stage, "transformer")
        assert json.loads((whole / "args.json").read_text())["dtype"] == "bfloat16"
        place = workplace("transformer", before, name="stopped")
        stop_after(monkeypatch, 3)
        assert outcome(stage, argv).code == 143
        assert outcome(stage, ["--model_type", "transformer", "--resume"]).code == 0
        assert_same_runs(whole, place / folder_of(stage, "transformer"))
    finally:
        torch.set_autocast_enabled("cpu", False)


def test_saves_on_the_way_change_nothing(workplace, monkeypatch, capsys):
    """Killed between two saves: what came after the last one is done again, and logged once."""
    model_type, stage = "transformer", "train_ppo"
    whole = undisturbed(workplace, stage, model_type)
    place = workplace(model_type, STAGES[:3], name="parts")
    log_step = reporting.log_step

    def dying(run, step, *args, **shown):
        log_step(run, step, *args, **shown)
        if step + 1 == 4:
            raise KeyboardInterrupt  # ends the step in hand without a save

    monkeypatch.setattr(reporting, "log_step", dying)
    ended = outcome(stage, argv_of(stage, model_type, "--save_every", "2"))
    assert (ended.code, ended.err[-1]) == (130, "train_ppo: interrupted")
    monkeypatch.setattr(reporting, "log_step", log_step)
    assert [r["step"] for r in records(folder_of(stage, model_type)) if "loss" in r] == [1, 2, 3, 4]
    ended = outcome(stage, argv_of(stage, model_type, "--resume"))
    assert any("resumed after step 2" in line for line in ended.err)
    assert records(whole) == records(place / folder_of(stage, model_type))
    parts = load_payload(folder_of(stage, model_type) / "final.pt")
    assert_same(load_payload(whole / "final.pt")["weights"], parts["weights"])


def test_the_adaptive_coefficient_moves_and_is_restored(workplace, monkeypatch, capsys):
    """It changes at every step of the run, and goes on from where it was."""
    whole = records(undisturbed(workplace, "train_ppo", "lstm"))
    before = [r["kl_coef"] for r in whole if "loss" in r]
    assert before[0] == 0.05 and len(set(before)) == 6
    workplace("lstm", STAGES[:3], name="parts")
    stop_after(monkeypatch, 3)
    outcome("train_ppo", argv_of("train_ppo", "lstm"))
    last = load_payload(folder_of("train_ppo", "lstm") / "last.pt")
    assert last["progress"]["kl_coef"] == before[3]
    outcome("train_ppo", ["--model_type", "lstm", "--resume"])
    after = [r["kl_coef"] for r in records(folder_of("train_ppo", "lstm")) if "loss" in r]
    assert after == before


# --- what --resume and --overwrite say ---


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_run_says_so_and_returns_its_metrics(stage, workplace, chain_of):
    workplace("kgram")
    before = contents(folder_of(stage, "kgram"))
    ended = outcome(stage, ["--model_type", "kgram", "--resume"])
    assert ended.code == 0 and "this run is finished" in ended.err[0] and len(ended.err) == 1
    assert ended.result == chain_of("kgram").metrics[stage]
    assert contents(folder_of(stage, "kgram")) == before


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_to_resume_starts_fresh(stage, workplace, chain_of):
    workplace("kgram", STAGES[: STAGES.index(stage)])
    ended = outcome(stage, [*flags(stage, "kgram"), "--resume"])
    assert ended.code == 0 and "nothing to resume, starting fresh" in ended.err[0]
    assert ended.result == chain_of("kgram").metrics[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_an_existing_run_is_refused_unless_overwritten(stage, workplace, chain_of):
    workplace("kgram")
    before = contents(folder_of(stage, "kgram"))
    line = refusal(stage, flags(stage, "kgram"))
    assert "holds an earlier run" in line and "--resume" in line and "--overwrite" in line
    line = refusal(stage, [*flags(stage, "kgram"), "--resume", "--overwrite"])
    assert "--resume and --overwrite given" in line
    assert contents(folder_of(stage, "kgram")) == before
    ended = outcome(stage, [*flags(stage, "kgram"), "--overwrite", "--seed", "5"])
    assert ended.code == 0, ended.err
    assert load_payload(folder_of(stage, "kgram") / "final.pt")["flags"]["seed"] == 5
    steps = [r["step"] for r in records(folder_of(stage, "kgram")) if "loss" in r]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("stage", STAGES)
def test_flags_that_change_the_run_are_refused_by_name(stage, workplace):
    workplace("kgram")
    changed = {"seed": "1", "lr": "0.5", "max_steps": "9", "batch_size": "3", "warmup": "0.5"}
    own = {
        "main_squad": {"lm_weight": "0.5", "n_embd": "32", "num_examples": "61", "difficulty": "2"},
        "train_dpo": {"beta": "0.3", "nll_weight": "1.5", "corruptions": "shifted=1"},
        "train_reward_model": {"corruptions": "shifted=1"},
        "train_ppo": {"kl_coef": "0.5", "temperature": "0.7", "reward": "f1", "algorithm": "rloo"},
    }
    for name, value in {**changed, **own[stage]}.items():
        line = refusal(stage, ["--model_type", "kgram", "--resume", f"--{name}", value])
        assert f"--{name} {value} given to resume a run with --{name} " in line


def test_a_run_keeps_the_number_of_threads_that_it_began_with(tmp_path):
    """Another number adds up sums in another order: what torch chose when the run began is taken
    again, wherever it goes on, and another number is refused."""
    toy, before = {"toy": Toy()}, torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with run_in(tmp_path, "--device", "cpu") as run:
            set_up_torch(run.args)
            run.start()
            save_last(run, 1, toy, make_optimizer(toy), Progress())
        torch.set_num_threads(1)  # of another machine
        with pytest.raises(UserError, match="--threads 1 given to resume a run with --threads 2"):
            run_in(tmp_path, "--resume", "--threads", "1")
        for typed in ([], ["--threads", "0"], ["--threads", "2"]):
            torch.set_num_threads(1)
            with run_in(tmp_path, "--resume", *typed) as run:
                set_up_torch(run.args)
            assert run.args.threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_same_command_resumes_though_the_stage_resolved_its_flags(
    workplace, monkeypatch, capsys
):
    """--dataset auto became pico when the run began; typed again it is the same run."""
    from src.data import squad_loader

    monkeypatch.setattr(squad_loader, "_fetched_within", lambda seconds: None)
    workplace("kgram", ["main_squad"])
    argv = [*flags("main_squad", "kgram"), "--dataset", "auto", "--output_dir", "auto"]
    stop_after(monkeypatch, 2)
    assert outcome("main_squad", argv).code == 143
    ended = outcome("main_squad", [*argv, "--resume"])
    assert ended.code == 0, ended.err
    final = load_payload("auto/final.pt")
    assert final["flags"]["dataset"] == "pico"
    assert_same(final["weights"], load_payload("checkpoints/kgram_main_squad/final.pt")["weights"])


@pytest.mark.parametrize(
    ("stage", "choice", "again"),
    [
        ("main_squad", ["--checkpoint", "checkpoints/kgram_main_squad/final.pt"],
         ["--lora_rank", "2"]),
        ("train_dpo", ["--loss_type", "simpo"], ["--gamma", "1"]),
        ("train_ppo", ["--reward", "f1", "--kl_target", "0.01"], ["--kl_horizon", "50"]),
    ],
)
def test_a_flag_may_be_typed_again_without_the_flag_that_allows_it(
    stage, choice, again, workplace, monkeypatch
):
    """--gamma 1 was refused after --loss_type simpo: it was compared with the default loss."""
    workplace("kgram", ["main_squad"])
    again = [*again, "--output_dir", "run"]
    stop_after(monkeypatch, 2)
    assert outcome(stage, ["--model_type", "kgram", *SMALL, *choice, *again]).code == 143
    ended = outcome(stage, ["--model_type", "kgram", "--resume", *again])
    assert ended.code == 0, ended.err
    # A fresh run is checked all the same, also if it is started with --resume.
    ended = outcome(stage, ["--model_type", "kgram", "--resume", *again, "--output_dir", "new"])
    assert ended.code == 2 and again[0] in ended.err[-1], ended.err


def test_resume_alone_keeps_the_stored_intervals_and_typed_ones_win(workplace, monkeypatch):
    """--log_every is part of the log: forgetting it would leave lines that one go does not."""
    workplace("kgram", ["main_squad"])
    argv = [*flags("main_squad", "kgram"), "--output_dir", "run", "--log_every", "2"]
    stop_after(monkeypatch, 1)
    assert outcome("main_squad", argv).code == 143
    saved = Path(shutil.copytree("run", "again"))
    alone = ["--model_type", "kgram", "--resume", "--output_dir"]
    assert outcome("main_squad", [*alone, "run"]).code == 0
    assert [r["step"] for r in records(Path("run")) if "loss" in r] == [2, 4]
    assert outcome("main_squad", [*alone, saved, "--log_every", "1"]).code == 0
    assert [r["step"] for r in records(saved) if "loss" in r] == [2, 3, 4]


def test_a_parent_that_changed_since_is_refused(workplace, monkeypatch):
    """The frozen reference would be another model's."""
    workplace("kgram", ["main_squad"])
    stop_after(monkeypatch, 2)
    assert outcome("train_dpo", flags("train_dpo", "kgram")).code == 143
    again = [*flags("main_squad", "kgram"), "--overwrite", "--lr", "0.3"]
    assert outcome("main_squad", again).code == 0
    ended = outcome("train_dpo", ["--model_type", "kgram", "--resume"])
    assert ended.code == 2
    assert "main_squad/final.pt is not what this run started from" in ended.err[-1]
    shutil.rmtree("checkpoints/kgram_main_squad")
    ended = outcome("train_dpo", ["--model_type", "kgram", "--resume"])
    assert ended.code == 2 and "run: python main_squad.py --model_type kgram" in ended.err[-1]


def test_a_tokenizer_file_that_changed_since_is_refused(workplace, monkeypatch):
    """Other ids for the same text: the run would go on with another vocabulary."""
    workplace("kgram", [])
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)]
    Path("mine.tiktoken").write_text("\n".join(lines))
    argv = [*flags("main_squad", "kgram"), "--tokenizer", "mine.tiktoken"]
    stop_after(monkeypatch, 2)
    assert outcome("main_squad", argv).code == 143
    swapped = [*lines[:97], *(f"{lines[b][:4]} {195 - b}" for b in (97, 98)), *lines[99:]]
    Path("mine.tiktoken").write_text("\n".join(swapped))
    ended = outcome("main_squad", ["--model_type", "kgram", "--resume"])
    assert ended.code == 2, ended.err
    assert "the tokenizer mine.tiktoken is not what this run started from" in ended.err[-1]


def test_a_reward_function_that_draws_goes_on_where_it_was(workplace, monkeypatch, capsys):
    """From Python's generator and numpy's, whose states are in last.pt."""
    noise = (
        "import random\nimport numpy\n"
        "def noise(*about):\n    return random.random() + numpy.random.standard_normal()\n"
    )
    more = ["--reward", "some_noise:noise", "--kl_limit", "1000"]
    for name in ("whole", "parts"):
        place = workplace("kgram", ["main_squad"], name=name)
        (place / "some_noise.py").write_text(noise)
        monkeypatch.syspath_prepend(place)
        if name == "parts":
            stop_after(monkeypatch, 3)
        outcome("train_ppo", argv_of("train_ppo", "kgram", *more))
    assert outcome("train_ppo", ["--model_type", "kgram", "--resume"]).code == 0
    assert_same_runs(*(place.parent / name / folder_of("train_ppo", "kgram")
                       for name in ("whole", "parts")))


def test_a_stage_never_writes_over_its_own_parent(workplace):
    """--output_dir naming the parent's folder: refused, though --overwrite is given."""
    workplace("kgram", ["main_squad"])
    parent = Path("checkpoints/kgram_main_squad")
    before = contents(parent)
    argv = [*flags("train_dpo", "kgram"), "--output_dir", parent, "--overwrite"]
    ended = outcome("train_dpo", argv)
    assert ended.code == 2 and "expected a folder of its own" in ended.err[-1]
    assert contents(parent) == before


def test_a_bad_parent_leaves_the_earlier_run_alone(workplace):
    """With --overwrite, nothing goes before flags, parent and reward have proved good."""
    workplace("kgram")
    for stage, wrong in (
        ("train_dpo", ["--checkpoint", "nowhere.pt"]),
        ("train_ppo", ["--reward", "nosuchmodule:f"]),
        ("train_ppo", ["--reward_checkpoint", "checkpoints/kgram_train_dpo/final.pt"]),
        ("main_squad", ["--tokenizer", "nosuch.tiktoken"]),
        ("main_squad", ["--dataset", "nosuch.json"]),
    ):
        before = contents(folder_of(stage, "kgram"))
        ended = outcome(stage, [*flags(stage, "kgram"), "--overwrite", *wrong])
        assert ended.code == 2, ended.err
        assert contents(folder_of(stage, "kgram")) == before, wrong


# --- kill -9 ---


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_a_random_instant_and_resumed(stage, workplace, capsys):
    """A process of its own, killed while it steps and saves; the seed is printed."""
    model_type, seed = "kgram", 20 + STAGES.index(stage)
    print(f"seed {seed}")
    whole = undisturbed(workplace, stage, model_type)
    place = workplace(model_type, STAGES[: STAGES.index(stage)], name="killed")
    folder = place / folder_of(stage, model_type)
    argv = argv_of(stage, model_type, "--save_every", "1")
    command = [sys.executable, str(ROOT / f"{stage}.py"), *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, cwd=place)
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.15))
    process.kill()
    said = process.communicate()[1].decode()
    assert process.returncode in (-signal.SIGKILL, 0), said
    kept = load_payload(folder / "last.pt")["step"] if (folder / "last.pt").exists() else 0
    logged = sum(b'"loss"' in line for line in log.read_bytes().splitlines())
    assert logged - kept <= 1  # a step may be done and not saved, never two
    ended = outcome(stage, argv_of(stage, model_type, "--resume"))
    assert ended.code == 0, ended.err
    assert_same(
        load_payload(whole / "final.pt")["weights"], load_payload(folder / "final.pt")["weights"]
    )
    assert records(whole) == records(folder)
    assert not list(folder.glob(".*.tmp")), "a half-written file is left"


def test_what_a_killed_save_left_behind_is_cleared_away(workplace):
    """Each would take the disk of a whole checkpoint."""
    workplace("kgram", ["main_squad"])
    folder = Path("checkpoints/kgram_main_squad")
    (folder / ".last.pt.4711.tmp").write_bytes(b"half a check")
    (folder / ".mine.tmp").write_bytes(b"not a run's")
    again = [*flags("main_squad", "kgram"), "--overwrite"]
    assert outcome("main_squad", again).code == 0
    assert [path.name for path in folder.glob(".*.tmp")] == [".mine.tmp"]
