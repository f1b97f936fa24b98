"""A checkpoint folder as transformers writes it: config.json, and one or several safetensors."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.interop.llama_layout import LlamaSource
from src.utils.errors import UserError
from src.utils.payload import file_hash

MAX_JSON_BYTES = 64 << 20
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F32", "F16", "BF16", "F64"}


def read_json_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object; UserError in one line otherwise."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no object")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object ({str(error)[:80]})") from None
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder: the shards that its index names, or the one there is."""
    if not (folder / INDEX).exists():
        return [folder / SINGLE]
    shards = read_json_object(folder / INDEX).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) and shards else [None]
    if not all(isinstance(n, str) and re.fullmatch(r"[^/\\]+\.safetensors", n) for n in names):
        raise UserError(f"{folder / INDEX}: expected a weight_map to files beside it")
    return [folder / name for name in sorted(set(names))]


def pretrained_hash(path: str | Path) -> str:
    """sha256 of a pretrained model's weights, a file or a folder in the Llama layout."""
    if not Path(path).is_dir():
        return file_hash(path)
    digests = [file_hash(file) for file in weight_files(Path(path))]
    joined = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return digests[0] if len(digests) == 1 else joined


def folder_source(folder: str | Path) -> LlamaSource:
    """The folder's checkpoint, its tensors mapped and not yet read."""
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    config = read_json_object(folder / "config.json")
    files, shapes = {}, {}
    for path in weight_files(folder):
        try:
            opened = safe_open(path, framework="pt")
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                entry = opened.get_slice(name)
                if name in shapes:
                    raise ValueError(f"{name[:80]} is in two files")
                if entry.get_dtype() not in DTYPES:
                    raise ValueError(f"{name[:80]} is {entry.get_dtype()}, expected floats")
                files[name], shapes[name] = opened, tuple(entry.get_shape())
        except (SafetensorError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{path} given, expected a safetensors file: {reason}") from None

    def read(name: str) -> Tensor:
        # A copy: training writes into it, and the file is only mapped.
        return files[name].get_tensor(name).to(torch.float32, copy=True)

    return LlamaSource(folder, config, shapes, read)
