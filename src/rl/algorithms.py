"""The policy-gradient algorithms as one table of choices; the formulas stand in src/losses.py.

An algorithm is a row: which advantage, which ratio, what is clipped, over what the mean is taken,
where the KL to the reference goes. A value of a row is looked up, nothing branches on its name, so
a new algorithm is a new row, and a choice can be changed alone:

    ALGORITHMS["grpo"]._replace(mean="tokens")

Not rows, because they learn from chosen answers and not from advantages: raft (`losses.best_of_n`
says what it gains) samples N answers and takes the best by reward into `losses.sft_loss`;
online_dpo takes the best and the worst of its own samples as a pair into `losses.dpo_loss`, no pair
where they tie. They would be a table of their own: how answers are chosen, and which loss follows.

B answers (episodes) of T tokens, Q questions with N samples each, question after question.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from src.losses import (
    PolicyLoss,
    cispo_loss,
    clipped_policy_loss,
    gae,
    group_advantages,
    kl_loss,
    reinforce_loss,
    rloo_advantages,
    sequence_sum,
    whiten,
)


class Algorithm(NamedTuple):
    """One row. See `ADVANTAGES`, `POLICY_LOSSES` and `losses.reduce_tokens` for what values mean.

    advantage: gae (a critic, whitened over the batch), leave_one_out, group, group_no_std,
        batch_mean (the batch's mean is the baseline).
    ratio: token or sequence, see `losses.clipped_policy_loss`.
    clip: both (the same range on both sides), higher (a wider one above), weight (CISPO: the weight
        is clipped, not the gradient), none (REINFORCE: on-policy, nothing to clip).
    mean: tokens, answers, or constant: sums over `length` tokens, and over answers.
    kl_in: reward (k1 of each token) or loss (`losses.kl_loss` of kl_estimator).
    clip_low, clip_high: the ratio's range is 1 - clip_low to 1 + clip_high; `weight` has no lower
        end, and `none` only reports the share outside.
    kl_coef: reward, or loss, per nat of KL. Defaults, like the ranges: flags may replace them.
    length: tokens; None where a run has to set it, to its longest answer.
    """

    advantage: Literal["gae", "leave_one_out", "group", "group_no_std", "batch_mean"]
    ratio: Literal["token", "sequence"]
    clip: Literal["both", "higher", "weight", "none"]
    mean: Literal["tokens", "answers", "constant"]
    kl_in: Literal["reward", "loss"]
    kl_estimator: Literal["k1", "k2", "k3"]
    clip_low: float
    clip_high: float
    kl_coef: float
    length: int | None = None

    @property
    def has_critic(self) -> bool:
        """Whether values are learnt beside the policy."""
        return self.advantage == "gae"

    @property
    def on_policy(self) -> bool:
        """Whether the gradient holds for fresh samples only: one pass, one update a batch."""
        return self.clip == "none"

    @property
    def fewest_samples(self) -> int:
        """Samples a question needs for its advantages to be other than 0."""
        return 2 if self.advantage in ("leave_one_out", "group", "group_no_std") else 1


ALGORITHMS = {
    # 1707.06347 with the k1 penalty of InstructGPT (2203.02155 sect. 3.5, there 0.02 a nat).
    "ppo": Algorithm("gae", "token", "both", "tokens", "reward", "k1", 0.2, 0.2, 0.05),
    # 2402.14740: the leave-one-out baseline. The paper takes one on-policy step and sums an
    # answer's log-prob; here PPO's clip allows several, token by token.
    "rloo": Algorithm("leave_one_out", "token", "both", "tokens", "reward", "k1", 0.2, 0.2, 0.05),
    # Williams 1992: sums over an answer's tokens, divided by nothing but the number of answers.
    "reinforce": Algorithm(
        "batch_mean", "token", "none", "constant", "reward", "k1", 0.2, 0.2, 0.05, length=1
    ),
    # 2402.03300 eq. 3 and 4, KL 0.04 in sect. 4.2; the range is not stated, PPO's is meant.
    "grpo": Algorithm("group", "token", "both", "answers", "loss", "k3", 0.2, 0.2, 0.04),
    # 2503.20783 sect. 3.2: neither standard deviation nor answer length, no KL. The constant is the
    # room for an answer, as in the paper's listing; the range is not stated.
    "dr_grpo": Algorithm("group_no_std", "token", "both", "constant", "loss", "k3", 0.2, 0.2, 0.0),
    # 2503.14476 eq. 8: ranges of sect. 4.1, no KL (sect. 2.3). Its dynamic sampling and its penalty
    # of overlong answers are choices of the rollout, not of the loss.
    "dapo": Algorithm("group", "token", "higher", "tokens", "loss", "k3", 0.2, 0.28, 0.0),
    # 2507.18071 eq. 5, ranges of sect. 5.1; the KL term is left out there.
    "gspo": Algorithm("group", "sequence", "higher", "answers", "loss", "k3", 3e-4, 4e-4, 0.0),
    # 2506.13585 eq. 4 and 5, no KL. The paper does not print its upper end: a weight of 5 at most
    # is this project's choice.
    "cispo": Algorithm("group", "token", "weight", "tokens", "loss", "k3", 0.0, 4.0, 0.0),
}


def _batch_mean_advantages(rewards: Tensor) -> Tensor:
    return rewards - rewards.flatten().mean()


# (Q, N) rewards of answers -> (Q, N) advantages.
ADVANTAGES = {
    "leave_one_out": rloo_advantages,
    "group": group_advantages,
    "group_no_std": partial(group_advantages, divide_by_std=False),
    "batch_mean": _batch_mean_advantages,
}


def advantages_of(
    algorithm: Algorithm, rewards: Tensor, values: Tensor, mask: Tensor, num_samples: int,
    gamma: float = 1.0, lam: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets (B, T) of the whole batch; without a critic the targets are 0.

    rewards: (B, T) of tokens, from `losses.kl_penalised_rewards` with `kl_coefs(...).reward`.
    values: (B, T), the critic's, read only by "gae", as are gamma and lam.
    """
    if algorithm.has_critic:
        advantages, returns = gae(rewards, values, mask, gamma, lam)
        return whiten(advantages, mask), returns
    episodes = sequence_sum(rewards, mask).view(-1, num_samples)  # (Q, N)
    advantages = ADVANTAGES[algorithm.advantage](episodes).flatten()
    return advantages[:, None].expand_as(mask), torch.zeros_like(rewards)


class KlCoefs(NamedTuple):
    """The coefficient where it is used; the other one is 0."""

    reward: float
    loss: float


def kl_coefs(algorithm: Algorithm, kl_coef: float | None = None) -> KlCoefs:
    """Where the KL coefficient, by default the algorithm's, goes."""
    kl_coef = algorithm.kl_coef if kl_coef is None else kl_coef
    return KlCoefs(**{"reward": 0.0, "loss": 0.0, algorithm.kl_in: kl_coef})


def _clipped(
    a: Algorithm, logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor,
    count: int | None, tokens: int | None,
) -> PolicyLoss:
    return clipped_policy_loss(
        logp, old_logp, advantages, mask, a.clip_low, a.clip_high, a.ratio, a.mean,
        length=a.length, count=count, tokens=tokens,
    )  # fmt: skip


def _weighted(
    a: Algorithm, logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor,
    count: int | None, tokens: int | None,
) -> PolicyLoss:
    return cispo_loss(
        logp, old_logp, advantages, mask, a.clip_high, a.mean, length=a.length, count=count,
        tokens=tokens,
    )  # fmt: skip


def _unclipped(
    a: Algorithm, logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor,
    count: int | None, tokens: int | None,
) -> PolicyLoss:
    """The plain policy gradient, over sums of log-probs; the ratio is only reported."""
    assert (a.mean, a.length) == ("constant", 1), f"{a.mean}, {a.length}: REINFORCE takes sums"
    if advantages.dim() == 2:
        advantages = advantages[:, 0]  # the same at every token of an answer
    loss = reinforce_loss(logp, advantages, mask, baseline=0.0, count=count)
    report = _clipped(a, logp.detach(), old_logp, advantages, mask, count, tokens)
    return report._replace(loss=loss)


POLICY_LOSSES = {
    "both": _clipped, "higher": _clipped, "weight": _weighted, "none": _unclipped,
}  # fmt: skip


class AlgorithmLoss(NamedTuple):
    """loss = policy_loss + coefficient * kl; kl is 0 where it is not in the loss. The last four
    are detached."""

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    clip_share: Tensor
    approx_kl: Tensor


def policy_loss(
    algorithm: Algorithm, logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, *,
    reference_logp: Tensor | None = None, kl_coef: float | None = None,
    tokens: int | None = None, answers: int | None = None,
) -> AlgorithmLoss:
    """The loss of a row of the table, for a batch or a part of it.

    logp, old_logp, mask: (B, T). advantages: (B, T) or (B,), of the whole batch (`advantages_of`).
    reference_logp: (B, T), needed where the KL is in the loss with a coefficient above 0.
    tokens, answers: how many the whole minibatch has, where this is a part of it: `mean` says by
    which of the two the loss is divided, the shares are of tokens. Parts add up, in every field.
    """
    count = tokens if algorithm.mean == "tokens" else answers
    found = POLICY_LOSSES[algorithm.clip](
        algorithm, logp, old_logp, advantages, mask, count, tokens
    )
    loss, kl = found.loss, torch.zeros_like(found.loss)
    if coef := kl_coefs(algorithm, kl_coef).loss:
        if reference_logp is None:
            raise ValueError("reference_logp is missing: the KL is in the loss, expected (B, T)")
        kl = kl_loss(
            logp, reference_logp, mask, algorithm.kl_estimator, algorithm.mean,
            length=algorithm.length, count=count,
        )  # fmt: skip
        loss = loss + coef * kl
    return AlgorithmLoss(
        loss, found.loss.detach(), kl.detach(), found.clip_share, found.approx_kl
    )
