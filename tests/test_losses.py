"""The formulas of src/losses.py against numbers worked by hand, plain Python loops, and invariants.

`losses` is looked up at call time, so that tests/test_mutations.py can put a broken copy in its
place and see that the named test notices.
"""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from src import losses

LN2 = 0.6931471805599453
QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)
NATS = st.floats(-8, 8, allow_nan=False, width=32)
PADDING = (math.nan, math.inf, -math.inf, 1e30, -1e30)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64), atol=atol, rtol=1e-6,
    )


def ragged(seed: int, lengths=(3, 1, 5, 0)) -> tuple[Tensor, ...]:
    """Four tensors (B, T) of float64 and their right-padded mask."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 1
    tensors = [
        torch.randn(len(lengths), width, generator=generator, dtype=torch.float64)
        for _ in range(4)
    ]
    return *tensors, torch.arange(width) < tensor(lengths)[:, None]


def real(x: Tensor, mask: Tensor) -> list[float]:
    return [x[b, t].item() for b in range(len(x)) for t in range(x.shape[1]) if mask[b, t]]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


# Masks


def masked_functions(values: tuple[Tensor, ...], mask: Tensor) -> dict[str, Tensor]:
    """A scalar of every function that takes a mask, so that value and gradient can be compared."""
    a, b, c, d = values
    rows = torch.linspace(-1, 1, len(a), dtype=a.dtype)
    policy = losses.ppo_policy_loss(a, b, c, mask, 0.2)
    estimate = losses.gae(a, b, mask, 0.9, 0.8)
    rewards = losses.kl_penalised_rewards(rows, a, b, mask, 0.1)
    return {
        "masked_mean": losses.masked_mean(a, mask),
        "whiten": (losses.whiten(a, mask) * torch.arange(a.shape[1])).sum(),
        "sequence_sum": losses.sequence_sum(a, mask).square().sum(),
        "sft_loss": losses.sft_loss(a, mask, 7),
        "reinforce_loss": losses.reinforce_loss(a, rows, mask),
        "policy_loss": policy.loss + policy.clip_share + policy.approx_kl,
        "value_loss": losses.ppo_value_loss(a, b, d, mask, 0.2).loss,
        "gae": (estimate.advantages * 2 + estimate.returns).sum(),
        "rewards": rewards.square().sum(),
        "explained_variance": losses.explained_variance(a, b, mask),
    }


def assert_padding_never_matters(functions, values: list[Tensor], mask: Tensor) -> None:
    """functions(values, mask) -> scalars by name, whose values and gradients must be the same
    whatever stands where the mask is False."""
    clean = [x.clone().requires_grad_() for x in values]
    expected = functions(clean, mask)
    for junk in PADDING:
        dirty = [torch.where(mask, x, junk).requires_grad_() for x in values]
        actual = functions(dirty, mask)
        for name, value in expected.items():
            close(actual[name].detach(), value.detach(), 1e-12)
            if not value.requires_grad:
                continue
            kept = torch.autograd.grad(value, clean, retain_graph=True, allow_unused=True)
            found = torch.autograd.grad(actual[name], dirty, retain_graph=True, allow_unused=True)
            for one, other in zip(kept, found, strict=True):
                assert (one is None) == (other is None), name
                if one is not None:
                    assert torch.equal(one, other), f"{name}: gradient differs with {junk}"
                    assert not other[~mask].any(), name


def test_what_stands_in_the_padding_never_matters():
    *values, mask = ragged(0)
    assert_padding_never_matters(masked_functions, values, mask)


def test_mask_must_be_bool_and_of_the_same_shape():
    x = torch.ones(2, 3)
    with pytest.raises(AssertionError, match="torch.float32, expected torch.bool"):
        losses.masked_mean(x, torch.ones(2, 3))
    with pytest.raises(AssertionError, match="mask"):
        losses.masked_mean(x, torch.ones(2, 1, dtype=torch.bool))


def test_masked_mean_weighs_tokens_not_rows():
    x = tensor([[1.0, 2.0, 9.0], [6.0, 0.0, 0.0]])
    mask = tensor([[True, True, False], [True, False, False]])
    close(losses.masked_mean(x, mask), 3.0)  # (1 + 2 + 6) / 3, not (1.5 + 6) / 2
    close(losses.masked_mean(x, mask, count=6), 1.5)
    close(losses.masked_mean(x, torch.zeros_like(mask)), 0.0)


def test_whiten_is_exact_on_a_ragged_batch():
    x, *_, mask = ragged(1)
    out = losses.whiten(5 + 3 * x, mask)
    kept = real(out, mask)
    mean = sum(kept) / len(kept)
    close(mean, 0.0, 1e-9)
    close(sum((v - mean) ** 2 for v in kept) / len(kept), 1.0, 1e-7)  # population variance
    assert not out[~mask].any()
    close(losses.whiten(tensor([[1.0, 3.0]]), tensor([[True, True]])), [[-1.0, 1.0]])


def test_whiten_of_one_entry_or_equal_ones_is_zero():
    close(losses.whiten(tensor([[7.5, math.nan]]), tensor([[True, False]])), [[0.0, 0.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    close(losses.whiten(torch.full((2, 2), 3.0), mask), [[0.0, 0.0], [0.0, 0.0]])


def test_whiten_of_what_differs_by_rounding_only_is_zero():
    """The mean of 1000.3 in float32 may miss it by 6e-5: nothing to scale up to 1."""
    for shape in ((2, 2), (3, 7), (64, 128), (300, 100)):
        mask = torch.ones(shape, dtype=torch.bool)
        assert not losses.whiten(torch.full(shape, 1000.3), mask).any()
    last_bit = torch.nextafter(tensor(1000.3), tensor(2000.0)).item()
    mask = tensor([[True, True, True, False]])
    assert not losses.whiten(tensor([[1000.3, last_bit, 1000.3, math.nan]]), mask).any()
    # Real differences count, beside a large mean and where all are small.
    close(losses.whiten(tensor([[1000.25, 1000.5, 0.0, 0.0]]),
                        tensor([[True, True, False, False]])), [[-1.0, 1.0, 0.0, 0.0]])
    small = losses.whiten(tensor([[-1e-3, 1e-3]]), torch.ones(1, 2, dtype=torch.bool))
    close(small, [[-1.0, 1.0]], 0.01)  # 1e-8 beside a variance of 1e-6


def test_above_rounding_is_relative_to_the_size():
    """16 eps of 1000 in float32 are 0.0019, in float64 3.6e-12."""
    std, size = tensor([0.0018, 0.0021, 0.0, 1e-9]), tensor([1000.0, 1000.0, 0.0, 1e-9])
    assert losses.above_rounding(std, size).tolist() == [False, True, False, True]
    assert losses.above_rounding(std[:1].double(), size[:1].double()).item()


def test_explained_variance():
    returns = tensor([[1.0, 2.0, 3.0, math.nan]])
    mask = tensor([[True, True, True, False]])
    close(losses.explained_variance(returns + 5, returns, mask), 1.0)  # an offset is no variance
    close(losses.explained_variance(torch.full((1, 4), 9.0), returns, mask), 0.0)
    close(losses.explained_variance(-returns, returns, mask), -3.0)  # 1 - var(2 R) / var(R)
    assert losses.explained_variance(returns, torch.ones(1, 4), mask).isnan()


def test_explained_variance_of_returns_that_differ_by_rounding_only_is_nan():
    """Every answer is worth 0.5; returns = advantages + values are that but for the last bits,
    of which values foresee minus some billions."""
    generator = torch.Generator().manual_seed(0)
    for steps, size in ((8, 1.0), (32, 10.0), (128, 0.1)):
        values = size * torch.randn(64, steps, generator=generator)
        rewards = torch.zeros(64, steps)
        rewards[:, -1] = 0.5
        mask = torch.ones(64, steps, dtype=torch.bool)
        returns = losses.gae(rewards, values, mask, 1.0, 1.0).returns
        assert returns.unique().numel() > 1  # the rounding is there
        assert losses.explained_variance(values, returns, mask).isnan()
        # Rewards of 0.5 and 0.51 are something to explain.
        rewards[::2, -1] = 0.51
        returns = losses.gae(rewards, values, mask, 1.0, 1.0).returns
        assert losses.explained_variance(values, returns, mask).isfinite()


# Log-probs


def test_token_logp_is_the_log_of_the_softmax():
    logits = tensor([[[0.0, math.log(2), math.log(5)], [0.0, 0.0, 0.0]]])
    close(losses.token_logp(logits, tensor([[2, 0]])), [[math.log(5 / 8), math.log(1 / 3)]])
    half = losses.token_logp((logits * 30).bfloat16(), tensor([[2, 0]]))
    assert half.dtype == torch.float32


def test_token_logp_of_a_token_that_is_known_is_zero():
    close(losses.token_logp(tensor([[100.0, 0.0, 0.0]]), tensor([0])), [0.0])


def test_sequence_sum_and_no_length_mean():
    mask = tensor([[True, True, False], [True, False, False]])
    close(losses.sequence_sum(tensor([[-1.0, -2.0, -9.0], [-4.0, -9.0, -9.0]]), mask), [-3.0, -4.0])


def test_kl_estimates_of_a_five_way_categorical():
    """Under the policy's own probabilities, k1 and k3 have the exact KL as their mean."""
    p = tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    q = tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64)
    k1, k2, k3 = losses.kl_estimates(p.log(), q.log())
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    close((p * k1).sum(), exact, 1e-9)
    close((p * k3).sum(), exact, 1e-9)
    close(k1[0], math.log(5))
    close(k2[0], math.log(5) ** 2 / 2)
    close(k3[0], 0.2 - 1 + math.log(5))
    assert (k3 >= 0).all() and (k1 < 0).any()


def test_kl_divergence_of_a_five_way_categorical():
    """Logits with any constant added to them; nothing between equal distributions."""
    p, q = [0.5, 0.2, 0.15, 0.1, 0.05], [0.1, 0.3, 0.2, 0.15, 0.25]
    exact = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    logits = tensor([p, p, q], dtype=torch.float64).log() + tensor([[3.0], [0.0], [0.0]])
    reference = tensor([q, p, q], dtype=torch.float64).log()
    close(losses.kl_divergence(logits, reference), [exact, 0.0, 0.0], 1e-12)


def test_kl_divergence_is_never_negative():
    """Of distributions that nearly agree, rounding alone makes half of the sums negative."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 5, generator=generator)
    near = logits + 1e-4 * torch.randn(2000, 5, generator=generator)
    assert (losses.kl_divergence(logits, near) >= 0).all()


@QUICK
@given(NATS, NATS)
def test_k3_is_never_negative(logp, reference):
    assert losses.kl_estimates(tensor(logp), tensor(reference)).k3 >= 0


# Supervised


def test_sft_loss_divides_by_the_global_count():
    logp, *_, mask = ragged(2)
    whole = losses.sft_loss(logp, mask, 9)
    close(whole, -sum(real(logp, mask)) / 9, 1e-12)
    parts = [losses.sft_loss(logp[i : i + 1], mask[i : i + 1], 9) for i in range(4)]
    close(sum(parts), whole, 1e-12)


def test_sft_loss_without_targets_is_zero_with_gradient_zero():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    logp = losses.token_logp(logits, torch.zeros(2, 3, dtype=torch.long))
    loss = losses.sft_loss(logp, torch.zeros(2, 3, dtype=torch.bool), 0)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


# Preferences


def reference_dpo(pc, pr, rc, rr, beta, smoothing=0.0, ipo=False):
    """Rafailov et al. 2023, eq. 7, as their reference code has it, on plain floats."""
    pi_logratios, ref_logratios = pc - pr, rc - rr
    h = pi_logratios - ref_logratios
    if ipo:
        return (h - 1 / (2 * beta)) ** 2
    return -log_sigmoid(beta * h) * (1 - smoothing) - log_sigmoid(-beta * h) * smoothing


@QUICK
@given(st.lists(st.tuples(NATS, NATS, NATS, NATS), min_size=1, max_size=4),
       st.sampled_from([0.05, 0.5, 2.0]), st.sampled_from([0.0, 0.1, 0.5]))
def test_dpo_equals_the_papers_formula(pairs, beta, smoothing):
    columns = [tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]
    plain = [reference_dpo(*pair, beta, smoothing) for pair in pairs]
    ipo = [reference_dpo(*pair, beta, ipo=True) for pair in pairs]
    out = losses.dpo_loss(*columns, beta, smoothing)
    close(out.loss, sum(plain) / len(pairs), 1e-9)
    close(losses.dpo_loss(*columns, beta, loss_type="ipo").loss, sum(ipo) / len(pairs), 1e-9)
    rewards = [(beta * (pc - rc), beta * (pr - rr)) for pc, pr, rc, rr in pairs]
    close(out.chosen_reward, [chosen for chosen, _ in rewards], 1e-9)
    close(out.rejected_reward, [rejected for _, rejected in rewards], 1e-9)


def test_dpo_worked_by_hand():
    """beta h = 0.1 * ((-3 - -5) - (-9 - -4)) = 0.1 * (2 + 5) = 0.7; -logsigmoid(0.7) = 0.403186."""
    sums = [tensor([x]) for x in (-3.0, -9.0, -5.0, -4.0)]
    out = losses.dpo_loss(*sums, beta=0.1)
    close(out.loss, 0.4031860, 1e-6)
    close(out.chosen_reward, [0.2])
    close(out.rejected_reward, [-0.5])
    close(losses.dpo_loss(*sums, 0.1, label_smoothing=0.25).loss, 0.4031860 + 0.25 * 0.7)
    close(losses.dpo_loss(*sums, 0.1, loss_type="ipo").loss, 4.0)  # (7 - 5)^2


def test_dpo_at_step_0_is_ln_2_with_a_gradient():
    policy = [tensor([-3.0, -7.0], requires_grad=True), tensor([-6.0, -2.0], requires_grad=True)]
    out = losses.dpo_loss(*policy, *(x.detach().clone() for x in policy), beta=0.2)
    close(out.loss.detach(), LN2)
    close(out.accuracy, 0.5)
    close(torch.stack(out[2:]), [[0.0, 0.0], [0.0, 0.0]])
    out.loss.backward()
    close(policy[0].grad, [-0.05, -0.05])  # -beta / 2 per pair, over two pairs
    close(policy[1].grad, [0.05, 0.05])


def test_dpo_gradient_of_the_smoothed_loss():
    """d loss / d h = -beta ((1 - e) sigmoid(-beta h) - e sigmoid(beta h))."""
    chosen = tensor([math.log(3.0)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    losses.dpo_loss(chosen, zero, zero, zero, 1.0, label_smoothing=0.1).loss.backward()
    close(chosen.grad, [-(0.9 * 0.25 - 0.1 * 0.75)], 1e-12)


def test_ipo_has_its_minimum_at_one_over_two_tau():
    zero = torch.zeros(1)
    chosen = tensor([2.5], requires_grad=True)  # tau = 0.2
    loss = losses.dpo_loss(chosen, zero, zero, zero, 0.2, loss_type="ipo").loss
    loss.backward()
    assert loss.item() == 0 and chosen.grad.item() == 0


def test_dpo_is_finite_far_out():
    for far in (1e4, -1e4):
        chosen = tensor([far], requires_grad=True)
        zero = torch.zeros(1)
        loss = losses.dpo_loss(chosen, zero, zero, zero, 1.0, label_smoothing=0.1).loss
        loss.backward()
        close(loss.detach(), 1e3 if far > 0 else 9e3, 1e-2)
        close(chosen.grad, [0.1 if far > 0 else -0.9])


def test_dpo_accuracy_counts_ties_half():
    zero = torch.zeros(4)
    out = losses.dpo_loss(tensor([1.0, 0.0, -1.0, 2.0]), zero, zero, zero, 0.1)
    close(out.accuracy, 0.625)


@pytest.mark.parametrize("wrong", [
    {"loss_type": "slic"}, {"label_smoothing": 0.6}, {"label_smoothing": -0.1},
    {"label_smoothing": math.nan}, {"loss_type": "ipo", "label_smoothing": 0.1},
    {"loss_type": "hinge", "label_smoothing": 0.1},
])
def test_dpo_refuses(wrong):
    with pytest.raises(ValueError, match="expected"):
        losses.dpo_loss(*[torch.zeros(2)] * 4, 0.1, **wrong)


def test_pairs_of_different_shape_are_refused():
    column = torch.zeros(2, 1)
    with pytest.raises(AssertionError, match="shapes differ"):
        losses.dpo_loss(torch.zeros(2), column, torch.zeros(2), torch.zeros(2), 0.1)
    with pytest.raises(AssertionError):
        losses.pairwise_reward_loss(torch.zeros(2), column)


def test_reward_loss_worked_by_hand():
    close(losses.pairwise_reward_loss(tensor([1.0]), tensor([1.0])).loss, LN2)
    apart = losses.pairwise_reward_loss(tensor([math.log(3.0)]), tensor([0.0]))
    close(apart.loss, 0.287682)  # ln(4/3)
    out = losses.pairwise_reward_loss(tensor([1.0, 0.0, 5.0, 8.0]), tensor([0.0, 0.0, 6.0, 7.0]))
    close(out.accuracy, 0.625)
    close(out.loss, (2 * math.log1p(math.exp(-1)) + LN2 + math.log1p(math.exp(1))) / 4)
    close(losses.pairwise_reward_loss(tensor([-1e4]), tensor([0.0])).loss, 1e4)


@QUICK
@given(NATS, NATS, st.sampled_from([-64.0, 0.25, 1000.0]))
def test_reward_loss_ignores_a_constant_shift(chosen, rejected, shift):
    first = losses.pairwise_reward_loss(tensor([chosen]).double(), tensor([rejected]).double())
    second = losses.pairwise_reward_loss(
        tensor([chosen]).double() + shift, tensor([rejected]).double() + shift
    )
    close(first.loss, second.loss, 1e-9)


def test_parts_divided_by_the_global_count_add_up():
    """8, 4 + 4 and 1 x 8 rows: the same loss and shares, for every loss with a `count`."""
    *values, mask = ragged(3, (3, 1, 5, 0, 2, 2, 1, 4))
    a, b, c, d = values
    rows = a[:, 0]
    tokens = int(mask.sum())

    def results(part: slice, whole: bool) -> list[Tensor]:
        pairs, real_tokens = (None, None) if whole else (8, tokens)
        x = [v[part] for v in values]
        policy = losses.ppo_policy_loss(*x[:3], mask[part], 0.2, count=real_tokens)
        dpo = losses.dpo_loss(*(v[:, 0] for v in x), 0.3, count=pairs)
        reward = losses.pairwise_reward_loss(x[0][:, 0], x[1][:, 0], count=pairs)
        value = losses.ppo_value_loss(x[0], x[1], x[3], mask[part], 0.2, count=real_tokens)
        reinforce = losses.reinforce_loss(
            x[0], rows[part], mask[part], baseline=rows.mean(), count=pairs
        )
        return [*policy, *dpo[:2], *reward, *value, reinforce]

    whole = results(slice(None), True)
    for size in (8, 4, 1):
        parts = [results(slice(i, i + size), False) for i in range(0, 8, size)]
        for one, many in zip(whole, zip(*parts, strict=True), strict=True):
            close(sum(many), one, 1e-12)


# Reinforcement


def test_rewards_put_the_score_once_on_the_last_token():
    score = tensor([2.0, -1.0, 5.0])
    mask = tensor([[True, True, True], [True, False, False], [False, False, False]])
    logp, reference = torch.full((3, 3), -1.0), torch.full((3, 3), -1.5)
    out = losses.kl_penalised_rewards(score, logp, reference, mask, 0.1)
    close(out, [[-0.05, -0.05, 1.95], [-1.05, 0.0, 0.0], [0.0, 0.0, 0.0]])
    bare = losses.kl_penalised_rewards(score, logp, reference, mask, 0.0)
    assert (bare != 0).sum(-1).tolist() == [1, 1, 0]


def test_rewards_find_the_last_token_behind_a_gap():
    mask = tensor([[False, True, False, True, False]])
    zero = torch.zeros(1, 5)
    out = losses.kl_penalised_rewards(tensor([2.0]), zero, zero, mask, 0.1)
    close(out, [[0.0, 0.0, 0.0, 2.0, 0.0]])


@QUICK
@given(st.integers(0, 10**6))
def test_rewards_sum_to_score_less_the_kl(seed):
    logp, reference, _, _, mask = ragged(seed, (3, 1, 5, 2))
    score = tensor([1.0, -2.0, 0.5, 3.0]).double()
    sums = losses.kl_penalised_rewards(score, logp, reference, mask, 0.3).sum(-1)
    for b in range(4):
        kl = sum(real(logp[b : b + 1], mask[b : b + 1]))
        kl -= sum(real(reference[b : b + 1], mask[b : b + 1]))
        close(sums[b], score[b] - 0.3 * kl, 1e-9)


def test_an_answer_without_stop_token_scores_lower_by_the_penalty():
    logp, reference, _, _, mask = ragged(5, (3, 2))
    score = torch.ones(2).double()
    stopped = losses.kl_penalised_rewards(score, logp, reference, mask, 0.1)
    out = losses.kl_penalised_rewards(
        score, logp, reference, mask, 0.1, tensor([True, False]), no_stop_penalty=0.75
    )
    expected = torch.zeros_like(out)
    expected[1, 1] = 0.75
    close(stopped - out, expected, 1e-12)


def test_adaptive_kl_worked_by_hand():
    assert losses.adaptive_kl_coefficient(0.2, 6.0, 6.0, 64, 128) == 0.2
    close(losses.adaptive_kl_coefficient(0.2, 12.0, 6.0, 128, 128), 0.24)
    close(losses.adaptive_kl_coefficient(0.2, 0.0, 6.0, 128, 128), 0.16)
    close(losses.adaptive_kl_coefficient(0.2, 6.6, 6.0, 64, 128), 0.21)


def test_adaptive_kl_moves_by_a_fifth_at_most():
    """32 episodes at a horizon of 5 would have taken the coefficient below 0."""
    close(losses.adaptive_kl_coefficient(0.05, 0.0, 1.0, 32, 5), 0.04)
    close(losses.adaptive_kl_coefficient(0.05, 9.0, 1.0, 10**6, 5), 0.06)
    assert losses.adaptive_kl_coefficient(0.05, 9.0, 1.0, 0, 5) == 0.05


def test_gae_worked_by_hand():
    """V = 0, gamma = 1, lambda = 1/2 and a reward of 1 at the last of 3 steps: 1/4, 1/2, 1."""
    rewards, mask = tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    close(losses.gae(rewards, torch.zeros(1, 3), mask, 1.0, 0.5).advantages, [[0.25, 0.5, 1.0]])
    out = losses.gae(rewards, tensor([[0.5, 0.25, 2.0]]), mask, 0.5, 0.0)
    close(out.advantages, [[-0.375, 0.75, -1.0]])  # 0.125 - 0.5; 1 - 0.25; 1 - 2
    close(out.returns, [[0.125, 1.0, 1.0]])


@QUICK
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_the_double_sum(seed, gamma, lam):
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, each sum written out, each row alone."""
    rewards, values, _, _, mask = ragged(seed)
    out = losses.gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(mask.sum(-1).tolist()):
        r, v = rewards[b, :length].tolist(), [*values[b, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
            close(out.advantages[b, t], expected, 1e-9)
            close(out.returns[b, t], expected + v[t], 1e-9)
    assert not out.advantages[~mask].any() and not out.returns[~mask].any()


def test_gae_at_lambda_1_is_return_less_value():
    rewards, values, _, _, mask = ragged(7)
    out = losses.gae(rewards, values, mask, 1.0, 1.0)
    for b in range(len(mask)):
        for t in range(int(mask[b].sum())):
            to_come = sum(real(rewards[b : b + 1, t:], mask[b : b + 1, t:]))
            close(out.returns[b, t], to_come, 1e-9)
            close(out.advantages[b, t], to_come - values[b, t].item(), 1e-9)


def test_gae_skips_gaps_wherever_they_stand():
    rewards, values = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(1)).double()
    mask = tensor([[False, True, True, False, True, False]])
    out = losses.gae(rewards, values, mask, 0.9, 0.7)
    dense = losses.gae(rewards[mask][None], values[mask][None], mask[mask][None], 0.9, 0.7)
    close(out.advantages[mask], dense.advantages[0], 1e-12)
    close(out.returns[mask], dense.returns[0], 1e-12)


def test_targets_carry_no_gradient():
    """Advantages, returns and rewards are constants: a critic must not learn by moving its own
    target."""
    x = [torch.randn(2, 3, requires_grad=True) for _ in range(4)]
    mask = torch.ones(2, 3, dtype=torch.bool)
    out = losses.gae(x[0], x[1], mask, 0.9, 0.9)
    assert not out.advantages.requires_grad and not out.returns.requires_grad
    losses.ppo_value_loss(x[0], x[1], x[2], mask, 0.2).loss.backward()
    losses.ppo_policy_loss(x[0], x[1], x[2], mask, 0.2).loss.backward()
    losses.reinforce_loss(x[0], x[3][:, 0], mask).backward()
    assert x[0].grad.any() and all(other.grad is None for other in x[1:])


def test_rloo_leaves_one_out():
    close(losses.rloo_advantages(tensor([[1.0, 2.0, 6.0]])), [[-3.0, -1.5, 4.5]])
    close(losses.rloo_advantages(tensor([[1.0, 0.0], [4.0, 4.0]])), [[1.0, -1.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="leave-one-out"):
        losses.rloo_advantages(torch.ones(3, 1))


def test_reinforce_worked_by_hand():
    """Rewards 3 and 1, baseline 2: -(1 * (-1 - 2) + -1 * -4) / 2 = -1/2."""
    logp = tensor([[-1.0, -2.0], [-4.0, 9.0]], requires_grad=True)
    mask = tensor([[True, True], [True, False]])
    loss = losses.reinforce_loss(logp, tensor([3.0, 1.0]), mask)
    loss.backward()
    close(loss.detach(), -0.5)
    close(logp.grad, [[-0.5, -0.5], [0.5, 0.0]])
    close(losses.reinforce_loss(logp.detach(), tensor([3.0, 1.0]), mask, baseline=0.0), 6.5)
    equal = losses.reinforce_loss(logp.detach(), tensor([7.0, 7.0]), mask)
    close(equal, 0.0)  # nothing to prefer, nothing to learn


def test_policy_loss_clips_on_one_side():
    """clip 0.2. r = e: A = 1 -> -1.2, A = -1 -> e. r = 1/e: A = 1 -> -1/e, A = -1 -> 0.8."""
    mask = tensor([[True]])
    e = math.e
    table = [(1.0, 1.0, -1.2, 0.0), (1.0, -1.0, e, e), (-1.0, 1.0, -1 / e, -1 / e),
             (-1.0, -1.0, 0.8, 0.0)]
    for log_ratio, advantage, expected, slope in table:
        logp = tensor([[log_ratio - 3]], dtype=torch.float64, requires_grad=True)
        old, gain = tensor([[-3.0]]).double(), tensor([[advantage]]).double()
        out = losses.ppo_policy_loss(logp, old, gain, mask, 0.2)
        out.loss.backward()
        close(out.loss.detach(), expected, 1e-9)
        close(logp.grad, [[slope]], 1e-9)
        close(out.clip_share, 1.0)
        close(out.approx_kl, math.exp(log_ratio) - 1 - log_ratio, 1e-9)


def test_policy_loss_at_ratio_1_is_the_policy_gradient():
    logp, _, advantages, _, mask = ragged(8)
    logp = logp.requires_grad_()
    out = losses.ppo_policy_loss(logp, logp.detach(), advantages, mask, 0.2)
    out.loss.backward()
    close(out.loss.detach(), -sum(real(advantages, mask)) / 9, 1e-12)
    close(logp.grad, torch.where(mask, -advantages / 9, 0.0), 1e-12)
    assert out.clip_share == 0 and out.approx_kl == 0


@QUICK
@given(st.integers(0, 10**6))
def test_ppo_losses_equal_plain_loops(seed):
    a, b, c, d, mask = ragged(seed)
    eps = random.Random(seed).choice([0.1, 0.2, 0.5])
    policy, share, kl, value = [], [], [], []
    for new, old, gain, target in zip(*(real(x, mask) for x in (a, b, c, d)), strict=True):
        r = math.exp(new - old)
        policy.append(-min(r * gain, min(max(r, 1 - eps), 1 + eps) * gain))
        share.append(abs(r - 1) > eps)
        kl.append(r - 1 - math.log(r))
        near = min(max(new, old - eps), old + eps)
        value.append(0.5 * max((new - target) ** 2, (near - target) ** 2))
    out = losses.ppo_policy_loss(a, b, c, mask, eps)
    close(torch.stack(out), [sum(x) / 9 for x in (policy, share, kl)], 1e-9)
    close(losses.ppo_value_loss(a, b, d, mask, eps).loss, sum(value) / 9, 1e-9)


def test_value_loss_is_half_the_square_until_clipped():
    mask = tensor([[True, True, False]])
    values, returns = tensor([[1.0, 2.0, 9.0]]), tensor([[3.0, 1.0, 0.0]])
    close(losses.ppo_value_loss(values, values, returns, mask, 0.2).loss, 1.25)  # (4 + 1) / 2 / 2
    # From 0 to 1 is clipped to 0.2, which is farther from 3; from 2.5 to 2 is clipped to 2.3.
    old = tensor([[0.0, 2.5, 0.0]])
    close(losses.ppo_value_loss(values, old, returns, mask, 0.2).loss, (2.8**2 + 1.3**2) / 4)


def test_gradients_agree_with_finite_differences():
    a, b, c, d, mask = ragged(11)
    a.requires_grad_()
    rows = torch.linspace(-1, 1, 4, dtype=torch.float64)
    for function in (
        lambda x: losses.ppo_policy_loss(x, b, c, mask, 0.2).loss,
        lambda x: losses.ppo_value_loss(x, b, d, mask, 0.2).loss,
        lambda x: losses.reinforce_loss(x, rows, mask),
        lambda x: losses.whiten(x, mask),
        lambda x: losses.dpo_loss(x[:, 0], x[:, 1], b[:, 0], b[:, 1], 0.5, 0.1).loss,
        lambda x: losses.dpo_loss(x[:, 0], x[:, 1], b[:, 0], b[:, 1], 0.5, loss_type="ipo").loss,
        lambda x: losses.pairwise_reward_loss(x[:, 0], x[:, 1]).loss,
        lambda x: losses.token_logp(x, tensor([0, 2, 1, 5])),
    ):
        assert torch.autograd.gradcheck(function, (a,))


def test_the_penalty_in_the_reward_takes_each_estimator():
    """One token ln 2 above the reference: k1 = ln 2, k2 = ln^2 2 / 2, k3 = 1/2 - 1 + ln 2. Where
    the reference is e^100 times as likely, k3 counts 60 nats and stays finite."""
    mask, score = tensor([[True]]), tensor([3.0], dtype=torch.float64)
    logp = tensor([[-1.0]], dtype=torch.float64)
    half = math.log(2)
    for estimator, expected in (("k1", half), ("k2", half**2 / 2), ("k3", half - 0.5)):
        found = losses.kl_penalised_rewards(
            score, logp, logp - half, mask, 0.1, estimator=estimator
        )
        close(found, [[3 - 0.1 * expected]])
    far = tensor([[-101.0]])
    found = losses.kl_penalised_rewards(tensor([0.0]), far, far + 100, mask, 1.0, estimator="k3")
    assert found.isfinite().all()
    with pytest.raises(ValueError, match="'k1', 'k2' or 'k3'"):
        losses.kl_penalised_rewards(score, logp, logp, mask, 0.1, estimator="k4")
