"""Low-rank updates: what they compute, what they train, and what is saved."""

import copy

import pytest
import torch
from torch import tensor

from src.model.heads import RewardModel
from src.model.linear import Linear
from src.model.lora import LoRALinear, add_lora, merge_lora
from src.model.model import build_model
from src.training import reporting
from src.training.optimizer import make_optimizer
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.errors import UserError
from tests.conftest import STAGES, call, flags, outcome
from tests.test_resume import stop_after

TOKENS, LENGTHS = tensor([[1, 2, 3, 4]]), tensor([4])


def test_by_hand():
    """W x + 2 B A x: 1*3 + 2*4 = 11, and 2 * 5 * (1*3 - 1*4) = -10."""
    plain = Linear(2, 2, bias=False)
    layer = LoRALinear(plain, 1)
    with torch.no_grad():
        plain.weight.copy_(tensor([[1.0, 2.0], [0.0, 1.0]]))
        layer.lora_a.copy_(tensor([[1.0, -1.0]]))
        layer.lora_b.copy_(tensor([[5.0], [0.0]]))
    assert layer(tensor([3.0, 4.0])).tolist() == [1.0, 4.0]
    assert layer.merged()(tensor([3.0, 4.0])).tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("model_type", "pointer"),
    [("transformer", False), ("transformer", True), ("lstm", True), ("kgram", False)],
)
def test_only_updates_and_heads_are_trained(model_type, pointer):
    """Nothing changes before a step; after it, merged, each matrix has moved by a matrix of the
    rank, and nothing else of the backbone has.
    """
    model = RewardModel(build_model(model_type, {"vocab_size": 30, "pointer": pointer}))
    before = copy.deepcopy(model)
    add_lora(model, 2)

    def hidden(of):
        return of.backbone(TOKENS, LENGTHS)[0]

    assert torch.equal(hidden(model), hidden(before))
    optimizer = make_optimizer({"reward": model})
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for _ in range(3):
        optimizer.zero_grad()
        model.head(hidden(model)).sum().backward()
        optimizer.step()
    unmerged = hidden(model)
    merge_lora(model)
    assert torch.allclose(hidden(model), unmerged, atol=1e-5)
    assert not torch.allclose(unmerged, hidden(before), atol=1e-3)
    assert {type(m) for m in model.modules()} == {type(m) for m in before.modules()}
    old, moved = before.state_dict(), 0
    assert list(model.state_dict()) == list(old)
    matrices = {f"{n}.weight" for n, m in before.named_modules() if type(m) is Linear}
    for name, new in model.state_dict().items():
        change = new - old[name]
        if name in matrices:
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
            moved += bool(change.abs().max() > 1e-4)
        else:
            assert bool(change.any()) == name.startswith("head."), name
    assert moved


def test_a_resumed_run_is_the_whole_one_and_final_pt_is_plain(workplace, monkeypatch):
    stage, parent = "train_dpo", "checkpoints/transformer_main_squad/final.pt"
    found, log_step = [], reporting.log_step
    for name, stops in (("whole", ()), ("parts", (3,))):
        workplace("transformer", ["main_squad"], name=name)
        argv = [*flags(stage, "transformer"), "--lora_rank", "2", "--lr", "1e-2"]
        if stops:
            stop_after(monkeypatch, *stops)
            assert outcome(stage, argv).code == 143
            monkeypatch.setattr(reporting, "log_step", log_step)
            argv = [*argv, "--resume"]
        call(stage, argv)
        found.append(load_checkpoint("checkpoints/transformer_train_dpo/final.pt").model)
        start = load_checkpoint(parent).model.state_dict()
    whole, parts = (model.state_dict() for model in found)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert list(whole) == list(start)
    assert torch.equal(whole["base.embedding.weight"], start["base.embedding.weight"])
    name = "base.blocks.0.query.weight"
    change = whole[name] - start[name]
    assert change.any() and torch.linalg.matrix_rank(change, rtol=1e-4) <= 2


def test_what_makes_no_sense_is_refused(workplace):
    with pytest.raises(UserError, match="--lora_rank 99 given, expected less than"):
        add_lora(build_model("kgram", {"vocab_size": 30, "n_embd": 64}), 99)
    with pytest.raises(UserError, match="a plain LSTM has no matrix"):
        add_lora(build_model("lstm", {"vocab_size": 30}), 2)
    ended = outcome("main_squad", [*flags(STAGES[0], "kgram"), "--lora_rank", "2"])
    assert ended.code == 2 and "--lora_rank given without --init_from" in ended.err[-1]
