"""Checkpoints: one file that says what it is, where it came from, and whether it is whole.

A file is torch.save of plain values and tensors, read with weights_only=True, so loading one never
runs code. It is written under a temporary name, flushed to the disk and renamed, so that a reader
sees the old file or the new one, never half of one.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.data.tokenizer import Tokenizer
from src.model.heads import RewardModel
from src.model.model import build_model, model_type_of
from src.names import MODEL_TYPES, POLICY_STAGES, STAGES, UserError

FORMAT = "pico-llm-rlhf"
FORMAT_VERSION = 1
REWARD_STAGE = "train_reward_model"


@dataclasses.dataclass
class Checkpoint:
    """A stage's result in memory.

    model: the policy, or the RewardModel of the reward stage, on the CPU.
    data: identity of the data set. flags: the resolved arguments. lineage: one dict for each
    ancestor, oldest first, with its stage, path, sha256, flags, seed and metrics.
    """

    stage: str
    model_type: str
    model: nn.Module
    tokenizer: Tokenizer
    data: dict
    flags: dict
    lineage: list[dict]
    metrics: dict
    path: str = ""
    sha256: str = ""

    def as_ancestor(self) -> dict:
        """What a child's lineage says about this checkpoint."""
        kept = ("stage", "path", "sha256", "flags", "metrics")
        return {**{k: getattr(self, k) for k in kept}, "seed": self.flags.get("seed")}


def write_atomically(path: str | Path, write) -> None:
    """Call write(binary file) on a temporary neighbour, flush it to the disk and rename it to
    `path`.

    Raises OSError (disk full, read-only, vanished folder) with the file's name; `path` is as it
    was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch reports a full disk as a RuntimeError of its zip writer.
        if isinstance(error, RuntimeError):
            number = getattr(error.__context__, "errno", None) or errno.EIO
            raise OSError(number, _reason(error), str(path)) from error
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if hasattr(os, "O_DIRECTORY"):  # not on Windows, which has no folders to sync
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _reason(error: BaseException) -> str:
    context = error.__context__
    if isinstance(context, OSError) and context.strerror:
        return context.strerror
    return f"could not be written ({str(error).splitlines()[0][:80]})"


def _hash_value(value: Any, digest) -> None:
    """Feed a nested plain value with tensors to a hash, in an order that does not depend on the
    run.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b"")
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode())
            _hash_value(value[key], digest)
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _hash_value(item, digest)
    else:
        digest.update(repr(value).encode())


def checksum(payload: dict) -> str:
    """sha256 over everything in a checkpoint but its own checksum."""
    digest = hashlib.sha256()
    _hash_value({k: v for k, v in payload.items() if k != "checksum"}, digest)
    return digest.hexdigest()


def weights_hash(*modules: nn.Module) -> str:
    """sha256 over the parameters and buffers of modules."""
    digest = hashlib.sha256()
    for module in modules:
        _hash_value(module.state_dict(), digest)
    return digest.hexdigest()


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_payload(path: str | Path, payload: dict) -> None:
    """Write a dict of plain values and tensors with its format and checksum."""
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **payload}
    payload["checksum"] = checksum(payload)
    write_atomically(path, lambda file: torch.save(payload, file))


def load_payload(path: str | Path, advice: str = "name another file") -> dict:
    """Read what `save_payload` wrote; UserError in one line for anything else.

    advice: what to do, for the message where there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} given, expected a checkpoint file there, {advice}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} given, expected a checkpoint, but the file is damaged or foreign")
    _refuse_bombs(path)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError,
            AttributeError, IndexError, UnicodeDecodeError, AssertionError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path} given, expected a checkpoint, but it cannot be read safely ({reason})"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path} given, expected a checkpoint of this project, found another kind")
    if payload.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {payload.get('format_version')!r}, "
            f"expected {FORMAT_VERSION}, use the version of the code that wrote it"
        )
    if payload.get("checksum") != checksum(payload):
        raise UserError(f"{path} given, its contents do not match its checksum: it is damaged")
    return payload


def _refuse_bombs(path: Path) -> None:
    """torch.save stores without compression: an archive that unpacks to more than its size is
    hostile.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OverflowError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} given, expected a checkpoint, it is damaged ({error})") from None
    if unpacked > path.stat().st_size:
        raise UserError(f"{path} given, it claims {unpacked} bytes, more than the file holds")


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a stage's result; raises OSError with the file's name where the disk refuses."""
    trunk = getattr(checkpoint.model, "trunk", checkpoint.model)
    save_payload(
        path,
        {
            "stage": checkpoint.stage,
            "model_type": checkpoint.model_type,
            "config": dataclasses.asdict(trunk.config),
            "weights": checkpoint.model.state_dict(),
            "tokenizer": checkpoint.tokenizer.state(),
            "data": plain(checkpoint.data),
            "flags": plain(checkpoint.flags),
            "lineage": plain(checkpoint.lineage),
            "metrics": plain(checkpoint.metrics),
        },
    )


def plain(value: Any) -> Any:
    """The value as JSON would have it: plain types only, as the format asks."""
    return json.loads(json.dumps(value))


def load_checkpoint(path: str | Path, advice: str = "name another file") -> Checkpoint:
    """Read a checkpoint of any stage, its model built and its weights loaded, on the CPU.

    Raises UserError in one line when the file is missing, foreign, damaged or from another version.
    """
    payload = load_payload(path, advice)
    missing = sorted({"stage", "model_type", "config", "weights", "tokenizer"} - set(payload))
    if missing or payload["stage"] not in STAGES or payload["model_type"] not in MODEL_TYPES:
        raise UserError(f"{path} given, expected a stage's final.pt, found no stage or model in it")
    model = build_model(payload["model_type"], payload["config"])
    if payload["stage"] == REWARD_STAGE:
        model = RewardModel(model)
    try:
        model.load_state_dict(payload["weights"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} given, its weights do not fit its model: {reason}") from None
    tokenizer = Tokenizer.from_state(payload["tokenizer"])
    trunk = getattr(model, "trunk", model)
    if trunk.config.vocab_size < tokenizer.vocab_size:
        raise UserError(f"{path} given, its tokenizer has more ids than its model")
    kept = {k: payload[k] for k in ("data", "flags", "lineage", "metrics")}
    return Checkpoint(
        payload["stage"], payload["model_type"], model, tokenizer, **kept,
        path=str(path), sha256=file_hash(path),
    )  # fmt: skip


def stage_folder(model_type: str, stage: str) -> Path:
    """checkpoints/{model_type}_{stage}."""
    return Path("checkpoints") / f"{model_type}_{stage}"


def load_parent(
    path: str | None,
    model_type: str,
    stages: tuple[str, ...] = POLICY_STAGES,
    default_stage: str = STAGES[0],
) -> Checkpoint:
    """The checkpoint a stage starts from: `path`, or the default stage's final.pt.

    Raises UserError when it is missing (naming the command that makes it), of another model type,
    or of a stage that is not one of `stages`.
    """
    advice = f"run: python {default_stage}.py --model_type {model_type}"
    found = load_checkpoint(path or stage_folder(model_type, default_stage) / "final.pt", advice)
    if found.model_type != model_type:
        raise UserError(
            f"--model_type {model_type} given, but {found.path} holds a {found.model_type}, "
            f"add --model_type {found.model_type}"
        )
    if found.stage not in stages:
        raise UserError(
            f"{found.path} given, a checkpoint of {found.stage}, "
            f"expected one of {', '.join(stages)}"
        )
    return found


def describe_lineage(checkpoint: Checkpoint) -> str:
    """One line: how a checkpoint came about, oldest stage first."""
    stages = [f"{a['stage']} ({a['sha256'][:8]})" for a in checkpoint.lineage]
    stages.append(f"{checkpoint.stage} ({checkpoint.sha256[:8]})")
    data = checkpoint.data.get("dataset", "?")
    return (
        f"{checkpoint.model_type}: {' -> '.join(stages)}; data {data}; "
        f"tokenizer {checkpoint.tokenizer.name}"
    )


__all__ = [
    "Checkpoint", "describe_lineage", "load_checkpoint", "load_parent", "load_payload",
    "model_type_of", "save_checkpoint", "save_payload", "stage_folder", "weights_hash",
]  # fmt: skip
