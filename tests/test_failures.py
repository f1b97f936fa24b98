"""Full disks, no memory, signals, non-finite numbers: one line, and finished steps are kept."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_run import Toy, parser, run_in

from src.training.loop import steps
from src.training.optimizer import make_optimizer, optimizer_step
from src.training.progress import Progress
from src.training.run import lock_folder
from src.utils import files
from src.utils.errors import UserError
from src.utils.exit_handling import NonFiniteError, Stopped, command
from src.utils.files import clear_stale, write_atomically
from src.utils.payload import load_payload, save_payload

ROOT = Path(__file__).resolve().parent.parent


def ended(error):
    """The exit code of a script that raises this, in this process."""

    def main(argv=None):
        raise error

    with pytest.raises(SystemExit) as stop:
        command(main)([])
    return stop.value.code


# --- steps that fail ---


def toy_run(folder, *argv, updates=1, fails_at=None, collapses_at=None, max_steps=9):
    """Steps of one or several updates; `fails_at`: (step, update) whose loss is not finite."""
    with run_in(folder, "--save_every", "100", *argv) as run:
        toy = Toy()
        optimizer = make_optimizer({"toy": toy})
        run.start()
        for step in steps(run, max_steps, {"toy": toy}, optimizer, Progress(), updates > 1):
            for number in range(updates):
                rows = torch.arange(12.0).view(4, 3) + step + number
                toy.layer(rows).square().mean().backward()
                loss = float("nan") if (step + 1, number + 1) == fails_at else 0.5
                optimizer_step(optimizer, 0.1, 1.0, loss, False)
            run.log.append({"step": step + 1})
            if step + 1 == collapses_at:
                run.end.after_step("the KL is too high")
    return toy.state_dict()


@pytest.mark.parametrize(("updates", "fails_at"), [(1, (6, 1)), (3, (6, 1)), (3, (6, 3))])
def test_a_step_that_fails_leaves_the_last_finished_one(tmp_path, updates, fails_at):
    """Nothing was due to be saved; of three updates two were made before the third failed."""
    whole = toy_run(tmp_path / "whole", updates=updates)
    with pytest.raises(NonFiniteError) as error:
        toy_run(tmp_path / "run", updates=updates, fails_at=fails_at)
    last = tmp_path / "run" / "last.pt"
    assert str(error.value).startswith("step 6: the loss is not finite")
    assert str(error.value).endswith(f"; {last} keeps step 5")
    assert load_payload(last)["step"] == 5
    resumed = toy_run(tmp_path / "run", "--resume", updates=updates)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("whole", "run")]
    assert logs[0] == logs[1]


def test_a_collapse_stops_after_its_step_is_saved(tmp_path):
    with pytest.raises(NonFiniteError, match="step 4: the KL is too high; .* keeps step 4"):
        toy_run(tmp_path, collapses_at=4)
    assert load_payload(tmp_path / "last.pt")["step"] == 4


def test_a_first_step_that_fails_has_nothing_to_keep(tmp_path):
    with pytest.raises(NonFiniteError, match="step 1: .*; nothing was saved yet"):
        toy_run(tmp_path, fails_at=(1, 1))
    assert not (tmp_path / "last.pt").exists()


# --- memory ---


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 4000000000000 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_memory_ends_in_one_line_with_advice(error, capsys):
    assert ended(error) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "out of memory, use a smaller --micro_batch_size" in said


def test_torch_says_what_is_expected_of_it(capsys):
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert ended(error.value) == 1 and "out of memory" in capsys.readouterr().err


def test_another_runtime_error_is_a_bug_and_keeps_its_traceback():
    def main(argv=None):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        command(main)([])


def test_no_memory_for_a_checkpoint_does_not_call_it_damaged(tmp_path, monkeypatch):
    save_payload(tmp_path / "last.pt", {})

    def full(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        load_payload(tmp_path / "last.pt")


# --- signals ---


def test_a_signal_before_the_first_step_stops_at_once(tmp_path):
    with pytest.raises(Stopped) as stop, run_in(tmp_path) as run:
        run.start()
        os.kill(os.getpid(), signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert stop.value.code == 130 and "before the first step was saved" in str(stop.value)


def test_a_signal_after_the_last_step_stops_at_once(tmp_path):
    """In the final evaluation: the steps are saved, what is left is done again."""
    with pytest.raises(Stopped) as stop, run_in(tmp_path) as run:
        toy = Toy()
        run.start()
        for _ in steps(run, 3, {"toy": toy}, make_optimizer({"toy": toy}), Progress()):
            pass
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")
    assert stop.value.code == 143
    assert str(stop.value) == "stopped by SIGTERM after step 3, saved; continue with --resume"


STARTING = """
import os, signal, sys
from src.utils.exit_handling import command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born without it
@command
def main(argv=None):
    os.kill(os.getpid(), {number})
    for _ in range(10**9):
        pass
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_script_starts_ends_in_one_line(number, code):
    done = subprocess.run(
        [sys.executable, "-c", STARTING.format(number=int(number))],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == code
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


# --- disks ---


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """Power may go at any of these: file synced, renamed, folder synced."""
    done = []

    def noted(name, operate):
        def operated(*args):
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            done.append("folder" if is_folder else name)
            return operate(*args)

        return operated

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write_atomically(tmp_path / "last.pt", lambda file: file.write(b"new"))
    assert done == ["fsync", "replace", "folder"]


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    """last.pt may lie on a larger disk; the link was replaced by a file."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "last.pt"
    link.symlink_to("disk/last.pt")
    for content in (b"first", b"second"):
        write_atomically(link, lambda file, content=content: file.write(content))
        assert link.is_symlink() and (tmp_path / "disk/last.pt").read_bytes() == content
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["last.pt"]


@pytest.mark.parametrize("name", ["EROFS", "ENOSPC", "ENOLCK", "EOPNOTSUPP"])
def test_a_lock_that_cannot_be_had_is_not_another_run(name, tmp_path, monkeypatch):
    import fcntl

    number = getattr(errno, name)

    def refused(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(OSError, match="cannot be locked") as error:
        lock_folder(tmp_path)
    assert error.value.errno == number and error.value.filename == str(tmp_path / ".lock")


@pytest.fixture
def mounted(tmp_path):
    """mounted(options): a small file system of its own at tmp_path / "disk"."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        if os.getuid() or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("this user may not mount a file system")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


def test_a_full_disk_names_the_file_and_keeps_the_old_one(mounted, capsys):
    disk = mounted("size=256k")
    save_payload(disk / "last.pt", {"old": torch.arange(100)})
    with pytest.raises(OSError) as error:
        save_payload(disk / "last.pt", {"new": torch.zeros(200_000)})
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(disk / "last.pt")
    assert ended(error.value) == 1
    assert f"{disk / 'last.pt'}: No space left on device" in capsys.readouterr().err
    assert torch.equal(load_payload(disk / "last.pt")["old"], torch.arange(100))
    assert os.listdir(disk) == ["last.pt"]


def test_a_read_only_folder_is_named(mounted, tmp_path):
    disk = mounted("size=256k")
    save_payload(disk / "last.pt", {"old": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError) as error:
        save_payload(disk / "last.pt", {"new": 1})
    assert error.value.errno == errno.EROFS and error.value.filename == str(disk / "last.pt")
    with pytest.raises(OSError) as error:
        run_in(disk, "--overwrite")
    assert error.value.errno == errno.EROFS and error.value.filename == str(disk / ".lock")
    assert load_payload(disk / "last.pt")["old"] == 1


def test_only_what_dead_processes_left_is_cleared(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    node = files.platform.node()
    names = {
        f".a.pt.{node}.{child.pid}.tmp": False,
        f".a.pt.{node}.{os.getppid()}.tmp": True,
        f".a.pt.elsewhere.{child.pid}.tmp": True,
        "mine.tmp": True,
        f".a.pt.{node}.x.tmp": True,
    }
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    clear_stale(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


# --- what a last.pt may claim ---


def spoilt(folder, **changes):
    """A last.pt of three steps with some fields changed and a checksum that fits."""
    toy_run(folder, max_steps=3)
    payload = {**load_payload(folder / "last.pt"), **changes}
    save_payload(folder / "last.pt", payload)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": -1}, "has no step"),
        ({"metrics_bytes": -5}, "has no metrics_bytes"),
        ({"progress": 3}, "has no progress"),
        ({"progress": {"kl_coef": "x"}}, "does not fit this run's models"),
        ({"progress": {"coefficient": 1.0}}, "does not fit this run's models"),
        ({"args": {"lr": "much"}}, "has a flag lr of 'much'"),
        ({"args": {"lr": float("nan")}}, "has a flag lr of 'nan'"),
        ({"args": {"batch_size": None}}, "has a flag batch_size of 'None'"),
        ({"args": {"resume": 1}}, "has a flag resume"),
        ({"args": {"no_such_flag": 1}}, "has a flag no_such_flag"),
        ({"rng": 3}, "does not fit this run's models"),
        ({"rng": {"torch": torch.zeros(3), "cuda": []}}, "does not fit this run's models"),
        ({"optimizer": {}}, "does not fit this run's models"),
        ({"modules": {"toy": {}}}, "does not fit this run's models"),
        ({"modules": {"toy": {"layer.weight": torch.full((2, 3), torch.nan),
                              "layer.bias": torch.zeros(2)}}}, "are not finite"),
    ],
    ids=str,
)
def test_a_last_pt_that_claims_nonsense_is_refused(changes, words, tmp_path):
    spoilt(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        toy_run(tmp_path, "--resume", max_steps=3)


def test_a_state_of_the_optimizer_that_does_not_fit_is_refused(tmp_path):
    """torch would find out in the middle of the next step."""
    for spoil in (
        lambda state: state["state"][0].update(exp_avg=torch.zeros(7)),
        lambda state: state["state"][0].update(exp_avg_sq=torch.full((2, 3), torch.nan)),
        lambda state: state["state"][0].pop("step"),
        lambda state: state["state"].update({99: state["state"][0]}),
        lambda state: state["param_groups"][0].update(betas="x"),
    ):
        toy_run(tmp_path, "--overwrite", max_steps=3)
        payload = load_payload(tmp_path / "last.pt")
        spoil(payload["optimizer"])
        save_payload(tmp_path / "last.pt", payload)
        with pytest.raises(UserError, match="does not fit this run's models"):
            toy_run(tmp_path, "--resume", max_steps=3)


def test_every_flag_accepts_its_own_default():
    made = parser()
    values = vars(made.parse_args([]))
    assert [name for name, value in values.items() if not made.accepts(name, value)] == []
