"""One run of a training stage: its flags and its folder, fresh or resumed."""

import argparse
import random
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from src.training.device import choose_device
from src.training.distributed import gather, join
from src.training.early_end import EarlyEnd
from src.training.resume import stored_run, take_stored_flags
from src.training.run_log import LOG_FILE, RunLog
from src.training.tracker import require_tracker
from src.utils.checkpoint_utils import stage_folder
from src.utils.cli import Parser
from src.utils.errors import UserError
from src.utils.exit_handling import NonFiniteError
from src.utils.file_lock import lock_file
from src.utils.files import clear_stale, write_json
from src.utils.machine import machine_in_words
from src.utils.progress_bar import say
from src.utils.ranks import rank

CACHE = Path(".cache")
RUN_FILES = ("final.pt", "last.pt", LOG_FILE, "args.json", "machine.json")


def set_up_torch(args: argparse.Namespace) -> torch.device:
    """Seed, threads and device as the flags say; returns the device."""
    random.seed(args.seed)
    np.random.seed(args.seed % 2**32)
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.threads = torch.get_num_threads()
    return choose_device(args)


def lock_folder(folder: Path) -> BinaryIO:
    """An exclusive lock that ends with the process; UserError if another process holds it."""
    path = folder / ".lock"
    try:
        return lock_file(path, wait=False)
    except BlockingIOError:
        raise UserError(
            f"{folder} is in use by another run, wait for it or give another --output_dir"
        ) from None
    except OSError as error:
        reason = f"{error.strerror}: the folder cannot be locked, give another --output_dir"
        raise OSError(error.errno, reason, str(path)) from None


class Run:
    """A stage's run in its folder, which no second process may use.

    last: the contents of last.pt when resuming, else None. finished: --resume found a final.pt.
    log: what it writes; end: how it ends early.
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
        self.inputs: dict[str, str] = {}
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
        self.end = EarlyEnd(self.folder, self.steps_done)
        self.log = RunLog(stage)

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
        self.asked.update(new)  # the parser's own default, typed on --resume, is another value
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
        self.end.catch_signals()

    def _open_files(self) -> None:
        for name in RUN_FILES:  # temporary files of a run that was killed while writing
            for stale in self.folder.glob(f".{name}.*.tmp"):
                stale.unlink(missing_ok=True)
        for cache in CACHE.glob("*"):
            clear_stale(cache)
        if self.last is None:
            for name in RUN_FILES:
                (self.folder / name).unlink(missing_ok=True)
        flags = {"stage": self.stage, **vars(self.args)}
        write_json(self.folder / "args.json", flags, indent=1, sort_keys=True)
        write_json(self.folder / "machine.json", machine_in_words(), indent=1)
        keep = self.last["metrics_bytes"] if self.last else 0
        self.log.open(self.folder, keep, self.args, self.steps_done)

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
        """Release signals, log and lock. Safe in any state of the run."""
        self.end.release()
        self.log.close()
        self._unlock()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, NonFiniteError):
                raise self.end.explained(error) from None
        finally:
            self.close()
