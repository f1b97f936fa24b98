"""The family of policy gradients and preference losses in src/losses.py.

Each formula three times: worked by hand, as plain Python loops on 1,000 random ragged cases (the
worst difference is printed, `pytest -s`), and by invariants. `losses` is looked up at call time for
tests/test_mutations.py.
"""

import itertools
import math
import random
import statistics
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor, tensor

from src import losses
from tests.test_losses import LN2, assert_padding_never_matters, close, log_sigmoid, ragged

CASES = 1000
MEANS = ("tokens", "answers", "constant")


def floats(rng: random.Random, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.tensor(
        [rng.gauss(0, 1) for _ in range(math.prod(shape))], dtype=torch.float64
    ).view(shape)


def masked_case(rng: random.Random, tensors: int) -> tuple[Tensor, ...]:
    """Tensors (B, T) of float64 and a mask with gaps, short rows and rows without any token."""
    shape = rng.randint(1, 4), rng.randint(1, 6)
    mask = tensor([rng.random() < 0.7 for _ in range(math.prod(shape))]).view(shape)
    return *(floats(rng, *shape) for _ in range(tensors)), mask


def answers_of(*tensors: Tensor, mask: Tensor) -> list[list[tuple[float, ...]]]:
    """Of each row, the numbers of its real tokens."""
    columns = torch.stack(tensors, -1).tolist()
    return [
        [tuple(x) for x, real in zip(row, keep, strict=True) if real]
        for row, keep in zip(columns, mask.tolist(), strict=True)
    ]


def plain_mean(rows: list[list[float]], mean: str, length: int) -> float:
    if mean == "tokens":
        return sum(map(sum, rows)) / max(sum(map(len, rows)), 1)
    if mean == "answers":
        return sum(sum(row) / len(row) for row in rows if row) / len(rows)
    return sum(sum(row) / length for row in rows) / len(rows)


class Worst:
    """The largest difference of all cases."""

    def __init__(self, name: str) -> None:
        self.name, self.difference = name, 0.0

    def add(self, actual, expected) -> None:
        actual = torch.as_tensor(actual, dtype=torch.float64)
        expected = torch.as_tensor(expected, dtype=torch.float64)
        assert actual.shape == expected.shape
        if actual.numel():
            worst = (actual - expected).abs().max().item()
            assert worst == worst, f"{self.name}: NaN"
            self.difference = max(self.difference, worst)

    def below(self, limit: float) -> None:
        print(f"{self.name}: worst difference {self.difference:.1e}")
        assert self.difference < limit, f"{self.name}: {self.difference}"


# Means


def test_three_means_of_answers_of_2_and_8_tokens():
    """1 at the short answer's tokens: 2/10, (1 + 0)/2, (2/8 + 0)/2; and three gradients."""
    mask = torch.arange(8) < tensor([[2], [8]])
    expected = {"tokens": (0.2, 0.1, 0.1), "answers": (0.5, 1 / 4, 1 / 16),
                "constant": (0.125, 1 / 16, 1 / 16)}
    for mean, (value, short, long) in expected.items():
        x = tensor([[1.0] * 8, [0.0] * 8], requires_grad=True)
        loss = losses.reduce_tokens(x, mask, mean, length=8)
        loss.backward()
        close(loss.detach(), value)
        close(x.grad, torch.where(mask, tensor([[short], [long]]), 0.0))


def test_means_refuse():
    x, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="'tokens', 'answers' or 'constant'"):
        losses.reduce_tokens(x, mask, "sum")
    for length in (None, 0, -1):
        with pytest.raises(ValueError, match="expected 1 or more"):
            losses.reduce_tokens(x, mask, "constant", length=length)


def test_sequence_mean_is_of_real_tokens():
    mask = tensor([[True, True, False], [True, False, False], [False, False, False]])
    x = tensor([[-1.0, -2.0, 9.0], [-4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    close(losses.sequence_mean(x, mask), [-1.5, -4.0, 0.0])


# Advantages


def test_group_advantages_worked_by_hand():
    """1, 2, 3, 6: deviations -2, -1, 0, 3, variance 14/4, standard deviation 1.870829."""
    rewards = tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 1.0]])
    deviations = tensor([[-2.0, -1.0, 0.0, 3.0], [-0.25, -0.25, -0.25, 0.75]])
    close(losses.group_advantages(rewards, divide_by_std=False), deviations)
    close(losses.group_advantages(rewards)[0], [-1.0690450, -0.5345225, 0.0, 1.6035675])
    close(losses.group_advantages(rewards)[1], [-0.5773503] * 3 + [1.7320508])
    close(losses.group_advantages(tensor([[5.0, 9.0]])), [[-1.0, 1.0]])


def test_group_advantages_of_equal_rewards_are_zero():
    for reward in (0.0, 0.1, 1000.3, -1e6 / 3):
        for n in (1, 2, 3, 4, 7):
            for divide in (True, False):
                for dtype in (torch.float32, torch.float64):
                    rewards = torch.full((2, n), reward, dtype=dtype)
                    assert not losses.group_advantages(rewards, divide).any()
    # Of equal rewards beside unequal ones, and of rewards that differ in the last bit only.
    last_bit = torch.nextafter(tensor(1000.3), tensor(2000.0))
    rewards = tensor([[1000.3, 1000.3, last_bit], [0.0, 1.0, 2.0]])
    assert losses.group_advantages(rewards).any(-1).tolist() == [False, True]
    # A small difference that is not rounding is one.
    close(losses.group_advantages(tensor([[1e-9, 3e-9]])), [[-1.0, 1.0]])
    close(losses.group_advantages(tensor([[1000.25, 1000.5]])), [[-1.0, 1.0]])


def test_group_advantages_equal_plain_loops():
    rng, worst = random.Random(1), Worst("group_advantages")
    for _ in range(CASES):
        rewards = floats(rng, rng.randint(1, 3), rng.randint(1, 6), scale=rng.choice([1e-3, 1, 50]))
        if rng.random() < 0.3:
            rewards = rewards.round()  # some questions with equal rewards
        for divide in (True, False):
            expected = []
            for row in rewards.tolist():
                centre, spread = statistics.fmean(row), statistics.pstdev(row)
                scale = spread if divide and len(set(row)) > 1 else 1.0
                expected.append([(r - centre) / scale for r in row])
            worst.add(losses.group_advantages(rewards, divide), expected)
    worst.below(1e-9)


# Policy losses


def plain_policy(logp, old, advantages, mask, low, high, ratio, mean, length, cispo=False):
    """Loss, share outside, k3, on plain floats, answer by answer."""
    rows, outside, kl = [], [], []
    for answer in answers_of(logp, old, advantages, mask=mask):
        logs = [new - before for new, before, _ in answer]
        shared = sum(logs) / max(len(logs), 1)
        ratios = [math.exp(shared if ratio == "sequence" else x) for x in logs]
        kl.append([math.exp(x) - 1 - x for x in logs])
        if cispo:
            rows.append([-min(r, 1 + high) * a * new
                         for r, (new, _, a) in zip(ratios, answer, strict=True)])
            outside.append([r > 1 + high for r in ratios])
            continue
        outside.append([r > 1 + high or r < 1 - low for r in ratios])
        # The other way to write the clip: which side may still move depends on the sign.
        rows.append([-a * (min(r, 1 + high) if a > 0 else max(r, 1 - low))
                     for r, (_, _, a) in zip(ratios, answer, strict=True)])
    return [plain_mean(rows, mean, length), plain_mean(outside, "tokens", length),
            plain_mean(kl, "tokens", length)]


def test_clipped_policy_loss_equals_plain_loops():
    rng, worst = random.Random(2), Worst("clipped_policy_loss")
    for _ in range(CASES):
        logp, old, advantages, mask = masked_case(rng, 3)
        low, high = rng.choice([(0.2, 0.2), (0.2, 0.28), (0.3, 2.0), (3e-4, 4e-4)])
        ratio, mean = rng.choice(["token", "sequence"]), rng.choice(MEANS)
        given = advantages
        if rng.random() < 0.5:  # one advantage an answer
            given = advantages[:, 0]
            advantages = given[:, None].expand(mask.shape)
        out = losses.clipped_policy_loss(
            logp, old, given, mask, low, high, ratio=ratio, mean=mean, length=5
        )
        worst.add(
            torch.stack(out), plain_policy(logp, old, advantages, mask, low, high, ratio, mean, 5)
        )
    worst.below(1e-9)


def test_cispo_loss_equals_plain_loops():
    rng, worst = random.Random(3), Worst("cispo_loss")
    for _ in range(CASES):
        logp, old, advantages, mask = masked_case(rng, 3)
        high, mean = rng.choice([0.2, 1.0, 4.0]), rng.choice(MEANS)
        given = advantages
        if rng.random() < 0.5:
            given = advantages[:, 0]
            advantages = given[:, None].expand(mask.shape)
        out = losses.cispo_loss(logp, old, given, mask, high, mean=mean, length=5)
        expected = plain_policy(
            logp, old, advantages, mask, 0, high, "token", mean, 5, cispo=True
        )
        worst.add(torch.stack(out), expected)
    worst.below(1e-9)


def test_ppo_policy_loss_is_the_clipped_loss_to_the_last_bit():
    """In float32 against PPO's formula written out, gradients included."""
    rng = random.Random(4)
    for _ in range(CASES):
        *tensors, mask = masked_case(rng, 3)
        logp, old, advantages = (x.float() for x in tensors)
        eps = rng.choice([0.1, 0.2, 0.5])
        new, plain = logp.clone().requires_grad_(), logp.clone().requires_grad_()
        out = losses.ppo_policy_loss(new, old, advantages, mask, eps)
        out.loss.backward()
        count = mask.sum().clamp(min=1)
        picked = [torch.where(mask, x, 0.0) for x in (plain, old, advantages)]
        ratio = (picked[0] - picked[1]).exp()
        clipped = ratio.clamp(1 - eps, 1 + eps)
        per_token = -torch.minimum(ratio * picked[2], clipped * picked[2])
        loss = torch.where(mask, per_token, 0.0).sum() / count
        loss.backward()
        share = torch.where(mask, ((ratio - 1).abs() > eps).float(), 0.0).sum() / count
        k1 = picked[1] - picked[0].detach()
        k3 = torch.where(mask, (torch.expm1(-k1) + k1).clamp(min=0), 0.0).sum() / count
        assert torch.equal(out.loss, loss) and torch.equal(new.grad, plain.grad)
        assert torch.equal(out.clip_share, share) and torch.equal(out.approx_kl, k3)


def test_clip_is_one_sided_with_a_range_for_each_side():
    """Below 0.25, above 0.5. r = e: A = 1 -> -1.5, A = -1 -> e. r = 1/e: A = 1 -> -1/e,
    A = -1 -> 0.75."""
    mask, e = tensor([[True]]), math.e
    for log_ratio, advantage, expected, slope, outside in (
        (1.0, 1.0, -1.5, 0.0, 1), (1.0, -1.0, e, e, 1), (-1.0, 1.0, -1 / e, -1 / e, 1),
        (-1.0, -1.0, 0.75, 0.0, 1), (math.log(1.4), 1.0, -1.4, -1.4, 0),
        (math.log(0.8), -1.0, 0.8, 0.8, 0), (math.log(0.6), -1.0, 0.75, 0.0, 1),
    ):
        logp = tensor([[log_ratio - 3]], dtype=torch.float64, requires_grad=True)
        old, gain = tensor([[-3.0]]).double(), tensor([advantage]).double()
        out = losses.clipped_policy_loss(logp, old, gain, mask, 0.25, 0.5)
        out.loss.backward()
        close(out.loss.detach(), expected, 1e-9)
        close(logp.grad, [[slope]], 1e-9)
        close(out.clip_share, outside)
        close(out.approx_kl, math.exp(log_ratio) - 1 - log_ratio, 1e-9)


def test_sequence_ratio_is_the_exp_of_the_mean_log_ratio():
    """Ratios 2 and 8: the geometric mean is 4, and each token's share of the gradient is half.
    Three nats of padding change nothing."""
    logp = tensor([[LN2 - 1, 3 * LN2 - 1, 3.0]], dtype=torch.float64, requires_grad=True)
    old, mask = tensor([[-1.0, -1.0, 0.0]]).double(), tensor([[True, True, False]])
    for mean in ("tokens", "answers"):
        out = losses.clipped_policy_loss(
            logp, old, tensor([-1.0]).double(), mask, 3e-4, 4e-4, ratio="sequence", mean=mean
        )
        close(out.loss.detach(), 4.0, 1e-9)
        (gradient,) = torch.autograd.grad(out.loss, logp)
        close(gradient, [[2.0, 2.0, 0.0]], 1e-9)
    clipped = losses.clipped_policy_loss(
        logp, old, tensor([1.0]).double(), mask, 3e-4, 4e-4, ratio="sequence"
    )
    close(clipped.loss.detach(), -1.0004, 1e-9)
    assert clipped.clip_share == 1 and not torch.autograd.grad(clipped.loss, logp)[0].any()


def test_a_constant_length_divides_the_loss_and_not_the_shares():
    """Two tokens of ratio e and advantage -1 over a length of 8: the loss is 2e / 8; all tokens are
    outside the range, and k3 is e - 2."""
    logp, mask = tensor([[-1.0, -1.0]]).double(), tensor([[True, True]])
    out = losses.clipped_policy_loss(
        logp, logp - 1, tensor([-1.0]).double(), mask, 0.2, 0.2, mean="constant", length=8
    )
    close(torch.stack(out), [math.e / 4, 1.0, math.e - 2])


def test_sequence_ratio_of_one_token_is_the_tokens():
    logp, old, advantages, _, mask = ragged(21, (1, 1, 1))
    token, sequence = (
        torch.stack(losses.clipped_policy_loss(logp, old, advantages, mask, 0.2, 0.28, ratio=r))
        for r in ("token", "sequence")
    )
    close(token, sequence, 1e-12)


def test_clipped_policy_loss_refuses_an_unknown_ratio():
    x, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="'token' or 'sequence'"):
        losses.clipped_policy_loss(x, x, x, mask, 0.2, 0.2, ratio="answer")


def test_cispo_gives_a_gradient_to_a_clipped_token():
    """Ratio e, clipped to 1.5: -1.5 A log p, whose gradient is -1.5 A, as PPO's would not be."""
    logp = tensor([[-2.0, -2.0]], dtype=torch.float64, requires_grad=True)
    old, mask = tensor([[-3.0, -2.0]]).double(), tensor([[True, True]])
    out = losses.cispo_loss(logp, old, tensor([2.0]).double(), mask, clip_high=0.5)
    out.loss.backward()
    close(out.loss.detach(), (1.5 * 2 * 2 + 2 * 2) / 2)
    close(logp.grad, [[-1.5, -1.0]])
    close(out.clip_share, 0.5)
    close(out.approx_kl, (math.e - 2) / 2)


def test_cispo_weighs_a_rarer_token_less_and_does_not_clip_below():
    logp = tensor([[-5.0]], dtype=torch.float64, requires_grad=True)
    out = losses.cispo_loss(logp, tensor([[-3.0]]).double(), tensor([[1.0]]).double(),
                            tensor([[True]]), 0.2)
    out.loss.backward()
    close(logp.grad, [[-math.exp(-2)]], 1e-9)
    assert out.clip_share == 0


def test_at_ratio_1_all_policy_losses_have_the_same_gradient():
    logp, _, advantages, _, mask = ragged(22)
    gradients = []
    for function in (
        lambda x: losses.clipped_policy_loss(x, logp, advantages, mask, 0.2, 0.28),
        lambda x: losses.clipped_policy_loss(x, logp, advantages[:, 0], mask, 0.2, 0.28),
        lambda x: losses.clipped_policy_loss(
            x, logp, advantages[:, 0], mask, 0.2, 0.28, ratio="sequence"),
        lambda x: losses.cispo_loss(x, logp, advantages, mask, 0.2),
    ):
        x = logp.clone().requires_grad_()
        function(x).loss.backward()
        gradients.append(x.grad)
    close(gradients[0], torch.where(mask, -advantages / 9, 0.0), 1e-12)
    close(gradients[3], gradients[0], 1e-12)
    close(gradients[1], torch.where(mask, -advantages[:, :1] / 9, 0.0), 1e-12)
    close(gradients[2], gradients[1], 1e-12)


# KL as a loss

P = tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
Q = tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64)
DRAWS = tensor([0] * 10 + [1] * 4 + [2] * 3 + [3] * 2 + [4])  # exactly in the proportions of P


def kl_of_draws(logits: Tensor, estimator: str) -> Tensor:
    logp = logits.log_softmax(-1)[DRAWS][None]
    mask = torch.ones(1, 20, dtype=torch.bool)
    return losses.kl_loss(logp, Q.log()[DRAWS][None], mask, estimator)


def test_kl_losses_have_the_gradients_of_different_divergences():
    """By hand, for the logits: KL(p || q) has p (log(p / q) - KL), KL(q || p) has p - q. Draws in
    the proportions of p make the mean over tokens the expectation."""
    reverse = sum(p * math.log(p / q) for p, q in zip(P.tolist(), Q.tolist(), strict=True))
    exact = {
        "k1": torch.zeros(5), "k2": P * ((P / Q).log() - reverse), "k3": P - Q,
    }
    for estimator, expected in exact.items():
        logits = P.log().requires_grad_()
        loss = kl_of_draws(logits, estimator)
        loss.backward()
        close(logits.grad, expected, 1e-12)
        if estimator != "k2":
            close(loss.detach(), reverse, 1e-12)
    # k2 has its own value, (log p/q)^2 / 2 on average.
    half_square = sum(
        p * math.log(p / q) ** 2 / 2 for p, q in zip(P.tolist(), Q.tolist(), strict=True)
    )
    close(kl_of_draws(P.log(), "k2"), half_square, 1e-12)


def test_the_closed_gradients_are_those_of_the_divergences():
    """The divergences themselves, differentiated by autograd with p moving."""
    reverse = P.log().requires_grad_()
    logp = reverse.log_softmax(-1)
    (logp.exp() * (logp - Q.log())).sum().backward()
    logits = P.log().requires_grad_()
    kl_of_draws(logits, "k2").backward()
    close(logits.grad, reverse.grad, 1e-12)
    forward = P.log().requires_grad_()
    (Q * (Q.log() - forward.log_softmax(-1))).sum().backward()
    logits = P.log().requires_grad_()
    kl_of_draws(logits, "k3").backward()
    close(logits.grad, forward.grad, 1e-12)


def test_of_two_tokens_only_the_reward_counts_what_follows():
    """All nine answers of two tokens of three kinds, each weighted as often as it is drawn, against
    autograd through the exact divergence. k1 in the reward has the gradient of the whole answers'
    KL. k2 in the loss leaves out what the first token does to the KL of the second."""
    rng = random.Random(8)

    def logp_of(x: Tensor, y: Tensor) -> Tensor:
        before = x.log_softmax(0)[:, None].expand(3, 3)
        return torch.stack((before, y.log_softmax(1)), -1).view(9, 2)

    first, second = floats(rng, 3), floats(rng, 3, 3)
    q, found = logp_of(floats(rng, 3), floats(rng, 3, 3)), {}
    for name in ("whole", "here", "reward", "k2"):
        x, y = first.clone().requires_grad_(), second.clone().requires_grad_()
        logp, mask = logp_of(x, y), torch.ones(9, 2, dtype=torch.bool)
        often = logp.detach().sum(1).exp()
        if name == "whole":
            loss = (logp.sum(1).exp() * (logp - q).sum(1)).sum()
        elif name == "here":  # the second token's KL with the first one as it was drawn
            before = logp[:, 0].detach().exp()
            loss = (logp[::3, 0].exp() * (logp - q)[::3, 0]).sum()
            loss = loss + (before * logp[:, 1].exp() * (logp - q)[:, 1]).sum()
        elif name == "reward":
            rewards = losses.kl_penalised_rewards(torch.zeros(9).double(), logp, q, mask, 1.0)
            loss = losses.reinforce_loss(logp, 9 * often * rewards.sum(1), mask, baseline=0.0)
        else:
            loss = sum(
                n * losses.kl_loss(logp[i : i + 1], q[i : i + 1], mask[:1], "k2", "constant",
                                   length=1)
                for i, n in enumerate(often)
            )
        found[name] = torch.autograd.grad(loss, (x, y))
    for one, other in (("reward", "whole"), ("k2", "here")):
        for a, b in zip(found[one], found[other], strict=True):
            close(a, b, 1e-12)
    close(found["whole"][1], found["here"][1], 1e-12)
    assert (found["whole"][0] - found["here"][0]).abs().max() > 0.05


def test_kl_loss_equals_plain_loops():
    rng, worst = random.Random(5), Worst("kl_loss")
    forms = {"k1": lambda x: x, "k2": lambda x: x * x / 2, "k3": lambda x: math.exp(-x) - 1 + x}
    for _ in range(CASES):
        logp, reference, mask = masked_case(rng, 2)
        estimator, mean = rng.choice(["k1", "k2", "k3"]), rng.choice(MEANS)
        rows = [[forms[estimator](a - b) for a, b in row]
                for row in answers_of(logp, reference, mask=mask)]
        found = losses.kl_loss(logp, reference, mask, estimator, mean, length=7)
        worst.add(found, plain_mean(rows, mean, 7))
    worst.below(1e-9)


def test_kl_loss_refuses_an_unknown_estimator():
    x, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="'k1', 'k2' or 'k3'"):
        losses.kl_loss(x, x, mask, "k4")


# Preferences


def test_hinge_worked_by_hand():
    """beta h = 0.7, so 0.3 is missing; at h = 20 nothing is, and nothing pushes."""
    sums = [tensor([x], requires_grad=True) for x in (-3.0, -9.0, -5.0, -4.0)]
    out = losses.dpo_loss(*sums, 0.1, loss_type="hinge")
    out.loss.backward()
    close(out.loss.detach(), 0.3)
    close(sums[0].grad, [-0.1])
    close(sums[1].grad, [0.1])
    assert sums[2].grad is None and sums[3].grad is None
    chosen = tensor([20.0], requires_grad=True)
    loss = losses.dpo_loss(chosen, *[torch.zeros(1)] * 3, 0.1, loss_type="hinge").loss
    loss.backward()
    assert loss.item() == 0 and chosen.grad.item() == 0


def test_kto_worked_by_hand():
    """beta = ln 3, z = 1: a chosen answer that gained 2 is missing 1/4, a rejected one that gained
    1 is missing 1/2. Below 0 z is 0, and no gradient reaches it."""
    chosen, rejected = tensor([-3.0], requires_grad=True), tensor([-4.0], requires_grad=True)
    kl = tensor(1.0, requires_grad=True)
    out = losses.kto_loss(chosen, rejected, tensor([-5.0]), tensor([-5.0]), kl, math.log(3))
    out.loss.backward()
    close(out.loss.detach(), 0.375)
    close(chosen.grad, [-math.log(3) * 3 / 16 / 2])
    close(rejected.grad, [math.log(3) / 4 / 2])
    assert kl.grad is None
    close(out.chosen_reward, [2 * math.log(3)])
    close(out.rejected_reward, [math.log(3)])
    close(out.accuracy, 1.0)
    below = losses.kto_loss(tensor([1.0]), tensor([-1.0]), torch.zeros(1), torch.zeros(1),
                            -5.0, math.log(3))
    close(below.loss, 0.25)
    start = losses.kto_loss(*[torch.zeros(2)] * 4, 0.0, 0.1)
    close(start.loss, 0.5)
    close(start.accuracy, 0.5)


def test_mismatched_kl_is_a_mean_without_gradient():
    policy = tensor([-1.0, -4.0], requires_grad=True)
    out = losses.mismatched_kl(policy, tensor([-2.0, -2.0]))
    close(out, -0.5)  # (1 - 2) / 2
    assert not out.requires_grad
    close(losses.mismatched_kl(policy, tensor([-2.0, -2.0]), count=4), -0.25)


def test_orpo_worked_by_hand():
    """p = 3/4 against 1/2: odds 3 and 1, -log sigmoid(ln 3) = ln(4/3)."""
    out = losses.orpo_loss(tensor([0.75]).log(), tensor([0.5]).log())
    close(out.loss, math.log(4 / 3))
    close(out.chosen_reward, [math.log(3)])
    close(out.rejected_reward, [0.0])
    close(losses.orpo_loss(tensor([-2.0]), tensor([-2.0])).loss, LN2)
    chosen = tensor([0.75], dtype=torch.float64).log().requires_grad_()
    losses.orpo_loss(chosen, tensor([0.5]).double().log()).loss.backward()
    close(chosen.grad, [-0.25 / 0.25], 1e-9)  # d log odds / d log p = 1 / (1 - p)


def test_orpo_near_certainty():
    """p = 0.999999: log odds ln(999999) = 13.8155096, in float32 too; 1 - exp gives 13.802."""
    sure, even = tensor([math.log(0.999999)]), tensor([math.log(0.5)])
    out = losses.orpo_loss(even, sure)
    close(out.rejected_reward, [13.8155096], 2e-6)
    close(out.loss, 13.8155106, 2e-6)  # -log sigmoid(-x) = x + log(1 + exp(-x))
    close(losses.orpo_loss(sure, even).loss, 1.0000e-6, 1e-12)
    for x in (-1e-30, -1e-9, -1e-6, -1e-3, -0.5, -LN2, -0.8, -5.0, -50.0, -800.0):
        with localcontext(prec=60):
            expected = float((1 - Decimal(x).exp()).ln())
        found = losses.log1mexp(tensor([x], dtype=torch.float64)).item()
        assert found == pytest.approx(expected, rel=1e-14, abs=0)


def test_log1mexp_of_certainty_is_finite_without_gradient():
    x = tensor([0.0, 1e-7, 3.0], requires_grad=True)
    out = losses.log1mexp(x)
    out.sum().backward()
    close(out.detach(), [math.log(torch.finfo(torch.float32).tiny)] * 3, 1e-4)
    assert not x.grad.any()


def test_simpo_worked_by_hand():
    """beta 2, gamma 0.5, and the chosen answer (ln 3 + 0.5) / 2 ahead: -log sigmoid(ln 3)."""
    ahead = (math.log(3) + 0.5) / 2
    chosen = tensor([ahead - 1.0], dtype=torch.float64, requires_grad=True)
    out = losses.simpo_loss(chosen, tensor([-1.0]).double(), beta=2.0, gamma=0.5)
    out.loss.backward()
    close(out.loss.detach(), math.log(4 / 3))
    close(chosen.grad, [-2 * 0.25])
    close(out.chosen_reward, [2 * (ahead - 1)])
    close(out.rejected_reward, [-2.0])
    close(losses.simpo_loss(tensor([-1.0]), tensor([-1.1]), 2.0, 0.5).accuracy, 1.0)


def test_preference_losses_equal_plain_loops():
    """Hinge, KTO, ORPO (through odds, not log odds) and SimPO, pair by pair."""
    rng = random.Random(6)
    worst = {name: Worst(name) for name in ("hinge", "kto_loss", "orpo_loss", "simpo_loss")}
    for _ in range(CASES):
        pairs = rng.randint(1, 5)
        pc, pr, rc, rr = (floats(rng, pairs, scale=3.0) for _ in range(4))
        beta, gamma = rng.choice([0.05, 0.5, 2.0]), rng.choice([0.0, 0.5, 1.5])
        kl = rng.gauss(0, 2)
        gains = list(zip((pc - rc).tolist(), (pr - rr).tolist(), strict=True))
        hinge = [max(0.0, 1 - beta * (c - r)) for c, r in gains]
        found = losses.dpo_loss(pc, pr, rc, rr, beta, loss_type="hinge")
        worst["hinge"].add(found.loss, sum(hinge) / pairs)
        z = max(kl, 0.0)
        kto = [1 - 1 / (1 + math.exp(-beta * (c - z))) for c, _ in gains]
        kto += [1 - 1 / (1 + math.exp(-beta * (z - r))) for _, r in gains]
        worst["kto_loss"].add(losses.kto_loss(pc, pr, rc, rr, kl, beta).loss, sum(kto) / len(kto))
        chosen, rejected = -pc.abs() - 1e-3, -pr.abs() - 1e-3
        both = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
        odds = [(math.exp(x) / (1 - math.exp(x)), math.exp(y) / (1 - math.exp(y))) for x, y in both]
        orpo = [-math.log((a / b) / (1 + a / b)) for a, b in odds]
        worst["orpo_loss"].add(losses.orpo_loss(chosen, rejected).loss, sum(orpo) / pairs)
        simpo = [-log_sigmoid(beta * (x - y) - gamma) for x, y in both]
        found = losses.simpo_loss(chosen, rejected, beta, gamma)
        worst["simpo_loss"].add(found.loss, sum(simpo) / pairs)
        in_order = sum((x > y) + 0.5 * (x == y) for x, y in both) / pairs
        close(found.accuracy, in_order)
        close(losses.orpo_loss(chosen, rejected).accuracy, in_order)
    for each in worst.values():
        each.below(1e-9)


def test_pairs_of_different_shape_are_refused():
    row, column = torch.zeros(2), torch.zeros(2, 1)
    for call in (
        lambda: losses.kto_loss(row, column, row, row, 0.0, 0.1),
        lambda: losses.mismatched_kl(row, column),
        lambda: losses.orpo_loss(row, column),
        lambda: losses.simpo_loss(row, column, 2.0, 0.5),
        lambda: losses.best_of_n(row, column, 1),
    ):
        with pytest.raises(AssertionError):
            call()


# Best of n


def test_best_of_n_worked_by_hand():
    """Rewards 3, 1, 2: of the three pairs two are won by the 3, one by the 2. Two that are equal
    share: 4 and 8 are 6 together, and each alone beats the third."""
    rewards, values = tensor([[3.0, 1.0, 2.0]]), tensor([[30.0, 10.0, 20.0]])
    for n, expected in ((1, 20.0), (2, 80 / 3), (3, 30.0)):
        close(losses.best_of_n(rewards, values, n), [expected], 1e-5)
    rewards, values = tensor([[1.0, 1.0, 0.0]]), tensor([[4.0, 8.0, 100.0]])
    for n, expected in ((1, 112 / 3), (2, 6.0), (3, 6.0)):
        close(losses.best_of_n(rewards, values, n), [expected], 1e-5)


def subsets_of_n(rewards: list[float], values: list[float], n: int) -> float:
    """The mean over all subsets, tied bests of each averaged."""
    means = []
    for subset in itertools.combinations(range(len(rewards)), n):
        best = max(rewards[i] for i in subset)
        means.append(statistics.fmean(values[i] for i in subset if rewards[i] == best))
    return statistics.fmean(means)


def test_best_of_n_equals_all_subsets_of_six():
    rng, worst = random.Random(7), Worst("best_of_n")
    for _ in range(CASES):
        questions = rng.randint(1, 2)
        rewards, values = floats(rng, questions, 6), floats(rng, questions, 6)
        if rng.random() < 0.6:
            rewards = rewards.round()  # many ties
        n = rng.randint(1, 6)
        expected = [
            subsets_of_n(*row, n) for row in zip(rewards.tolist(), values.tolist(), strict=True)
        ]
        worst.add(losses.best_of_n(rewards, values, n), expected)
    worst.below(1e-9)


def test_best_of_n_does_not_look_at_the_order():
    rewards = tensor([[1.0, 1.0, 1.0, 0.0]])
    values = tensor([[1.0, 0.0, 0.0, 0.0]])
    order = tensor([1, 3, 2, 0])
    for n in range(1, 5):
        first = losses.best_of_n(rewards, values, n)
        close(losses.best_of_n(rewards[:, order], values[:, order], n), first)
    close(losses.best_of_n(rewards, values, 4), [1 / 3])
    assert losses.best_of_n(rewards, values.bool(), 4).dtype == torch.float32


@pytest.mark.parametrize("n", [0, 4, -1])
def test_best_of_n_refuses(n):
    with pytest.raises(ValueError, match="expected 1 to 3"):
        losses.best_of_n(torch.zeros(1, 3), torch.zeros(1, 3), n)


def test_best_of_n_kl_bound():
    """By hand; by the density n u^(n - 1) of the best of n uniform numbers; and above the KL of
    the best of n draws from five kinds, where draws can be alike."""
    assert losses.best_of_n_kl_bound(1) == 0
    close(losses.best_of_n_kl_bound(4), math.log(4) - 0.75, 1e-12)
    for n in (2, 5, 16):
        steps = 20_000
        density = [n * ((i + 0.5) / steps) ** (n - 1) for i in range(steps)]
        close(losses.best_of_n_kl_bound(n), sum(d * math.log(d) for d in density) / steps, 1e-5)
        below = [0.0, *itertools.accumulate(P.tolist())]
        best = [b**n - a**n for a, b in itertools.pairwise(below)]
        kl = sum(b * math.log(b / p) for b, p in zip(best, P.tolist(), strict=True))
        assert 0 < kl < losses.best_of_n_kl_bound(n)
    with pytest.raises(ValueError, match="expected 1 or more"):
        losses.best_of_n_kl_bound(0)


# Of all


def masked_family(values: tuple[Tensor, ...], mask: Tensor) -> dict[str, Tensor]:
    """A scalar of every function of the family that takes a mask."""
    a, b, c, _ = values
    rows = torch.linspace(-1, 1, len(a), dtype=a.dtype)
    found = {"sequence_mean": losses.sequence_mean(a, mask).square().sum()}
    for mean in MEANS:
        found[mean] = losses.reduce_tokens(a, mask, mean, length=3)
        for k in ("k1", "k2", "k3"):
            found[f"{k} {mean}"] = losses.kl_loss(a, b, mask, k, mean, length=3)
        for ratio, advantages in itertools.product(("token", "sequence"), (c, rows)):
            out = losses.clipped_policy_loss(
                a, b, advantages, mask, 0.2, 0.28, ratio, mean, length=3
            )
            found[f"clipped {ratio} {mean} {advantages.dim()}"] = sum(out)
        found[f"cispo {mean}"] = sum(losses.cispo_loss(a, b, c, mask, 0.5, mean, length=3))
        found[f"cispo {mean} rows"] = sum(losses.cispo_loss(a, b, rows, mask, 0.5, mean, length=3))
    return found


def test_what_stands_in_the_padding_of_the_family_never_matters():
    *values, mask = ragged(31)
    assert_padding_never_matters(masked_family, values, mask)


def test_an_advantage_of_an_answer_without_tokens_never_matters():
    logp, old, _, _, mask = ragged(32, (2, 0))
    logp.requires_grad_()
    rows = tensor([1.0, math.nan]).double()
    for function in (
        lambda: losses.clipped_policy_loss(logp, old, rows, mask, 0.2, 0.2, "sequence", "answers"),
        lambda: losses.cispo_loss(logp, old, rows, mask, 0.2),
    ):
        loss = function().loss
        assert loss.isfinite() and torch.autograd.grad(loss, logp)[0].isfinite().all()


def test_an_empty_batch_has_loss_0_and_gradient_0():
    for shape in ((0, 4), (3, 4), (2, 0)):
        logp = torch.randn(shape, requires_grad=True)
        mask, old = torch.zeros(shape, dtype=torch.bool), torch.randn(shape)
        found = [losses.reduce_tokens(logp, mask, mean, length=2) for mean in MEANS]
        found += [losses.kl_loss(logp, old, mask, k) for k in ("k1", "k2", "k3")]
        for count in (None, 0):
            for ratio, mean in itertools.product(("token", "sequence"), MEANS):
                found += losses.clipped_policy_loss(
                    logp, old, old, mask, 0.2, 0.2, ratio, mean, length=2, count=count
                )
            found += losses.cispo_loss(logp, old, old, mask, 0.2, count=count)
        total = sum(found)
        total.backward()
        assert total.item() == 0 and not logp.grad.any()
    pairs = torch.zeros(0, requires_grad=True)
    found = [
        losses.dpo_loss(*[pairs] * 4, 0.1, loss_type="hinge"),
        losses.kto_loss(*[pairs] * 4, 0.0, 0.1),
        losses.orpo_loss(pairs, pairs),
        losses.simpo_loss(pairs, pairs, 2.0, 0.5),
    ]
    for out in found:
        out.loss.backward()
        assert out.loss.item() == 0 and out.accuracy.item() == 0
    assert losses.mismatched_kl(pairs, pairs) == 0
    assert losses.group_advantages(torch.zeros(0, 4)).shape == (0, 4)
    assert losses.best_of_n(torch.zeros(0, 4), torch.zeros(0, 4), 2).shape == (0,)


def test_parts_of_the_family_divided_by_the_global_count_add_up():
    *values, mask = ragged(33, (3, 1, 5, 0, 2, 2, 1, 4))
    tokens = int(mask.sum())

    def results(part: slice, whole: bool) -> list[Tensor]:
        a, b, c, d = (v[part] for v in values)
        m = mask[part]
        found, rows = [], None if whole else 8
        for mean in MEANS:
            count = None if whole else tokens if mean == "tokens" else 8
            k = {"length": 5, "count": count}
            both = k if mean == "tokens" else {**k, "tokens": None if whole else tokens}
            found.append(losses.reduce_tokens(a, m, mean, **k))
            found.append(losses.kl_loss(a, b, m, "k3", mean, **k))
            for ratio in ("token", "sequence"):
                found += losses.clipped_policy_loss(a, b, c, m, 0.2, 0.3, ratio, mean, **both)
            found += losses.cispo_loss(a, b, c[:, 0], m, 0.2, mean, **both)
        columns = [x[:, 0] for x in (a, b, c, d)]
        found.append(losses.mismatched_kl(*columns[:2], count=rows))
        found += losses.dpo_loss(*columns, 0.3, loss_type="hinge", count=rows)[:2]
        found += losses.kto_loss(*columns, 0.7, 0.3, count=rows)[:2]
        chosen, rejected = (-x.abs() for x in columns[:2])
        found += losses.orpo_loss(chosen, rejected, count=rows)[:2]
        found += losses.simpo_loss(chosen, rejected, 2.0, 0.5, count=rows)[:2]
        return found

    whole = results(slice(None), True)
    for size in (8, 4, 1):
        parts = [results(slice(i, i + size), False) for i in range(0, 8, size)]
        for one, many in zip(whole, zip(*parts, strict=True), strict=True):
            close(sum(many), one, 1e-12)


def test_the_family_is_finite_in_float32_far_out():
    """Log-ratios of +-1e4 nats, probabilities of 1 and of e^-10000: values and gradients."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    for new, old, gain in itertools.product((0.0, -100.0, -1e4), (0.0, -100.0, -1e4), (1.0, -1.0)):
        logp = torch.full((1, 2), new, requires_grad=True)
        before = torch.full((1, 2), old)
        for out in (
            *losses.clipped_policy_loss(logp, before, tensor([gain]), mask, 0.2, 0.2),
            *losses.clipped_policy_loss(logp, before, tensor([gain]), mask, 0.2, 0.2, "sequence"),
            *losses.cispo_loss(logp, before, tensor([gain]), mask, 4.0),
            *(losses.kl_loss(logp, before, mask, k) for k in ("k1", "k2", "k3")),
        ):
            assert out.isfinite()
            if out.requires_grad:
                (gradient,) = torch.autograd.grad(out, logp, retain_graph=True)
                assert gradient.isfinite().all()
    for x, y in itertools.product((0.0, -1e-38, -1e-9, -1e-6, -0.7, -100.0, -1e4), repeat=2):
        chosen, rejected = tensor([x], requires_grad=True), tensor([y], requires_grad=True)
        zero = torch.zeros(1)
        for out in (
            losses.orpo_loss(chosen, rejected),
            losses.simpo_loss(chosen, rejected, 10.0, 1.0),
            losses.kto_loss(chosen, rejected, zero, zero, 1e4, 1.0),
            losses.dpo_loss(chosen, rejected, zero, zero, 1.0, loss_type="hinge"),
        ):
            gradients = torch.autograd.grad(out.loss, (chosen, rejected), retain_graph=True)
            assert all(v.isfinite().all() for v in (*out, *gradients)), (x, y, out)


def test_constants_of_the_family_carry_no_gradient():
    x = [torch.randn(2, 3, requires_grad=True) for _ in range(4)]
    mask = torch.ones(2, 3, dtype=torch.bool)
    losses.clipped_policy_loss(*x[:3], mask, 0.2, 0.2).loss.backward()
    losses.cispo_loss(*x[:3], mask, 0.2).loss.backward()
    losses.kl_loss(x[0], x[1], mask).backward()
    losses.kto_loss(x[0][:, 0], x[0][:, 1], x[1][:, 0], x[2][:, 0], x[3].sum(), 0.1).loss.backward()
    assert x[0].grad.any() and all(other.grad is None for other in x[1:])


def test_what_is_only_reported_carries_no_gradient():
    """Shares, KL, accuracies and rewards beside every loss: metrics must not keep graphs alive."""
    a, b, c, d = (torch.randn(2, 3, requires_grad=True) for _ in range(4))
    mask, (w, x, y, z) = torch.ones(2, 3, dtype=torch.bool), (v[:, 0] for v in (a, b, c, d))
    for out in (
        losses.clipped_policy_loss(a, b, c, mask, 0.2, 0.2),
        losses.clipped_policy_loss(a, b, c, mask, 0.2, 0.2, ratio="sequence"),
        losses.cispo_loss(a, b, c, mask, 0.2),
        losses.dpo_loss(w, x, y, z, 0.1),
        losses.kto_loss(w, x, y, z, 0.5, 0.1),
        losses.orpo_loss(-w.exp(), -x.exp()),
        losses.simpo_loss(w, x, 2.0, 0.5),
        losses.pairwise_reward_loss(w, x),
    ):
        assert out.loss.requires_grad and not any(field.requires_grad for field in out[1:])


def test_gradients_of_the_family_agree_with_finite_differences():
    a, b, c, _, mask = ragged(34)
    a.requires_grad_()
    functions = [
        lambda x: losses.sequence_mean(x, mask),
        lambda x: losses.log1mexp(-x.square() - 1e-2),
        lambda x: losses.dpo_loss(x[:, 0], x[:, 1], b[:, 0], b[:, 1], 0.5, loss_type="hinge").loss,
        lambda x: losses.kto_loss(x[:, 0], x[:, 1], b[:, 0], b[:, 1], 0.3, 0.5).loss,
        lambda x: losses.orpo_loss(-x[:, 0].exp(), -x[:, 1].exp()).loss,
        lambda x: losses.simpo_loss(x[:, 0], x[:, 1], 2.0, 0.5).loss,
        lambda x: losses.best_of_n(b, x, 2),
    ]
    for mean in MEANS:
        for ratio in ("token", "sequence"):
            functions.append(lambda x, r=ratio, m=mean: losses.clipped_policy_loss(
                x, b, c, mask, 0.2, 0.3, r, m, length=3).loss)
        for k in ("k1", "k2", "k3"):
            functions.append(lambda x, k=k, m=mean: losses.kl_loss(x, b, mask, k, m, length=3))
    for function in functions:
        assert torch.autograd.gradcheck(function, (a,))
