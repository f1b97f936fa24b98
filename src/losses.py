"""Every formula of the project, as pure functions of tensors: no model, no data, no state.

B rows (answers or pairs), T tokens of the answers, V vocabulary. Log-probs, losses, rewards, values
and divergences are in nats. A mask is bool, True = real; what stands at False never matters, even
NaN or inf, because masked values are selected, not multiplied (0 * NaN is NaN, and the gradient of
a discarded exp overflows), and they are selected before anything is computed from them.

Means take the keyword `count`: the number of rows or tokens to divide by when the batch is dealt to
micro-batches or ranks. Divided by the global count, the parts add up to the mean of the whole;
divided by their own, ragged parts would weigh wrongly. An empty batch has loss 0 and gradient 0.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Count = int | None


class DpoLoss(NamedTuple):
    loss: Tensor
    accuracy: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


class RewardLoss(NamedTuple):
    loss: Tensor
    accuracy: Tensor


class KlEstimates(NamedTuple):
    k1: Tensor
    k2: Tensor
    k3: Tensor


class Gae(NamedTuple):
    advantages: Tensor
    returns: Tensor


class PolicyLoss(NamedTuple):
    loss: Tensor
    clip_share: Tensor
    approx_kl: Tensor


class ValueLoss(NamedTuple):
    loss: Tensor


def select(x: Tensor, mask: Tensor) -> Tensor:
    """x where the mask is True, 0 elsewhere, with gradient 0 there whatever x holds."""
    assert mask.dtype == torch.bool, f"mask is {mask.dtype}, expected torch.bool with True = real"
    assert x.shape == mask.shape, f"x is {tuple(x.shape)}, its mask {tuple(mask.shape)}"
    return torch.where(mask, x, 0.0)


def masked_mean(x: Tensor, mask: Tensor, *, count: Count = None) -> Tensor:
    """Mean of x over the True entries, all rows together: long rows weigh more than short ones."""
    return select(x, mask).sum() / (mask.sum().clamp(min=1) if count is None else max(count, 1))


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale x to mean 0 and population variance 1 over the True entries; 0 elsewhere.

    1e-8 is added to the variance, so that a single entry, or equal ones, become 0 and not NaN.
    PPO whitens the advantages of the whole batch, before minibatches are dealt (N, detail 10).
    """
    centred = select(x - masked_mean(x, mask), mask)
    return centred * torch.rsqrt(masked_mean(centred.square(), mask) + 1e-8)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the returns' variance that the values foresee: 1 all, 0 no more than a constant.

    values, returns, mask: (B, T). NaN where the returns do not vary: nothing to explain.
    """
    errors = (returns - values)[mask].detach()
    spread = returns[mask].detach().var(correction=0)
    return torch.where(spread > 0, 1 - errors.var(correction=0) / spread, torch.nan)


def token_logp(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-prob of each target under its logits, in float32 at least (half precision loses nats).

    logits: (..., V), already at the place that predicts the target: nothing is shifted here.
    targets: (...) int64. Returns (...).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide.flatten(0, -2), targets.flatten(), reduction="none")
    return -loss.view(targets.shape)


def sequence_sum(logp: Tensor, mask: Tensor) -> Tensor:
    """Log-prob of each answer, (B,): logp (B, T) over its real tokens, the stop token included."""
    return select(logp, mask).sum(-1)


def kl_estimates(logp: Tensor, reference_logp: Tensor) -> KlEstimates:
    """Three estimates of KL(policy || reference) from tokens that the policy drew.

    logp, reference_logp: any shape, of the drawn tokens. k1 and k3 have the KL as their mean.
    k1 may be negative and goes into the reward; k3 is never negative and varies less: report it.
    k2 is biased, with small variance. Source: J. Schulman, joschu.net/blog/kl-approx.html.
    """
    k1 = logp - reference_logp
    # expm1 keeps the digits near 0; what rounding leaves below 0 is 0.
    return KlEstimates(k1, k1.square() / 2, (torch.expm1(-k1) + k1).clamp(min=0))


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Exact KL(policy || reference) in nats of two distributions of the next token.

    logits, reference_logits: (..., V), all finite. Returns (...), never negative. Its mean over the
    policy's own samples, summed along an answer, is the KL of whole answers; `kl_estimates` needs
    the drawn token's log-probs only.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    logp = logits.to(wide).log_softmax(-1)
    reference = reference_logits.to(wide).log_softmax(-1)
    return (logp.exp() * (logp - reference)).sum(-1).clamp(min=0)  # rounding may go below 0


def sft_loss(logp: Tensor, mask: Tensor, count: int) -> Tensor:
    """Raise the log-prob of the given answers: cross-entropy in nats per answer token.

    logp, mask: (B, T). count: answer tokens of the whole step, over all micro-batches and ranks.
    """
    return -masked_mean(logp, mask, count=count)


def _in_order(margin: Tensor) -> Tensor:
    """1 where the preferred answer is ahead, 0 where it is behind, 1/2 for a tie."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()


def _mean(x: Tensor, count: Count) -> Tensor:
    return x.sum() / max(x.numel() if count is None else count, 1)


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor,
    reference_rejected: Tensor, beta: float, label_smoothing: float = 0.0,
    loss_type: str = "sigmoid", *, count: Count = None,
) -> DpoLoss:
    """Raise the chosen answer above the rejected one, relative to the frozen reference.

    With h = (policy - reference) of chosen less that of rejected, in sums of log-probs, not means:
    sigmoid: -(1 - e) logsigmoid(beta h) - e logsigmoid(-beta h), e = label_smoothing: the share of
        pairs taken to be labelled the wrong way round (Rafailov et al. 2023, eq. 7; cDPO).
    ipo: (h - 1 / (2 beta))^2, beta being the paper's tau, in the form over sums and not over the
        mean per token (Azar et al. 2023, eq. 17).

    The four log-probs: (B,), sums over the answer's tokens, from `sequence_sum`.
    Returns the mean loss per pair (sigmoid: ln 2 when policy == reference), the share of pairs in
    order by reward, ties half, and the rewards beta * (policy - reference), (B,), detached.
    Only h is pushed: the chosen log-prob may fall, as long as the rejected one falls more.
    """
    if loss_type not in ("sigmoid", "ipo"):
        raise ValueError(f"loss_type {loss_type!r}: expected 'sigmoid' or 'ipo'")
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing {label_smoothing}: expected 0 to 0.5")
    if loss_type == "ipo" and label_smoothing:
        raise ValueError(f"label_smoothing {label_smoothing}: ipo has none, expected 0")
    sums = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    assert len({x.shape for x in sums}) == 1, f"shapes differ: {[tuple(x.shape) for x in sums]}"
    chosen_gain = policy_chosen - reference_chosen.detach()  # (B,)
    rejected_gain = policy_rejected - reference_rejected.detach()  # (B,)
    h = chosen_gain - rejected_gain
    if loss_type == "ipo":
        losses = (h - 1 / (2 * beta)).square()
    else:
        losses = -(1 - label_smoothing) * F.logsigmoid(beta * h)
        losses = losses - label_smoothing * F.logsigmoid(-beta * h)
    loss, accuracy = _mean(losses, count), _mean(_in_order(h.detach()), count)
    return DpoLoss(loss, accuracy, beta * chosen_gain.detach(), beta * rejected_gain.detach())


def pairwise_reward_loss(chosen: Tensor, rejected: Tensor, *, count: Count = None) -> RewardLoss:
    """Raise the score of the preferred answer above the other.

    -logsigmoid(chosen - rejected): Bradley-Terry (Ouyang et al. 2022, eq. 1).
    chosen, rejected: (B,) scores in nats: a difference of 1 means odds of e to 1.
    Returns the mean loss in nats per pair (ln 2 when scores are equal) and the share of pairs in
    order, ties half. Only the difference matters: the same constant added to both changes nothing.
    """
    assert chosen.shape == rejected.shape, f"{tuple(chosen.shape)} and {tuple(rejected.shape)}"
    margin = chosen - rejected
    return RewardLoss(_mean(-F.logsigmoid(margin), count), _mean(_in_order(margin.detach()), count))


def kl_penalised_rewards(
    score: Tensor, logp: Tensor, reference_logp: Tensor, mask: Tensor, beta: float,
    stopped: Tensor | None = None, no_stop_penalty: float = 0.0,
) -> Tensor:
    """Reward of each token: -beta * k1 everywhere, and the answer's score once, on its last token.

    score: (B,). logp, reference_logp, mask: (B, T), the policy's own log-probs when it sampled.
    stopped: (B,) bool, False where sampling ran out of room: that answer's score is lowered by
    no_stop_penalty. Returns (B, T), 0 at False; a row sums to score - beta * sum(logp - reference).
    The last token is the stop token where there is one (TRL#3750 pays one token late).
    """
    if stopped is not None:
        score = score - no_stop_penalty * (~stopped).to(score.dtype)
    real_from_here = mask.flip(-1).cumsum(-1).flip(-1)  # (B, T)
    last = mask & (real_from_here == 1)
    k1 = kl_estimates(select(logp, mask), select(reference_logp, mask)).k1
    return select(-beta * k1, mask) + select(score[:, None].expand(mask.shape), last)


def adaptive_kl_coefficient(beta: float, kl: float, target: float, n: int, horizon: int) -> float:
    """Steer the KL to its target by a proportional change of beta (Ziegler et al. 2019, sect. 2.2).

    kl, target: nats per episode. n: episodes since the last change; horizon: episodes over which a
    steady error of 20% or more, where it is clipped, changes beta by about a fifth.
    """
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * n / horizon)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Gae:
    """Advantage of each token, and the return its value should foresee (Schulman et al. 2016).

    rewards, values, mask: (B, T). The value after the last real token is 0; entries at False are
    skipped, wherever they stand, and get 0. returns = advantages + values; both are detached.
    lam = 1: rewards to come minus the value (no bias); lam = 0: one-step error (least variance).
    """
    rewards, values = select(rewards, mask).detach(), select(values, mask).detach()
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(values.shape[:-1])  # (B,)
    for t in reversed(range(values.shape[-1])):
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        advantage = delta + gamma * lam * next_advantage
        advantages[..., t] = select(advantage, mask[..., t])
        next_value = torch.where(mask[..., t], values[..., t], next_value)
        next_advantage = torch.where(mask[..., t], advantage, next_advantage)
    return Gae(advantages, advantages + values)


def rloo_advantages(rewards: Tensor) -> Tensor:
    """Reward of each sample less the mean of the question's other samples (Ahmadian et al. 2024).

    rewards: (Q, N), N >= 2 samples of each of Q questions. Returns (Q, N), each row with mean 0.
    """
    if (samples := rewards.shape[-1]) < 2:
        raise ValueError(f"{samples} sample a question: leave-one-out needs 2 or more")
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / (samples - 1)


def reinforce_loss(
    logp: Tensor, rewards: Tensor, mask: Tensor, *,
    baseline: Tensor | float | None = None, count: Count = None,
) -> Tensor:
    """Reward-weighted log-likelihood: raise answers above the baseline, lower those below it.

    logp, mask: (B, T), of fresh samples: on-policy only, nothing clips a stale one. rewards: (B,).
    baseline: taken from the rewards; by default their mean here (Williams 1992); pass the whole
    step's mean when this is a part of it, and 0 for rewards that have one (`rloo_advantages`).
    Returns the mean over answers of -(reward - baseline) * log-prob of the answer.
    """
    if baseline is None:
        baseline = _mean(rewards, None)
    return -_mean((rewards - baseline).detach() * sequence_sum(logp, mask), count)


def ppo_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip_range: float, *,
    count: Count = None,
) -> PolicyLoss:
    """Raise tokens of positive advantage, lower the others, until the ratio leaves the clip range.

    -min(r A, clip(r, 1 - eps, 1 + eps) A) with r = exp(logp - old_logp) (PPO, 1707.06347 eq. 7).
    The clip is one-sided: it takes the gradient from steps that would gain more, never from those
    that would undo harm. All tensors (B, T). Returns the mean per real token, and, detached, the
    share of tokens with |r - 1| > eps and k3 of KL(old || new), the mean of r - 1 - log r.
    """
    logp, old_logp = select(logp, mask), select(old_logp, mask).detach()
    advantages = select(advantages, mask).detach()
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask, count=count)
    outside = ((ratio.detach() - 1).abs() > clip_range).to(ratio.dtype)
    k3 = kl_estimates(old_logp, logp.detach()).k3
    clip_share = masked_mean(outside, mask, count=count)
    return PolicyLoss(loss, clip_share, masked_mean(k3, mask, count=count))


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float, *,
    count: Count = None,
) -> ValueLoss:
    """Move values to the returns, no further than clip_range from where they stood at sampling.

    0.5 max((v - R)^2, (clip(v, v_old +- eps) - R)^2), the mean per real token (N, detail 9; LHP).
    All tensors (B, T), in units of reward; old_values and returns are constants.
    """
    values, old = select(values, mask), select(old_values, mask).detach()
    returns = select(returns, mask).detach()
    clipped = old + (values - old).clamp(-clip_range, clip_range)
    worse = torch.maximum((values - returns).square(), (clipped - returns).square())
    return ValueLoss(0.5 * masked_mean(worse, mask, count=count))
