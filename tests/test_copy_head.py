"""The hand-made copy head copies before any training, and nothing else about the model changes."""

import argparse

import pytest
import torch

import main_squad
from src.interop.pretrained import start_of
from src.model.model import build_model, initialise
from src.model.transformer.copy_head import lay_out_copy_head
from src.utils.errors import UserError


def repeated(count=32, length=30, vocabulary=2000):
    """Random tokens, twice: only what stood after the same token tells what comes next."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (count, length), generator=generator)
    return torch.cat((tokens, tokens), 1)


def copying_accuracy(model):
    tokens = repeated()
    hidden, _ = model(tokens, torch.full((len(tokens),), tokens.shape[1]))
    predicted = model.logits(hidden).argmax(-1)
    return float((predicted[:, 30:-1] == tokens[:, 31:]).float().mean())


# With grouped queries another head shares the key-value head, and blurs it.
@pytest.mark.parametrize("n_kv_head, least", [(4, 0.9), (2, 0.4)])
def test_copies_before_training(n_kv_head, least):
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 128, "n_head": 4, "n_kv_head": n_kv_head}
    model = build_model("transformer", {"vocab_size": 2000, **shape})
    assert copying_accuracy(model) < 0.01
    lay_out_copy_head(model)
    assert copying_accuracy(model) > least


def test_is_a_function_of_the_seeds():
    def weights(seed):
        torch.manual_seed(1)
        model = build_model("transformer", {"vocab_size": 50, "n_embd": 32, "n_head": 2})
        lay_out_copy_head(model, seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("shape", [{"n_layer": 1}, {"n_embd": 8, "n_head": 4}, {"n_kv_head": 1}])
def test_shapes_without_room(shape):
    model = build_model("transformer", {"vocab_size": 50, **shape})
    before = model.embedding.weight.clone()
    assert initialise(model, None, 0) == "normal"
    assert torch.equal(model.embedding.weight, before)
    with pytest.raises(UserError, match="copy_head given, expected"):
        initialise(model, "copy_head", 0)


@pytest.mark.parametrize("flag", [None, "copy_head", "normal"])
def test_a_run_from_scratch_begins_as_its_flags_say(flag):
    """With a copy head of its seed, unless it is told not to; what was done is told in the flags.
    """
    argv = ["--n_layer", "2", "--n_embd", "32", "--n_head", "4", "--seed", "3"]
    argv += ["--initialisation", flag] if flag else []
    run = argparse.Namespace(args=main_squad.build_parser().parse_args(argv), typed=set())
    torch.manual_seed(1)
    found = start_of(run)
    torch.manual_seed(1)
    shape = {"n_layer": 2, "n_embd": 32, "n_head": 4}
    wanted = build_model("transformer", {"vocab_size": found.tokenizer.vocab_size, **shape})
    if flag != "normal":
        lay_out_copy_head(wanted, 3)
    assert run.args.initialisation == (flag or "copy_head") and found.parents == []
    for name, weight in wanted.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], weight), name


def test_other_architectures_stay_random():
    model = build_model("lstm", {"vocab_size": 50, "n_embd": 8})
    assert initialise(model, None, 0) == "normal"
    with pytest.raises(UserError, match="copy_head given, expected"):
        initialise(model, "copy_head", 0)
