"""kill -9 at random instants, over the four stages and three models, each run then resumed.

Case n is one run of one (stage, model), killed and resumed until it ends; then it must equal the
undisturbed run to the last bit. A kill falls at a random time of the run's life, or just before or
after a random one of its file operations (fsync, rename, removal), which a random time seldom hits.
A few kills hit a process started as people start it. The others hit a forked one without the
start-up.
"""

import functools
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from src.utils.constants import MODEL_TYPES, STAGES
from src.utils.errors import UserError
from src.utils.payload import load_payload
from tests.conftest import call, outcome
from tests.faults.process import forked
from tests.faults.runs import assert_same_runs, enter_copy, folder_of, records, small_argv

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [(stage, model_type) for model_type in MODEL_TYPES for stage in STAGES]
MOST_KILLS = 6  # of one run, which then goes on in peace
LIMIT_SECONDS = 300
OPERATIONS = ("fsync", "replace", "unlink")


def die_at(operation: int) -> list[int]:
    """Count file operations from here on, twice each, and kill this process at number `operation`.

    Returns the list whose one item is the count.
    """
    counted = [0]

    def count() -> None:
        counted[0] += 1
        if counted[0] == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(operate):
        def operated(*args, **options):
            count()
            value = operate(*args, **options)
            count()
            return value

        return operated

    for name in OPERATIONS:
        setattr(os, name, around(getattr(os, name)))
    return counted


class Undisturbed:
    """Runs in one go, made when first asked for: folder, seconds and file operations of each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[tuple[str, str], tuple[float, int]] = {}

    def of(self, stage: str, model_type: str) -> tuple[float, int]:
        """(seconds, file operations) of the run, which is made with its parents where it is not."""
        if (stage, model_type) not in self.made:
            if stage != STAGES[0]:
                for parent in STAGES[: STAGES.index(stage)]:
                    self.of(parent, model_type)
            place = self.root / f"whole_{stage}_{model_type}"
            enter_copy(place, self.root / f"parents_{model_type}", stage, model_type)

            def run() -> int:
                counted = die_at(0)
                call(stage, small_argv(stage, model_type))
                return counted[0]

            ended = forked(run, LIMIT_SECONDS)
            assert ended.how == "returned", ended
            part = folder_of(stage, model_type)
            kept = self.root / f"parents_{model_type}" / part
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(place / part, kept)
            self.made[stage, model_type] = ended.seconds, ended.value
        return self.made[stage, model_type]


def check_killed(folder: Path, saved: int) -> int:
    """What a kill may leave: whole files, nothing lost that was saved. Returns the saved steps."""
    for name in ("last.pt", "final.pt"):
        if (folder / name).exists():
            load_payload(folder / name)
    step = load_payload(folder / "last.pt")["step"] if (folder / "last.pt").exists() else 0
    assert step >= saved, f"last.pt fell from step {saved} to {step}"
    log = folder / "metrics.jsonl"
    text = log.read_text() if log.exists() else ""
    logged = [line for line in text.splitlines() if '"loss"' in line]
    assert step <= len(logged) <= step + 1, f"{len(logged)} steps logged, {step} saved"
    return step


def kill_once(chooser: random.Random, stage: str, model_type: str, life, real: bool) -> str:
    """Start or resume the run and kill it, or let it end; returns how it ended, or what it said."""
    seconds, operations = life
    argv = [*small_argv(stage, model_type), "--resume"]
    if real:
        command = [sys.executable, str(ROOT / f"{stage}.py"), *argv]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        process.stderr.readline()  # its imports are done
        time.sleep(chooser.uniform(0, seconds))
        process.kill()
        said = process.communicate()[1].decode()
        if process.returncode == -signal.SIGKILL:
            return "killed"
        return "returned" if not process.returncode else said
    by_time = chooser.random() < 0.5
    number = 0 if by_time else chooser.randint(1, operations)
    wait = chooser.uniform(0, seconds) if by_time else None

    def run() -> list[str]:
        die_at(number)
        ended = outcome(stage, argv)
        return ended.err if ended.code else []

    ended = forked(run, LIMIT_SECONDS, wait)
    refused = "\n".join(ended.value or [])
    return refused or ended.text or ended.how


def resumed(stage: str, argv: list[str]) -> int:
    """The exit code of a run that nothing disturbs any more."""
    return outcome(stage, argv).code


def one_case(undisturbed: Undisturbed, seed: int, number: int, real_share: float) -> Counter:
    """Case `number` of `seed`: AssertionError or UserError where anything is lost."""
    stage, model_type = PAIRS[number % len(PAIRS)]
    chooser = random.Random(f"{seed}/{number}")
    life = undisturbed.of(stage, model_type)
    parents = undisturbed.root / f"parents_{model_type}"
    enter_copy(undisturbed.root / "killed", parents, stage, model_type)
    folder, counts, saved = folder_of(stage, model_type), Counter(runs=1), 0
    while True:
        if counts["kills"] == MOST_KILLS:
            again = [*small_argv(stage, model_type), "--resume"]
            ended = forked(functools.partial(resumed, stage, again), LIMIT_SECONDS)
            assert ended.how == "returned", ended
            break
        real = chooser.random() < real_share
        how = kill_once(chooser, stage, model_type, life, real)
        if how == "returned":
            break
        assert how == "killed", how
        counts["kills"] += 1
        counts["kills of a process of its own"] += real
        counts[f"kills of {stage}"] += 1
        counts[f"kills of {model_type}"] += 1
        before, saved = saved, check_killed(folder, saved)
        counts["kills after a save"] += saved > 0
        counts["kills before the first save"] += saved == 0
        counts["steps made between kills"] += saved - before
    whole = undisturbed.root / f"whole_{stage}_{model_type}"
    assert_same_runs(whole / folder, folder)
    assert [r["step"] for r in records(folder) if "loss" in r] == [1, 2, 3, 4]
    left = sorted(str(path) for path in Path.cwd().rglob("*.tmp"))
    assert not left, f"left behind: {left}"
    return counts


def run(kills: int, seed: int, case: int | None, real_share: float, root: Path) -> int:
    """Cases until there were so many kills, or the one case; prints figures, returns the faults."""
    for stage in STAGES:
        importlib.import_module(stage)
    undisturbed, counts, faults = Undisturbed(root), Counter(), 0
    started = time.monotonic()
    number = case or 0
    while counts["kills"] < kills and number < 4 * kills + len(PAIRS):
        try:
            counts += one_case(undisturbed, seed, number, real_share)
        except (AssertionError, UserError) as error:
            faults += 1
            print(f"kills: seed {seed} case {number} {PAIRS[number % len(PAIRS)]}: {error}")
        if case is not None:
            break
        number += 1
        if number % len(PAIRS) == 0:
            print(f"kills: {counts['kills']} so far, {faults} faults", file=sys.stderr)
    figures = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(
        f"kills: {figures}; {faults} lost, unreadable or unequal; "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return faults
