"""Flags, exit codes, one run's folder and lock, resuming, and the step of the training loop."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from src.training import optimizer as optimizer_module
from src.training.device import choose_precision
from src.training.loop import rng_state, save_last, set_rng_state, steps
from src.training.optimizer import learning_rate, make_optimizer, optimizer_step
from src.training.progress import Progress
from src.training.run import Run, set_up_torch
from src.utils import cli
from src.utils.cli import Parser, number
from src.utils.errors import UserError
from src.utils.exit_handling import NonFiniteError, Stopped, command, ends_in_one_line
from src.utils.payload import load_payload, save_payload

ROOT = Path(__file__).resolve().parent.parent


def parser():
    made = Parser(prog="stage.py")
    cli.add_model_flag(made)
    cli.add_data_flags(made, default="pico")
    cli.add_training_flags(made, lr=1e-3, batch_size=4, epochs=1.0)
    cli.add_machine_flags(made)
    return made


def run_in(folder, *argv):
    return Run(parser(), ["--output_dir", str(folder), *argv], "main_squad")


# --- flags ---


@pytest.mark.parametrize(
    ("kind", "accepted", "refused"),
    [
        (cli.positive_int, {"1": 1, "007": 7, str(2**63 - 1): 2**63 - 1},
         [str(2**63), "1" + "0" * 400, "0", "-1", "1.5", "1e3", "", "x", "nan", "inf", "9" * 5000]),
        (cli.count, {"0": 0, "12": 12}, ["-1", "0.0", "-0.5"]),
        (cli.positive, {"1e-9": 1e-9, "3": 3.0}, ["0", "-1", "nan", "inf", "1e400", "-inf", "x"]),
        (cli.non_negative, {"0": 0.0, "2.5": 2.5}, ["-1e-9", "nan", "inf"]),
        (cli.share, {"0": 0.0, "1": 1.0, "0.5": 0.5}, ["-0.1", "1.1", "2", "nan"]),
        (number(float, 0, 1, above=True, below=True), {"0.5": 0.5}, ["0", "1", "-1", "2"]),
        (number(float, 0, 1, above=True), {"1": 1.0}, ["0"]),
        (number(float, 0, 1, below=True), {"0": 0.0}, ["1"]),
        (number(int, 1, 4), {"1": 1, "4": 4}, ["0", "5"]),
    ],
)
def test_numbers(kind, accepted, refused):
    for text, value in accepted.items():
        assert kind(text) == value and type(kind(text)) is type(value)
    for text in refused:
        with pytest.raises(cli.argparse.ArgumentTypeError, match="given, expected a "):
            kind(text)


def test_the_message_of_a_number_says_its_ends():
    for kind, words in (
        (cli.positive_int, "a whole number of at least 1"),
        (cli.positive, "a number above 0"),
        (cli.share, "a number of at least 0 and of at most 1"),
        (number(float, 0, 1, below=True), "a number of at least 0 and below 1"),
    ):
        with pytest.raises(cli.argparse.ArgumentTypeError) as error:
            kind("-3")
        assert str(error.value) == f"'-3' given, expected {words}"


@pytest.mark.parametrize(
    "argv",
    [
        ["--lr", "-1"], ["--lr", "nan"], ["--lr"], ["--batch_size", "0"], ["--max_steps", "1.5"],
        ["--model_type", "rnn"], ["--model_type", "two\nlines"], ["--no_such"], ["stray"],
        ["--overwrit"], ["--seed", "-1"], ["--seed", str(2**63)], ["--difficulty", "6"],
        ["--resume=1"],
    ],
    ids=str,
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("stage.py: ")
    assert argv[0].partition("=")[0] in err and "--help" in err


def test_the_largest_seed_is_one_that_torch_takes():
    set_up_torch(parser().parse_args(["--seed", str(2**63 - 1), "--device", "cpu"]))


@pytest.mark.parametrize("device", ["tpu", "cpu:x", "", "mps9", "meta"])
def test_a_device_that_is_none_is_the_users_mistake(device):
    args = parser().parse_args(["--device", device])
    with pytest.raises(UserError, match="expected auto, cpu, cuda, cuda:N or mps"):
        set_up_torch(args)


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", "no CUDA device"), ("cuda:7", "no CUDA device"),
                             ("mps", "no Apple GPU"), ("mps:0", "no Apple GPU")],
)
def test_a_device_that_is_not_there_is_said_so(device, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    args = parser().parse_args(["--device", device])
    with pytest.raises(UserError, match=f"{expected}, use --device cpu"):
        set_up_torch(args)


def test_a_gpu_of_a_number_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    args = parser().parse_args(["--device", "cuda:7"])
    with pytest.raises(UserError, match="--device cuda:7 given, but torch finds 1 CUDA devices"):
        set_up_torch(args)


def test_a_rank_without_a_gpu_says_so_itself(monkeypatch, capsys):
    """Rank 0 has one, and would say no more than that another rank ended."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "2"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    args = parser().parse_args(["--device", "cuda"])
    with pytest.raises(SystemExit) as stop, ends_in_one_line("stage"):
        set_up_torch(args)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("stage: rank 2: --device cuda:2 given, but torch finds 2 CUDA devices")


def test_mps_is_taken_where_it_is_asked_for(monkeypatch):
    """Its parsing and settings only: no tensor is made there. float32, unless bfloat16 is asked."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for dtype, chosen in (("auto", "float32"), ("bfloat16", "bfloat16")):
        args = parser().parse_args(["--device", "mps", "--dtype", dtype])
        try:
            device = set_up_torch(args)
            choose_precision(args, device, mock.Mock(width=576))
            assert device == torch.device("mps") and args.dtype == chosen
            assert torch.is_autocast_enabled("mps") == (chosen == "bfloat16")
        finally:
            torch.set_autocast_enabled("mps", False)


def test_typed_flags_are_those_that_stand_there():
    argv = ["--lr", "0.1", "--seed=3", "--resume"]
    assert parser().typed(argv) == {"lr", "seed", "resume"}
    assert parser().typed([]) == set()


# --- how a script ends ---


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("3 given,\n expected 4"), 2, "3 given, expected 4"),
        (Stopped("stopped after step 3", 143), 143, "stopped after step 3"),
        (NonFiniteError("step 2: the loss is not finite"), 1, "step 2: the loss is not finite"),
        (OSError(errno.ENOSPC, "No space left on device", "a/last.pt"), 1,
         "a/last.pt: No space left on device"),
        (OSError("odd"), 1, "odd"),
        (BrokenPipeError(), 1, "the reader of the output went away"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_exit_codes(error, code, line, capsys):
    @command
    def main(argv=None):
        raise error

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == code
    out, err = capsys.readouterr()
    assert out == "" and err == f"{__name__}: {line}\n"


@pytest.mark.parametrize(
    ("ending", "code", "line"),
    [
        ("return {}", 1, "the reader of the output went away"),
        ("raise UserError('3 given')", 2, "3 given"),
    ],
    ids=["well", "refused"],
)
def test_output_that_nobody_reads_is_one_line_at_most(ending, code, line):
    """It is short enough to be held back to the end, where Python would say so in its own way."""
    script = (
        "from src.utils.errors import UserError\n"
        "from src.utils.exit_handling import command\n"
        "def main(argv=None):\n"
        "    print('a table')\n"
        f"    {ending}\n"
        "command(main)()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""}, check=False,
    )
    os.close(writer)
    assert (child.returncode, child.stderr) == (code, f"-c: {line}\n")


def test_a_command_that_ends_well_returns_its_metrics():
    assert command(lambda argv=None: {"argv": argv})(["x"]) == {"argv": ["x"]}


def test_our_own_bug_keeps_its_traceback():
    @command
    def main(argv=None):
        return {}["missing"]

    with pytest.raises(KeyError):
        main([])


# --- the folder of a run ---


def test_a_run_starts_in_an_empty_folder_and_writes_its_flags(tmp_path):
    with run_in(tmp_path / "a" / "b", "--lr", "0.5") as run:
        run.start()
        run.log.append({"step": 1, "loss": 0.5})
        run.log.append({"step": 2, "loss": 0.25})
    assert json.loads((run.folder / "args.json").read_text())["lr"] == 0.5
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_folder_that_cannot_be_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="a file or below one, expected a folder"):
            run_in(folder)


def test_an_earlier_run_is_not_written_over_unasked(tmp_path):
    (tmp_path / "final.pt").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"holds an earlier run \(final.pt\), .*--overwrite"):
        run_in(tmp_path)
    with pytest.raises(UserError, match="--resume and --overwrite given"):
        run_in(tmp_path, "--resume", "--overwrite")
    assert (tmp_path / "final.pt").read_bytes() == b"precious"


def test_overwriting_removes_the_earlier_run_when_the_new_one_starts(tmp_path):
    """Not before: a wrong parent would end the new run and leave neither."""
    for name in ("final.pt", "last.pt", "metrics.jsonl", "args.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    with run_in(tmp_path, "--overwrite"):
        assert (tmp_path / "final.pt").read_bytes() == b"old"
    with run_in(tmp_path, "--overwrite") as run:
        run.start()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lock", "args.json", "machine.json", "metrics.jsonl", "notes.txt"}
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


HOLDER = """
import sys, time
sys.path.insert(0, {tests!r})
from tests.test_run import run_in
run = run_in({folder!r})
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(tests=str(ROOT), folder=str(tmp_path))],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use by another run"):
            run_in(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    run_in(tmp_path).close()


def test_a_refused_run_gives_its_lock_back(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="earlier run") as error:
        run_in(tmp_path)
    assert error.traceback  # which holds the frames, and with them the run, alive
    run_in(tmp_path, "--overwrite").close()


# --- resuming ---


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 2)


def train(folder, *argv, max_steps=6, stop_after=None):
    """A stage in small: random data, a loss, a log; returns the weights and the progress.

    Saved after every second step; stop_after: leave in the middle of that step, before it is saved.
    """
    with run_in(folder, "--save_every", "2", "--max_steps", str(max_steps), *argv) as run:
        toy = Toy()
        optimizer = make_optimizer({"toy": toy})
        torch.manual_seed(7)
        run.start()
        progress = Progress(kl_coef=1.0)
        for step in steps(run, max_steps, {"toy": toy}, optimizer, progress):
            loss = toy.layer(torch.randn(4, 3)).square().mean()
            loss.backward()
            rate = learning_rate(step, max_steps, 1 / 3, 0.1)
            norm = optimizer_step(optimizer, rate, 1.0, float(loss.detach()), False)
            progress.kl_coef *= 1.5
            run.log.append({"step": step + 1, "loss": float(loss.detach()), "norm": norm})
            if step + 1 == stop_after:
                break
    return toy.state_dict(), progress


@pytest.mark.parametrize("stop_after", [2, 3, 4, 5])
def test_resumed_runs_end_as_undisturbed_ones(tmp_path, stop_after):
    """Stopped where nothing was saved too: what came after last.pt is done again, logged once."""
    whole, progress = train(tmp_path / "whole")
    train(tmp_path / "parts", stop_after=stop_after)
    resumed, resumed_progress = train(tmp_path / "parts", "--resume")
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name])
    assert progress == resumed_progress == Progress(kl_coef=1.5**6)
    logs = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("whole", "parts")]
    assert logs[0] == logs[1] and logs[0].count(b"\n") == 6


def test_the_log_is_cut_back_to_what_last_pt_knows(tmp_path):
    train(tmp_path, stop_after=3)
    path = tmp_path / "metrics.jsonl"
    first, second, third = path.read_bytes().splitlines(keepends=True)
    kept = first + second
    path.write_bytes(kept + third + b'{"st')
    with run_in(tmp_path, "--resume") as run:
        run.start()
    assert path.read_bytes() == kept
    path.write_bytes(kept[:-5])
    with run_in(tmp_path, "--resume") as run, pytest.raises(UserError, match="shorter than when"):
        run.start()


def test_stored_flags_are_taken_and_changed_ones_refused_by_name(tmp_path):
    train(tmp_path, "--lr", "0.5", "--seed", "3", stop_after=3)
    with run_in(tmp_path, "--resume") as run:
        assert (run.args.lr, run.args.seed, run.args.max_steps) == (0.5, 3, 6)
        assert run.args.resume and not run.finished
    typed = ("--seed", "3", "--save_every", "9", "--log_every", "4")
    with run_in(tmp_path, "--resume", *typed) as run:
        assert (run.args.save_every, run.args.log_every) == (9, 4)
    for name, value, stored in (
        ("lr", "0.25", "0.5"), ("seed", "4", "3"), ("max_steps", "7", "6"),
        ("batch_size", "8", "4"), ("dataset", "squad", "pico"),
        ("model_type", "lstm", "transformer"),
    ):
        line = f"--{name} {value} given to resume a run with --{name} {stored},"
        with pytest.raises(UserError, match=line):
            run_in(tmp_path, "--resume", f"--{name}", value)


def test_a_default_that_a_run_replaced_is_another_value_when_typed(tmp_path):
    """--lr 0.001, the parser's default, was let through on --resume, and ignored."""
    toy = {"toy": Toy()}
    with run_in(tmp_path) as run:
        run.take_defaults({"lr": 0.125}, "a pretrained model at the start")
        run.start()
        save_last(run, 1, toy, make_optimizer(toy), Progress())
    with pytest.raises(UserError, match="--lr 0.001 given to resume a run with --lr 0.125,"):
        run_in(tmp_path, "--resume", "--lr", "0.001")
    with run_in(tmp_path, "--resume", "--lr", "0.125") as run:
        assert run.args.lr == 0.125


def test_a_finished_run_is_finished_without_last_pt_too(tmp_path, capsys):
    train(tmp_path)
    save_payload(tmp_path / "final.pt", {"stage": "main_squad"})
    precious = (tmp_path / "final.pt").read_bytes()
    for _ in range(2):
        with run_in(tmp_path, "--resume") as run:
            assert run.finished
        assert "finished" in capsys.readouterr().err
        (tmp_path / "last.pt").unlink(missing_ok=True)
    assert (tmp_path / "final.pt").read_bytes() == precious


def test_a_run_that_was_out_of_memory_goes_on_in_smaller_parts(tmp_path):
    """The message for it names these flags, and --resume refused them."""
    train(tmp_path, stop_after=3)
    smaller = ["--micro_batch_size", "1", "--micro_batch_tokens", "64"]
    with run_in(tmp_path, "--resume", *smaller) as run:
        assert (run.args.micro_batch_size, run.args.micro_batch_tokens) == (1, 64)
    with run_in(tmp_path, "--resume") as run:
        assert run.args.micro_batch_size is None


@pytest.mark.parametrize("finished", [False, True])
def test_the_run_of_another_stage_is_refused(tmp_path, finished):
    train(tmp_path, stop_after=3)
    if finished:  # and its last.pt gone
        save_payload(tmp_path / "final.pt", {"stage": "main_squad"})
        (tmp_path / "last.pt").unlink()
    with pytest.raises(UserError, match="holds a run of main_squad, expected one of train_dpo"):
        Run(parser(), ["--output_dir", str(tmp_path), "--resume"], "train_dpo")


def test_nothing_to_resume_starts_fresh_and_says_so(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with run_in(tmp_path, "--resume") as run:
        run.start()
        assert run.last is None and not run.finished
    assert "nothing to resume, starting fresh" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_last_pt_of_another_kind_is_refused(tmp_path):
    told = {"stage": "toy", "args": {}, "metrics_bytes": 0, "modules": {}}
    for payload in ({}, {"step": 3}, {**told, "step": "3"}, {**told, "step": -3}):
        save_payload(tmp_path / "last.pt", payload)
        with pytest.raises(UserError, match="last.pt has no stage|last.pt has no step"):
            run_in(tmp_path, "--resume")
    (tmp_path / "last.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        run_in(tmp_path, "--resume")


def test_a_resumed_run_does_not_keep_what_it_restored(tmp_path):
    """Weights and moments would be in memory twice, to the end of the run."""
    train(tmp_path, stop_after=3)
    with run_in(tmp_path, "--resume") as run:
        toy = {"toy": Toy()}
        run.start()
        assert next(steps(run, 6, toy, make_optimizer(toy), Progress())) == run.steps_done == 2
        assert not {"modules", "optimizer"} & run.last.keys()


def test_weights_of_another_shape_are_refused(tmp_path):
    train(tmp_path, stop_after=3)
    with run_in(tmp_path, "--resume") as run:
        run.start()
        wider = {"toy": nn.Linear(9, 9)}
        with pytest.raises(UserError, match="does not fit this run's models"):
            next(steps(run, 6, wider, make_optimizer(wider), Progress()))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_the_step_in_hand_saved(tmp_path, number, code):
    before = signal.getsignal(number)
    toy = Toy()
    with pytest.raises(Stopped) as stop, run_in(tmp_path, "--save_every", "100") as run:
        run.start()
        for step in steps(run, 50, {"toy": toy}, make_optimizer({"toy": toy}), Progress()):
            run.log.append({"step": step + 1})
            if step == 4:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
    assert stop.value.code == code and "after step 5, saved" in str(stop.value)
    assert load_payload(tmp_path / "last.pt")["step"] == 5
    assert signal.getsignal(number) is before


def test_a_non_finite_step_is_named_and_the_last_save_kept(tmp_path):
    toy = Toy()
    optimizer = make_optimizer({"toy": toy})
    with pytest.raises(NonFiniteError) as error, run_in(tmp_path, "--save_every", "2") as run:
        run.start()
        for step in steps(run, 9, {"toy": toy}, optimizer, Progress()):
            toy.layer(torch.randn(1, 3)).sum().backward()
            optimizer_step(optimizer, 0.1, 1.0, 0.5 if step < 2 else float("nan"), False)
    assert str(error.value).startswith("step 3: the loss is not finite (loss nan, gradient norm ")
    assert str(error.value).endswith(f"; {tmp_path / 'last.pt'} keeps step 2")
    assert load_payload(tmp_path / "last.pt")["step"] == 2


# --- the step ---


def rates_of(steps, *schedule):
    return [optimizer_module.learning_rate(step, *schedule) for step in range(steps)]


def test_learning_rate_by_hand():
    """10 steps, 4 of warm-up: quarters of the peak up, then sixths down, to 0 at step 10."""
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    for peak in (1.0, 3e-4):
        wanted = [peak * share for share in expected]
        assert rates_of(11, 10, 0.4, peak) == pytest.approx(wanted, rel=1e-12)


def test_learning_rate_held():
    """Ten steps held for 0.6 of them: the peak up to step 6, then quarters of it to 0 at 10."""
    rates = rates_of(11, 10, 0.2, 1.0, 0.6)
    assert rates == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_learning_rate_at_its_ends():
    assert rates_of(4, 4, 0, 1.0) == [1.0, 0.75, 0.5, 0.25]
    assert rates_of(4, 4, 0.99, 1.0) == [0.25, 0.5, 0.75, 1.0]


def toy_with_gradient(fill):
    toy = Toy()
    optimizer = make_optimizer({"toy": toy})
    for parameter in toy.parameters():
        parameter.grad = torch.full_like(parameter, fill)
    return toy, optimizer


def test_a_step_clips_moves_and_clears():
    """8 gradients of 3, norm 3 sqrt(8), clipped to 1 / sqrt(8) each; Adam's first step is -rate."""
    toy, optimizer = toy_with_gradient(3.0)
    before = [p.detach().clone() for p in toy.parameters()]
    norm = optimizer_step(optimizer, 0.01, 1.0, 2.0, False)
    assert norm == pytest.approx(3 * 8**0.5, rel=1e-6)
    for parameter, old in zip(toy.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old - 0.01, rtol=1e-4, atol=1e-6)
        assert parameter.grad is None
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]
    first_moment = optimizer.state[toy.layer.bias]["exp_avg"]
    torch.testing.assert_close(first_moment, torch.full((2,), 0.1 / 8**0.5))


@pytest.mark.parametrize(
    ("loss", "gradient", "what"),
    [
        (float("nan"), 1.0, "the loss"),
        (float("inf"), 1.0, "the loss"),
        (float("-inf"), 1.0, "the loss"),
        (1.0, float("nan"), "the gradient"),
        (1.0, float("inf"), "the gradient"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_step_that_is_not_finite_touches_no_weight(loss, gradient, what, skip, capsys):
    toy, optimizer = toy_with_gradient(1.0)
    toy.layer.bias.grad[1] = gradient
    before = {name: weight.clone() for name, weight in toy.state_dict().items()}
    if skip:
        optimizer_step(optimizer, 0.1, 1.0, loss, True)
        assert f"{what} is not finite" in capsys.readouterr().err
    else:
        with pytest.raises(NonFiniteError, match=f"{what} is not finite"):
            optimizer_step(optimizer, 0.1, 1.0, loss, False)
    for name, weight in toy.state_dict().items():
        assert torch.equal(weight, before[name])
    assert not optimizer.state and all(p.grad is None for p in toy.parameters())


def test_decay_is_for_matrices_but_embeddings():
    module = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "linear": nn.Linear(2, 2)})
    optimizer = make_optimizer({"m": module}, weight_decay=0.5)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays[id(module["linear"].weight)] == 0.5
    assert decays[id(module["linear"].bias)] == 0.0
    assert decays[id(module["embedding"].weight)] == 0.0
    assert {group["eps"] for group in optimizer.param_groups} == {1e-8}


def test_last_pt_holds_the_random_state(tmp_path):
    toy = Toy()
    with run_in(tmp_path) as run:
        run.start()
        torch.manual_seed(5)
        expected = torch.get_rng_state()
        save_last(run, 1, {"toy": toy}, make_optimizer({"toy": toy}), Progress())
    assert torch.equal(load_payload(tmp_path / "last.pt")["rng"]["torch"], expected)


def test_all_generators_go_on_where_their_state_was_taken():
    """Python's and numpy's too, which a reward function of the user's may draw from."""

    def drawn():
        random.gauss(0, 1), np.random.standard_normal()  # each keeps a spare one
        more = random.random(), random.gauss(0, 1), np.random.standard_normal()
        return *more, np.random.randint(1000), float(torch.rand(()))

    state = rng_state()
    first = drawn()
    assert drawn() != first
    set_rng_state(state)
    assert drawn() == first


def test_generators_of_gpus_that_are_not_here_are_left_out(monkeypatch):
    """Resumed on a machine with fewer GPUs; no stage draws from their generators."""
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    set_rng_state({**rng_state(), "cuda": ["of the first", "of the second"]})
    assert restored == ["of the first"]
