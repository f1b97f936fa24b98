"""The tables of src/rl/algorithm_table.py: every row by hand; PPO, RLOO and REINFORCE against the
functions of src/losses.py that they stand for."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, tensor

from src import losses
from src.rl import algorithms
from src.rl.algorithm_table import ALGORITHMS, SELECTIONS, Algorithm
from tests.test_losses import PADDING, close, ragged

ROWS = pytest.mark.parametrize("name", ALGORITHMS)

# One question, two answers of 2 and 4 tokens with rewards 1 and 0 at their ends.
MASK = torch.arange(4) < tensor([[2], [4]])
REWARDS = tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
LENGTH = 8  # of the row that divides by a constant, where it leaves it open


def row(name: str, **changes):
    """A row as a run would use it."""
    algorithm = ALGORITHMS[name]._replace(**changes)
    return algorithm._replace(length=algorithm.length or LENGTH)


def gradient_and_loss(name: str, log_ratio: float, changes: dict | None = None, **more):
    """The gradient at each token's log-prob, all having moved by log_ratio, and what was returned.
    """
    algorithm = row(name, **(changes or {}))
    advantages, _ = algorithms.advantages_of(
        algorithm, REWARDS, torch.zeros_like(REWARDS), MASK, num_samples=2
    )
    old = torch.full((2, 4), -1.0, dtype=torch.float64)
    logp = (old + log_ratio).requires_grad_()
    out = algorithms.policy_loss(
        algorithm, logp, old, advantages, MASK, reference_logp=logp.detach(), **more
    )
    out.loss.backward()
    assert not logp.grad[~MASK].any()
    return logp.grad, out


def test_first_gradients_of_every_row_by_hand():
    """At ratio 1 the gradient is -A times the weight of a token. The advantages of rewards 1 and 0
    are 1 and -1, without standard deviation half that; GAE's, with values of 0, are 1 at two tokens
    and 0 at four, whitened sqrt 2 and -sqrt 1/2. The weights are 1/6 (tokens), 1/4 and 1/8
    (answers), 1/16 (a constant of 8) and 1/2 (sums)."""
    expected = {
        "ppo": (-math.sqrt(2) / 6, math.sqrt(0.5) / 6),
        "rloo": (-1 / 6, 1 / 6),
        "reinforce": (-0.5 / 2, 0.5 / 2),
        "grpo": (-1 / 4, 1 / 8),
        "dr_grpo": (-0.5 / 16, 0.5 / 16),
        "dapo": (-1 / 6, 1 / 6),
        "gspo": (-1 / 4, 1 / 8),
        "cispo": (-1 / 6, 1 / 6),
    }
    assert expected.keys() == ALGORITHMS.keys()
    for name, (short, long) in expected.items():
        found, out = gradient_and_loss(name, 0.0)
        close(found, torch.where(MASK, tensor([[short], [long]], dtype=torch.float64), 0.0), 1e-7)
        assert out.clip_share == 0 and out.approx_kl == 0 and out.kl == 0


def test_without_a_clip_any_mean_can_be_taken():
    """-A times the weight of a token, wherever the policy has moved: 1/6 (tokens), 1/4 and 1/8
    (answers). GAE's advantages differ from token to token."""
    weights = {"tokens": (-0.5 / 6, 0.5 / 6), "answers": (-0.5 / 4, 0.5 / 8)}
    for mean, (short, long) in weights.items():
        found, _ = gradient_and_loss("dr_grpo", 1.0, {"clip": "none", "mean": mean})
        close(found, torch.where(MASK, tensor([[short], [long]], dtype=torch.float64), 0.0), 1e-7)
    found, _ = gradient_and_loss("ppo", 1.0, {"clip": "none"})
    close(found[0, :2], tensor([-math.sqrt(2) / 6] * 2, dtype=torch.float64))


def test_answers_are_compared_with_those_of_their_question():
    """Question after question: 0, 1, 5 and 4, 4, 4, the rewards spread over tokens."""
    rewards = tensor([[0.0, 0.0], [0.5, 0.5], [9.0, -4.0], [4.0, 0.0], [0.0, 4.0], [2.0, 2.0]])
    mask = torch.ones(6, 2, dtype=torch.bool)
    for name, expected in (
        ("dr_grpo", [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]),
        ("rloo", [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]),
        ("reinforce", [-3.0, -2.0, 2.0, 1.0, 1.0, 1.0]),
    ):
        advantages, returns = algorithms.advantages_of(row(name), rewards, rewards, mask, 3)
        close(advantages, torch.tensor(expected)[:, None].expand(6, 2))
        assert not returns.any()


def test_who_still_pushes_a_good_answer_a_quarter_more_probable():
    """Ratio 1.25 is outside of 0.8 to 1.2 and of GSPO's range, inside DAPO's up to 1.28; CISPO
    clips at 5 and would go on even then, REINFORCE does not look. Bad answers are pushed back by
    all, 1.25 times as hard, or by GSPO, whose ratio is the same at each token."""
    pushed = {name: gradient_and_loss(name, math.log(1.25))[0] for name in ALGORITHMS}
    for name, gradient in pushed.items():
        assert bool(gradient[0].any()) == (name in ("reinforce", "dapo", "cispo")), name
        assert (gradient[1] > 0).all(), name
    close(pushed["dapo"][0, 0], -1.25 / 6)
    close(pushed["cispo"][0, 0], -1.25 / 6)
    close(pushed["reinforce"][0, 0], -0.25)
    close(pushed["gspo"][1, 0], 1.25 / 8)
    far, out = gradient_and_loss("cispo", math.log(8.0))
    close(far[0, 0], -5 / 6)
    assert out.clip_share == 1


def parts_of_a_batch(seed: int) -> tuple[Tensor, ...]:
    """Six questions with two answers each, in float32, as src/rl/rollout.py has them."""
    *values, mask = ragged(seed, (3, 1, 5, 2, 2, 2, 1, 4, 6, 1, 3, 2))
    return *(x.float() for x in values), mask


@pytest.mark.parametrize("seed", range(20))
def test_ppo_rloo_and_reinforce_equal_their_own_losses(seed):
    """The first two to the last bit; REINFORCE adds its tokens up in another order."""
    logp, old, rewards, values, mask = parts_of_a_batch(seed)
    episode, zero = losses.sequence_sum(rewards, mask), torch.zeros_like(rewards)
    ppo = losses.gae(rewards, values, mask, 0.9, 0.8)
    before = {
        "ppo": (losses.whiten(ppo.advantages, mask), ppo.returns),
        "rloo": (losses.rloo_advantages(episode.view(-1, 2)).flatten()[:, None], zero),
        "reinforce": ((episode - episode.mean())[:, None], zero),
    }
    for name, (advantages, returns) in before.items():
        found = algorithms.advantages_of(ALGORITHMS[name], rewards, values, mask, 2, 0.9, 0.8)
        assert torch.equal(found[0], advantages.expand_as(mask))
        assert torch.equal(found[1], returns)
        for tokens, answers in ((None, None), (100, 40)):
            new, plain = logp.clone().requires_grad_(), logp.clone().requires_grad_()
            out = algorithms.policy_loss(
                ALGORITHMS[name], new, old, found[0], mask, tokens=tokens, answers=answers
            )
            policy = losses.ppo_policy_loss(plain, old, found[0], mask, 0.2, count=tokens)
            loss = policy.loss
            if name == "reinforce":
                loss = losses.reinforce_loss(
                    plain, found[0][:, 0], mask, baseline=0.0, count=answers
                )
            out.loss.backward()
            loss.backward()
            if name == "reinforce":
                close(out.loss, loss, 1e-6)
                close(new.grad, plain.grad, 1e-6)
            else:
                assert torch.equal(out.loss, loss) and torch.equal(new.grad, plain.grad)
            assert torch.equal(out.policy_loss, out.loss.detach())
            assert torch.equal(out.clip_share, policy.clip_share)
            assert torch.equal(out.approx_kl, policy.approx_kl)


@ROWS
def test_parts_of_a_batch_add_up(name):
    logp, old, rewards, values, mask = (
        x.double() if x.is_floating_point() else x for x in parts_of_a_batch(3)
    )
    algorithm = row(name)
    advantages, _ = algorithms.advantages_of(algorithm, rewards, values, mask, 2)
    counts = {"tokens": int(mask.sum()), "answers": len(mask)}

    def fields(part: slice, **counts):
        return torch.stack(algorithms.policy_loss(
            algorithm, logp[part], old[part], advantages[part], mask[part],
            reference_logp=values[part], kl_coef=0.3, **counts,
        ))

    whole = fields(slice(None))
    for size in (12, 5, 1):
        parts = [fields(slice(i, i + size), **counts) for i in range(0, 12, size)]
        close(sum(parts), whole, 1e-12)


@ROWS
def test_what_stands_in_the_padding_never_matters(name):
    *values, mask = ragged(5, (3, 1, 5, 2))
    algorithm = row(name)

    def run(logp, old, rewards, critic):
        advantages, returns = algorithms.advantages_of(algorithm, rewards, critic, mask, 2)
        out = algorithms.policy_loss(
            algorithm, logp, old, advantages, mask, reference_logp=critic, kl_coef=0.1
        )
        return torch.stack(out), torch.autograd.grad(out.loss, logp)[0], returns[mask]

    expected = run(values[0].requires_grad_(), *values[1:])
    for junk in PADDING:
        dirty = [torch.where(mask, x.detach(), junk) for x in values]
        for found, clean in zip(run(dirty[0].requires_grad_(), *dirty[1:]), expected, strict=True):
            assert torch.equal(found, clean)


def test_without_a_clip_advantages_in_the_padding_never_matter():
    """Two answers, of two tokens and of none: -A / 2 at the two tokens, 0 elsewhere."""
    logp, *_, mask = ragged(7, (2, 0))
    logp.requires_grad_()
    for junk in PADDING:
        rows = tensor([3.0, junk], dtype=torch.float64)
        for advantages in (rows, torch.where(mask, rows[:, None], junk)):
            out = algorithms.policy_loss(
                row("reinforce"), logp, logp.detach(), advantages, mask
            )
            (gradient,) = torch.autograd.grad(out.loss, logp)
            close(gradient, torch.where(mask, -1.5, 0.0), 1e-12)


def test_the_kl_goes_where_the_row_says():
    for name, algorithm in ALGORITHMS.items():
        rewarded = name in ("ppo", "rloo", "reinforce")
        assert algorithms.kl_coefs(algorithm, 0.3) == ((0.3, 0.0) if rewarded else (0.0, 0.3))
    assert algorithms.kl_coefs(ALGORITHMS["grpo"]) == (0.0, 0.04)
    assert algorithms.kl_coefs(ALGORITHMS["ppo"]) == (0.05, 0.0)
    assert algorithms.kl_coefs(ALGORITHMS["dapo"]) == (0.0, 0.0)


def test_kl_in_the_loss_by_hand():
    """One token, ln 2 above the reference: k3 = 1/2 - 1 + ln 2, its gradient 1 - 1/2. In the reward
    it is none of the loss's business."""
    mask, zero = tensor([[True]]), torch.zeros(1, 1, dtype=torch.float64)
    logp = tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    reference = tensor([[-1.0 - math.log(2)]], dtype=torch.float64)
    out = algorithms.policy_loss(
        row("grpo"), logp, logp.detach(), zero, mask, reference_logp=reference, kl_coef=0.1
    )
    out.loss.backward()
    close(out.kl, math.log(2) - 0.5)
    close(out.loss.detach(), 0.1 * (math.log(2) - 0.5))
    close(logp.grad, [[0.05]])
    assert out.policy_loss == 0 and not any(field.requires_grad for field in out[1:])
    for estimator, slope in (("k1", 0.1), ("k2", 0.1 * math.log(2))):
        changed = row("grpo", kl_estimator=estimator)
        loss = algorithms.policy_loss(
            changed, logp, logp.detach(), zero, mask, reference_logp=reference, kl_coef=0.1
        ).loss
        close(torch.autograd.grad(loss, logp)[0], [[slope]])
    out = algorithms.policy_loss(
        row("ppo"), logp, logp.detach(), zero, mask, reference_logp=reference, kl_coef=0.1
    )
    assert out.kl == 0 and out.loss == 0
    with pytest.raises(ValueError, match="reference_logp is missing"):
        algorithms.policy_loss(row("grpo"), logp, logp.detach(), zero, mask)


def test_rows_hold_what_their_fields_allow():
    hints = get_type_hints(Algorithm)
    for algorithm in ALGORITHMS.values():
        for field, value in algorithm._asdict().items():
            allowed = get_args(hints[field])
            if field not in ("clip_low", "clip_high", "kl_coef", "length"):
                assert value in allowed
        assert (algorithm.clip == "both") <= (algorithm.clip_low == algorithm.clip_high)
        assert (algorithm.clip == "higher") <= (algorithm.clip_low < algorithm.clip_high)
    assert {*get_args(hints["clip"])} == {a.clip for a in ALGORITHMS.values()}
    assert {*get_args(hints["advantage"])} == {"gae", *algorithms.ADVANTAGES}


def test_what_follows_from_a_row():
    assert [name for name, a in ALGORITHMS.items() if a.has_critic] == ["ppo"]
    assert [name for name, a in ALGORITHMS.items() if a.on_policy] == ["reinforce"]
    alone = [name for name, a in ALGORITHMS.items() if a.fewest_samples == 1]
    assert alone == ["ppo", "reinforce"]


def test_a_choice_can_be_changed_alone():
    """GRPO with DAPO's mean and range is DAPO; with PPO's critic it has PPO's advantages."""
    *values, mask = ragged(6, (3, 1, 5, 2))
    changed = ALGORITHMS["grpo"]._replace(mean="tokens", kl_coef=0.0, clip_high=0.28)
    advantages, _ = algorithms.advantages_of(changed, *values[2:], mask, 2)
    a, b = (torch.stack(algorithms.policy_loss(x, *values[:2], advantages, mask))
            for x in (changed, ALGORITHMS["dapo"]))
    assert torch.equal(a, b)
    with_critic = ALGORITHMS["grpo"]._replace(advantage="gae")
    a, b = (algorithms.advantages_of(x, *values[2:], mask, 2, 0.9, 0.8)[0]
            for x in (with_critic, ALGORITHMS["ppo"]))
    assert torch.equal(a, b)


@ROWS
def test_an_empty_batch_has_loss_0_and_gradient_0(name):
    logp = torch.randn(2, 3, requires_grad=True)
    mask, zero = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3)
    out = algorithms.policy_loss(
        row(name), logp, zero, zero, mask, reference_logp=zero, kl_coef=0.1, tokens=0, answers=0
    )
    out.loss.backward()
    assert out.loss == 0 and not logp.grad.any()


def test_chosen_answers_by_hand():
    rewards = tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 4.0], [0.0, -1.0, 0.0]])
    assert algorithms.chosen_answers(SELECTIONS["raft"], rewards) == [[1], [0], [0]]
    assert algorithms.chosen_answers(SELECTIONS["online_dpo"], rewards) == [[1, 0], [], [0, 1]]


def test_losses_of_chosen_answers_by_hand():
    """Answers of 2 and 4 tokens at -1 each: the mean is 1 nat a token. As a pair, the reference at
    -1.5 and -1.25: h = 1 - 1 = 0 nats where all are counted, and 1 with the last one at -2."""
    logp = torch.full((2, 4), -1.0, dtype=torch.float64)
    reference = tensor([[-1.5] * 4, [-1.25] * 4], dtype=torch.float64)
    reference = torch.where(MASK, reference, 7.0)
    out = algorithms.selection_loss(SELECTIONS["raft"], logp, logp, MASK, reference_logp=reference)
    close(out.loss, 1.0)
    moved = logp.clone().requires_grad_()
    loss = algorithms.selection_loss(
        SELECTIONS["raft"], moved, logp, MASK, reference_logp=reference, tokens=12
    ).loss
    loss.backward()
    close(moved.grad, torch.where(MASK, tensor(-1 / 12, dtype=torch.float64), 0.0))
    worse = torch.where(MASK, logp, 0.0)
    worse[1, 3] = -2.0
    for policy, h in ((logp, 0.0), (worse, 1.0)):
        out = algorithms.selection_loss(
            SELECTIONS["online_dpo"], policy, logp, MASK, reference_logp=reference, beta=0.5,
            answers=4,
        )
        close(out.loss, math.log(1 + math.exp(-0.5 * h)) / 2)
    # The moved token: r - 1 - log r of r = 1/e, one of six.
    close(out.approx_kl, math.exp(-1) / 6)
    assert out.clip_share == 0 and out.kl == 0
