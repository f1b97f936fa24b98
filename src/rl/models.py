"""The models that PPO trains, and the frozen ones beside them."""

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from src.evaluation.evaluation_set import EvaluationSet, PolicyResult
from src.evaluation.intervals import Figures
from src.evaluation.kl import sample_figures
from src.inference.sampling import PromptTree
from src.model.heads import Critic, RewardModel
from src.rl.rewards import (
    MODEL,
    RewardOf,
    make_reward,
    parse_rewards,
    reward_function,
    uses_model,
)
from src.training.distributed import map_over_ranks, rank_partition
from src.utils.checkpoint_utils import (
    Checkpoint,
    load_parent,
    load_reward_checkpoint,
    trained_anew,
)
from src.utils.constants import REWARD
from src.utils.errors import UserError
from src.utils.progress_bar import say


class Models(NamedTuple):
    """The policy, the frozen policy it starts from, and the critic where the algorithm has one."""

    policy: nn.Module
    reference: nn.Module
    critic: Critic | None

    def trained(self) -> dict[str, nn.Module]:
        """What training changes, by the names in last.pt."""
        critic = {"critic": self.critic} if self.critic else {}
        return {"policy": self.policy, **critic}


def load_models(
    args: argparse.Namespace, has_critic: bool, device: torch.device
) -> tuple[list[Checkpoint], RewardModel | None, Models]:
    """Checkpoints (the parent, and the reward model's if one is used), reward model, PPO's models.

    The policy starts from its parent, which stays beside it as the frozen reference. The critic has
    a backbone of its own: the reward model's with its head, or else the policy's with a head of 0.
    """
    parent = load_parent(args.checkpoint, args.model_type)
    policy = parent.model.to(device)
    reference = copy.deepcopy(policy).requires_grad_(False)
    parents, reward = [parent], None
    for term in parse_rewards(args.reward):
        if term.name != MODEL:
            reward_function(term.name)  # refused here, before an earlier run's files go
    if uses_model(args.reward):
        scored_by = load_reward_checkpoint(args.reward_checkpoint, parent)
        parents.append(scored_by)
        if trained_anew(scored_by, parent):
            say(
                f"{scored_by.path} started from an earlier {parent.path} than is there now: for "
                f"one from this, run {REWARD}.py again with --overwrite"
            )
        reward = scored_by.model.to(device).requires_grad_(False)
        _require_block(scored_by, policy)
    elif args.reward_checkpoint is not None:
        say(f"--reward {args.reward} needs no reward model: --reward_checkpoint is not read")
    critic = None
    if has_critic:
        critic = Critic.of_reward(reward) if reward else Critic(copy.deepcopy(policy))
        critic.to(device)
    return parents, reward, Models(policy, reference, critic)


def _require_block(scored_by: Checkpoint, policy: nn.Module) -> None:
    """UserError for a reward model that reads fewer tokens than the policy writes."""
    reads, writes = scored_by.model.backbone.config.block_size, policy.config.block_size
    if reads < writes:
        raise UserError(
            f"{scored_by.path} reads {reads} tokens, the policy writes up to {writes}, "
            "expected a reward model that reads them all: train it from the same SFT checkpoint"
        )


def reward_and_kl(
    reward_of: RewardOf,
    models: Models,
    held_out: EvaluationSet,
    eos_id: int,
    max_new_tokens: int,
) -> Callable[[PolicyResult], Figures]:
    """What an evaluation of PPO adds: the reward of the greedy answers, and the KL in nats from the
    policy that training started from. The KL is that of one sampled answer a question, no longer
    than evaluation allows.
    """
    before = held_out.prompts[: rank_partition(held_out.prompts).start]
    first_row = sum(len(questions) for _, questions in before)

    def more(result: PolicyResult) -> Figures:
        def sampled(prompts: Sequence[PromptTree]) -> list[float]:
            return sample_figures(
                models.policy, models.reference, prompts, eos_id, first_row=first_row,
                max_new_tokens=min(max_new_tokens, held_out.max_answer_tokens),
            ).kl_nats.tolist()

        kl = [
            value
            for part in map_over_ranks(models.policy, held_out.prompts, sampled)
            for value in part
        ]
        scores = reward_of(result.trees, held_out.examples)
        named = {f"reward_{name}": values for name, values in scores.parts.items()}
        values = {"reward": scores.reward, **named, "kl_nats": torch.tensor(kl)}
        return {n: (v.tolist(), [1.0] * len(v), held_out.groups) for n, v in values.items()}

    return more


def score_and_kl(
    scored_by: Checkpoint | None,
    parent: Checkpoint,
    held_out: EvaluationSet | None,
    device: torch.device,
) -> Callable[[PolicyResult], Figures]:
    """`reward_and_kl` for a stage that trains without a reward, and whose policy begins as its
    parent's own model. Without a reward model it adds nothing. Call it before the model is changed.
    """
    if scored_by is None or held_out is None:
        return lambda result: {}
    policy, tokenizer = parent.model, parent.tokenizer
    _require_block(scored_by, policy)
    models = Models(policy, copy.deepcopy(policy).requires_grad_(False), None)
    reward = scored_by.model.to(device).requires_grad_(False)
    reward_of = make_reward(MODEL, reward, tokenizer)
    longest = held_out.max_answer_tokens
    return reward_and_kl(reward_of, models, held_out, tokenizer.eos_id, longest)
