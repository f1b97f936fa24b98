"""The models that PPO trains, and the frozen ones beside them."""

import argparse
import copy
from typing import NamedTuple

import torch
from torch import nn

from src.model.heads import Critic, RewardModel
from src.rewards import reward_function
from src.stages import require_same_tokenizer
from src.utils.checkpoint_utils import REWARD_STAGE, Checkpoint, load_parent


class Models(NamedTuple):
    """The policy, the frozen policy it starts from, and the critic where the algorithm has one."""

    policy: nn.Module
    reference: nn.Module
    critic: Critic | None


def load_models(
    args: argparse.Namespace, device: torch.device
) -> tuple[Checkpoint, Checkpoint | None, RewardModel | None, Models]:
    """The parent, the reward model and its checkpoint if one is used, and PPO's models.

    The policy starts from its parent, which stays beside it as the frozen reference. The critic has
    a trunk of its own: the reward model's with its head, or else the policy's with a head of 0.
    """
    parent = load_parent(args.checkpoint, args.model_type)
    policy = parent.model.to(device)
    reference = copy.deepcopy(policy).requires_grad_(False)
    scored_by, reward = None, None
    if args.reward == "model":
        path = args.reward_checkpoint
        scored_by = load_parent(path, args.model_type, (REWARD_STAGE,), REWARD_STAGE)
        require_same_tokenizer(parent, scored_by)
        reward = scored_by.model.to(device).requires_grad_(False)
    else:
        reward_function(args.reward)  # refused here, before an earlier run's files go
    critic = None
    if args.algorithm == "ppo":
        critic = Critic(copy.deepcopy(policy)).to(device)
        if reward is not None:
            critic.start_from_reward(reward)
    return parent, scored_by, reward, Models(policy, reference, critic)
