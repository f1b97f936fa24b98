"""Run the cells of an experiment, several at once, and continue after whatever ended the last run.

A cell is finished once its parents are and its result file is there; the scripts write it whole or
not at all. An unfinished one is started again with --resume. One process waits for all of them,
without threads.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

from src.sweep.experiment import EVALUATION, Cell, finished
from src.utils.errors import UserError
from src.utils.file_lock import lock_file
from src.utils.files import write_json

ROOT = Path(__file__).resolve().parents[2]
LOG = "log.txt"
POLL_SECONDS = 0.05
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class Job(NamedTuple):
    """A cell that runs."""

    cell: Cell
    process: subprocess.Popen
    started: float


def run_cells(cells: list[Cell], jobs: int, threads: int, folder: Path) -> dict[tuple, str]:
    """Run what is not finished, `jobs` at once; cell key -> why, of those that could not be run."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = _wait_for_folder(folder)
    check_stored(cells)
    failed: dict[tuple, str] = {}
    done = finished(cells)
    _remove_stale(cells, done)
    waiting = [cell for cell in cells if cell.key not in done]
    print(f"{len(cells)} cells: {len(done)} finished before, {len(waiting)} to run, {jobs} at once")
    running: list[Job] = []
    try:
        while waiting or running:
            waiting = _drop_orphans(waiting, failed)
            for cell in [c for c in waiting if all(p.key in done for p in c.parents.values())]:
                if len(running) == jobs:
                    break
                waiting.remove(cell)
                running.append(_start(cell, threads, lock))
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                _note_end(job, done, failed)
                print(f"[{len(done) + len(failed)}/{len(cells)}] {job.cell.name}: "
                      f"{failed.get(job.cell.key, 'finished')} "
                      f"({time.monotonic() - job.started:.0f} s)", flush=True)
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        # After Ctrl-C or SIGTERM: the scripts finish their step, save it and end.
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
        lock.close()
    return failed


def check_stored(cells: list[Cell], any_threads: bool = False) -> None:
    """UserError for a cell that an earlier run has started with other flags. any_threads: but for
    --threads, which comes last.
    """
    for cell in cells:
        path = cell.folder / "cell.json"
        if not path.exists():
            continue
        try:
            stored = json.loads(path.read_bytes())
        except ValueError:
            stored = None
        wanted = [cell.script, *cell.argv]
        if any_threads and isinstance(stored, list):
            stored, wanted = stored[:-1], wanted[:-1]
        if stored != wanted:
            raise UserError(
                f"{cell.folder} was started with other flags ({path} has them), expected the same: "
                "remove the folder or give another --output_dir"
            )


def _wait_for_folder(folder: Path) -> BinaryIO:
    """A lock on the experiment's folder. Its cells inherit it, so cells that a killed sweep has
    left behind, which end after their step, are waited for.
    """
    path = folder / ".lock"
    try:
        return lock_file(path, wait=False)
    except BlockingIOError:
        print(f"{folder} is in use by another sweep or by what it started: waiting", flush=True)
        return lock_file(path, wait=True)


def _remove_stale(cells: list[Cell], done: set[tuple]) -> None:
    """Remove the results of evaluations whose checkpoint was removed: that will be another one.
    Training scripts notice by themselves what they started from.
    """
    for cell in cells:
        if cell.script == EVALUATION and cell.key not in done:
            cell.result.unlink(missing_ok=True)


def _drop_orphans(waiting: list[Cell], failed: dict[tuple, str]) -> list[Cell]:
    """The cells whose parents have not failed; the others are noted as failed."""
    kept = []
    for cell in waiting:
        parent = next((p for p in cell.parents.values() if p.key in failed), None)
        if parent is None:
            kept.append(cell)
        else:
            failed[cell.key] = f"not run: {parent.name} failed"
    return kept


def _start(cell: Cell, threads: int, lock: BinaryIO) -> Job:
    cell.folder.mkdir(parents=True, exist_ok=True)
    path = cell.folder / "cell.json"
    if not path.exists():
        write_json(path, [cell.script, *cell.argv])
    resume = [] if cell.script == EVALUATION else ["--resume"]
    with open(cell.folder / LOG, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / cell.script), *cell.argv, *resume],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)}, preexec_fn=_end_with_parent(),
        )
    return Job(cell, process, time.monotonic())


def _end_with_parent():
    """What a child calls on Linux so that it is asked to stop when the sweep is killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(END_WITH_PARENT, signal.SIGTERM)


def _note_end(job: Job, done: set[tuple], failed: dict[tuple, str]) -> None:
    code = job.process.returncode
    if code == 0 and job.cell.result.exists():
        done.add(job.cell.key)
    else:
        failed[job.cell.key] = f"exit code {code}: {last_line(job.cell.folder / LOG)}"


def last_line(path: Path) -> str:
    """The last line of a log that says something; a progress bar rewrites a line with returns."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "no output")
