"""What a run writes as it goes: metrics.jsonl, a tracker beside it, and the bar on the terminal."""

import argparse
import json
import math
import os
from pathlib import Path
from typing import BinaryIO

from src.training.tracker import NO_TRACKER, open_tracker
from src.utils.errors import UserError
from src.utils.progress_bar import Bar
from src.utils.ranks import rank

LOG_FILE = "metrics.jsonl"


class RunLog:
    """Rank 0 writes it, from `open` on."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._file: BinaryIO | None = None
        self._tracker = NO_TRACKER
        self._bar = Bar(stage)

    def open(self, folder: Path, keep: int, args: argparse.Namespace, steps_done: int) -> None:
        """Open the log of this folder, cut back to its first `keep` bytes, and --tracker's."""
        path = folder / LOG_FILE
        if (path.stat().st_size if path.exists() else 0) < keep:
            raise UserError(
                f"{path} is shorter than when last.pt was saved, restore it or use --overwrite"
            )
        self._file = open(path, "ab")  # noqa: SIM115 - open for the length of the run
        self._file.truncate(keep)
        self._tracker = open_tracker(args.tracker, self.stage, folder, vars(args), steps_done)

    def append(self, record: dict) -> None:
        """Append one JSON line, with null for non-finite numbers."""
        if rank():
            return
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        self._file.write((json.dumps(finite) + "\n").encode())
        self._file.flush()
        self._tracker.log(finite)

    def position(self) -> int:
        """Bytes of the log that are on the disk, for last.pt, which rank 0 writes."""
        if rank():
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def show(self, step: int, max_steps: int, **metrics: float) -> None:
        """Display the progress of the run and its main metrics."""
        self._bar.show(step, max_steps, **metrics)

    def close(self) -> None:
        """Safe in any state of the run."""
        self._bar.close()
        self._tracker.close()
        if self._file is not None:
            self._file.close()
