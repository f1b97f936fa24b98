"""The work done for a batch of trees: every token is read once, logits are computed only where a
token is predicted, and gradients are added in a fixed order.
"""

import contextlib
import copy

import pytest
import torch
from test_logprobs import CONFIGS, EOS, TREES, perturbed
from test_ppo import PROMPTS, length_of_answers, models_of, rollout_of, settings
from test_stages import BACKWARD, flags_of, model_of, trees_of
from torch.utils._python_dispatch import TorchDispatchMode

from src.inference.logprobs import (
    build_tree_batch,
    last_hidden,
    raw_reward,
    score_completions,
    score_text,
)
from src.model.heads import RewardModel
from src.model.prefix_sharing import one_pass
from src.rl.update import update_policy
from src.utils.constants import MODEL_TYPES


def counted(name):
    """A model that counts, and its counts: tokens that it has read, rows of logits it has made."""
    model = copy.deepcopy(perturbed(name))
    plain = getattr(model, "base", model)  # below a pointer
    counts, calls = {"tokens": 0, "logits": 0}, []

    def watch(method, kind, size):
        inner = getattr(plain, method)

        def watched(*args):
            if not calls:  # an LSTM's read is a forward
                counts[kind] += size(*args)
            calls.append(method)
            try:
                return inner(*args)
            finally:
                calls.pop()

        setattr(plain, method, watched)

    watch("forward", "tokens", lambda tokens, lengths, state=None: int(lengths.sum()))
    if name.startswith("transformer"):
        watch("read_packed", "tokens", lambda packed: len(packed.tokens))
    else:
        watch("read", "tokens", lambda tokens, lengths, state=None: int(lengths.sum()))
    watch("logits", "logits", lambda hidden: hidden[..., 0].numel())
    return model, counts


@pytest.mark.parametrize("name", CONFIGS)
def test_each_token_is_read_once_and_has_logits_where_the_next_is_predicted(name):
    """The contexts have 7 tokens in all, the 5 questions 11, the 9 answers 14: 32 tokens. The last
    token of a question is read with each of its answers: 4 more. 14 answer tokens and 9 EOS tokens
    are predicted, and 11 of the text.
    """
    for score, reads_eos, tokens, logits in (
        (score_completions, False, 36, 23), (score_text, False, 36, 23 + 11),
        (last_hidden, True, 36 + 9, 0),
    ):
        model, counts = counted(name)
        score(model, build_tree_batch(TREES, EOS, reads_eos=reads_eos))
        assert counts == {"tokens": tokens, "logits": logits}, score.__name__


@pytest.mark.parametrize("name", CONFIGS)
def test_no_size_is_asked_of_the_device(name, monkeypatch):
    """On a GPU, Python would wait there. Tensors on torch's meta device have no values to ask for:
    whatever needs one raises.
    """
    # The meta device knows no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    model = copy.deepcopy(perturbed(name)).to("meta")
    reward = RewardModel(copy.deepcopy(perturbed(name))).to("meta")
    with pytest.raises(Exception, match="meta"):
        torch.ones(3, device="meta").nonzero()
    for found in (
        score_completions(model, build_tree_batch(TREES, EOS)).logp,
        score_text(model, build_tree_batch(TREES, EOS)).text_logp,
        raw_reward(reward, build_tree_batch(TREES, EOS, reads_eos=True)),
    ):
        assert found.device.type == "meta"
        found.sum().backward()
    assert all(p.grad is not None for p in (*model.parameters(), *reward.backbone.parameters()))


class Races(TorchDispatchMode):
    """Notes sums as in the gradient of x[rows]: threads add to the same places, in whatever order
    they come, and no two runs are the same. That of index_select is added row after row."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if "index_put" in str(op) and len(args) > 3 and args[3]:
            self.found.append(str(op))
        return op(*args, **(kwargs or {}))


def test_a_race_is_seen():
    x, rows = torch.ones(3, requires_grad=True), torch.tensor([0, 0, 2])
    for look_up, seen in ((lambda: x[rows], True), (lambda: x.index_select(0, rows), False),
                          (lambda: x[rows > 0], True), (lambda: x[1:], False)):
        with Races() as races:
            look_up().sum().backward()
        assert bool(races.found) == seen


@pytest.fixture(params=[(name, name == "transformer") for name in MODEL_TYPES]
                       + [("transformer", False)], ids=str)
def name(request, monkeypatch):
    """Each model, the transformer by parts and in rows."""
    by_parts = request.param[1]
    monkeypatch.setattr(one_pass, "parts_pay", lambda levels, width: by_parts)
    return request.param[0]


@pytest.mark.parametrize("stage", BACKWARD)
def test_no_gradient_is_added_up_in_a_race(name, stage):
    """Else, with two threads, a run that is resumed would not end as one in one go."""
    answers, backward = BACKWARD[stage]
    model = RewardModel(model_of(name)) if stage == "reward" else model_of(name)
    with Races() as races:
        backward(model, trees_of(answers), flags_of(micro_batch_size=3, nll_weight=0.5))
    assert not races.found


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "grpo"])
def test_no_gradient_of_ppo_is_added_up_in_a_race(name, algorithm):
    models, s = models_of(name, critic=algorithm == "ppo"), settings(algorithm=algorithm)
    rollout = rollout_of(models, PROMPTS, length_of_answers, 0.1, 0, s)
    with Races() as races:
        update_policy(models, rollout, 0, s, lambda loss: {})
    assert not races.found


def test_no_gradient_through_a_state_is_added_up_in_a_race(name):
    model, one = model_of(name), torch.ones(3, dtype=torch.long)
    with Races() as races:
        _, state = model(torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 1]))
        hidden, _ = model(torch.tensor([[5], [6], [7]]), one, state.select([1, 0, 1]))
        hidden.sum().backward()
    assert not races.found
