"""PPO beyond its formulas: rollouts, where rewards fall, minibatches, the critic, and learning."""

import argparse
import copy

import pytest
import torch
from torch import nn

from src.inference.logprobs import build_tree_batch, completion_hidden, last_hidden
from src.inference.sampling import Sampling, generate
from src.model.heads import Critic, RewardModel
from src.model.model import build_model
from src.rl import metrics as metrics_module
from src.rl import rollout as rollout_module
from src.rl import update as update_module
from src.rl.algorithm_table import ALGORITHMS, ROWS, row_of
from src.rl.models import Models
from src.rl.rewards import Scores, model_rewards
from src.rl.rollout import (
    Prompts,
    Settings,
    action_logp,
    select_answers,
    settings_of,
)
from src.rl.update import update_policy
from src.training.optimizer import make_optimizer, optimizer_step
from src.utils.constants import MODEL_TYPES

VOCAB, STOP = 23, 0
PROMPTS = [
    ([3, 9, 4, 11, 5], [[7, 8], [9, 2, 6]]),
    ([], [[5]]),
    ([12, 13, 14], [[1, 2, 3, 4]]),
    ([6, 6, 17, 18, 19, 20, 21], [[22, 1], [4, 4], [8, 15, 16]]),
]
QUESTIONS = [(context, question) for context, questions in PROMPTS for question in questions]
GRADIENTS = tuple(ALGORITHMS)


def row(algorithm, length=6):
    """A row of the tables as a run would use it."""
    found = ROWS[algorithm]
    open_length = algorithm in ALGORITHMS and found.length is None
    return found._replace(length=length) if open_length else found


def settings(**values):
    default = Settings(
        algorithm=row("ppo"), eos_id=STOP, num_samples=3, max_new_tokens=6, temperature=1.0,
        gamma=1.0, lam=0.95, value_clip_range=0.2, value_coef=0.1, beta=0.1,
        missing_eos_penalty=1.0, epochs=1, minibatches=1, micro_contexts=8, seed=0,
        device=torch.device("cpu"),
    )
    if isinstance(values.get("algorithm"), str):
        values["algorithm"] = row(values["algorithm"])
    return default._replace(**values)


def model_of(name, seed=0):
    """A tiny model with weights so large that tokens differ in probability and contexts count."""
    torch.manual_seed(seed)
    heads = {"n_head": 2} if name == "transformer" else {}
    model = build_model(name, {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 1, **heads})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.embedding.weight.normal_(std=0.4)
        model.embedding.weight[STOP] *= 2  # answers of different lengths
    return model


def models_of(name, critic=True):
    """Policy, another model as its reference, and a critic with a head that is not zero."""
    policy = model_of(name)
    values = Critic(model_of(name, seed=2)) if critic else None
    if critic:
        nn.init.normal_(values.head.weight, std=0.3)
    return Models(policy, model_of(name, seed=1), values)


def length_of_answers(trees):
    """A reward that differs from answer to answer, and is not 0."""
    answers = [a for _, questions in trees for _, texts in questions for a in texts]
    return torch.tensor([2.5 - len(a) + 0.01 * sum(a) for a in answers])


def rollout_of(models, trees, reward, kl_coef, step, s, excused=None):
    """`sample_rollout` for prompts without texts. reward: trees with answers -> (N,)."""
    questions = sum(len(questions) for _, questions in trees)
    prompts = Prompts(trees, [], excused or [False] * questions)
    return rollout_module.sample_rollout(
        models, prompts, lambda its, asked: Scores(reward(its), {}), kl_coef, step, s
    )


def slow_logp(model, s, answers_of_trees):
    """Log-probs of each answer's tokens and a stop token, one row and one token at a time."""
    rows = []
    for context, questions in answers_of_trees:
        for question, answers in questions:
            for answer in answers:
                state, logp = None, []
                row = [*context, *question, *answer, STOP]
                for place, token in enumerate(row[:-1]):
                    hidden, state = model(torch.tensor([[token]]), torch.tensor([1]), state)
                    if place >= len(context) + len(question) - 1:
                        scaled = model.logits(hidden[0, 0]) / s.temperature
                        logp.append(float(scaled.log_softmax(-1)[row[place + 1]]))
                rows.append(logp)
    return rows


@pytest.fixture(params=MODEL_TYPES)
def name(request):
    return request.param


def test_the_settings_are_those_of_the_flags():
    """Each flag a value of its own, so that none can stand for another."""
    same = {
        "num_samples": 3, "max_new_tokens": 5, "temperature": 0.11, "gamma": 0.12, "lam": 0.13,
        "value_clip_range": 0.15, "value_coef": 0.16, "missing_eos_penalty": 0.17,
        "minibatches": 7, "seed": 9, "beta": None,
    }
    choices = {
        "advantage": "group", "ratio": "sequence", "clip": "higher", "mean": "constant",
        "kl_in": "loss", "kl_estimator": "k2", "clip_low": 0.18, "clip_high": 0.19, "kl_coef": 0.2,
    }
    args = argparse.Namespace(
        **same, **choices, algorithm="rloo", clip_range=None, kl_target=None, ppo_epochs=6,
        batch_size=10, micro_batch_size=8, micro_batch_tokens=11,
    )
    device = torch.device("meta")
    of_flags = {
        **same, "eos_id": 4, "epochs": 6, "micro_contexts": 8, "device": device, "micro_tokens": 11,
        "algorithm": ROWS["rloo"]._replace(**choices, length=5),
    }
    assert settings_of(args, row_of(args), 4, device)._asdict() == of_flags
    args.micro_batch_size = None  # all contexts at once
    of_flags["micro_contexts"] = 10
    assert settings_of(args, row_of(args), 4, device)._asdict() == of_flags


# --- sampling ---


def test_the_log_probs_of_a_rollout_equal_their_rescoring(name):
    """Of policy and reference, at the sampling temperature, row by row and token by token."""
    models = models_of(name)
    for temperature in (1.0, 0.6, 1.7):
        s = settings(temperature=temperature, micro_contexts=2)
        rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
        assert rollout.stopped.any() and rollout.mask.sum(1).unique().numel() > 1
        with torch.no_grad():
            policy = slow_logp(models.policy, s, rollout.trees)
            reference = slow_logp(models.reference, s, rollout.trees)
        lengths = rollout.mask.sum(1).tolist()
        assert lengths == [len(a) + int(stopped) for a, stopped in zip(
            (a for _, qs in rollout.trees for _, texts in qs for a in texts),
            rollout.stopped, strict=True)]
        for fast, slow in ((rollout.logp, policy), (rollout.reference_logp, reference)):
            for row, (logp, length) in enumerate(zip(slow, lengths, strict=True)):
                assert torch.allclose(fast[row, :length], torch.tensor(logp[:length]), atol=1e-5)


def test_a_rollout_samples_at_the_temperature_without_a_filter(monkeypatch):
    """A top k or top p would draw from other distributions than the log-probs are of."""
    calls = []

    def record(*about, **options):
        calls.append(options)
        return generate(*about, **options)

    monkeypatch.setattr(rollout_module, "generate", record)
    s = settings(temperature=0.7, num_samples=2, max_new_tokens=3, seed=5)
    rollout_of(models_of("kgram"), PROMPTS, length_of_answers, 0.1, 4, s)
    (options,) = calls
    assert options == {
        "sampling": Sampling(temperature=0.7, top_k=0, top_p=1.0), "num_samples": 2,
        "max_new_tokens": 3, "seed": [5, 4], "first_row": 0,
    }


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "gspo"])
def test_the_ratio_is_1_on_the_first_minibatch(name, algorithm, temperature):
    """Nothing is clipped and the approximate KL is 0 to rounding before the first update."""
    models = models_of(name, critic=algorithm == "ppo")
    s = settings(algorithm=algorithm, temperature=temperature, minibatches=2, micro_contexts=1)
    rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
    for row in range(len(rollout.trees)):
        tree_batch = build_tree_batch([rollout.trees[row]], STOP)
        with torch.no_grad():
            logp = action_logp(
                models.policy, tree_batch, completion_hidden(models.policy, tree_batch), s
            )
        width, rows = logp.shape[1], rollout.rows[row]
        mask = rollout.mask[rows, :width]
        ratio = (logp - rollout.logp[rows, :width]).exp()[mask]
        assert ratio.numel() and torch.allclose(ratio, torch.ones_like(ratio), atol=1e-5)
    figures = update_policy(models, rollout, 0, s, lambda loss: {})
    assert abs(figures["first_approx_kl_nats"]) < 1e-8
    assert figures["clip_fraction"] == 0


def test_a_rollout_depends_on_the_step_and_the_seed_alone(name):
    models = models_of(name)
    first, same, later, other = (
        rollout_of(models, PROMPTS, length_of_answers, 0.1, step, settings(seed=seed))
        for step, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert first.trees == same.trees and torch.equal(first.logp, same.logp)
    assert first.trees != later.trees and first.trees != other.trees


# --- rewards ---


def test_a_row_of_rewards_sums_to_the_score_less_the_kl(name):
    models, s = models_of(name), settings(missing_eos_penalty=0.0)
    for beta in (0.0, 0.05, 2.0):
        rollout = rollout_of(models, PROMPTS, length_of_answers, beta, 0, s)
        mask = rollout.mask
        kl = torch.where(mask, rollout.logp - rollout.reference_logp, 0.0).sum(1)
        assert kl.abs().max() > 1
        expected = length_of_answers(rollout.trees) - beta * kl
        assert torch.allclose(rollout.rewards.sum(1), expected, atol=1e-4)
        assert not rollout.rewards[~mask].any()


def test_without_a_kl_term_the_score_stands_once_on_the_last_action(name):
    """On the stop token where there is one, else on the last sampled token."""
    rollout = rollout_of(models_of(name), PROMPTS, length_of_answers, 0.0, 0, settings())
    for row, length in enumerate(rollout.mask.sum(1).tolist()):
        assert rollout.rewards[row].nonzero().flatten().tolist() == [length - 1]
    texts = [a for _, questions in rollout.trees for _, answers in questions for a in answers]
    stopped = [row for row in range(len(texts)) if rollout.stopped[row]]
    assert stopped
    for row in stopped:
        assert rollout.rewards[row, len(texts[row])] == rollout.score[row]


def test_an_answer_that_was_cut_off_loses_exactly_the_penalty(name):
    models = models_of(name)
    free, fined = (
        rollout_of(
            models,
            PROMPTS,
            length_of_answers,
            0.05,
            0,
            settings(missing_eos_penalty=penalty, max_new_tokens=2),
        )
        for penalty in (0.0, 1.75)
    )
    assert free.trees == fined.trees
    lost = free.rewards - fined.rewards
    last = free.mask.sum(1) - 1
    cut = ~free.stopped
    assert cut.any() and free.stopped.any()
    expected = torch.zeros_like(lost)
    expected[cut.nonzero().flatten(), last[cut]] = 1.75
    assert torch.allclose(lost, expected, atol=1e-6)
    assert torch.equal(free.score, fined.score)  # what is logged is the reward itself


def test_no_missing_stop_is_held_against_a_gold_that_cannot_be_reached():
    """Three samples of two questions, none of which stops; the second question is excused."""
    models = models_of("kgram", critic=False)
    s = settings(algorithm="rloo", num_samples=3, max_new_tokens=2, missing_eos_penalty=5.0)
    never = torch.zeros(VOCAB).index_fill(0, torch.tensor([STOP]), -torch.inf)
    models.policy.logits = lambda hidden: never.expand(*hidden.shape[:-1], -1)
    prompts = [([1], [[2], [3]])]

    def total(excused):
        score = torch.ones(6)
        found = rollout_of(models, prompts, lambda trees: score, 0.0, 0, s, excused)
        assert not found.stopped.any()
        return found.rewards.sum(1).tolist()

    assert total(None) == total([False, False]) == [-4.0] * 6
    assert total([False, True]) == [-4.0] * 3 + [1.0] * 3


def test_a_cut_answer_is_scored_as_if_it_had_stopped(name):
    """The reward model reads a stop token after it, as after any other answer."""
    reward = RewardModel(model_of(name, seed=4)).requires_grad_(False)
    s = settings(max_new_tokens=2)
    rollout = rollout_of(
        models_of(name), PROMPTS, lambda trees: model_rewards(reward, trees, STOP), 0.0, 0, s
    )
    slow = []
    for context, questions in rollout.trees:
        for question, answers in questions:
            for answer in answers:
                tokens = torch.tensor([[*context, *question, *answer, STOP]])
                hidden, _ = reward.backbone(tokens, torch.tensor([tokens.shape[1]]))
                slow.append(float(reward.normalise(reward.raw_score(hidden[0, -1]))))
    assert not rollout.stopped.all()
    assert torch.allclose(rollout.score, torch.tensor(slow), atol=1e-5)


# --- advantages and the critic ---


def test_advantages_are_whitened_over_the_whole_batch(name):
    """Generalised advantages by their definition, a double loop; then mean 0 and variance 1."""
    s = settings(gamma=0.9, lam=0.8)
    rollout = rollout_of(models_of(name), PROMPTS, length_of_answers, 0.1, 0, s)
    mask, values, rewards = rollout.mask, rollout.values.double(), rollout.rewards.double()
    plain = torch.zeros_like(rewards)
    for row, length in enumerate(mask.sum(1).tolist()):
        following = [*values[row, 1:length].tolist(), 0.0]
        deltas = [rewards[row, t] + 0.9 * following[t] - values[row, t] for t in range(length)]
        for t in range(length):
            plain[row, t] = sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, length))
    real = plain[mask]
    expected = (real - real.mean()) / real.std(correction=0)
    assert torch.allclose(rollout.advantages[mask].double(), expected, atol=1e-4)
    assert abs(rollout.advantages[mask].mean()) < 1e-5
    assert abs(rollout.advantages[mask].var(correction=0) - 1) < 1e-4
    assert not rollout.advantages[~mask].any()
    assert torch.allclose(rollout.returns[mask].double(), (plain + values)[mask], atol=1e-4)


def test_rloo_leaves_the_question_s_mean_out(name):
    s = settings(algorithm="rloo", num_samples=3, missing_eos_penalty=0.0)
    rollout = rollout_of(models_of(name, critic=False), PROMPTS, length_of_answers, 0.0, 0, s)
    scores = rollout.score.tolist()
    for row, score in enumerate(scores):
        start = row - row % 3
        others = [scores[i] for i in range(start, start + 3) if i != row]
        assert rollout.advantages[row, 0] == pytest.approx(score - sum(others) / 2, abs=1e-5)
    assert torch.equal(rollout.advantages, rollout.advantages[:, :1].expand_as(rollout.mask))


def test_a_fresh_critic_values_everything_at_0(name):
    models = models_of(name)._replace(critic=Critic(model_of(name)))
    rollout = rollout_of(models, PROMPTS, length_of_answers, 0.0, 0, settings())
    assert not rollout.values.any()


def test_a_critic_from_the_reward_model_gives_the_normalised_score_at_the_stop_token(name):
    reward = RewardModel(model_of(name, seed=4))
    reward.set_normalisation(torch.tensor([-3.0, 1.0, 8.0]))
    critic = Critic.of_reward(reward.requires_grad_(False))
    assert all(parameter.requires_grad for parameter in critic.parameters())
    trees = [(context, [(q, [[5, 6], [], [9, 9, 2]]) for q in qs]) for context, qs in PROMPTS]
    tree_batch = build_tree_batch(trees, STOP, reads_eos=True)
    with torch.no_grad():
        end = last_hidden(critic.backbone, tree_batch)
        values = critic.values(end)
    assert torch.allclose(values, model_rewards(reward, trees, STOP), atol=1e-5)
    assert values.std() > 0.01
    # A backbone of its own: what the critic learns leaves the reward model as it is.
    with torch.no_grad():
        critic.backbone.embedding.weight.add_(1.0)
    assert not torch.equal(critic.backbone.embedding.weight, reward.backbone.embedding.weight)


def test_a_critic_from_the_reward_model_has_its_shape():
    """Which need not be the policy's, and of which weights of equal shape say nothing."""
    backbone = build_model(
        "transformer", {"vocab_size": 23, "n_embd": 8, "n_layer": 3, "n_head": 4}
    )
    critic = Critic.of_reward(RewardModel(backbone))
    assert critic.backbone.config == backbone.config


# --- learning ---


@pytest.mark.parametrize(("minibatches", "micro"), [(1, 4), (2, 1), (3, 2), (4, 1), (9, 1)])
def test_each_epoch_meets_each_episode_once(minibatches, micro, monkeypatch):
    """As whole contexts; a minibatch's counts are those of its own episodes and actions."""
    s = settings(epochs=3, minibatches=minibatches, micro_contexts=micro)
    models = models_of("kgram")
    rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
    seen, updates = [], []

    def backward(models, rollout, part, actions, episodes, s):
        seen.append((list(part), actions, episodes))
        return {"loss": 1.0, "approx_kl_nats": 0.0}

    monkeypatch.setattr(update_module, "_backward", backward)
    update_policy(models, rollout, 0, s, lambda loss: updates.append(len(seen)) or {})
    per_epoch = min(minibatches, 4)  # of four contexts
    assert len(updates) == 3 * per_epoch
    starts = [0, *updates]
    orders = [[], [], []]
    for epoch in range(3):
        rows = []
        for update in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            parts = seen[starts[update] : starts[update + 1]]
            assert all(len(part) <= micro for part, _, _ in parts)
            batch = [i for part, _, _ in parts for i in part]
            here = [row for i in batch for row in range(*rollout.rows[i].indices(10**6))]
            assert {(actions, episodes) for _, actions, episodes in parts} == {
                (int(rollout.mask[here].sum()), len(here))
            }
            rows += here
            orders[epoch] += parts
        assert sorted(rows) == list(range(len(QUESTIONS) * s.num_samples))
    if minibatches > 1:
        assert not orders[0] == orders[1] == orders[2], "every epoch dealt the same minibatches"


def test_the_value_loss_weighs_as_much_as_its_coefficient(name):
    """In the critic's gradients and in the loss; the policy's gradients know nothing of it."""
    found = []
    for coefficient in (0.0, 0.1, 0.4):
        models, s = models_of(name), settings(value_coef=coefficient)
        rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
        figures = update_policy(models, rollout, 0, s, lambda loss: {})
        expected = figures["policy_loss"] + coefficient * figures["value_loss"]
        assert figures["loss"] == pytest.approx(expected, abs=1e-6) and figures["value_loss"] > 0.1
        trained = (models.policy, models.critic)
        found.append([[p.grad for p in m.parameters() if p.grad is not None] for m in trained])
    (policy, none), (_, small), (same_policy, large) = found
    assert not any(g.any() for g in none) and max(g.abs().max() for g in small) > 1e-3
    for one, other in zip(small, large, strict=True):
        assert torch.allclose(4 * one, other, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(policy, same_policy, strict=True))


def test_figures_are_means_over_the_actions_of_all_minibatches(monkeypatch):
    """By hand: parts of a minibatch add up, and minibatches, here of 3 and 2 contexts, weigh as
    many actions as they have; the first KL is the first minibatch's."""
    s = settings(epochs=2, minibatches=2, micro_contexts=2)
    models = models_of("kgram")
    prompts = [*PROMPTS, ([2, 3], [[4], [5], [6], [7]])]
    rollout = rollout_of(models, prompts, length_of_answers, 0.1, 0, s)
    parts, minibatches = [], []

    def backward(models, rollout, part, actions, episodes, s):
        parts.append((actions, float(2 + len(parts) ** 2)))
        return {"loss": parts[-1][1], "approx_kl_nats": parts[-1][1] / 100}

    def update(loss):
        """One minibatch is complete: what its parts gave since the last one."""
        counts, values = zip(*parts[sum(n for n, *_ in minibatches) :], strict=True)
        assert len(set(counts)) == 1 and loss == pytest.approx(sum(values))
        minibatches.append((len(values), counts[0], sum(values)))
        return {"gradient_norm": float(len(minibatches))}

    monkeypatch.setattr(update_module, "_backward", backward)
    figures = update_policy(models, rollout, 0, s, update)
    assert [n for n, *_ in minibatches] == [2, 1, 2, 1]
    actions = [count for _, count, _ in minibatches]
    assert sum(actions) == 2 * int(rollout.mask.sum()) and len(set(actions)) > 1
    loss = sum(count * value for _, count, value in minibatches) / sum(actions)
    norm = sum(count * n for n, count in enumerate(actions, 1)) / sum(actions)
    assert figures == pytest.approx({
        "loss": loss, "approx_kl_nats": loss / 100, "gradient_norm": norm,
        "first_approx_kl_nats": minibatches[0][2] / 100,
    })


EVERY = [(a, name) for name in MODEL_TYPES for a in ("ppo", "rloo", "reinforce")]
EVERY += [(a, "lstm") for a in ROWS if a not in ("ppo", "rloo", "reinforce")]
EVERY_ALGORITHM = pytest.mark.parametrize(("algorithm", "name"), EVERY)


@EVERY_ALGORITHM
def test_gradients_do_not_depend_on_the_micro_batch(algorithm, name):
    gradients = []
    for micro, tokens in ((1, 10**9), (8, 20), (8, 10**9)):
        models = models_of(name, critic=algorithm == "ppo")
        s = settings(algorithm=algorithm, micro_contexts=micro, micro_tokens=tokens)
        rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
        # Away from the sampling policy, so that ratios differ and some are clipped.
        with torch.no_grad():
            models.policy.embedding.weight.mul_(1.2)
        figures = update_policy(models, select_answers(rollout, s), 0, s, lambda loss: {})
        trained = [models.policy, *([models.critic] if models.critic else [])]
        gradients.append((figures, [
            p.grad.clone() for m in trained for p in m.parameters() if p.grad is not None
        ]))
    figures, whole = gradients[-1]
    assert max(g.abs().max() for g in whole) > 1e-3
    clips = algorithm in ALGORITHMS and algorithm != "cispo"  # at a ratio of 5
    assert figures["clip_fraction"] > 0.05 or not clips
    for part_figures, part in gradients[:-1]:
        assert part_figures == pytest.approx(figures, rel=1e-4, abs=1e-6)
        for one, other in zip(part, whole, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def test_the_reference_and_the_reward_model_never_change(name):
    models, s = models_of(name), settings(epochs=2, minibatches=2)
    reward = RewardModel(model_of(name, seed=4)).requires_grad_(False)
    frozen = [copy.deepcopy(m.state_dict()) for m in (models.reference, reward)]
    models.reference.requires_grad_(False)
    optimizer = make_optimizer({"policy": models.policy, "critic": models.critic})
    before = models.policy.embedding.weight.clone()
    rollout = rollout_of(models, PROMPTS, lambda t: model_rewards(reward, t, STOP), 0.1, 0, s)
    update_policy(models, rollout, 0, s,
          lambda loss: {"norm": optimizer_step(optimizer, 1e-2, 1.0, loss, False)})
    assert not torch.equal(models.policy.embedding.weight, before)
    for module, old in zip((models.reference, reward), frozen, strict=True):
        assert all(torch.equal(module.state_dict()[key], old[key]) for key in old)


def odd_first(trees):
    """1 for an answer that begins with an odd token, else 0."""
    answers = [a for _, questions in trees for _, texts in questions for a in texts]
    return torch.tensor([float(bool(a) and a[0] % 2 == 1) for a in answers])


@EVERY_ALGORITHM
def test_every_algorithm_improves_a_simple_reward(algorithm, name):
    """From about half the answers to nearly all, in three dozen steps."""
    policy = model_of(name)
    critic = Critic(copy.deepcopy(policy)) if algorithm == "ppo" else None
    models = Models(policy, copy.deepcopy(policy).requires_grad_(False), critic)
    epochs, minibatches = (1, 1) if ROWS[algorithm].on_policy else (2, 2)
    s = settings(
        algorithm=algorithm, num_samples=6, max_new_tokens=3, epochs=epochs,
        minibatches=minibatches, missing_eos_penalty=0.0,
    )
    optimizer = make_optimizer({"policy": policy, **({"critic": critic} if critic else {})})
    means = []
    for step in range(36):
        rollout = rollout_of(models, PROMPTS, odd_first, 0.0, step, s)
        means.append(float(rollout.score.mean()))
        update_policy(models, select_answers(rollout, s), step, s,
              lambda loss: {"norm": optimizer_step(optimizer, 1e-2, 1.0, loss, False)})
    first, last = sum(means[:3]) / 3, sum(means[-3:]) / 3
    assert first < 0.75 and last > 0.9 and last - first > 0.2, means


@pytest.mark.parametrize("algorithm", GRADIENTS)
def test_a_reward_that_is_the_same_for_all_moves_nothing(algorithm):
    """No advantage, no gradient of the policy: baselines take a constant out."""
    models = models_of("lstm", critic=False)
    if algorithm == "ppo":
        models = models._replace(critic=Critic(model_of("lstm")))
    s = settings(algorithm=algorithm, missing_eos_penalty=0.0, lam=1.0)
    rollout = rollout_of(models, PROMPTS, lambda t: torch.full((21,), 3.0), 0.0, 0, s)
    update_policy(models, rollout, 0, s, lambda loss: {})
    for parameter in models.policy.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-3


def test_the_kl_is_in_the_reward_or_in_the_loss():
    """Of GRPO with either: the rewards hold it, or the loss is larger by it and says how much."""
    models = models_of("kgram")._replace(critic=None)
    found = {}
    for kl_in in ("reward", "loss"):
        s = settings(algorithm=row("grpo")._replace(kl_in=kl_in, kl_estimator="k2"))
        rollout = rollout_of(models, PROMPTS, length_of_answers, 0.3, 0, s)
        metrics = update_policy(models, rollout, 0, s, lambda loss: {})
        found[kl_in] = rollout.rewards.sum(1) - rollout.rewards.new_tensor(
            [0.0 if stopped else -1.0 for stopped in rollout.stopped]
        ) - rollout.score, metrics
    log_ratio = torch.where(rollout.mask, rollout.logp - rollout.reference_logp, 0.0)
    k2 = log_ratio.square().sum(1) / 2
    assert torch.allclose(found["reward"][0], -0.3 * k2, atol=1e-4)
    assert found["loss"][0].abs().max() < 1e-5
    assert "kl_loss_nats" not in found["reward"][1]
    metrics = found["loss"][1]
    # Answers' means, and then the mean of answers, at the first update of the sampling policy.
    mean = float((k2 / rollout.mask.sum(1)).mean())
    assert metrics["kl_loss_nats"] == pytest.approx(mean, rel=1e-4)
    assert metrics["loss"] == pytest.approx(metrics["policy_loss"] + 0.3 * mean, abs=1e-5)


# --- learning from chosen answers ---


def choose(algorithm, scores, answers=((1, 2), (3,), (4,)), **values):
    """What an algorithm keeps of two contexts with one and two questions, three answers each."""
    s = settings(algorithm=algorithm, missing_eos_penalty=0.0, **values)
    models = models_of("kgram", critic=False)
    prompts = [([1], [[2]]), ([5], [[3], [4]])]
    rollout = rollout_of(models, prompts, lambda trees: torch.tensor(scores), 0.1, 0, s)
    return rollout, rollout_module.select_answers(rollout, s)


SCORES = [0.0, 2.0, 1.0, 3.0, 3.0, 3.0, -1.0, -2.0, 5.0]


def test_raft_keeps_the_best_answer_of_each_question():
    rollout, chosen = choose("raft", SCORES)
    assert chosen.score.tolist() == [2.0, 3.0, 5.0]  # rows 1, 3 and 8
    assert torch.equal(chosen.logp, rollout.logp[[1, 3, 8]])
    assert torch.equal(chosen.mask, rollout.mask[[1, 3, 8]])
    assert chosen.rows == [slice(0, 1), slice(1, 3)]
    whole = [(c, [(q, list(texts)) for q, texts in qs]) for c, qs in rollout.trees]
    (c0, [(q0, a0)]), (c1, [(q1, a1), (q2, a2)]) = whole
    assert chosen.trees == [(c0, [(q0, [a0[1]])]), (c1, [(q1, [a1[0]]), (q2, [a2[2]])])]


def test_online_dpo_pairs_the_best_with_the_worst_and_ties_give_no_pair():
    rollout, chosen = choose("online_dpo", SCORES)
    assert chosen.score.tolist() == [2.0, 0.0, 5.0, -2.0]  # rows 1, 0, 8 and 7
    assert torch.equal(chosen.reference_logp, rollout.reference_logp[[1, 0, 8, 7]])
    assert [len(questions) for _, questions in chosen.trees] == [1, 1]
    tied = choose("online_dpo", [4.0] * 9)[1]
    assert not tied.trees and not len(tied.score)
    calls = []
    s = settings(algorithm="online_dpo")
    metrics = update_policy(models_of("kgram", critic=False), tied, 0, s, calls.append)
    assert metrics["loss"] == 0 and not calls  # nothing is updated, not by momentum either


def test_a_cut_answer_is_chosen_by_its_reward_less_the_penalty():
    s = settings(algorithm="raft", missing_eos_penalty=10.0, max_new_tokens=2)
    rollout = rollout_of(
        models_of("kgram", critic=False), PROMPTS, length_of_answers, 0.1, 0, s
    )
    stopped = rollout.stopped.view(-1, s.num_samples)
    chosen = select_answers(rollout, s).stopped
    assert torch.equal(chosen, stopped.any(1)) and chosen.any() and not stopped.all()


def test_the_losses_of_chosen_answers_are_those_of_sft_and_dpo():
    """By hand from the rollout: at the sampling policy its own log-probs stand in the losses."""
    for algorithm in ("raft", "online_dpo"):
        s = settings(algorithm=algorithm, beta=0.3)
        models = models_of("kgram", critic=False)
        rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
        chosen = select_answers(rollout, s)
        metrics = update_policy(models, chosen, 0, s, lambda loss: {})
        if algorithm == "raft":
            expected = -float(chosen.logp[chosen.mask].mean())
        else:
            gain = torch.where(chosen.mask, chosen.logp - chosen.reference_logp, 0.0).sum(1)
            h = 0.3 * (gain[0::2] - gain[1::2])
            expected = float((1 + (-h).exp()).log().mean())
            assert abs(expected - 0.693) > 0.01
        assert metrics["loss"] == pytest.approx(expected, rel=1e-4)
        assert abs(metrics["approx_kl_nats"]) < 1e-8 and metrics["clip_fraction"] == 0


def test_there_is_no_dropout_to_switch_off(name):
    """Two forwards in train mode are equal, and no module would drop anything."""
    for module in (model_of(name), RewardModel(model_of(name)), Critic(model_of(name))):
        backbone = getattr(module, "backbone", module).train()
        assert not [m for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        assert all(getattr(m, "dropout", 0) == 0 for m in module.modules())
        tokens, lengths = torch.tensor([[3, 4, 5, 6]]), torch.tensor([4])
        assert torch.equal(backbone(tokens, lengths)[0], backbone(tokens, lengths)[0])


# --- what is reported ---


def test_a_collapse_shows_in_the_figures():
    """A policy that says one thing with certainty, far from its reference."""
    models = models_of("lstm")
    s = settings(num_samples=4)
    healthy = metrics_module.describe(rollout_of(models, PROMPTS, length_of_answers, 0.0, 0, s), s)
    models.policy.logits = lambda hidden: torch.nn.functional.one_hot(
        torch.full(hidden.shape[:-1], 7), VOCAB).float() * 40.0
    rollout = rollout_of(models, PROMPTS, length_of_answers, 0.0, 0, s)
    collapsed = metrics_module.describe(rollout, s)
    assert healthy["entropy_nats"] > 0.5 and 0 <= collapsed["entropy_nats"] < 1e-3
    assert healthy["distinct_fraction"] > 0.5 and collapsed["distinct_fraction"] == 0.25
    assert collapsed["kl_nats"] > 5 and collapsed["eos_rate"] == 0
    assert collapsed["answer_tokens"] == 6 and collapsed["reward_std"] < 1e-5


def test_the_kl_is_the_mean_over_answers_of_summed_k3():
    """By hand from the rollout's log-probs: exp(-k1) - 1 + k1 with k1 = logp - reference."""
    s = settings()
    rollout = rollout_of(models_of("lstm"), PROMPTS, length_of_answers, 0.0, 0, s)
    sums = []
    for row, length in enumerate(rollout.mask.sum(1).tolist()):
        k1 = (rollout.logp - rollout.reference_logp)[row, :length].double()
        sums.append(float((torch.exp(-k1) - 1 + k1).sum()))
    figures = metrics_module.describe(rollout, s)
    assert figures["kl_nats"] == pytest.approx(sum(sums) / len(sums), rel=1e-4)
    assert figures["kl_nats"] > 0.1
    assert figures["reward_mean"] == pytest.approx(
        float(length_of_answers(rollout.trees).mean()), rel=1e-5
    )
    tokens = int(rollout.mask.sum())
    assert figures["answer_tokens"] == pytest.approx(tokens / len(rollout.mask))
    assert figures["entropy_nats"] == pytest.approx(
        -float(rollout.logp[rollout.mask].sum()) / tokens, rel=1e-5
    )


def test_the_coefficient_is_steered_and_a_collapse_said():
    """10 episodes of a horizon of 20: half of an error that counts as 20% at most."""
    next_kl_coef = metrics_module.next_kl_coef
    args = argparse.Namespace(kl_target=2.0, kl_horizon=20)
    for kl_nats, expected in ((2.0, 0.1), (4.0, 0.11), (1.0, 0.09), (2.2, 0.105)):
        assert next_kl_coef(args, 0.1, kl_nats, 10) == pytest.approx(expected)
    assert next_kl_coef(argparse.Namespace(kl_target=None), 0.1, 4.0, 10) == 0.1
    assert "5.1 nats an answer, above --kl_limit 5.0" in metrics_module.collapse(5.1, 5.0)
