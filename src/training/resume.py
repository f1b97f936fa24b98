"""--resume: read last.pt from a run's folder, and check it before use."""

from argparse import Namespace
from pathlib import Path

from src.utils.cli import Parser
from src.utils.errors import UserError
from src.utils.payload import load_payload
from src.utils.ranks import world_size

# Flags of how a run is started. last.pt holds them too, but a resumed run has its own.
START_FLAGS = {"output_dir", "resume", "overwrite"}
# Flags that may differ when a run is resumed: they do not change what it computes, but for rounding
# where a run that was out of memory continues in smaller micro-batches.
FREE_FLAGS = START_FLAGS | {
    "save_every", "log_every", "skip_nonfinite", "tracker", "micro_batch_size",
    "micro_batch_tokens",
}
# Fields of last.pt, besides those that `loop.restore` checks.
LAST_FIELDS = {
    "stage": str, "step": int, "args": dict, "metrics_bytes": int, "modules": dict, "asked": dict,
    "inputs": dict, "optimizer": dict, "progress": dict, "ranks": int,
}


def stored_run(folder: Path, stage: str) -> dict | None:
    """The contents of last.pt; None if there is no such file.

    Raises UserError if they are invalid or of another stage.
    """
    finished = (folder / "final.pt").exists()
    if not (folder / "last.pt").exists():
        if finished:
            _require_stage(folder, str(load_payload(folder / "final.pt").get("stage")), stage)
        return None
    last = load_payload(folder / "last.pt")
    for field, kind in LAST_FIELDS.items():
        value = last.get(field)
        if type(value) is not kind or (kind is int and value < 0):
            raise UserError(
                f"{folder / 'last.pt'} has no {field}, expected what a run saves to be "
                "continued, restore it or start anew with --overwrite"
            )
    _require_stage(folder, last["stage"], stage)
    if not finished and last["ranks"] != world_size():
        raise UserError(
            f"{world_size()} ranks given to resume a run of {last['ranks']}, start it as it was "
            "started (torchrun --nproc_per_node) or anew with --overwrite"
        )
    return last


def _require_stage(folder: Path, found: str, stage: str) -> None:
    if found != stage:
        raise UserError(
            f"--output_dir {folder} given, which holds a run of {found[:40]}, expected one of "
            f"{stage}, name another folder"
        )


def take_stored_flags(
    last: dict, folder: Path, parser: Parser, args: Namespace, typed: set[str]
) -> None:
    """Copy a run's flags to args, except those that may differ and were typed.

    Raises UserError for an invalid stored flag, and for one typed with another value.
    """
    stored, asked = last["args"], last["asked"]
    for name, value in stored.items():
        if not parser.accepts(name, value):
            raise UserError(
                f"{folder / 'last.pt'} has a flag {name} of {str(value)[:40]!r}, expected one "
                "that a run can have, restore it or start anew with --overwrite"
            )
    for name in sorted(typed - FREE_FLAGS):
        if getattr(args, name) not in (stored.get(name), asked.get(name)):
            raise UserError(
                f"--{name} {getattr(args, name)} given to resume a run with --{name} "
                f"{stored.get(name)}, leave it out, name another --output_dir, or start anew with "
                "--overwrite"
            )
    for name, value in stored.items():
        if name not in START_FLAGS and not (name in typed and name in FREE_FLAGS):
            setattr(args, name, value)
