"""The end of a run: final.pt, and what a resumed run finds there when it is finished."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from src.data.squad_loader import load_from_identity
from src.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from src.data.trained_contexts import contexts_of, union
from src.interop.llama_folder import pretrained_hash
from src.model.lora import merge_lora
from src.preference.pair_files import load_given_pairs
from src.training.run import Run
from src.training.run_data import DATA_OF, Questions
from src.utils.checkpoint_utils import Checkpoint, save_checkpoint
from src.utils.constants import SFT
from src.utils.errors import UserError
from src.utils.payload import load_payload
from src.utils.progress_bar import say

# Flags of how a run was started or watched, which do not change its checkpoint and are not stored.
UNSTORED_FLAGS = ("resume", "overwrite", "tracker")


def publish(
    run: Run,
    model: nn.Module,
    tokenizer: Tokenizer,
    questions: Questions,
    metrics: dict,
    parents: Sequence[Checkpoint],
) -> dict:
    """Write final.pt with its whole lineage and all contexts that were trained on; returns the
    metrics.

    parents: the checkpoint that the weights start from, then others that were used.
    """
    merge_lora(model)
    lineage: list[dict] = []
    for parent in parents:
        for ancestor in [*parent.lineage, parent.as_ancestor()]:
            if ancestor not in lineage:
                lineage.append(ancestor)
    final = Checkpoint(
        run.stage,
        run.args.model_type,
        model,
        tokenizer,
        questions.identity,
        {name: v for name, v in vars(run.args).items() if name not in UNSTORED_FLAGS},
        lineage,
        metrics,
        trained_on=union([*(p.trained_on for p in parents), contexts_of(questions.trained_on)]),
    )
    path = run.folder / "final.pt"
    save_checkpoint(path, final)
    say(f"{path} written")
    return metrics


def finished_metrics(run: Run) -> dict:
    """The metrics of a finished run that is resumed. UserError if what it started from has changed
    since, as for an unfinished run: otherwise its final.pt would pass for one of the new inputs.
    """
    final = load_payload(run.folder / "final.pt")
    for path, sha256 in _started_from(run, final).items():
        if not Path(path).exists():
            raise UserError(
                f"{path}, which the finished run in {run.folder} started from, is not there, "
                "restore it, run its stage again, or start anew with --overwrite"
            )
        if pretrained_hash(path) != sha256:
            raise _changed(path, run)
    flags = final["flags"]
    with_parent = flags.get("init_from") or flags.get("checkpoint")  # it came with the parent
    if run.stage == SFT and not with_parent:
        name, stored = flags["tokenizer"], Tokenizer.from_state(final["tokenizer"])
        if load_tokenizer(name).identity() != stored.identity():
            raise _changed(f"the tokenizer {name}", run)
    pairs = final["data"].get("pairs")
    if pairs:
        given = load_given_pairs(flags["pairs"], template=final["data"].get("template", True))
        if given.identity["fingerprint"] != pairs["fingerprint"]:
            raise _changed(f"the pairs of --pairs {flags['pairs']}", run)
    if pairs and run.last and not any(name.startswith(DATA_OF) for name in run.last["inputs"]):
        return final["metrics"]  # there was no data but the pairs
    try:
        load_from_identity(final["data"])
    except UserError as error:
        raise UserError(
            f"the data of the finished run in {run.folder}: {error}, or start anew with --overwrite"
        ) from None
    return final["metrics"]


def _started_from(run: Run, final: dict) -> dict[str, str]:
    """The files of a finished run's parents, with their hashes; without its last.pt, of all its
    ancestors.
    """
    lineage = {entry["path"]: entry["sha256"] for entry in final["lineage"]}
    if run.last is None:
        return lineage
    return {path: sha256 for path, sha256 in run.last["inputs"].items() if path in lineage}


def _changed(what: str, run: Run) -> UserError:
    return UserError(
        f"{what} is not what the finished run in {run.folder} started from, restore it or start "
        "anew with --overwrite"
    )
