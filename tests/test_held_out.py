"""Policies measured on held-out questions, by hand: models of which everything is known."""

import math

import pytest
import torch
from torch import nn

from src import comparison
from src.comparison import measure_policy
from src.data.squad_pairs import PairTrees
from src.data.tokenizer import load_tokenizer
from src.evaluation import Asked
from src.held_out import MAX_ANSWER_TOKENS, HeldOut, evaluate_policy
from src.model.model import build_model
from src.pairs import PairSet

CPU = torch.device("cpu")
TOKENIZER = load_tokenizer("pico")
VOCAB, STOP = TOKENIZER.vocab_size, TOKENIZER.stop_id
# Three questions on two contexts; golds of 2 and 3 tokens, and one longer than an answer may be.
HELD_OUT = HeldOut(
    prompts=[([65, 66], [[67], [68, 69]]), ([], [[70]])],
    golds=[[71, 72], [73] * MAX_ANSWER_TOKENS, [74, 75, 76]],
    asked=[Asked("a context", "a question?", (gold,)) for gold in ("GH", "III", "JKL")],
    ids=["a", "b", "c"], groups=[0, 0, 1], lost=0.0, dropped=0,
)  # fmt: skip


def model_that_says(stop=0.0):
    """Every token is equally probable but the stop token, whose logit is `stop`."""
    model = build_model("kgram", {"vocab_size": VOCAB, "n_embd": 4, "n_layer": 1})
    said = torch.zeros(VOCAB).index_fill(0, torch.tensor([STOP]), stop)
    model.logits = lambda hidden: said.expand(*hidden.shape[:-1], -1)
    return model


def test_a_uniform_model_loses_ln_v_a_token():
    """Stop tokens are counted; a gold that no answer could give is not."""
    result = evaluate_policy(model_that_says(), TOKENIZER, HELD_OUT)
    assert result.tokens == [3, 0, 4]
    assert result.nats == pytest.approx([3 * math.log(VOCAB), 0, 4 * math.log(VOCAB)])
    summary = result.summary(HELD_OUT.groups)
    assert summary["answer_loss_nats"].value == pytest.approx(math.log(VOCAB))
    assert summary["em"].value == summary["f1"].value == 0


def test_a_policy_is_measured_against_its_parent_and_not_the_other_way_round(monkeypatch):
    """A parent that knows nothing, a policy that stops at once, and a reward that likes it short:
    the policy wins all, and its one token costs ln V; the parent's, under it, 32 times 40 nats."""

    def brevity(reward, trees, stop_id, device):
        return torch.tensor([-float(len(a[0])) for _, qs in trees for _, a in qs])

    monkeypatch.setattr(comparison, "model_rewards", brevity)
    parent, policy = model_that_says(), model_that_says(stop=40.0)
    pairs = PairSet([], PairTrees([], [], 0))
    c = comparison.prepare(HELD_OUT, pairs, TOKENIZER, parent, nn.Identity(), CPU)
    result, found = measure_policy(c, policy)
    assert result.ids == [[], [], []]
    assert found["reward"] == (0, 0, 0) and found["win_rate"] == (100, 100, 100)
    assert found["kl_nats"].value == pytest.approx(math.log(VOCAB), rel=1e-5)
    assert found["answer_loss_nats"].value == pytest.approx((2 + 3) * 40 / (3 + 4), rel=1e-5)
    _, same = measure_policy(c, parent)
    assert same["win_rate"] == (50, 50, 50) and same["kl_nats"] == (0, 0, 0)
    assert same["reward"] == (-MAX_ANSWER_TOKENS,) * 3
