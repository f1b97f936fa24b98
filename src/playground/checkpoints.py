"""The checkpoints that the page offers: policies with their parents, and reward models.

All are loaded before the page opens and only read afterwards, so that any number of people can use
them at once.
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
from src.model.model import build_model, initialise
from src.utils.checkpoint_utils import Checkpoint, load_checkpoint
from src.utils.constants import DPO, MAX_ANSWER_TOKENS, PPO, REWARD, SFT, STAGES
from src.utils.errors import UserError

SNAPSHOT = "snapshot.pt"  # an SFT policy from before the end, where later stages may start
SHORT_NAMES = {SFT: "SFT", DPO: "DPO", PPO: "PPO", REWARD: "reward"}


class Policy(NamedTuple):
    """A model that answers. parent: what KL is measured from, None where it is not loaded.

    trained: False for the weights that training began with. max_answer_tokens: longest answer.
    """

    name: str
    model: nn.Module
    tokenizer: Tokenizer
    parent: nn.Module | None = None
    parent_name: str = ""
    trained: bool = True
    max_answer_tokens: int = MAX_ANSWER_TOKENS


class Judge(NamedTuple):
    """A reward model."""

    name: str
    model: RewardModel
    tokenizer: Tokenizer


class Shelf(NamedTuple):
    """policies, judges: by name, in the page's order. refused: a line for each file that is no
    sound checkpoint. data: the identity of the data that the first policy was trained on;
    trained_on: all contexts that any of them was.
    """

    policies: dict[str, Policy]
    judges: dict[str, Judge]
    refused: list[str]
    data: dict
    trained_on: Tensor


def find_checkpoints(folder: str) -> list[str]:
    """The final.pt and snapshot.pt of every stage's folder in `folder`; UserError without any."""
    names = ("final.pt", SNAPSHOT)
    found = sorted(str(path) for name in names for path in Path(folder).glob(f"*/{name}"))
    if not found:
        raise UserError(
            f"--checkpoints {folder} given, expected folders with a final.pt in it, "
            "run: python main_squad.py"
        )
    return found


def untrained(sft: Checkpoint) -> nn.Module:
    """The weights that an SFT run from scratch began with, made again from its flags."""
    torch.manual_seed(sft.flags["seed"])
    model = build_model(sft.model_type, dataclasses.asdict(sft.model.config))
    initialise(model, sft.flags["initialisation"], sft.flags["seed"])
    return model


def load_shelf(paths: Sequence[str], device: torch.device | str = "cpu") -> Shelf:
    """Load every file; those that cannot be loaded are listed, and UserError when no policy can."""
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
    judges = [
        Judge(name, c.model, c.tokenizer) for name, c in _named(loaded) if c.stage == REWARD
    ]
    return Shelf(
        {policy.name: policy for policy in _with_parents(policies, device)},
        {judge.name: judge for judge in judges},
        refused,
        policies[0].data,
        union(c.trained_on for c in loaded),
    )


def _named(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, Checkpoint]]:
    """Each with a name such as 'transformer DPO', and its path where that would not be unique."""
    short = [
        f"{c.model_type} {SHORT_NAMES[c.stage]}" + " snapshot" * (Path(c.path).name == SNAPSHOT)
        for c in checkpoints
    ]
    count = Counter(short)
    return [
        (name if count[name] == 1 else f"{name} ({c.path})", c)
        for name, c in zip(short, checkpoints, strict=True)
    ]


def _with_parents(checkpoints: Sequence[Checkpoint], device) -> list[Policy]:
    """The policies, each SFT run from scratch after the base it began with (a snapshot's is its
    run's).

    The parent of SFT is that base; of later stages the SFT model of their lineage, found by its
    sha256, as in eval_dpo.py.
    """
    named = _named(checkpoints)
    by_hash = {c.sha256: (c.model, name) for name, c in named}
    policies: list[Policy] = []
    bases: dict[str, tuple[nn.Module, str]] = {}
    for name, c in named:
        ancestors = [a["sha256"] for a in c.lineage if a["stage"] == SFT]
        parent, parent_name = by_hash.get(ancestors[0] if ancestors else None, (None, ""))
        if c.stage == SFT and not c.lineage:
            start = repr((c.model.config, c.flags["seed"], c.flags["initialisation"]))
            if start not in bases:
                bases[start] = untrained(c).to(device), name.replace(" SFT", " base", 1)
                model, base_name = bases[start]
                base = Policy(base_name, model, c.tokenizer, trained=False)
                policies.append(base._replace(max_answer_tokens=c.max_answer_tokens))
            parent, parent_name = bases[start]
        policy = Policy(name, c.model, c.tokenizer, parent, parent_name)
        policies.append(policy._replace(max_answer_tokens=c.max_answer_tokens))
    return policies
