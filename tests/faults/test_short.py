"""The fault runs in short; in full: `python -m tests.faults --kills 200 --squad 2000 ...`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        ("kills", 6, "0 lost, unreadable or unequal"),
        ("squad", 60, "squad: 60 cases: "),
        ("checkpoints", 40, "checkpoints: 40 cases: "),
    ],
)
def test_no_fault_in_short(kind, number, expected):
    """In a process that computes nothing but forks: this one has threads of pytest's and torch's.

    Seed 1: the full runs of the README have seed 0.
    """
    command = [sys.executable, "-m", "tests.faults", f"--{kind}", str(number), "--seed", "1"]
    done = subprocess.run(
        [*command, "--real_share", "0"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout
