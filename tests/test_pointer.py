"""The pointer of src/model/pointer.py: its equations by plain loops, and which token has which key.

That trees equal rows, that padding and selection change nothing and that decoding equals reading is
tested for every architecture, with and without a pointer, in test_models.py and test_logprobs.py.
"""

import math

import pytest
import torch

from src.inference.logprobs import build_tree_batch, completion_hidden
from src.model.model import build_model
from src.model.pointer import AHEAD, KEPT, WINDOW

VOCAB, WIDTH = 13, 8
KINDS = ("transformer", "lstm", "kgram")


def pointer_model(kind, seed=0):
    torch.manual_seed(seed)
    shape = {"n_head": 2} if kind == "transformer" else {}
    config = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 1, "pointer": True, **shape}
    model = build_model(kind, config)
    with torch.no_grad():  # query and key apart, and no score of "nothing" at 0
        for linear in (model.pointer.query, model.pointer.after):
            linear.weight.add_(0.3 * torch.randn_like(linear.weight))
        model.pointer.nothing.copy_(torch.tensor([0.1, -0.05]))
        for weight in (model.pointer.forget, model.pointer.lags, model.pointer.leads):
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def rms(x):
    return x / max(math.sqrt(sum(v * v for v in x.tolist()) / len(x) + 1e-6), 1e-12)


def unit(x):
    return x / max(float(x.norm()), 1e-12)


def by_loops(model, row):
    """Hidden states (T, D) of one row, token by token, straight from the module's equations."""
    pointer, embedding = model.pointer, model.embedding.weight
    tokens = torch.tensor([row])
    hidden = model.base(tokens, torch.tensor([len(row)]))[0][0]

    def kept(t):
        logit = float(embedding[row[t]] @ pointer.forget) * math.sqrt(WIDTH) + KEPT
        return 1 / (1 + math.exp(-logit))

    features = []
    for t in range(len(row)):
        sums, kept_so_far = [torch.zeros(WIDTH), torch.zeros(WIDTH)], 1.0
        for age in range(min(WINDOW, t + 1)):
            for i, lags in enumerate(pointer.lags.tolist()):
                weight = kept_so_far * lags[WINDOW - 1 - age]
                sums[i] = sums[i] + weight * embedding[row[t - age]]
            kept_so_far *= kept(t - age)
        features.append(torch.cat([rms(x) for x in (hidden[t], *sums)]))

    def before(j):
        return pointer.before.weight @ features[j - 1] if j else torch.zeros(WIDTH - 1)

    def after(j):
        found, kept_so_far = torch.zeros(WIDTH), 1.0
        for distance, lead in enumerate(pointer.leads[0].tolist()):
            found = found + kept_so_far * lead * embedding[row[j + 1 + distance]]
            kept_so_far *= kept(j + 1 + distance)
        return pointer.after.weight @ rms(found)

    out = []
    for t in range(len(row)):
        copied = []
        for head, wait in enumerate((0, AHEAD)):
            query = unit(pointer.query.weight.view(2, WIDTH - 1, -1)[head] @ features[t])
            sharp = math.exp(float(pointer.sharpness[head]))
            scores, values = [], []
            for j in range(t + 1 - wait):  # of those whose keys are known
                if not head and not j:
                    continue  # token 0 has no state before it, and no key
                key = before(j) + after(j) if head else before(j)
                scores.append(sharp * float(query @ unit(key)))
                values.append(embedding[row[j]])
            nothing = min(t + 1, wait or 1)  # entries without a token
            scores += [sharp * float(pointer.nothing[head])] * nothing
            values += [torch.zeros(WIDTH)] * nothing
            weights = torch.tensor(scores).softmax(0)
            copied.append(sum(w * v for w, v in zip(weights, values, strict=True)))
        out.append(hidden[t] + pointer.out.weight @ torch.cat(copied))
    return torch.stack(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 6, AHEAD, AHEAD + 1, WINDOW + 5])
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
@pytest.mark.parametrize("head", [0, 1])
def test_it_copies_what_the_same_words_followed_or_surround(kind, head):
    """From random weights, by the first head: after words that were read before comes what came
    after them. By the second, of keys of what came after alone: one of the same words.
    """
    torch.manual_seed(0)
    shape = {"n_head": 2} if kind == "transformer" else {}
    config = {"vocab_size": 60, "n_embd": 64, "n_layer": 1, "pointer": True, **shape}
    model = build_model(kind, config)
    phrase, other = list(range(WINDOW)), list(range(WINDOW, 2 * WINDOW))
    row = [*phrase, 50, *other, 51, *phrase]
    with torch.no_grad():
        model.pointer.out.weight.view(64, 2, 64)[:, 1 - head] = 0
        model.pointer.before.weight.mul_(1 - head)
        hidden, _ = model(torch.tensor([row]), torch.tensor([len(row)]))
        plain, _ = model.base(torch.tensor([row]), torch.tensor([len(row)]))
        gain = model.logits(hidden[0, -1]) - model.logits(plain[0, -1])
    assert int(gain.argmax()) in (phrase if head else [50])
