"""Send the log of a run to a tracker, beside metrics.jsonl. Tracking is write-only: nothing that a
run computes, saves or resumes from depends on it.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from src.utils.errors import UserError

# --tracker, which is also the module that it needs -> how to get it
INSTALL = {"tensorboard": "pip install tensorboard==2.21.0", "wandb": "pip install wandb"}


class Tracker(NamedTuple):
    """log: takes one record of metrics.jsonl; close: is called however the run ends."""

    log: Callable[[dict[str, Any]], None]
    close: Callable[[], None]


NO_TRACKER = Tracker(lambda record: None, lambda: None)


def require_tracker(name: str) -> None:
    """UserError with the installation command if the tracker is not installed."""
    if name == "none":
        return
    try:
        importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"--tracker {name} given, but it is not installed, run: {INSTALL[name]}"
        ) from None


def open_tracker(name: str, stage: str, folder: Path, flags: dict, steps_done: int) -> Tracker:
    """The tracker of a run; NO_TRACKER for "none".

    tensorboard: event files in the run's folder. Readers purge events that an interrupted run wrote
    after the resumed step.
    wandb: a run in the group of the folder's name. A resumed run is a new one of the same group.
    """
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        first = steps_done + 1 if steps_done else 0
        writer = SummaryWriter(folder / "tensorboard", purge_step=first)
        return Tracker(lambda record: _write_scalars(writer, stage, record), writer.close)
    if name == "wandb":
        import wandb

        run = wandb.init(
            project="pico-llm-rlhf", group=folder.name, dir=folder, config=flags, job_type=stage
        )
        return Tracker(lambda record: run.log(_numbers(record), step=record["step"]), run.finish)
    return NO_TRACKER


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}


def _write_scalars(writer, stage: str, record: dict[str, Any]) -> None:
    for key, value in _numbers(record).items():
        writer.add_scalar(f"{stage}/{key}", value, record["step"])
    writer.flush()
