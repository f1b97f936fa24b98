"""Mutated checkpoints: every one is refused in one line, or is what it was.

Damage to the file (bits, cuts, members of the archive) must be refused or be harmless. A hostile
file has a checksum that fits; it may load only if a model comes out that works. A pickle that runs
code would leave a file named `mark`.
"""

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from functools import cache
from pathlib import Path

import torch

from src.utils import payload as files
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.constants import MODEL_TYPES
from src.utils.errors import UserError
from src.utils.payload import weights_hash
from tests.conftest import call, outcome
from tests.faults.process import forked
from tests.faults.runs import enter_copy, folder_of, small_argv

STAGE = "main_squad"
TRACE = "mark"
LAST_SHARE = 0.35


class Mark:
    """Unpickled, it would make a file."""

    def __reduce__(self):
        return os.mkdir, (TRACE,)


class Hungry:
    """Unpickled, it would take 100 GB."""

    def __reduce__(self):
        return bytearray, (10**11,)


@cache
def original(root: str, model_type: str) -> Path:
    """The folder of a small run that was not disturbed."""
    place = Path(root) / f"original_{model_type}"
    enter_copy(place, None, STAGE, model_type)
    ended = forked(lambda: call(STAGE, small_argv(STAGE, model_type)) and None, 600)
    assert ended.how == "returned", ended
    return place


# --- damage to bytes ---


def flip(content, chooser):
    """Bits flipped anywhere, or in the directory at the end."""
    changed = bytearray(content)
    low = chooser.choice((0, 0, max(0, len(content) - 2000)))
    for _ in range(chooser.choice((1, 1, 1, 8))):
        changed[chooser.randrange(low, len(changed))] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def cut(content, chooser):
    """The file cut short, or its start missing."""
    at = int(len(content) * chooser.choice((chooser.random(), 0.999, 0.001)))
    return content[:at] if chooser.random() < 0.8 else content[at:]


def smear(content, chooser):
    """A range of zeros, of noise, or moved elsewhere."""
    size = chooser.choice((10, 4096, 100_000))
    at, other = chooser.randrange(len(content)), chooser.randrange(len(content))
    filling = chooser.choice((bytes(size), chooser.randbytes(size), content[other : other + size]))
    return content[:at] + filling + content[at + len(filling) :]


def huge_sizes(content, chooser):
    """A size in the archive's directory that is absurd."""
    entry = content.rindex(b"PK\x01\x02")
    at = entry + chooser.choice((20, 24, 42))
    size = chooser.choice((2**32 - 1, 2**31, 2**32 - 2, 10**9))
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


def foreign(content, chooser):
    """Another program's file."""
    stream = io.BytesIO()
    kind = chooser.randrange(7)
    if kind == 0:
        return chooser.randbytes(chooser.choice((0, 1, 100, 100_000)))
    if kind == 1:
        return b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62) + chooser.randbytes(200)
    if kind == 2:
        tensor = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]}
        header = json.dumps({"w": tensor})
        return struct.pack("<Q", chooser.choice((len(header), 2**60))) + header.encode() + bytes(8)
    if kind == 3:
        return pickle.dumps(chooser.choice((Mark(), Hungry(), {"a": 1})))
    if kind == 4:
        torch.save(chooser.choice(({"model": torch.ones(3)}, [1], Mark())), stream,
                   _use_new_zipfile_serialization=chooser.random() < 0.5)
        return stream.getvalue()
    if kind == 5:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("word/document.xml", "<xml/>" * 1000)
        return stream.getvalue()
    return json.dumps({"format": files.FORMAT, "weights": [1, 2]}).encode()


# --- tampering with the archive's members, their checksums made good ---


def members(content, chooser):
    """Swapped, missing, doubled, renamed or inflated members, or another pickle."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    one, other = chooser.sample(range(len(parts)), 2)
    pickled = next(i for i, (name, _) in enumerate(parts) if name.endswith(".pkl"))
    kind, method = chooser.randrange(8), zipfile.ZIP_STORED
    name, value = parts[one]
    if kind == 0:
        parts[one], parts[other] = (name, parts[other][1]), (parts[other][0], value)
    elif kind == 1:
        del parts[one]
    elif kind == 2:
        parts[one] = (name + "x", value)
    elif kind == 3:
        parts[one] = (name, value * 3 if chooser.random() < 0.5 else value[: len(value) // 2])
    elif kind == 4:
        parts.append((name.replace("data/0", "data/99") + "y", bytes(50 << 20)))
        method = zipfile.ZIP_DEFLATED
    elif kind == 5:
        bait = chooser.choice((Mark(), Hungry(), {"format": files.FORMAT, "x": Mark()}))
        parts[pickled] = (parts[pickled][0], pickle.dumps(bait, protocol=2))
    else:
        changed = bytearray(parts[pickled][1])
        for _ in range(chooser.choice((1, 1, 5))):
            changed[chooser.randrange(len(changed))] = chooser.randrange(256)
        parts[pickled] = (parts[pickled][0], bytes(changed))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, value in parts:
            archive.writestr(name, value)
    return stream.getvalue()


# --- hostile values, with a checksum that fits ---

ODD = (
    None, True, -1, 0, 7, 10**9, 2**62, 0.5, -1.0, float("nan"), "", "x", "x" * 10_000, [], ["x"],
    {}, {"x": 1}, [[[[]]]], torch.zeros(0), torch.zeros(3), torch.full((2, 2), float("nan")),
    torch.zeros(2, dtype=torch.int64), torch.zeros(1).expand(10**6),
)


def plain_places(value, path=(), depth=4):
    """Places of dicts and lists, none below `depth`."""
    if path:
        yield path
    if depth and isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value[:5]):
            yield from plain_places(child, (*path, key), depth - 1)


def values(content, chooser, hands_off=()):
    """One or two values somewhere replaced or removed; `hands_off`: fields left alone."""
    payload = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(chooser.choice((1, 1, 2))):
        top = chooser.choice([k for k in payload if k not in (*hands_off, "checksum")])
        path = chooser.choice(list(plain_places({top: payload[top]})))
        holder = payload
        for step in path[:-1]:
            holder = holder[step]
        old = holder[path[-1]]
        if chooser.random() < 0.2:
            del holder[path[-1]]
        elif isinstance(old, torch.Tensor) and chooser.random() < 0.6:
            changes = (old.double(), old[..., :-1] if old.ndim else old, old.half(),
                       old.float() * float("nan"), old.reshape(-1))
            holder[path[-1]] = chooser.choice(changes)
        else:
            holder[path[-1]] = chooser.choice(ODD)
        if top not in payload:
            break
    payload["checksum"] = files.checksum(payload)
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


def of_last(content, chooser):
    """As `values`, but what a loop keeps for itself: a stage knows it, the file's reader cannot."""
    return values(content, chooser, hands_off=("progress",))


DAMAGE = (flip, flip, flip, cut, smear, huge_sizes, foreign, members, members, members)


def work_on_final(path: Path, model_type: str) -> dict:
    """Load a final.pt and read three tokens with what came out."""
    try:
        found = load_checkpoint(path)
    except UserError as error:
        return {"refused": str(error), "code": 2, "mark": Path(TRACE).exists()}
    backbone = getattr(found.model, "backbone", found.model)
    hidden, _ = backbone(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    fine = bool(torch.isfinite(backbone.logits(hidden)).all())
    return {"used": weights_hash(found.model), "finite": fine, "mark": Path(TRACE).exists()}


def work_on_last(model_type: str) -> dict:
    """Resume from a last.pt."""
    ended = outcome(STAGE, ["--model_type", model_type, "--resume"])
    mark = Path(TRACE).exists()
    if ended.code:
        return {"refused": ended.err[-1], "code": ended.code, "mark": mark}
    found = load_checkpoint(folder_of(STAGE, model_type) / "final.pt")
    return {"used": weights_hash(found.model), "finite": True, "mark": mark}


def case(seed: int, number: int, folder: Path):
    """(work for a child, judgement of its value) of a case."""
    chooser = random.Random(f"checkpoints/{seed}/{number}")
    model_type = MODEL_TYPES[number % len(MODEL_TYPES)]
    source = original(str(folder.parent), model_type)
    os.chdir(folder)
    part = folder_of(STAGE, model_type)
    last = chooser.random() < LAST_SHARE
    path = folder / part / ("last.pt" if last else "final.pt")
    shutil.copytree(source / part, folder / part)
    shutil.copy(source / "small.json", folder)
    hostile = chooser.random() < 0.4
    change = (of_last if last else values) if hostile else chooser.choice(DAMAGE)
    path.write_bytes(change(path.read_bytes(), chooser))
    if last:
        (folder / part / "final.pt").unlink()
    whole = weights_hash(load_checkpoint(source / part / "final.pt").model)

    def judge(outcome: dict) -> str:
        if outcome["mark"]:
            return "code was run"
        if "refused" in outcome:
            line = outcome["refused"]
            good = "\n" not in line and len(line) < 600 and outcome["code"] == 2
            return "" if good else f"exit code {outcome['code']}: {line!r}"
        if not outcome["finite"]:
            return "what came out is not finite"
        if not hostile and outcome["used"] != whole:
            return f"{change.__name__}: damage went unnoticed"
        return ""

    if last:
        return lambda: work_on_last(model_type), judge
    return lambda: work_on_final(path, model_type), judge
