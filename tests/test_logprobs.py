"""Log-probabilities of tree batches against every row read alone, in values and in gradients.

The slow side uses `model` and `model.logits` on one unpadded row without state, and log_softmax.
Tests that tests/mutations.py names look the functions up in the module, at call time.
"""

import copy
import math
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from conftest import perturb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.inference import logprobs
from src.inference.logprobs import (
    build_tree_batch,
    completion_hidden,
    last_hidden,
    logp_of_hidden,
    score_completions,
    score_text,
)
from src.model.heads import RewardModel
from src.model.model import build_model
from src.model.prefix_sharing.level_by_level import LevelByLevel

VOCAB, EOS = 23, 22
CONFIGS = {
    "transformer": ("transformer", {"n_layer": 2, "n_embd": 16, "n_head": 4}),
    "transformer-gqa": ("transformer", {"n_layer": 2, "n_embd": 24, "n_head": 6, "n_kv_head": 2}),
    "lstm": ("lstm", {"n_layer": 2, "n_embd": 16}),
    "kgram": ("kgram", {"n_layer": 1, "n_embd": 12, "kgram_k": 5}),
    "kgram-1": ("kgram", {"n_layer": 1, "n_embd": 12, "kgram_k": 1}),
    "transformer-pointer": (
        "transformer", {"n_layer": 2, "n_embd": 16, "n_head": 4, "pointer": True}
    ),
    "lstm-pointer": ("lstm", {"n_layer": 2, "n_embd": 16, "pointer": True}),
    "kgram-pointer": ("kgram", {"n_layer": 1, "n_embd": 12, "kgram_k": 5, "pointer": True}),
}
# Contexts of none and of one token, a question of one token, answers of none, a question with one
# answer beside one with three; stop and 0 ids inside a context.
TREES = [
    ([3, EOS, 0, 7, 7, 1], [([5, 2, 9], [[4, 4], [], [1, 2, 3, 4]]), ([6], [[8]])]),
    ([], [([1, 1, 2, 3], [[9, 9, 9]])]),
    ([11], [([12], [[], [13]]), ([14, 15], [[16], [17, 18]])]),
]


@cache
def perturbed(name):
    torch.manual_seed(5)
    kind, config = CONFIGS[name]
    return perturb(build_model(kind, {"vocab_size": VOCAB, **config}))


@pytest.fixture(params=CONFIGS)
def model(request):
    return perturbed(request.param)


def row_hidden(model, row):
    """(T, D) of one row read whole and alone."""
    return model(torch.tensor([row]), torch.tensor([len(row)]))[0][0]


def slow_logp(model, row, first, temperature=1.0):
    """Log-probs of row[first:], each given all before it."""
    logits = model.logits(row_hidden(model, row[:-1])[first - 1 :]) / temperature
    return logits.log_softmax(-1)[range(len(row) - first), row[first:]]


def slow_answers(model, trees, temperature=1.0):
    """One tensor an answer: its tokens' and its EOS's log-probs."""
    return [
        slow_logp(model, [*c, *q, *a, EOS], len(c) + len(q), temperature)
        for c, questions in trees
        for q, answers in questions
        for a in answers
    ]


def slow_text(model, trees):
    """Context tokens but the first, once a context; then question tokens but the first, once each.

    A question without answers keeps its last token to itself: no completion reads it.
    """
    contexts = [slow_logp(model, c, 1) for c, _ in trees if len(c) > 1]
    questions = []
    for c, children in trees:
        for q, answers in children:
            told = q if answers else q[:-1]
            if len(told) > 1:
                questions.append(slow_logp(model, [*c, *told], len(c) + 1))
    none = torch.zeros(0, dtype=model.embedding.weight.dtype)
    return torch.cat([*contexts, *questions, none])


def gradients(model, value):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    parameters = zip(found, model.parameters(), strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in parameters]


def assert_same_gradients(model, fast, slow):
    """To 1e-5 of the largest gradient of all parameters."""
    fast, slow = gradients(model, fast), gradients(model, slow)
    largest = max(float(g.abs().max()) for g in slow)
    for mine, theirs, (name, _) in zip(fast, slow, model.named_parameters(), strict=True):
        assert float((mine - theirs).abs().max()) <= 1e-5 * largest, name


def weights_like(x, seed=0):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def tokens(low, high):
    return st.lists(st.integers(0, VOCAB - 1), min_size=low, max_size=high)


def tree_batches(fewest_answers=1):
    answers = st.lists(tokens(0, 5), min_size=fewest_answers, max_size=8)
    questions = st.lists(st.tuples(tokens(1, 5), answers), min_size=1, max_size=8)
    return st.lists(st.tuples(tokens(0, 9), questions), min_size=1, max_size=4)


def check_trees(model, trees):
    """Log-probs of answers and of the text, and their gradients, equal those of rows alone."""
    tree_batch = build_tree_batch(trees, EOS)
    expected = slow_answers(model, trees)
    scores = score_completions(model, tree_batch)
    text = score_text(model, tree_batch)
    close(scores.logp[scores.mask], torch.cat(expected))
    close(text.answers.logp[text.answers.mask], torch.cat(expected))
    assert not scores.logp[~scores.mask].any()
    told = slow_text(model, trees)
    close(text.text_logp, told)
    weight, text_weight = weights_like(torch.cat(expected)), weights_like(told, 1)
    slow = (torch.cat(expected) * weight).sum()
    assert_same_gradients(model, (scores.logp[scores.mask] * weight).sum(), slow)
    both = (text.answers.logp[text.answers.mask] * weight).sum()
    both = both + (text.text_logp * text_weight).sum()
    slow = (torch.cat(slow_answers(model, trees)) * weight).sum()
    assert_same_gradients(model, both, slow + (slow_text(model, trees) * text_weight).sum())


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(trees=tree_batches())
def test_any_trees_equal_rows_alone_in_values_and_gradients(name, trees):
    model = perturbed(name)
    if model.config.pointer:
        # Scores of up to 60 nats: rounding in float32 is no longer small beside 1e-5.
        model = copy.deepcopy(model).double()
    check_trees(model, trees)


def test_hand_made_trees_equal_rows_alone(model):
    check_trees(model, TREES)


def test_the_widest_trees_equal_rows_alone(model):
    """4 contexts of 8 questions of 8 answers, of lengths 0, 1, 2 and so on."""
    draw = torch.Generator().manual_seed(1)

    def row(length):
        return torch.randint(0, VOCAB, (length,), generator=draw).tolist()

    trees = [
        (row(3 * i), [(row(1 + q % 3), [row(a) for a in range(8)]) for q in range(8)])
        for i in range(4)
    ]
    tree_batch = build_tree_batch(trees, EOS)
    scores = score_completions(model, tree_batch)
    close(scores.logp[scores.mask], torch.cat(slow_answers(model, trees)))
    assert len(scores.logp) == 4 * 8 * 8


def test_questions_without_answers_take_nothing_away(model):
    trees = [(TREES[0][0], [([5, 2, 9], []), ([6], []), *TREES[0][1]]), *TREES[1:]]
    check_trees(model, trees)


def test_each_token_of_the_text_is_counted_once(model):
    """6 tokens of context 1 give 5, of the others 0 and 0; questions 2 + 0, 3, 0 + 1: 11 in all."""
    assert score_text(model, build_tree_batch(TREES, EOS)).text_logp.shape == (11,)
    doubled = [(c, [(q, answers * 3) for q, answers in qs]) for c, qs in TREES]
    assert score_text(model, build_tree_batch(doubled, EOS)).text_logp.shape == (11,)


def junk_in_padding(tree_batch, seed):
    draw = torch.Generator().manual_seed(seed)
    levels = []
    for level in (tree_batch.contexts, tree_batch.questions, tree_batch.completions):
        real = torch.arange(level.tokens.shape[1]) < level.lengths[:, None]
        junk = torch.randint(0, VOCAB, level.tokens.shape, generator=draw)
        levels.append(level._replace(tokens=torch.where(real, level.tokens, junk)))
    junk = torch.randint(0, VOCAB, tree_batch.targets.shape, generator=draw)
    targets = torch.where(tree_batch.mask, tree_batch.targets, junk)
    return tree_batch._replace(
        contexts=levels[0], questions=levels[1], completions=levels[2], targets=targets
    )


def test_no_id_in_the_padding_changes_anything(model):
    """Also EOS's: there is no pad token that could be mistaken for another."""
    tree_batch = build_tree_batch(TREES, EOS, reads_eos=True)
    plain = score_completions(model, tree_batch)
    end = last_hidden(model, tree_batch)
    text = score_text(model, tree_batch).text_logp
    for seed in range(3):
        junk = junk_in_padding(tree_batch, seed)
        assert not torch.equal(junk.contexts.tokens, tree_batch.contexts.tokens)
        close(score_completions(model, junk).logp, plain.logp)
        close(last_hidden(model, junk), end)
        close(score_text(model, junk).text_logp, text)
        assert_same_gradients(
            model,
            score_completions(model, junk).logp.sum(),
            score_completions(model, tree_batch).logp.sum(),
        )


@pytest.mark.parametrize("token", [0, 1, EOS])
def test_any_id_inside_a_context_is_a_token_like_others(model, token):
    """A context that holds the stop id, or 0 (what padding is made of), is read to its end."""
    tree = ([4, token, token, 8, token], [([2, token, 3], [[token, 1], [5]])])
    scores = score_completions(model, build_tree_batch([tree, TREES[0]], EOS))
    close(scores.logp[:2][scores.mask[:2]], torch.cat(slow_answers(model, [tree])))


def test_a_row_alone_equals_the_row_in_a_ragged_batch(model):
    together = score_completions(model, build_tree_batch(TREES, EOS))
    row = 0
    for context, questions in TREES:
        for question, answers in questions:
            for answer in answers:
                tree = (context, [(question, [answer])])
                alone = score_completions(model, build_tree_batch([tree], EOS))
                assert alone.mask.all() and alone.logp.shape == (1, len(answer) + 1)
                close(together.logp[row, : len(answer) + 1], alone.logp[0])
                row += 1
    assert row == len(together.logp)


def test_the_stop_token_ends_every_answer_once():
    tree_batch = build_tree_batch(TREES, EOS, reads_eos=True)
    answers = [a for _, qs in TREES for _, answers in qs for a in answers]
    for row, answer in enumerate(answers):
        real = tree_batch.targets[row][tree_batch.mask[row]].tolist()
        assert real == [*answer, EOS] and real.count(EOS) == 1
        length = int(tree_batch.completions.lengths[row])
        assert length == len(answer) + 2
        assert tree_batch.completions.tokens[row, 1:length].tolist() == real


def test_layout_of_a_tree_batch_worked_by_hand():
    tree_batch = build_tree_batch(
        [([1, 2], [([3, 4, 5], [[6], []])]), ([], [([7], [[8, 9]])])], EOS
    )
    assert tree_batch.contexts.tokens.tolist() == [[1, 2], [0, 0]]
    assert tree_batch.contexts.lengths.tolist() == [2, 0]
    assert tree_batch.questions.tokens.tolist() == [[3, 4], [0, 0]]
    assert tree_batch.questions.lengths.tolist() == [2, 0]
    assert tree_batch.questions.parents.tolist() == [0, 1]
    assert tree_batch.completions.tokens.tolist() == [[5, 6, 0], [5, 0, 0], [7, 8, 9]]
    assert tree_batch.completions.lengths.tolist() == [2, 1, 3]
    assert tree_batch.completions.parents.tolist() == [0, 0, 1]
    assert tree_batch.targets.tolist() == [[6, EOS, 0], [EOS, 0, 0], [8, 9, EOS]]
    assert tree_batch.mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]
    assert not tree_batch.reads_eos


def test_the_stop_position_has_a_gradient(model):
    """The policy chose to stop: masking that choice would never teach it."""
    tree_batch = build_tree_batch(TREES, EOS)
    for row, tokens_and_stop in enumerate(tree_batch.mask.sum(1)):
        logp = score_completions(model, tree_batch).logp
        found = gradients(model, logp[row, tokens_and_stop - 1])
        assert max(float(g.abs().max()) for g in found) > 1e-3


def test_hidden_at_the_end_is_a_plain_rows_last(model):
    tree_batch = build_tree_batch(TREES, EOS, reads_eos=True)
    end = last_hidden(model, tree_batch)
    rows = [[*c, *q, *a, EOS] for c, qs in TREES for q, answers in qs for a in answers]
    slow = torch.stack([row_hidden(model, row)[-1] for row in rows])
    close(end, slow)
    weight = weights_like(slow)
    assert_same_gradients(model, (end * weight).sum(), (slow * weight).sum())


def test_reading_the_stop_token_changes_no_log_prob(model):
    with_eos = score_completions(model, build_tree_batch(TREES, EOS, reads_eos=True))
    without = score_completions(model, build_tree_batch(TREES, EOS))
    assert torch.equal(with_eos.mask, without.mask)
    close(with_eos.logp, without.logp)


def test_hidden_at_the_end_of_completions_without_eos_is_refused(model):
    tree_batch = build_tree_batch(TREES, EOS)
    with pytest.raises(ValueError, match="reads_eos=False"):
        last_hidden(model, tree_batch)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_divides_the_logits(model, temperature):
    tree_batch = build_tree_batch(TREES, EOS)
    hidden = completion_hidden(model, tree_batch)
    scores = logp_of_hidden(model, hidden, tree_batch.targets, tree_batch.mask, temperature)
    expected = torch.cat(slow_answers(model, TREES, temperature))
    close(scores.logp[scores.mask], expected)


def test_logits_in_bfloat16_are_divided_by_the_temperature_in_float32():
    """20 and 19.875, exact in bfloat16, are 0.125 / 0.7 = 0.179 apart at temperature 0.7. Divided
    in bfloat16 they would be 28.625 and 28.375, and PPO's ratio not 1 before the first update."""
    halves = SimpleNamespace(logits=lambda hidden: hidden.bfloat16())
    hidden, target = torch.tensor([[[20.0, 19.875]]]), torch.tensor([[0]])
    found = logprobs.logp_of_hidden(halves, hidden, target, torch.tensor([[True]]), 0.7)
    assert found.logp.item() == pytest.approx(-math.log1p(math.exp(-0.125 / 0.7)), abs=1e-5)


def test_no_targets_give_zero_and_a_gradient_of_zero(model):
    tree_batch = build_tree_batch(TREES, EOS)
    none = torch.zeros_like(tree_batch.mask)
    hidden = completion_hidden(model, tree_batch)
    scores = logp_of_hidden(model, hidden, tree_batch.targets, none)
    assert scores.logp.shape == tree_batch.targets.shape and not scores.logp.any()
    for gradient in gradients(model, scores.logp.sum()):
        assert not gradient.any()


class Counted(NamedTuple):
    """State of `Follower`: how many tokens each row has read."""

    lengths: torch.Tensor

    def select(self, rows):
        return Counted(self.lengths.index_select(0, rows))


class Follower(LevelByLevel, nn.Module):
    """Knows that token t is followed by t + 1; a shift by one place costs 1e4 nats."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1, 1)  # says where the model is

    def forward(self, ids, lengths, state=None):
        before = 0 if state is None else state.lengths
        following = nn.functional.one_hot((ids + 1) % VOCAB, VOCAB).float()
        return 1e4 * following, Counted(before + lengths)

    def read(self, ids, lengths, state=None):
        return self(ids, lengths, state)[1]

    def logits(self, hidden):
        return hidden


def test_a_model_that_knows_the_next_token_has_log_prob_0():
    trees = [
        ([11, 12, 13], [([14, 15, 16], [list(range(17, 22))]), ([14], [list(range(15, 22))])]),
        ([], [([20, 21], [[]])]),
    ]
    for reads_eos in (True, False):
        tree_batch = logprobs.build_tree_batch(trees, EOS, reads_eos=reads_eos)
        text = logprobs.score_text(Follower(), tree_batch)
        assert text.answers.mask.sum() == 6 + 8 + 1
        assert text.answers.logp.tolist() == [[0.0] * 8] * 3
        assert text.text_logp.tolist() == [0.0] * (2 + 2 + 0 + 1)


def test_a_model_that_expects_another_token_does_not():
    scores = score_completions(Follower(), build_tree_batch([([12], [([13], [[15]])])], EOS))
    assert scores.logp.tolist() == [[-1e4, -1e4]]


def test_a_reward_is_read_at_the_eos_of_each_answer():
    """Where there is a pointer. `Follower` expects token 0 after EOS alone, and the head scores
    that 1; each of the 0, 1, 1 and 3 tokens that it does not expect takes 1 away."""
    backbone = Follower()
    backbone.width, backbone.config = VOCAB, SimpleNamespace(pointer=True)
    reward = RewardModel(backbone)
    with torch.no_grad():
        reward.head.linear.weight.zero_()[0, 0] = 1e-4
        reward.log_weight.fill_(1e-4)
    trees = [([17, 18], [([19], [[20, 21], [20], [], [3, 5]])])]
    tree_batch = logprobs.build_tree_batch(trees, EOS, reads_eos=True)
    with torch.no_grad():
        scores = logprobs.raw_reward(reward, tree_batch).tolist()
    assert scores == pytest.approx([1, 0, 0, -2], abs=1e-4)


def test_prompts_without_a_context_are_batched_by_their_own_length():
    """They counted as contexts of no length: the longest padded all that came beside it."""
    lengths = (2, 90, 3, 80, 1, 70)
    prompts = [([], [[1] * n]) for n in lengths]
    trees = [([], [([1] * n, [[2], [3]])]) for n in lengths]
    for several in (prompts, trees):
        assert list(logprobs.batches_by_length(several, 3)) == [[4, 0, 2], [5, 3, 1]]


def test_answer_logps_sum_each_answer_in_the_trees_order_and_may_enter_a_graph(model):
    """More contexts than a batch holds, of lengths that would sort otherwise."""
    trees = [(list(range(n)), [([1, 2], [[3], [4, 5]])] * 10) for n in (9, 2, 7, 0, 5, 1, 8, 3)]
    found = logprobs.completion_logps(model, trees, EOS)
    close(found, torch.stack([row.sum() for row in slow_answers(model, trees)]).detach())
    assert not found.is_inference()
    factor = torch.ones((), requires_grad=True)
    (factor * found).sum().backward()
    close(factor.grad, found.sum())
