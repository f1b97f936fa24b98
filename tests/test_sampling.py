"""Sampling against plain rereading, against log-probabilities, and against distributions."""

from functools import cache

import pytest
import torch
from conftest import perturb
from torch import nn

from src.inference.logprobs import build_tree_batch, completion_hidden, logp_of_hidden
from src.inference.sampling import GREEDY, Sampling, draw, filter_logits, generate, generate_all
from src.model.model import build_model
from src.model.prefix_sharing.level_by_level import LevelByLevel
from tests.test_logprobs import CONFIGS, Counted

VOCAB, EOS = 11, 10
# Ragged contexts and questions, a context of no token, a question of one, the stop id in a context.
PROMPTS = [
    ([3, 4, EOS, 6, 7, 8, 9], [[1, 2, 3], [5]]),
    ([], [[2, 7]]),
    ([9, 9], [[4], [1, 1, 1, 1], [0, 5]]),
]
LARGEST = 1 - 2**-24  # the largest float32 below 1, which torch.rand may return


@cache
def perturbed(name):
    torch.manual_seed(8)
    kind, config = CONFIGS[name]
    return perturb(build_model(kind, {"vocab_size": VOCAB, **config}))


@pytest.fixture(params=CONFIGS)
def model(request):
    return perturbed(request.param)


def rows_of(prompts, samples=1):
    return [[*c, *q] for c, questions in prompts for q in questions for _ in range(samples)]


@torch.no_grad()
def next_logits(model, row):
    return model.logits(model(torch.tensor([row]), torch.tensor([len(row)]))[0][0, -1])


def slow_greedy(model, row, limit):
    """Reread the whole row for every token."""
    answer = []
    while len(answer) < limit and (not answer or answer[-1] != EOS):
        answer.append(int(next_logits(model, [*row, *answer]).argmax()))
    return answer


def answers_of(found):
    return [row[:n] for row, n in zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("limit", [1, 7, 40])
def test_greedy_is_the_argmax_of_plain_rereading(model, limit):
    """40 tokens: more than a decoding buffer first holds."""
    found = generate(model, PROMPTS, EOS, sampling=GREEDY, max_new_tokens=limit)
    assert answers_of(found) == [slow_greedy(model, row, limit) for row in rows_of(PROMPTS)]
    assert found.tokens.shape == found.logp.shape == (6, limit)


def test_samples_of_a_question_stand_side_by_side(model):
    found = generate(model, PROMPTS, EOS, num_samples=3, max_new_tokens=5)
    expected = [slow_greedy(model, row, 5) for row in rows_of(PROMPTS, 3)]
    assert answers_of(found) == expected


def rescored(model, prompts, found, samples, temperature):
    """Log-probs of the sampled tokens, computed by logp_of_hidden."""
    texts = iter(found.texts())
    trees = [
        (c, [(q, [next(texts) for _ in range(samples)]) for q in questions])
        for c, questions in prompts
    ]
    tree_batch = build_tree_batch(trees, EOS)
    hidden = completion_hidden(model, tree_batch)
    return logp_of_hidden(model, hidden, tree_batch.targets, tree_batch.mask, temperature).logp


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_sampled_log_probs_equal_re_scored_ones(model, temperature):
    sampling = Sampling(temperature)
    found = generate(
        model, PROMPTS, EOS, sampling=sampling, num_samples=8, max_new_tokens=9, seed=3
    )
    assert found.stopped.sum() < 48 and (found.stopped.any() or temperature < 1)
    again = rescored(model, PROMPTS, found, 8, temperature)
    for row, length in enumerate(found.lengths.tolist()):
        torch.testing.assert_close(
            found.logp[row, :length], again[row, :length].detach(), rtol=1e-5, atol=1e-5
        )
        assert not found.logp[row, length:].any()


def test_greedy_log_probs_are_those_at_temperature_1(model):
    found = generate(model, PROMPTS, EOS, max_new_tokens=6)
    again = rescored(model, PROMPTS, found, 1, 1.0)
    for row, length in enumerate(found.lengths.tolist()):
        torch.testing.assert_close(
            found.logp[row, :length], again[row, :length].detach(), rtol=1e-5, atol=1e-5
        )


def test_filtered_sampling_stays_inside_the_filter(model):
    """And its log-prob is that of the whole distribution."""
    found = generate(
        model, PROMPTS, EOS, sampling=Sampling(1.3, top_k=2), num_samples=5, max_new_tokens=4
    )
    for row, prompt in enumerate(rows_of(PROMPTS, 5)):
        answer = answers_of(found)[row]
        for place, token in enumerate(answer):
            logits = next_logits(model, [*prompt, *answer[:place]]) / 1.3
            assert token in logits.topk(2).indices.tolist()
            expected = float(logits.log_softmax(-1)[token])
            assert float(found.logp[row, place]) == pytest.approx(expected, abs=3e-5)


def test_a_sample_does_not_depend_on_the_other_rows(model):
    """The middle prompt among others that leave early, late, or are longer: same samples."""

    def middle(first, last):
        prompts = [(first, [[1], [2, 3]]), ([5, 6, 7], [[8, 9]]), *last]
        found = generate(
            model, prompts, EOS, sampling=Sampling(1.2), num_samples=3, max_new_tokens=12, seed=4
        )
        return answers_of(found)[6:9]

    expected = middle([3], [])
    assert len({tuple(answer) for answer in expected}) > 1
    for first in ([9, 9, 9, 9, 9, 9], [], [EOS, 0]):
        assert middle(first, [([4] * 9, [[1]] * 3)]) == expected


def test_a_sample_depends_on_its_place(model):
    """Equal prompts in other rows are other draws."""
    found = generate(
        model, [([1, 2], [[3]] * 4)], EOS, sampling=Sampling(2.0), num_samples=4, max_new_tokens=8
    )
    assert len({tuple(answer) for answer in answers_of(found)}) >= 12


def test_seeds_decide(model):
    def sampled(seed):
        sampling = Sampling(2.0)
        return generate(model, PROMPTS, EOS, sampling=sampling, num_samples=4, seed=seed).tokens

    assert torch.equal(sampled(7), sampled(7))
    assert torch.equal(sampled([7, 1]), sampled((7, 1)))
    distinct = [sampled(seed) for seed in (0, 1, [0, 1], [1, 0], [1, 1], [0, 0, 1], 2**63 - 1)]
    for i, one in enumerate(distinct):
        assert not any(torch.equal(one, other) for other in distinct[:i])


def test_the_global_random_state_is_left_alone(model):
    before = torch.get_rng_state()
    generate(model, PROMPTS, EOS, sampling=Sampling(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


class Counter(LevelByLevel, nn.Module):
    """Says t + 1 after t; notes the rows of every call."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1, 1)  # says where the model is
        self.shapes = []

    def forward(self, ids, lengths, state=None):
        self.shapes.append(tuple(ids.shape))
        before = 0 if state is None else state.lengths
        return 1e4 * nn.functional.one_hot((ids + 1) % VOCAB, VOCAB), Counted(before + lengths)

    def read(self, ids, lengths, state=None):
        return self(ids, lengths, state)[1]

    def logits(self, hidden):
        return hidden.float()


def test_the_stop_token_ends_a_row_and_is_counted():
    """From 6: 7 8 9 EOS. From 9: EOS at once. From 2: eight tokens, cut at five."""
    found = generate(Counter(), [([1], [[0, 6], [9]]), ([], [[2]])], EOS, max_new_tokens=5)
    assert found.tokens.tolist() == [[7, 8, 9, EOS, 0], [EOS, 0, 0, 0, 0], [3, 4, 5, 6, 7]]
    assert found.lengths.tolist() == [4, 1, 5]
    assert found.stopped.tolist() == [True, True, False]
    assert found.texts() == [[7, 8, 9], [], [3, 4, 5, 6, 7]]
    assert found.logp.tolist() == [[0.0] * 5] * 3


def test_a_stop_token_in_the_last_place_counts_as_stopped():
    found = generate(Counter(), [([], [[6], [5]])], EOS, max_new_tokens=4)
    assert found.stopped.tolist() == [True, False]
    assert found.lengths.tolist() == [4, 4]
    assert found.texts() == [[7, 8, 9], [6, 7, 8, 9]]


def test_contexts_are_read_once_and_finished_rows_leave():
    """2 contexts, 3 questions less their last token, those tokens; then pairs that end after 1, 4
    and 8 of them, of which the first is not read."""
    model = Counter()
    prompts = [([1, 2, 3], [[0, 6], [9]]), ([5], [[7, 8, 2]])]
    generate(model, prompts, EOS, num_samples=2, max_new_tokens=16)
    assert model.shapes[:2] == [(2, 3), (3, 3)]
    assert model.shapes[2:] == [(3, 1)] + [(4, 1)] * 3 + [(2, 1)] * 4


def test_generate_all_keeps_the_prompts_order_in_batches_by_length(model):
    prompts = [([t % 9] * t, [[1, t % 9], [t % 7]] * 8) for t in (7, 2, 9, 0, 5, 3, 8, 1)]
    found = generate_all(model, prompts, EOS, max_new_tokens=4)
    slow = [slow_greedy(model, row, 4) for row in rows_of(prompts)]
    assert found == [answer[:-1] if answer[-1] == EOS else answer for answer in slow]


def test_generate_all_draws_anew_in_every_batch(model):
    """The same prompts in two batches of 64 questions: not the same samples twice."""
    prompts = [([1, 2], [[3]] * 64), ([1, 2], [[3]] * 64)]
    options = {"sampling": Sampling(2.0), "max_new_tokens": 6, "seed": 5}
    found = generate_all(model, prompts, EOS, **options)
    assert found[:64] != found[64:]
    assert found == generate_all(model, prompts, EOS, **options)


def test_a_share_of_the_prompts_draws_what_it_would_draw_among_all(model):
    """Equal prompts, so that only the random numbers can differ: as two ranks, and in any batch."""
    prompts = [([1, 2], [[3], [4]])] * 5
    options = {"sampling": Sampling(2.0), "max_new_tokens": 6, "num_samples": 2, "seed": 5}
    found = generate_all(model, prompts, EOS, **options)
    assert found[:4] != found[4:8]
    first = generate_all(model, prompts[:2], EOS, **options)
    assert first + generate_all(model, prompts[2:], EOS, first_row=8, **options) == found
    assert found == generate(model, prompts, EOS, **options).texts()


def test_gradients_flow_through_what_is_computed_from_samples(model):
    found = generate(model, PROMPTS, EOS, sampling=Sampling(), max_new_tokens=5)
    assert not any(tensor.is_inference() for tensor in found)
    factor = torch.ones((), requires_grad=True)
    (found.logp * factor).sum().backward()  # saves logp for the backward pass
    assert float(factor.grad) == pytest.approx(float(found.logp.sum()), rel=1e-5)
    rows = model.embedding(found.tokens)  # saves the ids
    rows.sum().backward()
    assert model.embedding.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_draw_by_hand():
    """Cumulated 1/4, 3/4, 1: a token takes its interval with the lower end in it."""
    logits = torch.tensor([0.25, 0.5, 0.25]).double().log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, LARGEST])
    assert draw(logits, uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_draw_never_takes_a_filtered_token():
    """Filtered ones first, between and last, at both ends of the uniform numbers and inside."""
    inf = torch.inf
    logits = torch.tensor([-inf, 0.0, -inf, -inf, 1.0, -inf]).repeat(1003, 1)
    uniform = torch.cat((torch.tensor([0.0, LARGEST, 2**-24]), torch.linspace(0, LARGEST, 1000)))
    tokens = draw(logits, uniform)
    assert set(tokens.tolist()) == {1, 4}
    assert tokens[:3].tolist() == [1, 4, 1]


def test_draw_at_the_ends_of_a_large_vocabulary():
    """Rounding in a sum of 50,000 terms must not reach the filtered second half."""
    logits = torch.randn(8, 50_000, generator=torch.Generator().manual_seed(2))
    logits[:, 25_000:] = -torch.inf
    logits[:, :3] = -torch.inf
    assert (draw(logits, torch.full((8,), LARGEST)) < 25_000).all()
    assert (draw(logits, torch.zeros(8)) == 3).all()


def test_logits_that_are_not_finite_give_an_id_and_no_crash():
    """The log-prob is NaN then, which the training loop reports."""
    assert draw(torch.full((2, 5), torch.nan), torch.tensor([0.0, 0.9])).tolist() == [0, 0]


def test_frequencies_are_the_probabilities():
    """Chi-square of 40,000 draws, 5 degrees of freedom: 25.74 is passed once in 10,000."""
    probability = torch.tensor([0.3, 0.02, 0.25, 0.08, 0.25, 0.1])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(11))
    tokens = draw(probability.log().expand(40_000, 6), uniform)
    expected = 40_000 * probability
    counts = torch.bincount(tokens, minlength=6)
    assert float(((counts - expected) ** 2 / expected).sum()) < 25.74


def test_frequencies_of_samples_are_the_models_probabilities():
    """20,000 first tokens, 10 degrees of freedom: 35.56 is passed once in 10,000."""
    model = perturbed("kgram")
    found = generate(
        model, [([1, 2], [[3]])], EOS,
        sampling=Sampling(0.8), num_samples=20_000, max_new_tokens=1, seed=9,
    )
    expected = 20_000 * (next_logits(model, [1, 2, 3]) / 0.8).softmax(-1)
    counts = torch.bincount(found.tokens[:, 0], minlength=VOCAB)
    assert float(((counts - expected) ** 2 / expected).sum()) < 35.56


def kept(logits, **options):
    return filter_logits(torch.tensor([logits]), Sampling(1.0, **options))[0].isfinite().tolist()


# Probabilities 0.1, 0.4, 0.2, 0.3.
FOUR = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"top_k": 1}, [False, True, False, False]),
        ({"top_k": 3}, [False, True, True, True]),
        ({"top_k": 4}, [True, True, True, True]),
        ({"top_k": 9}, [True, True, True, True]),
        ({"top_p": 0.0}, [False, True, False, False]),
        ({"top_p": 0.39}, [False, True, False, False]),
        ({"top_p": 0.41}, [False, True, False, True]),
        ({"top_p": 0.69}, [False, True, False, True]),
        ({"top_p": 0.71}, [False, True, True, True]),
        ({"top_p": 0.91}, [True, True, True, True]),
        # Of the top 2, 4/7 and 3/7: the first alone reaches 0.5 after top-k, not before.
        ({"top_k": 2, "top_p": 0.5}, [False, True, False, False]),
        ({"top_p": 0.5}, [False, True, False, True]),
    ],
)
def test_filters_by_hand(options, expected):
    assert kept(FOUR, **options) == expected


def test_filters_and_ties():
    """Equal tokens at the k-th place all stay; the shortest set of four quarters takes low ids."""
    assert kept([1.0, 2.0, 1.0, 0.0], top_k=2) == [True, True, True, False]
    assert kept([0.0] * 4, top_k=1) == [True] * 4
    assert kept([0.0] * 4, top_p=0.5) == [True, True, False, False]
    assert kept([0.0] * 4, top_p=0.51) == [True, True, True, False]


def test_filters_leave_what_stays_as_it_was():
    logits = torch.tensor([FOUR])
    found = filter_logits(logits, Sampling(1.0, top_k=3, top_p=0.8))
    assert torch.equal(found[found.isfinite()], logits[found.isfinite()])
    assert logits.isfinite().all()


@pytest.mark.parametrize(("samples", "questions"), [(1, 256), (2, 128), (8, 64)])
def test_many_samples_a_question_make_no_larger_batches(samples, questions, model, monkeypatch):
    """256 answers at once, but never fewer than 64 questions."""
    asked = []

    def noted(model, prompts, *about, **options):
        asked.append(len(prompts))
        return generate(model, prompts, *about, **options)

    monkeypatch.setattr("src.inference.sampling.generate", noted)
    prompts = [([1, 2], [[3]])] * 300
    found = generate_all(
        model, prompts, EOS, num_samples=samples, max_new_tokens=2
    )
    assert max(asked) == questions and sum(asked) == 300 and len(found) == 300 * samples
