"""One run of a training stage: its folder, lock, flags and log, and the signals that stop it.
"""

import argparse
import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from src.training.device import choose_device
from src.training.distributed import gather, join
from src.training.resume import stored_run, take_stored_flags
from src.training.run_lock import lock_folder
from src.training.tracker import NO_TRACKER, open_tracker, require_tracker
from src.utils.checkpoint_utils import stage_folder
from src.utils.cli import Parser
from src.utils.errors import UserError
from src.utils.exit_handling import NonFiniteError, Stopped
from src.utils.machine import machine_in_words
from src.utils.payload import clear_stale, write_atomically
from src.utils.progress_bar import Bar, say
from src.utils.ranks import lost_rank, rank

CACHE = Path(".cache")
RUN_FILES = ("final.pt", "last.pt", "metrics.jsonl", "args.json", "machine.json")


def set_up_torch(args: argparse.Namespace) -> torch.device:
    """Seed, threads and device as the flags say; returns the device."""
    random.seed(args.seed)
    np.random.seed(args.seed % 2**32)
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.threads = torch.get_num_threads()
    return choose_device(args)


class Run:
    """A stage's folder during a run.

    last: the contents of last.pt when resuming, else None. finished: --resume found a final.pt.
    step: the current or last step, counted from 1. saved_step: the step that last.pt holds.
    """

    def __init__(self, parser: Parser, argv: list[str] | None, stage: str) -> None:
        self.args = args = parser.parse_args(argv)
        self.typed = parser.typed(argv)
        self.asked = dict(vars(args))  # before the stage resolves them, as auto to a data set
        self.stage = stage
        self.folder = Path(args.output_dir or stage_folder(args.model_type, stage))
        if args.resume and args.overwrite:
            raise UserError("--resume and --overwrite given, expected one of them: they contradict")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(
                f"--output_dir {self.folder} given, a file or below one, expected a folder"
            ) from None
        join()
        self._lock = None if rank() else lock_folder(self.folder)
        self.last: dict | None = None
        self.finished = False
        self.step = 0
        self.inputs: dict[str, str] = {}
        self._log: BinaryIO | None = None  # rank 0's, from `start` on
        self._signal: int | None = None  # of this rank; _stop_signal: of all ranks
        self._stop_signal: int | None = None
        self._stop_reason = ""
        self._keep: Callable[[], None] | None = None  # saves the state from before the current step
        try:
            existing = [name for name in RUN_FILES if (self.folder / name).exists()]
            if args.resume:
                self._resume(parser)
            elif existing and not args.overwrite:
                raise UserError(
                    f"{self.folder} holds an earlier run ({', '.join(existing)}), "
                    "expected an empty folder, --resume to continue it or --overwrite to start anew"
                )
            require_tracker(args.tracker)
            gather(None)  # rank 0 changes the folder once all have looked at it
        except BaseException:
            self._unlock()
            raise
        self.saved_step = self.steps_done
        self._previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        self._bar = Bar(stage)
        self._tracker = NO_TRACKER

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _resume(self, parser: Parser) -> None:
        self.finished = (self.folder / "final.pt").exists()
        self.last = stored_run(self.folder, self.stage)
        if self.last is None:
            done = "this run is finished" if self.finished else "nothing to resume, starting fresh"
            say(f"{self.folder}: {done}")
            return
        take_stored_flags(self.last, self.folder, parser, self.args, self.typed)
        self.asked = self.last["asked"]
        if self.finished:
            say(f"{self.folder}: this run is finished")

    def take_defaults(self, defaults: dict[str, Any], because: str) -> None:
        """Set other defaults for flags that were not typed; a resumed run keeps its own flags."""
        if self.last is not None:
            return
        new = {name: value for name, value in defaults.items() if name not in self.typed}
        vars(self.args).update(new)
        words = ", ".join(f"--{name} {value:g}" for name, value in new.items())
        say(f"defaults of {because}: {words or 'none, all were given'}")

    @property
    def steps_done(self) -> int:
        """Steps that last.pt holds; 0 for a fresh run."""
        return self.last["step"] if self.last else 0

    def start(self, inputs: dict[str, str] | None = None) -> None:
        """Write the resolved flags, cut the log back to the resumed step, and catch stop signals.

        inputs: other inputs of the run (parents' files, data) -> their hashes; a resumed run is
        refused if one has changed. A fresh run removes an earlier run's files here, after its flags
        and its parent were checked.
        """
        self.inputs = inputs or {}
        self._check_inputs()
        if not rank():
            self._open_files()
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def _open_files(self) -> None:
        for name in RUN_FILES:  # temporary files of a run that was killed while writing
            for stale in self.folder.glob(f".{name}.*.tmp"):
                stale.unlink(missing_ok=True)
        for cache in CACHE.glob("*"):
            clear_stale(cache)
        if self.last is None:
            for name in RUN_FILES:
                (self.folder / name).unlink(missing_ok=True)
        flags = json.dumps({"stage": self.stage, **vars(self.args)}, indent=1, sort_keys=True)
        write_atomically(self.folder / "args.json", lambda file: file.write(flags.encode()))
        machine = json.dumps(machine_in_words(), indent=1).encode()
        write_atomically(self.folder / "machine.json", lambda file: file.write(machine))
        path = self.folder / "metrics.jsonl"
        keep = self.last["metrics_bytes"] if self.last else 0
        if (path.stat().st_size if path.exists() else 0) < keep:
            raise UserError(
                f"{path} is shorter than when last.pt was saved, restore it or use --overwrite"
            )
        self._log = open(path, "ab")  # noqa: SIM115 - open for the length of the run
        self._log.truncate(keep)
        self._tracker = open_tracker(
            self.args.tracker, self.stage, self.folder, vars(self.args), self.steps_done
        )

    def _check_inputs(self) -> None:
        for path in map(Path, self.inputs):
            if path.name in RUN_FILES and path.parent.resolve() == self.folder.resolve():
                raise UserError(
                    f"--output_dir {self.folder} given, which holds {path} that the run starts "
                    "from, expected a folder of its own"
                )
        for number, its in enumerate(gather(self.inputs)):
            if its != self.inputs:
                raise UserError(
                    f"rank {number} read {', '.join(its)}, this rank {', '.join(self.inputs)} or "
                    "other contents, expected the same on every rank"
                )
        known = self.last["inputs"] if self.last else self.inputs
        changed = [name for name in self.inputs if known.get(name) != self.inputs[name]]
        if changed:
            raise UserError(
                f"{changed[0]} is not what this run started from, restore it or start anew with "
                "--overwrite"
            )

    def close(self) -> None:
        """Release lock, log and signal handlers. Safe in any state of the run."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._bar.close()
        self._tracker.close()
        if self._log is not None:
            self._log.close()
        self._unlock()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, NonFiniteError):
                if self._keep is not None and self.step - 1 > self.saved_step:
                    self._keep()
                raise NonFiniteError(f"step {self.step}: {error}; {self._kept()}") from None
        finally:
            self.close()

    def _kept(self) -> str:
        if not self.saved_step:
            return "nothing was saved yet"
        return f"{self.folder / 'last.pt'} keeps step {self.saved_step}"

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal = number
        # Before the first step and after the last there is no step to finish.
        if self._keep is None and not lost_rank(sys.exception()):
            self._stop_signal = number
            self._stop()

    def agree_on_stop(self) -> None:
        """Signals reach the ranks at different steps; all ranks stop at the first of these."""
        self._stop_signal = next((number for number in gather(self._signal) if number), None)

    def _stop(self) -> None:
        """Raise Stopped for the signal that came."""
        name = signal.Signals(self._stop_signal).name
        message = f"stopped by {name} before the first step was saved"
        if self.saved_step:
            message = f"stopped by {name} after step {self.saved_step}, saved; "
            message += "continue with --resume"
        raise Stopped(message, 128 + self._stop_signal)

    @property
    def stop_asked(self) -> bool:
        """Whether the run should end after the current step."""
        return self._stop_signal is not None or bool(self._stop_reason)

    def stop_after_step(self, reason: str) -> None:
        """End the run with this NonFiniteError once the current step is saved."""
        self._stop_reason = reason

    def begin_step(self, step: int, keep: Callable[[], None] | None) -> None:
        """Set the current step, counted from 1. keep: saves the state from before it; None after
        the last step, from when a signal stops the run at once.
        """
        self.step, self._keep = step, keep

    def stop_if_asked(self) -> None:
        """End the run if a signal or `stop_after_step` requested it; call it after saving."""
        if self._stop_signal is not None:
            self._stop()
        if self._stop_reason:
            raise NonFiniteError(self._stop_reason)

    def log(self, record: dict) -> None:
        """Append one JSON line to metrics.jsonl, with null for non-finite numbers."""
        if rank():
            return
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        self._log.write((json.dumps(finite) + "\n").encode())
        self._log.flush()
        self._tracker.log(finite)

    def log_position(self) -> int:
        """Bytes of metrics.jsonl that are on the disk, for last.pt, which rank 0 writes."""
        if rank():
            return 0
        os.fsync(self._log.fileno())
        return self._log.tell()

    def show(self, step: int, max_steps: int, **metrics: float) -> None:
        """Display the progress of the run and its main metrics."""
        self._bar.show(step, max_steps, **metrics)
