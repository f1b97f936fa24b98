"""Checkpoints: one file that says what it is, where it came from, and whether it is whole.

How a file is written, read and kept from doing harm is in src/utils/payload.py.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import union
from src.model.heads import RewardModel
from src.model.model import Undrawn, build_model
from src.training.distributed import gather, rank
from src.training.sharding import full_tensors
from src.utils.constants import (
    ANSWER_METRICS,
    MAX_ANSWER_TOKENS,
    MAX_BLOCK_SIZE,
    MODEL_TYPES,
    POLICY_STAGES,
    REWARD,
    SFT,
    STAGES,
)
from src.utils.errors import UserError
from src.utils.payload import file_hash, load_payload, save_payload

# What a stage's final.pt holds besides its stage and model type.
FIELDS = {
    "config": dict, "weights": dict, "tokenizer": dict,
    "data": dict, "flags": dict, "lineage": list, "metrics": dict,
}


@dataclasses.dataclass
class Checkpoint:
    """A stage's result in memory.

    model: the policy, or the RewardModel of the reward stage, on the CPU.
    data: identity of the data set. flags: the resolved arguments. lineage: one dict for each
    ancestor, oldest first, with its stage, path, sha256, flags, seed and metrics.
    trained_on: the contexts that it or an ancestor was trained on (src.data.trained_contexts).
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
    trained_on: Tensor = dataclasses.field(default_factory=lambda: union([]))

    @property
    def max_answer_tokens(self) -> int:
        """Tokens of the longest answer that its stage evaluated with, EOS included."""
        stored = self.flags.get("max_answer_tokens")
        return stored if type(stored) is int and stored > 0 else MAX_ANSWER_TOKENS

    @property
    def answer_metric(self) -> str:
        """How its stage compared answers; what was trained before there was a choice: squad."""
        metric = self.data.get("answer_metric", ANSWER_METRICS[0])
        if metric not in ANSWER_METRICS:
            raise UserError(
                f"{self.path} given, it compares answers by {str(metric)[:40]!r}, expected "
                f"{' or '.join(ANSWER_METRICS)}"
            )
        return metric

    def as_ancestor(self) -> dict:
        """What a child's lineage says about this checkpoint."""
        kept = ("stage", "path", "sha256", "flags", "metrics")
        entry = {**{k: getattr(self, k) for k in kept}, "seed": self.flags.get("seed")}
        if "pairs" in self.data:  # which no child inherits
            entry["pairs"] = self.data["pairs"]
        return entry


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a stage's result; raises OSError with the file's name where the disk refuses.

    All ranks call it, rank 0 writes.
    """
    backbone = getattr(checkpoint.model, "backbone", checkpoint.model)
    weights = full_tensors(checkpoint.model.state_dict())
    if not rank():
        save_payload(
            path,
            {
                "stage": checkpoint.stage,
                "model_type": checkpoint.model_type,
                "config": dataclasses.asdict(backbone.config),
                "weights": weights,
                "tokenizer": checkpoint.tokenizer.state(),
                "data": plain(checkpoint.data),
                "flags": plain(checkpoint.flags),
                "lineage": plain(checkpoint.lineage),
                "metrics": plain(checkpoint.metrics),
                "trained_on": checkpoint.trained_on,
            },
        )
    gather(None)  # no rank goes on, or ends, before the file is there


def plain(value: Any) -> Any:
    """The value as JSON would have it: plain types only, as the format asks."""
    return json.loads(json.dumps(value))


def _model_of(path: str | Path, payload: dict) -> nn.Module:
    """The model of a checkpoint's type and stage, weights loaded; UserError if they do not fit."""
    config, weights = payload["config"], dict(payload["weights"])
    if not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{path} given, expected tensors as its weights")
    widest = max((size for weight in weights.values() for size in weight.shape), default=0)
    sizes = ("vocab_size", "n_embd", "n_head", "n_kv_head", "n_inner", "head_size")
    limits = {"n_layer": len(weights), "block_size": MAX_BLOCK_SIZE, **dict.fromkeys(sizes, widest)}
    for field, limit in limits.items():  # before a model of that size is made
        if isinstance(config.get(field), int) and config[field] > limit:
            raise UserError(
                f"{path} given, its {field} {config[field]} is more than the {limit} it can be"
            )
    try:
        with Undrawn():
            model = build_model(payload["model_type"], config)
            model = RewardModel(model) if payload["stage"] == REWARD else model
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} given, its configuration makes no model: {reason}") from None
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path} given, its weights are not finite numbers: {name}")
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(wanted.keys() | found.keys(), key=str):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{path} given, its weights do not fit its model: {name} is "
                f"{found.get(name, 'missing')}, expected {wanted.get(name, 'none of that name')}"
            )
    model.load_state_dict(weights)
    return model


def load_checkpoint(path: str | Path, advice: str = "name another file") -> Checkpoint:
    """Read a checkpoint of any stage, its model built and its weights loaded, on the CPU.

    Raises UserError in one line when the file is missing, foreign, damaged or from another version.
    """
    payload = load_payload(path, advice)
    if payload.get("stage") not in STAGES or payload.get("model_type") not in MODEL_TYPES:
        raise UserError(f"{path} given, expected a stage's final.pt, found no stage or model in it")
    for field, kind in FIELDS.items():
        if not isinstance(payload.get(field), kind):
            raise UserError(f"{path} given, expected a stage's final.pt, found no {field} in it")
    trained_on = payload.get("trained_on")
    if (
        not isinstance(trained_on, Tensor)
        or trained_on.dtype != torch.int64
        or trained_on.ndim != 1
    ):
        raise UserError(f"{path} given, expected a stage's final.pt, found no trained_on in it")
    try:
        json.dumps({field: payload[field] for field in FIELDS if field != "weights"})
    except TypeError:
        raise UserError(f"{path} given, expected tensors among its weights only") from None
    for ancestor in payload["lineage"]:
        known = ancestor if isinstance(ancestor, dict) else {}
        if not all(isinstance(known.get(name), str) for name in ("stage", "path", "sha256")):
            raise UserError(f"{path} given, its lineage has an entry without stage, path, sha256")
    model = _model_of(path, payload)
    tokenizer = Tokenizer.from_state(payload["tokenizer"])
    backbone = getattr(model, "backbone", model)
    if backbone.config.vocab_size < tokenizer.vocab_size:
        raise UserError(f"{path} given, its tokenizer has more ids than its model")
    kept = {k: payload[k] for k in ("data", "flags", "lineage", "metrics")}
    return Checkpoint(
        payload["stage"], payload["model_type"], model, tokenizer, **kept,
        path=str(path), sha256=file_hash(path), trained_on=trained_on,
    )


def stage_folder(model_type: str, stage: str) -> Path:
    """checkpoints/{model_type}_{stage}."""
    return Path("checkpoints") / f"{model_type}_{stage}"


def load_parent(
    path: str | None,
    model_type: str,
    stages: tuple[str, ...] = POLICY_STAGES,
    default_stage: str = SFT,
) -> Checkpoint:
    """The checkpoint a stage starts from: `path`, or the default stage's final.pt.

    Raises UserError when it is missing (naming the command that makes it), of another model type,
    or of a stage that is not one of `stages`.
    """
    path = Path(path or stage_folder(model_type, default_stage) / "final.pt")
    made_by = [stage for stage in STAGES if path.parent.name == f"{model_type}_{stage}"]
    advice = f"run: python {(made_by or [default_stage])[0]}.py --model_type {model_type}"
    found = load_checkpoint(path, advice)
    if found.model_type != model_type:
        raise UserError(
            f"--model_type {model_type} given, but {found.path} holds a {found.model_type}, "
            f"add --model_type {found.model_type}"
        )
    if found.stage not in stages:
        raise UserError(
            f"{found.path} given, a checkpoint of {found.stage}, "
            f"expected one of {', '.join(stages)}; to make one, "
            f"run: python {default_stage}.py --model_type {model_type}"
        )
    return found


def load_reward_checkpoint(path: str | None, policy: Checkpoint) -> Checkpoint:
    """The reward model that scores a policy: `path`, or the default one of its architecture.

    Raises UserError as `load_parent` does, and for one that reads another tokenizer's ids.
    """
    found = load_parent(path, policy.model_type, (REWARD,), REWARD)
    require_same_tokenizer(policy, found)
    return found


def trained_anew(child: Checkpoint, known: Checkpoint) -> bool:
    """Whether `known` lies where the child's lineage has another checkpoint. Then its stage was run
    again after the child was made.
    """
    stored = {
        entry["sha256"]
        for entry in child.lineage
        if Path(entry["path"]).resolve() == Path(known.path).resolve()
    }
    return bool(stored) and known.sha256 not in stored


def require_same_tokenizer(first: Checkpoint, other: Checkpoint) -> None:
    """Refuse a checkpoint that reads other ids than the first writes."""
    mine, its = first.tokenizer.identity(), other.tokenizer.identity()
    if mine != its:
        raise UserError(
            f"{other.path} reads tokenizer {its['name']} ({its['vocab_size']} ids), {first.path} "
            f"{mine['name']} ({mine['vocab_size']} ids), expected the same: train both from the "
            "same SFT checkpoint"
        )


def describe_lineage(checkpoint: Checkpoint) -> str:
    """One line: how a checkpoint came about, oldest stage first."""
    stages = [f"{a['stage']} ({a['sha256'][:8]})" for a in checkpoint.lineage]
    stages.append(f"{checkpoint.stage} ({checkpoint.sha256[:8]})")
    data = checkpoint.data.get("dataset", "?")
    return (
        f"{checkpoint.model_type}: {' -> '.join(stages)}; data {data}; "
        f"tokenizer {checkpoint.tokenizer.name}"
    )


def kept_on_disk(
    folder: str | Path, depends_on: str, fits: Callable[[Any], bool], compute: Callable[[], Any]
) -> Any:
    """What `compute` gives, from `folder` where an earlier call with the same `depends_on` kept it.

    fits: whether a value read can be it; a damaged file is computed anew. A folder that cannot be
    written is ignored: this only saves time. All ranks call it, and rank 0 writes.
    """
    path = Path(folder) / f"{hashlib.sha256(depends_on.encode()).hexdigest()}.pt"
    try:
        found = load_payload(path).get("kept")
    except (UserError, OSError):
        found = None
    if not all(gather(found is not None and fits(found))):
        found = compute()
        if not rank():
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_payload(path, {"kept": found})
    return found
