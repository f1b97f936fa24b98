"""Prefix trees as one packed sequence: which token sees which, by hand and by a second layout; and
the CPU kernels below."""

import itertools
from unittest import mock

import pytest
import torch
from conftest import perturb
from hypothesis import given, settings
from hypothesis import strategies as st

from src.inference.logprobs import build_tree_batch
from src.model import cpu_kernels
from src.model.cpu_kernels import attend_part
from src.model.linear import Linear, prepacked
from src.model.model import build_model
from src.model.prefix_sharing import Level
from src.model.prefix_sharing.packing import SCORES_PER_PART, pack, parts_pay, starts_of
from tests.test_models import CONFIGS, VOCAB, close

HAND_TREES = [([1, 2], [([3, 4], [[5], []])]), ([], [([7], [[]])])]
# Which tokens each of the first tree's tokens sees: context, question, two completions.
HAND_SEEN = [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0],
    [1, 1, 1, 1, 0, 0],
    [1, 1, 1, 1, 1, 0],
    [1, 1, 1, 0, 0, 1],
]


def test_packed_trees_worked_by_hand():
    """Context [1, 2], question [3], completions [4, 5] and [4]; in the second tree no context, no
    question, completion [7]."""
    levels = build_tree_batch(HAND_TREES, eos_id=9).levels()
    packed = pack(levels, "last level")
    assert packed.tokens.tolist() == [1, 2, 3, 4, 5, 4, 7]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 3, 0]
    assert packed.level.tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert packed.place.tolist() == [0, 1, 0, 0, 1, 2, 4]
    assert packed.wanted.tolist() == [3, 4, 5, 6]
    assert pack(levels, "last token").wanted.tolist() == [4, 5, 6]
    assert [starts_of(packed, i, level).tolist() for i, level in enumerate(levels)] == [
        [0, 0], [2, 0], [3, 5, 6]
    ]


def test_rows_of_packed_trees_worked_by_hand():
    """The same trees: seven tokens in two rows of six places."""
    levels = build_tree_batch(HAND_TREES, eos_id=9).levels()
    packed = pack(levels, "last level", in_rows=True)
    rows = packed.attention
    assert rows.width == rows.key_width == 6 and rows.place.tolist() == [0, 1, 2, 3, 4, 5, 6]
    seen = rows.shown[:, 0] == 0
    assert seen[0].int().tolist() == HAND_SEEN
    # The other row: one token, which sees itself, and places that it does not see, nor they it.
    assert seen[1, 0].tolist() == [True, *[False] * 5] and seen[1, :, 0].sum() == 1
    assert seen[1].diagonal().all()
    # Of the completions alone: four tokens in two rows of three places.
    rows = packed.last_attention
    assert rows.width == 3 and rows.place.tolist() == [0, 1, 2, 3]
    assert torch.equal(rows.shown[0, 0] == 0, seen[0, 3:])
    assert torch.equal(rows.shown[1, 0, 0] == 0, seen[1, 0])
    # Of the completions' last tokens: three tokens in two rows of two places.
    rows = pack(levels, "last token", in_rows=True).last_attention
    assert rows.width == 2 and rows.place.tolist() == [0, 1, 2]
    assert torch.equal(rows.shown[0, 0] == 0, seen[0, 4:])
    assert torch.equal(rows.shown[1, 0, 0] == 0, seen[1, 0])


def test_parts_of_packed_trees_worked_by_hand():
    """The same trees: one part for all of the first tree on its context, and one for each tree's
    question and completions among themselves."""
    levels = build_tree_batch(HAND_TREES, eos_id=9).levels()
    packed = pack(levels, "last level")
    seen = torch.tensor(HAND_SEEN).bool()
    (context,), (first, second) = packed.attention
    assert context == (slice(0, 6), slice(0, 2), None, True)
    assert first[:2] == (slice(2, 6), slice(2, 6)) and not first.causal
    assert torch.equal(first.shown == 0, seen[2:, 2:])
    assert second[:2] == (slice(6, 7), slice(6, 7)) and second.shown.tolist() == [[0.0]]
    # Of the completions alone, the first to the fourth of the wanted: they see the whole context.
    (context,), (first, second) = packed.last_attention
    assert context == (slice(0, 3), slice(0, 2), None, False)
    assert first[:2] == (slice(0, 3), slice(2, 6)) and torch.equal(first.shown == 0, seen[3:, 2:])
    assert second[:2] == (slice(3, 4), slice(6, 7))


def test_parts_pay_for_long_contexts_by_hand():
    """Two trees of 4 and 1 tokens as above: 2 * 36 scores in rows, 6 * 2 + 4 * 4 + 1 in parts.
    There are four parts, so 43 scores of channels stand against 4 * 700,000.
    """
    levels = build_tree_batch(HAND_TREES, eos_id=9).levels()
    limit = 4 * SCORES_PER_PART / 43
    assert not parts_pay(levels, int(limit)) and parts_pay(levels, int(limit) + 1)
    assert not parts_pay(levels[:1], 10**9)


TRANSFORMERS = [c for c in CONFIGS if c[0] == "transformer"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parts_equal_rows_in_value_and_gradient(data):
    """Random trees of any shape, empty nodes among them; every kind of output that is read."""
    draw, chance = data.draw, st.integers(0, 2**31)
    name, config = draw(st.sampled_from(TRANSFORMERS))
    torch.manual_seed(draw(chance))
    model = perturb(build_model(name, {"vocab_size": VOCAB, **config}))
    levels, above = [], 1
    for _ in range(draw(st.integers(1, 3))):
        rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 40))
        parents = torch.randint(above, (rows,)) if levels else torch.zeros(rows).long()
        tokens, lengths = torch.randint(VOCAB, (rows, width)), torch.randint(width + 1, (rows,))
        levels.append(Level(tokens, lengths, parents))
        above = rows
    wanted = draw(st.sampled_from(["all", "last level", "last token"]))
    found = []
    kernels = draw(st.booleans()) and cpu_kernels.HAS_ATTENTION  # or the fallback
    for in_rows in (False, True):
        with mock.patch.object(cpu_kernels, "HAS_ATTENTION", kernels):
            hidden, _ = model.read_trees(levels, pack(levels, wanted, in_rows))
        weight = torch.rand(hidden.shape, generator=torch.Generator().manual_seed(1))
        with mock.patch.object(cpu_kernels, "HAS_ATTENTION", kernels):
            (hidden * weight).sum().backward()
        found.append([hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        model.zero_grad()
    # A gradient that is 0 but for rounding has no scale of its own.
    scale = max([1e-3, *(float(x.abs().max()) for x in found[1] if x.numel())])
    for parts, rows in zip(*found, strict=True):
        close(parts / scale, rows / scale)


def test_parts_are_float32_under_autocast():
    """Their products alone: what comes out is equal to that of the factors rounded to bfloat16."""
    levels = build_tree_batch(HAND_TREES, eos_id=9).levels()
    parts = pack(levels, "all").attention
    torch.manual_seed(0)
    query, keys, values = torch.randn(7, 2, 2, 8), torch.randn(7, 2, 8), torch.randn(7, 2, 8)
    halves = [x.bfloat16() for x in (query, keys, values)]
    wanted = parts.attend(*(x.float() for x in halves))
    with torch.autocast("cpu", torch.bfloat16):
        leaves = [x.clone().requires_grad_() for x in halves]
        found = parts.attend(*leaves)
        found.sum().backward()
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.any() for x in (leaves[0], leaves[2]))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_a_part_by_plain_operations(causal):
    """In float64 and by a loop over queries; then torch's own, what a GPU would run, gives it."""
    query, keys, values = (
        torch.randn(2, 3, n, 8, generator=torch.Generator().manual_seed(n)) for n in (70, 9, 10)
    )
    values = values[:, :, :9]
    shown = torch.zeros(2, 1, 70, 9)
    shown[1, 0, :, 3] = -torch.inf
    outs, totals = attend_part(query, keys, values, None if causal else shown, causal)
    seen = torch.ones(70, 9).tril() if causal else shown.exp()
    for b, h, i in itertools.product(range(2), range(3), (0, 1, 8, 69)):
        row = seen[i].bool() if causal else seen[b, 0, i].bool()
        scores = keys[b, h, row].double() @ query[b, h, i].double() / 8**0.5
        weights = scores.exp() / scores.exp().sum()
        close(outs[b, h, i], (weights @ values[b, h, row].double()).float())
        close(totals[b, h, i], scores.exp().sum().log().float())
    with mock.patch.object(cpu_kernels, "HAS_ATTENTION", False):
        plain, plain_totals = attend_part(query, keys, values, None if causal else shown, causal)
    close(plain, outs)
    close(plain_totals, totals)


def test_packed_weights_give_the_same_products():
    torch.manual_seed(0)
    linear, x = Linear(64, 48), torch.randn(16, 64)
    wanted = linear(x)
    with mock.patch.object(cpu_kernels, "HAS_PACKED", False), prepacked(linear, 16):
        assert torch.equal(linear(x), wanted)
    if not cpu_kernels.HAS_PACKED:
        pytest.skip("this torch has no packed products")
    with torch.inference_mode(), prepacked(linear, 16):
        found = linear(x)
        with prepacked(linear, 16):
            assert torch.equal(linear(x), found)
        assert torch.equal(linear(x), found)
        linear.weight.data.zero_()  # the copy is what is read
        assert torch.equal(linear(x), found)
    assert torch.equal(linear(x), linear.bias.expand(16, -1))
    close(found, wanted)
    with prepacked(linear, 3):  # too few rows: as it is
        assert torch.equal(linear(x), linear.bias.expand(16, -1))


@pytest.mark.parametrize("rows", [1, 16])
def test_under_autocast_weights_are_packed_in_bfloat16(rows):
    """Cast once instead of for every product. Biases too, and within a rounding of autocast's."""
    torch.manual_seed(0)
    linear, x = Linear(64, 48), torch.randn(rows, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        wanted = linear(x)
        with mock.patch.object(cpu_kernels, "HAS_PACKED", False), prepacked(linear, rows):
            assert torch.equal(linear(x), wanted)
        if not cpu_kernels.HAS_PACKED or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            pytest.skip("this machine or torch has no packed products in bfloat16")
        with prepacked(linear, rows):
            found = linear(x)
            linear.weight.data.zero_()  # the copy is what is read
            assert torch.equal(linear(x), found)
    assert found.dtype == wanted.dtype == torch.bfloat16
    close(found.float(), wanted.float(), 2**-7)


@pytest.mark.parametrize("config", [c[1] for c in TRANSFORMERS])
def test_float64_is_as_exact_as_plain_rereading(config):
    """More than 17 keys, decoded one by one or read by parts; the gradients, too."""
    torch.manual_seed(0)
    model = perturb(build_model("transformer", {"vocab_size": VOCAB, **config}).double())
    tokens, one = torch.randint(VOCAB, (2, 44)), torch.ones(2, dtype=torch.long)
    wanted = model(tokens, torch.tensor([44, 44]))[0][:, 20:]
    roots = torch.arange(2)
    contexts = Level(tokens[:, :20], torch.tensor([20, 20]), torch.zeros_like(roots))
    with torch.inference_mode():
        _, state = model.prefill((contexts, Level(tokens[:, 20:21], one, roots)))
        for t in range(21, 44):
            hidden, state = model(tokens[:, t : t + 1], one, state)
            close(hidden[:, 0], wanted[:, t - 20], 1e-9)
    levels = contexts, Level(tokens[:, 20:], torch.tensor([24, 24]), roots)
    by_parts = pack(levels, "last level")
    found, _ = model.read_trees(levels, by_parts)
    close(found, wanted.flatten(0, 1), 1e-9)
    weight = torch.randn_like(found)
    parameters = list(model.parameters())[:-1]  # all but an untied head, which nothing here reads
    for one_by_one, whole in zip(
        torch.autograd.grad((found * weight).sum(), parameters, allow_unused=True),
        torch.autograd.grad((wanted.flatten(0, 1) * weight).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        close(one_by_one, whole, 1e-9)
