"""Scalar heads on a language model's backbone: the reward model and the critic."""

import copy

import torch
from torch import Tensor, nn


def in_float32(linear: nn.Linear, hidden: Tensor) -> Tensor:
    """(..., D) -> (...), in float32 also under autocast: scores and values differ by little."""
    with torch.autocast(hidden.device.type, enabled=False):
        return linear(hidden.float()).squeeze(-1)


def scores_differ(raw_scores: Tensor) -> bool:
    """Whether scores (N,) differ by more than the rounding of the network that computed them.

    That is some hundred times the last bit: a standard deviation of 1e-5 of their root mean square.
    """
    std, size = raw_scores.std(correction=0), raw_scores.square().mean().sqrt()
    return bool(std > 1e-5 * size)


class ScalarHead(nn.Module):
    """One number from a hidden state: (..., D) -> (...). No bias.

    Drawn from a normal of standard deviation 1 / sqrt(D + 1) (Stiennon et al. 2020, 2009.01325).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.linear.weight, std=(width + 1) ** -0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        return in_float32(self.linear, hidden)


class RewardModel(nn.Module):
    """Backbone, scalar head, and the normalisation of its scores.

        score = head(state at EOS)  [+ w log p(answer), w learnt from 0, where there is a pointer]

    No layer above a pointer could compare what it looked up with what the answer says. But the
    backbone is a language model, and its log-probability of the answer makes this comparison.

    The pairwise loss fixes no offset and no scale. So the scores that PPO sees are (raw - mean) /
    std, with the mean and standard deviation of the raw scores of reference answers
    (`set_normalisation`).
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ScalarHead(backbone.width)
        self.log_weight = nn.Parameter(torch.zeros(1)) if backbone.config.pointer else None
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def raw_score(self, end: Tensor, logp: Tensor | None = None) -> Tensor:
        """Scores (...) in nats, as the loss sees them, of hidden states (..., D) at EOS and, where
        there is a pointer, the backbone's log-probabilities (...) of the answers, EOS included.
        """
        score = self.head(end)
        return score if self.log_weight is None else score + self.log_weight * logp

    def normalise(self, raw_scores: Tensor) -> Tensor:
        """Raw scores (...), on any device, as PPO sees them."""
        return (raw_scores - self.mean.to(raw_scores)) / self.std.to(raw_scores)

    def set_normalisation(self, raw_scores: Tensor) -> None:
        """Make these raw scores (N,) mean 0 and standard deviation 1; idempotent. Scores that do
        not differ but for rounding have no scale, and keep theirs.
        """
        self.mean.copy_(raw_scores.mean())
        if scores_differ(raw_scores):
            self.std.copy_(raw_scores.std(correction=0))
        else:
            self.std.fill_(1.0)


class Critic(nn.Module):
    """Backbone and value head: the expected return at each position, in normalised reward.

    Starts from the reward model, so that its head gives the normalised score at EOS. Without a
    reward model it starts from the policy's weights, with a head of zeros.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def of_reward(cls, reward: RewardModel) -> "Critic":
        """A copy of the reward model's backbone, and its head with the normalisation folded in.
        What the score has besides the head, the critic learns.
        """
        critic = cls(copy.deepcopy(reward.backbone).requires_grad_(True))
        with torch.no_grad():
            critic.head.weight.copy_(reward.head.linear.weight / reward.std)
            critic.head.bias.copy_(-reward.mean / reward.std)
        return critic

    def values(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        return in_float32(self.head, hidden)
