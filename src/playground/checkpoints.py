"""The checkpoints that the page offers: policies with their parents, and reward models.

All are loaded before the page opens and are read-only afterwards, so requests can run in parallel.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import union
from src.model.heads import RewardModel
from src.model.model import build_model
from src.utils.checkpoint_utils import Checkpoint, load_checkpoint
from src.utils.constants import DPO, MAX_ANSWER_TOKENS, PPO, REWARD, SFT, STAGES
from src.utils.errors import UserError

SHORT_NAMES = {SFT: "SFT", DPO: "DPO", PPO: "PPO", REWARD: "reward"}


class Policy(NamedTuple):
    """A model that answers. parent: what KL is measured from, None if it is not loaded.

    trained: False for the initial weights of an SFT run. template: as `Paragraph.template`.
    metric: how answers are compared with golds. max_answer_tokens: longest answer. sha256: of its
    file, "" where it has none.
    """

    name: str
    model: nn.Module
    tokenizer: Tokenizer
    parent: nn.Module | None = None
    parent_name: str = ""
    trained: bool = True
    template: bool = True
    metric: str = "squad"
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    sha256: str = ""


class LoadedRewardModel(NamedTuple):
    """A reward model with its name on the page."""

    name: str
    model: RewardModel
    tokenizer: Tokenizer
    template: bool = True


class CheckpointList(NamedTuple):
    """policies, reward_models: by name, in the page's order. refused: one line for each file that
    could not be loaded. data: the identity of the data that the first policy was trained on;
    trained_on: all contexts that any of them was trained on.
    """

    policies: dict[str, Policy]
    reward_models: dict[str, LoadedRewardModel]
    refused: list[str]
    data: dict
    trained_on: Tensor


def find_checkpoints(folder: str) -> list[str]:
    """The final.pt of every stage's folder in `folder`; UserError without any."""
    found = sorted(str(path) for path in Path(folder).glob("*/final.pt"))
    if not found:
        raise UserError(
            f"--checkpoints {folder} given, expected folders with a final.pt in it, "
            "run: python main_squad.py"
        )
    return found


def untrained(sft: Checkpoint) -> nn.Module:
    """The initial weights of an SFT run from scratch, made again from its flags."""
    torch.manual_seed(sft.flags["seed"])
    return build_model(sft.model_type, dataclasses.asdict(sft.model.config))


def load_checkpoints(paths: Sequence[str], device: torch.device | str = "cpu") -> CheckpointList:
    """Load every file; `refused` lists those that fail. UserError if no policy can be loaded."""
    loaded, refused = [], []
    for path in paths:
        try:
            loaded.append(load_checkpoint(path))
        except (UserError, OSError) as error:
            refused.append(" ".join(str(error).split()))
    loaded.sort(key=lambda c: (c.model_type, STAGES.index(c.stage)))  # stable: ties as given
    policies = [c for c in loaded if c.stage != REWARD]
    if not policies:
        raise UserError(
            refused[0] if refused else "only reward checkpoints given, expected one that answers"
        )
    for checkpoint in loaded:
        checkpoint.model.to(device)
    reward_models = [
        LoadedRewardModel(name, c.model, c.tokenizer, c.data.get("template", True))
        for name, c in _named(loaded)
        if c.stage == REWARD
    ]
    return CheckpointList(
        {policy.name: policy for policy in _with_parents(policies, device)},
        {reward_model.name: reward_model for reward_model in reward_models},
        refused,
        policies[0].data,
        union(c.trained_on for c in loaded),
    )


def _named(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, Checkpoint]]:
    """Each with a name such as 'transformer DPO', followed by its path if that is not unique."""
    short = [f"{c.model_type} {SHORT_NAMES[c.stage]}" for c in checkpoints]
    count = Counter(short)
    return [
        (name if count[name] == 1 else f"{name} ({c.path})", c)
        for name, c in zip(short, checkpoints, strict=True)
    ]


def _with_parents(checkpoints: Sequence[Checkpoint], device) -> list[Policy]:
    """The policies, with the initial weights ("base") before each SFT run from scratch.

    The parent of SFT is that base. The parent of a later stage is the SFT model of its lineage,
    found by its sha256, as in eval_dpo.py.
    """
    named = _named(checkpoints)
    by_hash = {c.sha256: (c.model, name) for name, c in named}
    policies: list[Policy] = []
    bases: dict[str, tuple[nn.Module, str]] = {}
    for name, c in named:
        own = {"template": c.data.get("template", True), "metric": c.answer_metric,
               "max_answer_tokens": c.max_answer_tokens}
        ancestors = [a["sha256"] for a in c.lineage if a["stage"] == SFT]
        parent, parent_name = by_hash.get(ancestors[0] if ancestors else None, (None, ""))
        if c.stage == SFT and not c.lineage:
            start = repr((c.model.config, c.flags["seed"]))
            if start not in bases:
                bases[start] = untrained(c).to(device), name.replace(" SFT", " base", 1)
                model, base_name = bases[start]
                base = Policy(base_name, model, c.tokenizer, trained=False, **own)
                policies.append(base)
            parent, parent_name = bases[start]
        policies.append(
            Policy(name, c.model, c.tokenizer, parent, parent_name, sha256=c.sha256, **own)
        )
    return policies
