"""A checkpoint as a folder that Hugging Face's `transformers` loads."""

import json
import shutil
from pathlib import Path

from src.interop.llama_export import llama_config, llama_weights
from src.interop.tokenizer_json import tokenizer_config, tokenizer_json
from src.model.heads import RewardModel
from src.utils.checkpoint_utils import Checkpoint, describe_lineage
from src.utils.errors import UserError
from src.utils.files import require_folder, write_atomically

# In the order they are moved to their place: without config.json `transformers` loads nothing.
FILES = (
    "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    "config.json",
)
PARTIAL = ".export.tmp"


def check_folder(folder: Path, overwrite: bool) -> None:
    """UserError unless an export may go here: an empty folder, or one to be overwritten."""
    require_folder(folder)
    found = sorted(path.name for path in folder.glob("*") if path.name != PARTIAL)
    if found and not overwrite:
        raise UserError(
            f"--output_dir {folder} given, which holds {', '.join(found[:3])}, expected an empty "
            "folder, name another or add --overwrite to replace an earlier export's files"
        )


def contents_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of an export, by name; a reward model has no generation_config.json.

    Raises UserError for another architecture, or a tokenizer that tokenizer.json cannot express.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if checkpoint.model_type != "transformer":
        raise UserError(
            f"{checkpoint.path} given, which holds a {checkpoint.model_type}, expected a "
            "transformer: the Hugging Face format has no such model"
        )
    if getattr(model, "backbone", model).config.pointer:
        raise UserError(
            f"{checkpoint.path} given, whose model has a pointer, expected one without: the Llama "
            "layout has no place for it, train one with: python main_squad.py --no_pointer"
        )
    rewards = isinstance(model, RewardModel)
    config = llama_config(model, tokenizer.eos_id)
    files = {
        "config.json": config,
        "tokenizer.json": tokenizer_json(tokenizer, config["pad_token_id"]),
        "tokenizer_config.json": tokenizer_config(
            tokenizer, config["max_position_embeddings"], padded=rewards
        ),
    }
    if not rewards:
        files["generation_config.json"] = {
            "do_sample": False,
            "max_new_tokens": checkpoint.max_answer_tokens,  # `transformers` would stop at 20
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.eos_id,  # fills the rows of a batch that have stopped
        }
    packed = {
        name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
        for name, value in files.items()
    }
    return {**packed, "model.safetensors": llama_weights(model, describe_lineage(checkpoint))}


def write_export(folder: Path, contents: dict[str, bytes]) -> None:
    """Write the files inside a folder of their own, and move them up when all of them are there.

    An earlier export's files are replaced, the ones that this has none of removed; whatever else
    the folder holds stays. OSError where the disk refuses; an earlier export is then as it was.
    """
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    partial.mkdir(parents=True)
    try:
        for name, content in contents.items():
            write_atomically(partial / name, lambda file, content=content: file.write(content))
        (folder / "config.json").unlink(missing_ok=True)
        for name in FILES:
            if name in contents:
                (partial / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
