"""The contract that every architecture keeps (src/model/__init__.py), and parity with Llama."""

import pytest
import torch
from conftest import perturb

from src.inference.logprobs import build_tree_batch
from src.model.model import MODELS, build_model
from src.model.prefix_sharing import Level
from src.utils.constants import MODEL_TYPES
from src.utils.errors import UserError

CONFIGS = [
    ("transformer", {"n_layer": 2, "n_embd": 32, "n_head": 4}),
    ("transformer", {"n_layer": 3, "n_embd": 24, "n_head": 6, "n_kv_head": 2}),
    ("transformer", {"n_layer": 2, "n_embd": 16, "n_head": 2, "tied": False}),
    ("lstm", {"n_layer": 2, "n_embd": 24}),
    ("kgram", {"n_layer": 1, "n_embd": 16, "kgram_k": 5}),
    ("kgram", {"n_layer": 2, "n_embd": 16, "kgram_k": 1}),
    ("transformer", {"n_layer": 2, "n_embd": 32, "n_head": 4, "pointer": True}),
    ("lstm", {"n_layer": 2, "n_embd": 24, "pointer": True}),
    ("kgram", {"n_layer": 1, "n_embd": 16, "kgram_k": 5, "pointer": True}),
]
VOCAB = 50


@pytest.fixture(params=CONFIGS, ids=str)
def model(request):
    torch.manual_seed(3)
    return perturb(build_model(request.param[0], {"vocab_size": VOCAB, **request.param[1]}))


def ids(*shape, seed=0):
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def full(tokens):
    return torch.full((len(tokens),), tokens.shape[1])


def alone(model, *parts):
    """Hidden states of one row read whole, the slow and plain way."""
    tokens = torch.cat(parts)[None]
    return model(tokens, full(tokens))[0][0]


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_registry_names():
    assert tuple(MODELS) == MODEL_TYPES


@pytest.mark.parametrize("inference", [False, True])
def test_whole_equals_split_at_every_position_and_token_by_token(model, inference):
    tokens = ids(3, 9)
    with torch.inference_mode(inference):
        whole, _ = model(tokens, full(tokens))
        for cut in range(1, 9):
            first, state = model(tokens[:, :cut], torch.full((3,), cut))
            second, _ = model(tokens[:, cut:], torch.full((3,), 9 - cut), state)
            close(torch.cat((first, second), 1), whole)
        state, steps = None, []
        for t in range(9):
            hidden, state = model(tokens[:, t : t + 1], torch.ones(3, dtype=torch.long), state)
            steps.append(hidden)
        close(torch.cat(steps, 1), whole)


@pytest.mark.parametrize("inference", [False, True])
def test_ragged_batch_equals_rows_alone_over_three_segments(model, inference):
    """Rows of 0 to 7 real tokens a segment; padding holds ids that must not matter."""
    lengths = [torch.tensor(x) for x in ([7, 1, 4, 0], [2, 5, 0, 3], [1, 1, 1, 1])]
    parts = [ids(4, 7, seed=i) for i in range(3)]
    parts[2] = parts[2][:, :1]
    with torch.inference_mode(inference):
        state, outputs = None, []
        for tokens, count in zip(parts, lengths, strict=True):
            hidden, state = model(tokens, count, state)
            assert torch.isfinite(hidden).all()
            outputs.append(hidden)
        for row in range(4):
            real = [p[row, : n[row]] for p, n in zip(parts, lengths, strict=True)]
            expected = alone(model, *real)
            found = torch.cat([o[row, : n[row]] for o, n in zip(outputs, lengths, strict=True)])
            close(found, expected)
        assert state.lengths.tolist() == [10, 7, 5, 4]


@pytest.mark.parametrize("inference", [False, True])
def test_ragged_token_by_token(model, inference):
    """Rows that have no token left at a step are given length 0 and stay as they were."""
    tokens, lengths = ids(3, 6), torch.tensor([6, 2, 4])
    with torch.inference_mode(inference):
        state = None
        for t in range(6):
            _, state = model(tokens[:, t : t + 1], (lengths > t).long(), state)
        last, _ = model(ids(3, 2, seed=9), torch.full((3,), 2), state)
        for row in range(3):
            expected = alone(model, tokens[row, : lengths[row]], ids(3, 2, seed=9)[row])[-2:]
            close(last[row], expected)


@pytest.mark.parametrize("inference", [False, True])
def test_select_with_repeats_and_drops_equals_running_twice(model, inference):
    prefix, lengths = ids(3, 5), torch.tensor([5, 2, 4])
    rows = torch.tensor([2, 0, 2, 2, 1])
    later = ids(5, 3, seed=1)
    with torch.inference_mode(inference):
        _, state = model(prefix, lengths)
        hidden, state = model(later, torch.tensor([3, 2, 1, 3, 3]), state.select(rows))
        again = torch.tensor([3, 1, 1])
        last, state = model(later[:3, :1], torch.ones(3, dtype=torch.long), state.select(again))
        last, state = model(later[:3, 1:2], torch.ones(3, dtype=torch.long), state)
        last, _ = model(later[:2, 2:], torch.ones(2, dtype=torch.long), state.select([0, 2]))
    read = [3, 2, 1, 3, 3]
    for i, row in enumerate(rows):
        expected = alone(model, prefix[row, : lengths[row]], later[i, : read[i]])
        close(hidden[i, : read[i]], expected[lengths[row] :])
    first = alone(model, prefix[2, :4], later[3, :3], later[0, :3])
    second = alone(model, prefix[0, :5], later[1, :2], later[2, :2], later[1, 2:])
    close(last[0, 0], first[-1])
    close(last[1, 0], second[-1])


@pytest.mark.parametrize(
    "model", [c for c in CONFIGS if c[0] != "transformer" and "pointer" not in c[1]], indirect=True
)
def test_read_gives_the_same_state(model):
    tokens, lengths = ids(3, 5), torch.tensor([5, 2, 4])
    later = ids(3, 4, seed=1)
    close(
        model(later, full(later), model.read(tokens, lengths))[0],
        model(later, full(later), model(tokens, lengths)[1])[0],
    )


def test_a_state_can_be_continued_twice(model):
    """Decoding writes in place, but a branch from an older state must not see it."""
    tokens, one = ids(2, 4), torch.ones(2, dtype=torch.long)
    left, right = ids(2, 3, seed=1), ids(2, 3, seed=2)
    with torch.inference_mode():
        _, state = model(tokens, full(tokens))
        _, state = model(left[:, :1], one, state)
        branches = []
        for branch in (left, right, left):
            hidden, after = model(branch[:, 1:2], one, state)
            branches.append(model(branch[:, 2:], one, after)[0])
        for branch, out in zip((left, right, left), branches, strict=True):
            for row in range(2):
                expected = alone(model, tokens[row], left[row, :1], branch[row, 1:])
                close(out[row, 0], expected[-1])


def test_branches_of_a_state_that_take_turns_do_not_see_each_other(model):
    """The first goes on decoding after the second has begun where the first did."""
    tokens, one = ids(2, 4), torch.ones(2, dtype=torch.long)
    branches = ids(2, 5, seed=1), ids(2, 5, seed=2)
    with torch.inference_mode():
        _, state = model(tokens, full(tokens))
        _, state = model(ids(2, 1, seed=3), one, state)
        states, hidden = [state, state], [None, None]
        for t in range(5):
            for i, branch in enumerate(branches):
                hidden[i], states[i] = model(branch[:, t : t + 1], one, states[i])
        for branch, out in zip(branches, hidden, strict=True):
            for row in range(2):
                expected = alone(model, tokens[row], ids(2, 1, seed=3)[row], branch[row])
                close(out[row, 0], expected[-1])


def test_decoding_beyond_the_buffer(model):
    tokens, one = ids(2, 80), torch.ones(2, dtype=torch.long)
    with torch.inference_mode():
        state = None
        for t in range(80):
            hidden, state = model(tokens[:, t : t + 1], one, state)
        close(hidden[:, 0], model(tokens, full(tokens))[0][:, -1], 2e-5)


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # of the norm, which is right all the same
def test_decoding_after_a_shared_prefix_in_bfloat16(model):
    """Under autocast, as on a GPU: by plain operations, values in bfloat16, queries in float32."""
    prefix, rows, one = ids(2, 6), torch.tensor([1, 0, 1]), torch.ones(3, dtype=torch.long)
    later = ids(3, 3, seed=1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        _, state = model(prefix, torch.tensor([6, 4]))
        state = state.select(rows)
        for t in range(3):
            hidden, state = model(later[:, t : t + 1], one, state)
    for i, row in enumerate(rows):
        expected = alone(model, prefix[row, : (6, 4)[row]], later[i])[-1]
        assert (hidden[i, 0].float() - expected).norm() < 0.05 * expected.norm()


def test_future_tokens_change_nothing_before_them(model):
    tokens, other = ids(2, 8), ids(2, 8)
    other[:, 5:] = (other[:, 5:] + 1) % VOCAB
    before, after = model(tokens, full(tokens))[0], model(other, full(other))[0]
    close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_gradients_reach_a_shared_prefix_as_if_it_were_read_for_each(model):
    prefix, lengths = ids(2, 6), torch.tensor([6, 3])
    rows, later = torch.tensor([0, 1, 0, 1, 1]), ids(5, 4, seed=1)
    _, state = model(prefix, lengths)
    hidden, _ = model(later, full(later), state.select(rows))
    model.logits(hidden).square().sum().backward()
    shared = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for i, row in enumerate(rows):
        hidden = alone(model, prefix[row, : lengths[row]], later[i])[lengths[row] :]
        model.logits(hidden).square().sum().backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().clamp_min(1e-3)
        close(shared[name] / scale, parameter.grad / scale)


def test_inputs_and_state_are_unchanged(model):
    tokens, lengths = ids(2, 6), torch.tensor([6, 3])
    _, state = model(tokens, lengths)

    def tensors(x):
        if isinstance(x, torch.Tensor):
            return [x.clone()]
        return [t for part in x for t in tensors(part)] if isinstance(x, tuple) else []

    before = tensors(state)
    model(tokens, lengths, state)
    state.select(torch.tensor([1, 1]))
    assert torch.equal(tokens, ids(2, 6)) and lengths.tolist() == [6, 3]
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(state), strict=True))


def test_logits_have_the_vocabularys_width(model):
    assert model.logits(torch.zeros(2, 3, model.width)).shape == (2, 3, VOCAB)


def test_kgram_sees_exactly_its_last_k_tokens():
    torch.manual_seed(0)
    model = build_model("kgram", {"vocab_size": VOCAB, "n_embd": 16, "kgram_k": 3})
    tokens = ids(1, 8)
    for changed in range(8):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % VOCAB
        before, after = (model(row, full(row))[0][0] for row in (tokens, other))
        same = torch.isclose(before, after).all(-1)
        assert [t for t in range(8) if not same[t]] == [t for t in range(8) if 0 <= t - changed < 3]


def test_kgram_has_a_vector_of_its_own_for_nothing():
    """Before the first token stands no token, 0 neither, and what stands there is learnt."""
    torch.manual_seed(0)
    model = build_model("kgram", {"vocab_size": VOCAB, "n_embd": 16, "kgram_k": 3})
    after_nothing, after_0 = (model(row, full(row))[0][0, -1] for row in map(
        torch.tensor, ([[7]], [[0, 7]])))
    assert not torch.allclose(after_nothing, after_0, atol=1e-3)
    after_nothing.square().sum().backward()
    rows = model.embedding.weight.grad.abs().sum(1)
    assert rows.nonzero().flatten().tolist() == [7, VOCAB]


@pytest.mark.parametrize(
    "name, config",
    [
        ("transformer", {"n_embd": 255, "n_head": 4}),
        ("transformer", {"n_head": 4, "n_kv_head": 3}),
        ("kgram", {"kgram_k": 0}),
        ("lstm", {"n_layer": -1}),
        ("lstm", {"n_head": 2}),
        ("rnn", {}),
    ],
)
def test_configurations_that_make_no_model_are_refused(name, config):
    with pytest.raises(UserError, match="expected"):
        build_model(name, {"vocab_size": VOCAB, **config})


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_transformer_equals_transformers_llama(kv_heads, tied):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = build_model(
        "transformer",
        {"vocab_size": VOCAB, "n_layer": 3, "n_embd": 32, "n_head": 4, "n_kv_head": kv_heads,
         "tied": tied},
    )
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=ours.config.n_inner,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=kv_heads,
        rms_norm_eps=1e-5, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        theirs.model.embed_tokens.weight.copy_(ours.embedding.weight)
        theirs.lm_head.weight.copy_((ours.embedding if tied else ours.head).weight)
        theirs.model.norm.weight.copy_(ours.norm.weight)
        for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
            layer.input_layernorm.weight.copy_(block.attention_norm.weight)
            layer.post_attention_layernorm.weight.copy_(block.mlp_norm.weight)
            keys, values = block.key_value.weight.chunk(2)
            gate, up = block.gate_up.weight.chunk(2)
            for target, source in (
                (layer.self_attn.q_proj, block.query.weight), (layer.self_attn.k_proj, keys),
                (layer.self_attn.v_proj, values),
                (layer.self_attn.o_proj, block.attention_out.weight),
                (layer.mlp.gate_proj, gate), (layer.mlp.up_proj, up),
                (layer.mlp.down_proj, block.down.weight),
            ):
                target.weight.copy_(source)
        tokens = ids(2, 20)
        hidden, _ = ours(tokens, full(tokens))
        close(hidden, theirs.model(tokens).last_hidden_state)
        close(ours.logits(hidden), theirs(tokens).logits)


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_the_ends_of_rows_of_which_some_are_empty(name):
    torch.manual_seed(3)
    model = build_model(name, {"vocab_size": VOCAB, "n_embd": 16})
    contexts = Level(ids(2, 4), torch.tensor([4, 0]), torch.zeros(2, dtype=torch.long))
    completions = Level(ids(4, 3, seed=1), torch.tensor([0, 3, 1, 0]), torch.tensor([0, 1, 0, 1]))
    whole = model.read_completions((contexts, completions))
    ends = model.read_last((contexts, completions))
    close(ends, torch.stack([whole[0, 0] * 0, whole[1, 2], whole[2, 0], whole[3, 0] * 0]))


def test_no_token_at_all_is_packed_and_read_with_gradient_0():
    model = build_model("transformer", {"vocab_size": 9, "n_layer": 2, "n_embd": 8, "n_head": 2})
    levels = build_tree_batch([], eos_id=1).levels()
    for read in (lambda: [model.read_completions(levels)], lambda: model.read_levels(levels)):
        torch.cat([part.flatten() for part in read()]).sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
        model.zero_grad()
    model.read_last(levels).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("config", [c for c in CONFIGS if c[0] == "transformer"])
@pytest.mark.parametrize("none", [False, True])
def test_prefill_is_reading_one_level_after_the_other(config, none):
    """Empty contexts and questions among them; parents in no order; then decoding goes on."""
    torch.manual_seed(5)
    model = perturb(build_model("transformer", {"vocab_size": VOCAB, **config[1]}))
    counts = [[5, 0, 9], [3, 0, 6, 1, 2]] if not none else [[0, 0, 0], [0] * 5]
    contexts = Level(ids(3, 9), torch.tensor(counts[0]), torch.zeros(3, dtype=torch.long))
    questions = Level(ids(5, 6, seed=1), torch.tensor(counts[1]), torch.tensor([2, 0, 2, 1, 0]))
    with torch.inference_mode():
        _, state = model(contexts.tokens, contexts.lengths)
        state = state.select(questions.parents)
        _, state = model(questions.tokens, questions.lengths, state)
        ends, found = model.prefill((contexts, questions))
        close(ends, model.read_last((contexts, questions)))
        assert torch.equal(found.lengths, state.lengths)
        rows = torch.tensor([4, 4, 0, 1, 3])
        found, state = found.select(rows), state.select(rows)
        for token in ids(4, 5, 1, seed=2):
            wanted, state = model(token, full(token), state)
            hidden, found = model(token, full(token), found)
            close(hidden, wanted)


def test_a_transformer_reads_no_token_beyond_its_block():
    """Padding may lie beyond; a real token there has no position of its own and is refused."""
    model = build_model("transformer", {"vocab_size": VOCAB, **CONFIGS[0][1], "block_size": 4})
    tokens = torch.ones(2, 6, dtype=torch.long)
    _, state = model(tokens, torch.tensor([4, 1]))
    with pytest.raises(ValueError, match="5 tokens given, expected at most 4"):
        model(tokens, torch.tensor([1, 4]), state)
    level = Level(tokens, torch.tensor([4, 5]), torch.zeros(2, dtype=torch.long))
    with pytest.raises(IndexError):
        model.read_levels([level])
