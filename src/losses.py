"""Every formula of the project, as pure functions of tensors: no model, no data, no state.

B rows (answers or pairs), T tokens of the answers, V vocabulary. Log-probs, losses, rewards, values
and divergences are in nats. A mask is bool, True = real. Values at False never matter, even NaN or
inf: real values are selected before anything is computed, never multiplied by the mask. (0 * NaN is
NaN, and the gradient of a discarded exp overflows.)

Means take the keyword `count`: the number of rows or tokens to divide by when the batch is split
over micro-batches or ranks. Divided by the global count, the parts add up to the mean of the whole.
Divided by their own counts, parts of unequal size would have the wrong weights. An empty batch has
loss 0 and gradient 0.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Count = int | None
# Nats. exp(60) = 1e26 and sums of a million such numbers are finite in float32; exp(89) is not.
LARGEST_LOG_RATIO = 60.0


class DpoLoss(NamedTuple):
    """Of every preference loss. Rewards: (B,), detached; what the loss compares in a pair."""

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


def above_rounding(std: Tensor, size: Tensor) -> Tensor:
    """Whether numbers of such a size and standard deviation differ by more than rounding.

    std, size: any equal shapes, both in the unit of the numbers; size is their root mean square.
    True where std is above 16 times the precision of the dtype times the size: in float32, 1000.3
    has to vary by 0.002. Callers never divide by a smaller std, which would blow rounding up to 1.
    """
    return std > 16 * torch.finfo(std.dtype).eps * size


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale x to mean 0 and population variance 1 over the True entries; 0 elsewhere.

    1e-8 is added to the variance, so a single entry, or equal entries, become 0 and not NaN.
    Entries that differ only by rounding (`above_rounding`) become 0 too.
    PPO whitens the advantages of the whole batch, before minibatches are made; the source whitens
    each minibatch (Huang et al., "The N Implementation Details of RLHF with PPO", policy training,
    detail 9).
    """
    centred = select(x - masked_mean(x, mask), mask)
    size = masked_mean(select(x, mask).detach().square(), mask).sqrt()
    std = masked_mean(centred.detach().square(), mask).sqrt()
    centred = torch.where(above_rounding(std, size), centred, 0.0)
    return centred * torch.rsqrt(masked_mean(centred.square(), mask) + 1e-8)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the returns' variance that the values predict: 1 all, 0 no more than a constant.

    1 - var(returns - values) / var(returns).
    values, returns, mask: (B, T). NaN if there is nothing to explain: the returns are equal, or
    differ only by the rounding of returns = advantages + values.
    """
    values, returns = values[mask].detach(), returns[mask].detach()
    spread = returns.var(correction=0)
    size = (returns.square().mean() + values.square().mean()).sqrt()
    share = 1 - (returns - values).var(correction=0) / spread
    return torch.where(above_rounding(spread.sqrt(), size), share, torch.nan)


def token_logp(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-prob of each target under its logits, in float32 at least (half precision loses nats).

    logits: (..., V), already at the position that predicts the target: nothing is shifted here.
    targets: (...) int64. Returns (...).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide.flatten(0, -2), targets.flatten(), reduction="none")
    return -loss.view(targets.shape)


def sequence_sum(logp: Tensor, mask: Tensor) -> Tensor:
    """Log-prob of each answer, (B,): the sum of logp (B, T) over its real tokens, EOS included."""
    return select(logp, mask).sum(-1)


def sequence_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, T) over each answer's real tokens, (B,); 0 for an answer without any.

    For log-probs, this is the length-normalised log-prob that ORPO and SimPO compare.
    """
    return sequence_sum(x, mask) / mask.sum(-1).clamp(min=1)


def reduce_tokens(
    x: Tensor, mask: Tensor, mean: str = "tokens", *, length: int | None = None,
    count: Count = None,
) -> Tensor:
    """Reduce x (B, T) to one number, in one of the three ways of the policy-gradient papers.

    tokens: the mean over all real tokens (DAPO, 2503.14476 sect. 3.3). Long answers weigh more.
    answers: the mean over each answer's tokens, then over answers (GRPO, 2402.03300 eq. 3). Each
        answer weighs the same, so a token of a long answer weighs less.
    constant: each answer's sum divided by `length`, then the mean over answers (Dr. GRPO,
        2503.20783 sect. 3.2). Each token weighs the same, however long the answers are.
    count: tokens for "tokens", answers (rows) for the other two. An answer without tokens adds 0
    and counts as a row.
    """
    if mean == "tokens":
        return masked_mean(x, mask, count=count)
    if mean == "answers":
        return _mean(sequence_mean(x, mask), count)
    if mean != "constant":
        raise ValueError(f"mean {mean!r}: expected 'tokens', 'answers' or 'constant'")
    if not length or length < 1:
        raise ValueError(f"length {length}: mean 'constant' divides by it, expected 1 or more")
    return _mean(sequence_sum(x, mask) / length, count)


def kl_estimates(logp: Tensor, reference_logp: Tensor) -> KlEstimates:
    """Three estimates of KL(policy || reference) from tokens that the policy drew.

    logp, reference_logp: any shape, of the drawn tokens. k1 and k3 have the KL as their mean. k1
    may be negative and goes into the reward. k3 is never negative and varies less, so it is the one
    to report. k2 is biased, with small variance. Source: J. Schulman,
    joschu.net/blog/kl-approx.html.
    """
    k1 = logp - reference_logp
    # expm1 keeps the digits near 0; what rounding leaves below 0 is 0.
    return KlEstimates(k1, k1.square() / 2, (torch.expm1(-k1) + k1).clamp(min=0))


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Exact KL(policy || reference) in nats between two distributions of the next token.

    logits, reference_logits: (..., V), all finite. Returns (...), never negative. Summed along an
    answer and averaged over the policy's own samples, it is the KL of whole answers. `kl_estimates`
    needs only the log-probs of the drawn tokens.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    logp = logits.to(wide).log_softmax(-1)
    reference = reference_logits.to(wide).log_softmax(-1)
    return (logp.exp() * (logp - reference)).sum(-1).clamp(min=0)  # rounding may go below 0


def kl_loss(
    logp: Tensor, reference_logp: Tensor, mask: Tensor, estimator: str = "k3",
    mean: str = "tokens", *, length: int | None = None, count: Count = None,
) -> Tensor:
    """Keep the policy near the reference: one of `kl_estimates` as a term of the loss, in nats.

    logp, reference_logp, mask: (B, T), of tokens that the policy drew; the reference is constant.
    The value estimates KL(policy || reference) per token (k2 with bias). In general its gradient is
    not that of the divergence, because the draws do not move with the policy. On average over the
    policy's own draws of a token, those before it given, the gradient of
        k1 is 0. It only adds noise: k1 belongs in the reward, where its gradient is exact.
        k2 is that of KL(policy || reference). A penalty in the reward pushes the same way, and also
            counts the KL of the tokens that follow.
        k3 is that of KL(reference || policy), which asks the policy to cover the reference (GRPO's
            choice, 2402.03300 eq. 4).
    This is exact for fresh draws only, and where no token is divided by a length that was drawn
    ("constant"). Once the policy has moved away from the one that drew, all three are biased.
    mean, length, count: see `reduce_tokens`. k3 has no gradient where the log-ratio is below -60.
    """
    log_ratio = select(logp, mask) - select(reference_logp, mask).detach()
    if estimator == "k3":  # exp(-log_ratio), and nothing else here, could overflow
        log_ratio = log_ratio.clamp(min=-LARGEST_LOG_RATIO)
    estimates = kl_estimates(log_ratio, torch.zeros_like(log_ratio))._asdict()
    if estimator not in estimates:
        raise ValueError(f"estimator {estimator!r}: expected 'k1', 'k2' or 'k3'")
    return reduce_tokens(estimates[estimator], mask, mean, length=length, count=count)


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

    h is (policy - reference) of the chosen answer minus that of the rejected one, in sums of
    log-probs, not means.
    sigmoid: -(1 - e) logsigmoid(beta h) - e logsigmoid(-beta h). e = label_smoothing is the share
        of pairs assumed to be labelled the wrong way round (Rafailov et al. 2023, eq. 7; cDPO).
    ipo: (h - 1 / (2 beta))^2, where beta is the paper's tau. The form is the one over sums, not
        over means per token (Azar et al. 2023, eq. 17).
    hinge: max(0, 1 - beta h): no push once h is 1 / beta nats. With a reference of 0, it is beta
        times the calibration loss of SLiC-HF (2305.10425, eq. 1) with margin 1 / beta.

    The four log-probs: (B,), sums over the answer's tokens, from `sequence_sum`.
    Returns the mean loss per pair (sigmoid: ln 2 when policy == reference), the share of pairs that
    the rewards put in order (a tie counts half), and the rewards beta * (policy - reference), (B,),
    detached.
    Only h is pushed: the chosen log-prob may fall, as long as the rejected one falls more.
    """
    if loss_type not in ("sigmoid", "ipo", "hinge"):
        raise ValueError(f"loss_type {loss_type!r}: expected 'sigmoid', 'ipo' or 'hinge'")
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing {label_smoothing}: expected 0 to 0.5")
    if loss_type != "sigmoid" and label_smoothing:
        raise ValueError(f"label_smoothing {label_smoothing}: {loss_type} has none, expected 0")
    sums = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    assert len({x.shape for x in sums}) == 1, f"shapes differ: {[tuple(x.shape) for x in sums]}"
    chosen_gain = policy_chosen - reference_chosen.detach()  # (B,)
    rejected_gain = policy_rejected - reference_rejected.detach()  # (B,)
    h = chosen_gain - rejected_gain
    if loss_type == "ipo":
        losses = (h - 1 / (2 * beta)).square()
    elif loss_type == "hinge":
        losses = F.relu(1 - beta * h)
    else:
        losses = -(1 - label_smoothing) * F.logsigmoid(beta * h)
        losses = losses - label_smoothing * F.logsigmoid(-beta * h)
    loss, accuracy = _mean(losses, count), _mean(_in_order(h.detach()), count)
    return DpoLoss(loss, accuracy, beta * chosen_gain.detach(), beta * rejected_gain.detach())


def mismatched_kl(policy: Tensor, reference: Tensor, *, count: Count = None) -> Tensor:
    """KTO's estimate of KL(policy || reference) in nats per answer, detached; may be negative.

    policy, reference: (B,) sums of log-probs of answers under prompts that they do not belong to,
    such as the next prompt of the batch (2402.01306). The mean log-ratio is biased, because the
    policy did not draw these answers, but it needs no sampling. `kto_loss` clamps it at 0, after
    all parts of a batch are added up.
    """
    assert policy.shape == reference.shape, f"{tuple(policy.shape)} and {tuple(reference.shape)}"
    return _mean((policy - reference).detach(), count)


def kto_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor,
    reference_rejected: Tensor, kl: Tensor | float, beta: float, *, count: Count = None,
) -> DpoLoss:
    """Raise good answers above the reference point and lower bad ones below it, each by itself.

    With r = policy - reference and z = max(kl, 0), the loss is
        1 - sigmoid(beta (r - z)) for a chosen answer,
        1 - sigmoid(beta (z - r)) for a rejected one (2402.01306 eq. 8, both weights 1).
    The four log-probs: (B,), sums over the answer's tokens. kl: scalar, in nats per answer, such as
    `mismatched_kl` of the whole batch. It is a constant: no gradient reaches it.
    Returns the mean over answers, 2 per pair, between 0 and 1 (1/2 where policy == reference), the
    share of pairs in order, and the rewards beta * (policy - reference). The gradient fades where
    an answer is far from z on either side, so it also fades for an answer that is very wrong.
    count: pairs. The loss does not compare the answers of a pair; they only come two by two here.
    """
    sums = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    assert len({x.shape for x in sums}) == 1, f"shapes differ: {[tuple(x.shape) for x in sums]}"
    zero_point = torch.as_tensor(kl, dtype=policy_chosen.dtype, device=policy_chosen.device)
    zero_point = zero_point.detach().clamp(min=0)
    chosen_gain = policy_chosen - reference_chosen.detach()  # (B,)
    rejected_gain = policy_rejected - reference_rejected.detach()  # (B,)
    # sigmoid(-x) is 1 - sigmoid(x) without cancellation.
    chosen_loss = torch.sigmoid(-beta * (chosen_gain - zero_point))
    rejected_loss = torch.sigmoid(-beta * (zero_point - rejected_gain))
    loss = _mean((chosen_loss + rejected_loss) / 2, count)
    chosen_reward, rejected_reward = beta * chosen_gain.detach(), beta * rejected_gain.detach()
    accuracy = _mean(_in_order(chosen_reward - rejected_reward), count)
    return DpoLoss(loss, accuracy, chosen_reward, rejected_reward)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x < 0, exact near 0 and far below it: log(1 - p) from x = log p.

    1 - exp(x) loses all digits near x = 0, where expm1 keeps them. Below -ln 2, log1p keeps them. x
    at or above 0 comes from rounding p = 1. It is replaced by the number next below 0, so the
    result is finite (-87 in float32) and its gradient is 0.
    """
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    half = -math.log(2)
    far = x.clamp(max=half)  # near 0, log1p's gradient would be NaN even if not taken
    return torch.where(x > half, (-torch.expm1(x)).log(), torch.log1p(-far.exp()))


def orpo_loss(chosen: Tensor, rejected: Tensor, *, count: Count = None) -> DpoLoss:
    """Raise the odds of the chosen answer above those of the rejected one; no reference.

    -logsigmoid(log odds(chosen) - log odds(rejected)), where odds = p / (1 - p) and p is the
    geometric mean of the token probabilities of the answer (2403.07691 eq. 4 and 7). ORPO adds this
    term, with a weight, to `sft_loss` of the chosen answer. Alone it may lower both answers.
    chosen, rejected: (B,) mean log-probs per token, from `sequence_mean`. With sums the odds would
    vanish.
    Returns the mean in nats per pair (ln 2 where they are equal), the share of pairs in order, and
    the log odds as rewards.
    """
    assert chosen.shape == rejected.shape, f"{tuple(chosen.shape)} and {tuple(rejected.shape)}"
    chosen_odds, rejected_odds = chosen - log1mexp(chosen), rejected - log1mexp(rejected)
    margin = chosen_odds - rejected_odds
    loss, accuracy = _mean(-F.logsigmoid(margin), count), _mean(_in_order(margin.detach()), count)
    return DpoLoss(loss, accuracy, chosen_odds.detach(), rejected_odds.detach())


def simpo_loss(
    chosen: Tensor, rejected: Tensor, beta: float, gamma: float, *, count: Count = None
) -> DpoLoss:
    """Raise the chosen answer's mean token log-prob above the other's by a margin; no reference.

    -logsigmoid(beta (chosen - rejected) - gamma) (2405.14734 eq. 6).
    chosen, rejected: (B,) mean log-probs per token, from `sequence_mean`. gamma: margin in units of
    the reward beta * mean log-prob. The paper takes 2 to 2.5 for beta: means are smaller than
    the sums that DPO compares.
    Returns the mean in nats per pair, the share of pairs in order (without the margin) and the
    rewards. Only the learning rate keeps the policy near its start.
    """
    assert chosen.shape == rejected.shape, f"{tuple(chosen.shape)} and {tuple(rejected.shape)}"
    chosen_reward, rejected_reward = beta * chosen, beta * rejected
    margin = chosen_reward - rejected_reward
    loss = _mean(-F.logsigmoid(margin - gamma), count)
    accuracy = _mean(_in_order(margin.detach()), count)
    return DpoLoss(loss, accuracy, chosen_reward.detach(), rejected_reward.detach())


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
    stopped: Tensor | None = None, no_stop_penalty: float = 0.0, estimator: str = "k1",
) -> Tensor:
    """Reward of each token: -beta * k1 everywhere, and the answer's score once, on its last token.

    score: (B,). logp, reference_logp, mask: (B, T); logp is the policy's own, from when it sampled.
    stopped: (B,) bool, False where sampling reached the token limit. The score of such an answer is
    lowered by no_stop_penalty. Returns (B, T), 0 at False; a row sums to score - beta * sum(logp -
    reference). The last token is EOS if the answer has one (TRL#3750 pays one token late).
    estimator: only k1 makes the penalty KL(policy || reference), in value and in gradient. k3 has
        the same mean. But a reward that changes with the policy pushes only by its value, not by
        its slope. With k3 this gives the gradient of KL(policy || reference) minus that of
        KL(reference || policy), which is 0 near the reference. Log-ratios below -60 nats count as
        -60 there.
    """
    if stopped is not None:
        score = score - no_stop_penalty * (~stopped).to(score.dtype)
    real_from_here = mask.flip(-1).cumsum(-1).flip(-1)  # (B, T)
    last = mask & (real_from_here == 1)
    log_ratio = select(logp, mask) - select(reference_logp, mask)
    if estimator == "k3":
        log_ratio = log_ratio.clamp(min=-LARGEST_LOG_RATIO)
    estimates = kl_estimates(log_ratio, torch.zeros_like(log_ratio))._asdict()
    if estimator not in estimates:
        raise ValueError(f"estimator {estimator!r}: expected 'k1', 'k2' or 'k3'")
    penalty = select(-beta * estimates[estimator], mask)
    return penalty + select(score[:, None].expand(mask.shape), last)


def adaptive_kl_coefficient(beta: float, kl: float, target: float, n: int, horizon: int) -> float:
    """Steer the KL to its target by a proportional change of beta (Ziegler et al. 2019, sect. 2.2).

    kl, target: nats per episode. n: episodes since the last change. horizon: episodes over which a
    steady error of 20% or more (it is clipped at 20%) changes beta by about a fifth. More episodes
    than the horizon count as the horizon, so one call changes beta by a fifth at most.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * min(max(n / horizon, 0.0), 1.0))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Gae:
    """Advantage of each token, and the return its value should predict (Schulman et al. 2016).

    A_t = delta_t + gamma lam A_{t+1}, with delta_t = r_t + gamma V_{t+1} - V_t (eq. 16).
    rewards, values, mask: (B, T). The value after the last real token is 0. Entries at False are
    skipped, wherever they are, and get 0. returns = advantages + values. Both are detached.
    lam = 1: rewards to come minus the value (no bias). lam = 0: one-step error (least variance).
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
    """Reward of each sample minus the mean of the question's other samples (Ahmadian et al. 2024).

    rewards: (Q, N), N >= 2 samples of each of Q questions. Returns (Q, N), each row with mean 0.
    """
    if (samples := rewards.shape[-1]) < 2:
        raise ValueError(f"{samples} sample a question: leave-one-out needs 2 or more")
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / (samples - 1)


def group_advantages(rewards: Tensor, divide_by_std: bool = True) -> Tensor:
    """Reward of each sample relative to its question's samples, in their standard deviations.

    rewards: (Q, N), in any unit, N samples of each of Q questions. Returns (Q, N), each row with
    mean 0.
    divide_by_std: (r - mean) / std (GRPO, 2402.03300 sect. 4.1.2). std is the population's, as in
        `whiten`; libraries with the sample's std give sqrt((N - 1) / N) times as much. A question
        that is nearly always right, or wrong, then weighs as much as any other.
    else: r - mean (Dr. GRPO, 2503.20783), which is (N - 1) / N times `rloo_advantages`.
    0 where all rewards of a question are equal, or differ only by rounding (`above_rounding`).
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    std = centred.square().mean(-1, keepdim=True).sqrt()
    differ = above_rounding(std, rewards.square().mean(-1, keepdim=True).sqrt())
    scale = torch.where(differ, std, 1.0) if divide_by_std else 1.0
    return torch.where(differ, centred, 0.0) / scale


def best_of_n(rewards: Tensor, values: Tensor, n: int) -> Tensor:
    """Value of the best of n samples by reward, averaged over all subsets of n of the N columns.

    rewards, values: (Q, N), of the same samples. The reward makes the choice, the value judges it.
    Returns (Q,): an unbiased estimate of best-of-n for every n <= N, from one set of N samples.
    Samples of equal reward get equal weights, so the order of columns never matters. n = 1 gives
    the mean, n = N the value of the best.
    A group of t equal rewards with b rewards below it has the best sample of C(b + t, n) - C(b, n)
    of the C(N, n) subsets.
    """
    assert rewards.shape == values.shape, f"{tuple(rewards.shape)} and {tuple(values.shape)}"
    samples = rewards.shape[-1]
    if not 1 <= n <= samples:
        raise ValueError(f"n {n}: expected 1 to {samples}, the number of samples")
    # Share of the subsets of n that lie within k given samples, k = 0 to N.
    within = [math.comb(k, n) / math.comb(samples, n) for k in range(samples + 1)]
    within = torch.tensor(within, dtype=torch.float64, device=rewards.device)
    below = (rewards[..., None, :] < rewards[..., None]).sum(-1)  # (Q, N)
    tied = (rewards[..., None, :] == rewards[..., None]).sum(-1)
    weights = (within[below + tied] - within[below]) / tied
    dtype = torch.promote_types(values.dtype, torch.float32)
    return (weights.to(dtype) * values.to(dtype)).sum(-1)


def best_of_n_kl_bound(n: int) -> float:
    """KL in nats of best-of-n from the policy it samples: log n - (n - 1) / n.

    An upper bound, reached where no two samples are alike (Beirami et al., 2401.01879). Its square
    root is the distance of best-of-n in src/evaluation/overoptimisation.py (2210.10760, sect. 2).
    """
    if n < 1:
        raise ValueError(f"n {n}: expected 1 or more")
    return math.log(n) - (n - 1) / n


def reinforce_loss(
    logp: Tensor, rewards: Tensor, mask: Tensor, *,
    baseline: Tensor | float | None = None, count: Count = None,
) -> Tensor:
    """Reward-weighted log-likelihood: raise answers above the baseline, lower those below it.

    logp, mask: (B, T), of fresh samples. On-policy only: nothing clips a stale one. rewards: (B,).
    baseline: subtracted from the rewards, by default their mean here (Williams 1992). Pass the
    whole step's mean when this is a part of it, and 0 for rewards that have a baseline
    (`rloo_advantages`).
    Returns the mean over answers of -(reward - baseline) * log-prob of the answer. Training takes
    the same loss from `policy_loss` in src/rl/algorithms.py; tests compare the two.
    """
    if baseline is None:
        baseline = _mean(rewards, None)
    return -_mean((rewards - baseline).detach() * sequence_sum(logp, mask), count)


def _of_tokens(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages (B, T), or (B,) that all tokens of an answer share, as constants (B, T)."""
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(mask.shape)
    return select(advantages, mask).detach()


def _bounded(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def _policy_loss(
    losses: Tensor, outside: Tensor, log_ratio: Tensor, mask: Tensor, mean: str,
    length: int | None, count: Count, tokens: Count,
) -> PolicyLoss:
    """The mean of the losses (B, T). Over tokens: the share outside and k3 of KL(old || new)."""
    k3 = kl_estimates(-_bounded(log_ratio.detach()), torch.zeros_like(log_ratio)).k3
    tokens = count if mean == "tokens" else tokens
    return PolicyLoss(
        reduce_tokens(losses, mask, mean, length=length, count=count),
        masked_mean(outside.to(losses.dtype), mask, count=tokens),
        masked_mean(k3, mask, count=tokens),
    )


def clipped_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip_low: float,
    clip_high: float, ratio: str = "token", mean: str = "tokens", *, length: int | None = None,
    count: Count = None, tokens: Count = None,
) -> PolicyLoss:
    """Raise tokens of positive advantage, lower the others, until the ratio leaves its range.

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). The clip is one-sided: it removes the
    gradient of steps that would gain more, never of steps that would undo harm. A clip_high above
    clip_low lets rare tokens become frequent (DAPO, 2503.14476 eq. 8).
    ratio: token: r = exp(logp - old_logp) of each token (PPO, 1707.06347 eq. 7).
        sequence: r = exp of the mean of logp - old_logp over the answer, for all of its tokens
        (GSPO, 2507.18071 eq. 5 and 7). It moves less, so its ranges are some 1000 times narrower.
        An advantage of one token is spread over the whole answer.
    mean, length, count: see `reduce_tokens`.
    logp, old_logp, mask: (B, T). old_logp is that of the policy that drew. advantages: (B, T), or
    (B,) of answers; constants.
    Returns the loss and two detached numbers: the share of tokens whose r is outside the range, and
    k3 of KL(old || new), the mean of r - 1 - log r. Both are over tokens, whatever `mean` is.
    tokens: the number to divide these two by, needed where `count` counts answers.
    Log-ratios beyond +-60 nats count as +-60, without gradient: float32 has no such ratio.
    """
    if ratio not in ("token", "sequence"):
        raise ValueError(f"ratio {ratio!r}: expected 'token' or 'sequence'")
    advantages = _of_tokens(advantages, mask)
    log_ratio = select(logp, mask) - select(old_logp, mask).detach()
    shared = log_ratio
    if ratio == "sequence":
        shared = sequence_mean(log_ratio, mask)[:, None].expand(mask.shape)
    r = _bounded(shared).exp()
    clipped = r.clamp(1 - clip_low, 1 + clip_high)
    losses = -torch.minimum(r * advantages, clipped * advantages)
    outside = (r.detach() - 1 > clip_high) | (1 - r.detach() > clip_low)
    return _policy_loss(losses, outside, log_ratio, mask, mean, length, count, tokens)


def ppo_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip_range: float, *,
    count: Count = None,
) -> PolicyLoss:
    """PPO's `clipped_policy_loss`: one range on both sides, token by token, the mean over tokens.

    -min(r A, clip(r, 1 - eps, 1 + eps) A) with r = exp(logp - old_logp) (PPO, 1707.06347 eq. 7).
    For reading and tests: training calls `clipped_policy_loss` itself.
    All tensors (B, T). Returns the mean per real token, and, detached, the share of tokens with
    |r - 1| > eps and k3 of KL(old || new), the mean of r - 1 - log r.
    """
    return clipped_policy_loss(
        logp, old_logp, advantages, mask, clip_low=clip_range, clip_high=clip_range, count=count
    )


def cispo_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip_high: float,
    mean: str = "tokens", *, length: int | None = None, count: Count = None,
    tokens: Count = None,
) -> PolicyLoss:
    """Policy gradient weighted by the ratio, which is clipped above: every token has a gradient.

    -min(r, 1 + clip_high) A logp, with r = exp(logp - old_logp) as a constant (CISPO, 2506.13585
    eq. 4 and 5, without a clip below). PPO's clip removes the gradient of a token that has moved
    far. Here the gradient is only bounded. It never changes sign either: only the two signs of the
    advantages hold the policy back.
    logp, old_logp, mask: (B, T). advantages: (B, T), or (B,) of answers; constants.
    mean, length, count, tokens: see `clipped_policy_loss`. Returns the loss, the share of clipped
    tokens and k3. The value of the loss has no meaning; its gradient at r = 1 is the policy
    gradient.
    """
    advantages, logp = _of_tokens(advantages, mask), select(logp, mask)
    log_ratio = logp - select(old_logp, mask).detach()
    r = _bounded(log_ratio.detach()).exp()
    losses = -r.clamp(max=1 + clip_high) * advantages * logp
    return _policy_loss(losses, r - 1 > clip_high, log_ratio, mask, mean, length, count, tokens)


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float, *,
    count: Count = None,
) -> ValueLoss:
    """Move values towards the returns, at most clip_range away from their values at sampling.

    0.5 max((v - R)^2, (clip(v, v_old +- eps) - R)^2), the mean per real token (Huang et al., "The N
    Implementation Details of RLHF with PPO", policy training, detail 10).
    All tensors (B, T), in units of reward; old_values and returns are constants.
    """
    values, old = select(values, mask), select(old_values, mask).detach()
    returns = select(returns, mask).detach()
    clipped = old + (values - old).clamp(-clip_range, clip_range)
    worse = torch.maximum((values - returns).square(), (clipped - returns).square())
    return ValueLoss(0.5 * masked_mean(worse, mask, count=count))
