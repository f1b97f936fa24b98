"""From the rows of src/rl/algorithm_table.py to the formulas of src/losses.py.

B answers (episodes) of T tokens, Q questions with N samples each, question after question.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from src.losses import (
    cispo_loss,
    clipped_policy_loss,
    dpo_loss,
    gae,
    group_advantages,
    kl_estimates,
    kl_loss,
    masked_mean,
    reduce_tokens,
    rloo_advantages,
    select,
    sequence_sum,
    sft_loss,
    whiten,
)
from src.rl.algorithm_table import Algorithm, Selection


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
    algorithm: Algorithm | Selection, rewards: Tensor, values: Tensor, mask: Tensor,
    num_samples: int, gamma: float = 1.0, lam: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets (B, T) of the whole batch; without a critic the targets are 0,
    and so are the advantages of a `Selection`.

    rewards: (B, T) of tokens, from `losses.kl_penalised_rewards` with `kl_coefs(...).reward`.
    values: (B, T), the critic's, read only by "gae", as are gamma and lam.
    """
    if isinstance(algorithm, Selection):
        return torch.zeros_like(rewards), torch.zeros_like(rewards)
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


def kl_coefs(algorithm: Algorithm | Selection, kl_coef: float | None = None) -> KlCoefs:
    """The KL coefficient, by default the algorithm's, in its place; a `Selection` has none."""
    if isinstance(algorithm, Selection):
        return KlCoefs(0.0, 0.0)
    kl_coef = algorithm.kl_coef if kl_coef is None else kl_coef
    return KlCoefs(**{"reward": 0.0, "loss": 0.0, algorithm.kl_in: kl_coef})


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
    tokens, answers: how many the whole minibatch has, where this is a part of it. `mean` says which
    of the two divides the loss; the shares are of tokens. The parts add up in every field.
    """
    a, batch = algorithm, (logp, old_logp, advantages, mask)
    count = tokens if a.mean == "tokens" else answers
    whole = {"length": a.length, "count": count, "tokens": tokens}
    if a.clip == "weight":
        found = cispo_loss(*batch, a.clip_high, a.mean, **whole)
    else:
        found = clipped_policy_loss(*batch, a.clip_low, a.clip_high, a.ratio, a.mean, **whole)
    if a.clip == "none":  # the log-probs' gradient (Williams 1992); the range is only reported
        each = advantages if advantages.dim() == 2 else advantages[:, None]
        each = select(each.expand_as(mask), mask)  # 0 times NaN would be a gradient of NaN
        weighted = -each.detach() * logp
        found = found._replace(
            loss=reduce_tokens(weighted, mask, a.mean, length=a.length, count=count)
        )
    loss, kl = found.loss, torch.zeros_like(found.loss)
    if coef := kl_coefs(a, kl_coef).loss:
        if reference_logp is None:
            raise ValueError("reference_logp is missing: the KL is in the loss, expected (B, T)")
        kl = kl_loss(
            logp, reference_logp, mask, a.kl_estimator, a.mean, length=a.length, count=count
        )
        loss = loss + coef * kl
    return AlgorithmLoss(
        loss, found.loss.detach(), kl.detach(), found.clip_share, found.approx_kl
    )


def chosen_answers(selection: Selection, rewards: Tensor) -> list[list[int]]:
    """For each question the samples that a row learns from: [best], [best, worst], or none.

    rewards: (Q, N). Among equal rewards the first is taken: samples are drawn alike.
    """
    best, worst = rewards.argmax(-1).tolist(), rewards.argmin(-1).tolist()
    if selection.choose == "best":
        return [[b] for b in best]
    differ = (rewards.amax(-1) > rewards.amin(-1)).tolist()
    return [[b, w] if ok else [] for b, w, ok in zip(best, worst, differ, strict=True)]


def selection_loss(
    selection: Selection, logp: Tensor, old_logp: Tensor, mask: Tensor, *,
    reference_logp: Tensor, beta: float | None = None, tokens: int | None = None,
    answers: int | None = None,
) -> AlgorithmLoss:
    """The loss of chosen answers, for a batch or a part of it; nothing is clipped.

    logp, old_logp, reference_logp, mask: (B, T), of `chosen_answers`, pairs next to each other.
    tokens, answers: as in `policy_loss`.
    """
    if selection.loss == "sft":
        loss = sft_loss(logp, mask, int(mask.sum()) if tokens is None else tokens)
    else:
        policy = sequence_sum(logp, mask).view(-1, 2)
        reference = sequence_sum(reference_logp, mask).view(-1, 2)
        pairs = None if answers is None else answers // 2
        loss = dpo_loss(*policy.T, *reference.T, beta, count=pairs).loss
    k3 = kl_estimates(select(old_logp, mask), select(logp.detach(), mask)).k3
    nothing = torch.zeros_like(loss)
    return AlgorithmLoss(
        loss, loss.detach(), nothing, nothing, masked_mean(k3, mask, count=tokens)
    )


def loss_of(
    row: Algorithm | Selection, logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor,
    *, reference_logp: Tensor, kl_coef: float, beta: float | None, tokens: int, answers: int,
) -> AlgorithmLoss:
    """`policy_loss` or `selection_loss`, as the row is one of the first or of the second table."""
    counts = {"reference_logp": reference_logp, "tokens": tokens, "answers": answers}
    if isinstance(row, Selection):
        return selection_loss(row, logp, old_logp, mask, beta=beta, **counts)
    return policy_loss(row, logp, old_logp, advantages, mask, kl_coef=kl_coef, **counts)
