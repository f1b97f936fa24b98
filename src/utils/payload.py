"""Files of plain values and tensors: written whole or not at all, read without trusting them.

A file is torch.save of plain values and tensors, read with weights_only=True, so loading one never
runs code. It is written under a temporary name, flushed to the disk and renamed, so that a reader
sees the old file or the new one, never half of one. What a file claims is checked before memory is
given to it.
"""

import hashlib
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.utils.errors import UserError
from src.utils.exit_handling import out_of_memory
from src.utils.files import write_atomically

FORMAT = "pico-llm-rlhf"
FORMAT_VERSION = 3

# All that a file of ours names. weights_only=True alone would also make a bytearray of any size.
_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _KINDS),
}
# A tokenizer of 200,000 ranks is 600,000 values; a pickle can repeat a list without repeating it on
# the disk.
MAX_VALUES = 5_000_000
MAX_DEPTH = 30
# Tensors may share a storage (tied weights), but not be blown up from it.
MAX_EXPANSION = 8


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


def weights_hash(module: nn.Module) -> str:
    """sha256 over the parameters and buffers of a module."""
    digest = hashlib.sha256()
    _hash_value(module.state_dict(), digest)
    return digest.hexdigest()


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_payload(path: str | Path, payload: dict) -> None:
    """Write a dict of plain values and tensors with its format and checksum."""
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **payload}
    _check_plain(payload)
    payload["checksum"] = checksum(payload)
    write_atomically(path, lambda file: torch.save(payload, file))


def load_payload(path: str | Path, advice: str = "name another file") -> dict:
    """Read what `save_payload` wrote; UserError in one line for anything else.

    advice: what to do, for the message where there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} given, a folder, expected a file in it, as {path / 'final.pt'}")
    if not path.is_file():
        raise UserError(f"{path} given, expected a checkpoint file there, {advice}")
    open(path, "rb").close()  # a file that may not be read is no damaged one: OSError
    try:
        _inspect_archive(path)
        payload = torch.load(path, map_location="cpu", weights_only=True)
        _check_plain(payload, MAX_EXPANSION * path.stat().st_size)
    except Exception as error:  # a damaged file makes zipfile and torch raise anything
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:150]
        if isinstance(error, zipfile.BadZipFile):
            reason = f"cut short, or another kind of file: {reason}"
        raise UserError(
            f"{path} given, expected a checkpoint, but it cannot be read safely ({reason}), "
            "restore it or run its stage again"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path} given, expected a checkpoint of this project, found another kind")
    version = payload.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {str(version)[:40]}, expected {FORMAT_VERSION}, "
            "use the version of the code that wrote it"
        )
    if payload.get("checksum") != checksum(payload):
        raise UserError(f"{path} given, its contents do not match its checksum: it is damaged")
    return payload


def _inspect_archive(path: Path) -> None:
    """Raise ValueError for an archive that would take more memory than its size, or names foreign
    things.

    torch.save stores without compression, so an honest archive unpacks to less than its size.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > path.stat().st_size:
            raise ValueError(f"it claims {unpacked} bytes, more than the file holds")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} pickles in it, expected one")
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            named = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
            if named and (opcode.name != "GLOBAL" or argument not in ALLOWED_GLOBALS):
                raise ValueError(f"it names {str(argument)[:60]!r}, no part of a checkpoint")


def _check_plain(payload: object, max_bytes: int | None = None) -> None:
    """Raise ValueError unless a value is made of plain types and tensors, of sane sizes throughout.

    max_bytes: of all tensors together.
    """
    waiting, seen, tensor_bytes = [(payload, 0)], 0, 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH or seen + len(waiting) > MAX_VALUES:
            raise ValueError("its values are nested too deep or repeated too often")
        if type(value) in (dict, OrderedDict):
            waiting += [(part, depth + 1) for part in (*value.keys(), *value.values())]
        elif type(value) in (list, tuple):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, Tensor):
            tensor_bytes += value.numel() * value.element_size()
            if max_bytes is not None and tensor_bytes > max_bytes:
                raise ValueError("its tensors claim more than the file holds")
        elif type(value) is int:
            if value.bit_length() > 64:
                raise ValueError("a whole number of more than 64 bits")
        elif value is not None and type(value) not in (str, float, bool):
            raise ValueError(f"a value of type {type(value).__name__}, expected plain types")
