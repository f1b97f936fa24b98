"""The pointer of src/model/pointer.py: its equations by plain loops, and which token has which key.

That trees equal rows, that padding and selection change nothing and that decoding equals reading is
tested for every architecture, with and without a pointer, in test_models.py and test_logprobs.py.
"""

import math

import pytest
import torch

from src.inference.logprobs import build_tree_batch, completion_hidden
from src.model.model import build_model
from src.model.pointer import DECAY, WINDOW

VOCAB, WIDTH = 13, 8
KINDS = ("transformer", "lstm", "kgram")


def pointer_model(kind, seed=0):
    torch.manual_seed(seed)
    shape = {"n_head": 2} if kind == "transformer" else {}
    config = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 1, "pointer": True, **shape}
    model = build_model(kind, config)
    with torch.no_grad():  # query and key apart, and no score of "nothing" at 0
        model.pointer.key.weight.add_(0.3 * torch.randn_like(model.pointer.key.weight))
        model.pointer.nothing.fill_(0.7)
    return model


def rms(x):
    return x / max(math.sqrt(sum(v * v for v in x.tolist()) / len(x) + 1e-6), 1e-12)


def by_loops(model, row):
    """Hidden states (T, D) of one row, token by token, straight from the module's equations."""
    pointer, embedding = model.pointer, model.embedding.weight
    tokens = torch.tensor([row])
    hidden = model.base(tokens, torch.tensor([len(row)]))[0][0]
    decays = [DECAY**age for age in range(WINDOW)]
    features = []
    for t in range(len(row)):
        mean, fading = torch.zeros(WIDTH), torch.zeros(WIDTH)
        for age in range(min(WINDOW, t + 1)):
            vector = embedding[row[t - age]]
            mean = mean + vector / WINDOW
            fading = fading + decays[age] / sum(decays) * vector
        features.append(torch.cat((rms(hidden[t]), rms(mean), rms(fading))))
    out = []
    for t in range(len(row)):
        query = pointer.query.weight @ features[t]
        query = query / query.norm()
        scores, values = [float(pointer.nothing)], [torch.zeros(WIDTH)]
        for j in range(1, t + 1):  # token 0 has no state before it, and no key
            key = pointer.key.weight @ features[j - 1]
            scores.append(math.exp(float(pointer.sharpness)) * float(query @ (key / key.norm())))
            values.append(embedding[row[j]])
        weights = torch.tensor(scores).softmax(0)
        copied = sum(w * v for w, v in zip(weights, values, strict=True))
        out.append(hidden[t] + pointer.out.weight @ copied)
    return torch.stack(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 6, WINDOW + 5])
def test_the_equations_by_plain_loops(kind, length):
    model = pointer_model(kind)
    row = torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        found, _ = model(torch.tensor([row]), torch.tensor([length]))
        torch.testing.assert_close(found[0], by_loops(model, row), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_questions_first_token_has_the_key_of_its_contexts_last_state(kind):
    """Across levels, with an empty context and an empty question among them."""
    model = pointer_model(kind)
    trees = [([1, 2, 3], [([4, 5], [[6, 7], [8]]), ([9], [[10, 1]])]), ([], [([2, 3], [[4]])])]
    with torch.no_grad():
        found = completion_hidden(model, build_tree_batch(trees, eos_id=12))
        number = 0
        for context, questions in trees:
            for question, answers in questions:
                for answer in answers:
                    row = by_loops(model, [*context, *question, *answer])[-len(answer) - 1 :]
                    ours = found[number, : len(answer) + 1]
                    torch.testing.assert_close(ours, row, rtol=1e-4, atol=1e-4)
                    number += 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_copies_what_followed_the_same_words(kind):
    """From random weights: after the same sixteen words comes what came after them before."""
    torch.manual_seed(0)
    shape = {"n_head": 2} if kind == "transformer" else {}
    config = {"vocab_size": 60, "n_embd": 64, "n_layer": 1, "pointer": True, **shape}
    model = build_model(kind, config)
    phrase, other = list(range(WINDOW)), list(range(WINDOW, 2 * WINDOW))
    row = [*phrase, 50, *other, 51, *phrase]
    with torch.no_grad():
        hidden, _ = model(torch.tensor([row]), torch.tensor([len(row)]))
        plain, _ = model.base(torch.tensor([row]), torch.tensor([len(row)]))
        gain = model.logits(hidden[0, -1]) - model.logits(plain[0, -1])
    assert int(gain.argmax()) == 50
