"""Rewards and metrics of the user's own: several with weights, parts for the log, lists."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from conftest import call, flags, outcome
from hypothesis import given
from hypothesis import strategies as st

from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.squad_metrics import QAExample
from src.evaluation.user_functions import call_function
from src.rl.rewards import Term, make_reward, parse_rewards, uses_model
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.errors import UserError

PICO = load_tokenizer("pico")
ASKED = [QAExample("c1", "q1", ("g1", "h1")), QAExample("c2", "q2", ("g2",))]
MODULE = '''
def short(prediction, golds, context, question):
    return -len(prediction)

def parts(prediction, golds, context, question):
    return {"length": len(prediction), "reward": 0.5, "asked": len(question)}

def batched(predictions, golds, contexts, questions):
    assert type(predictions) is type(golds) is type(contexts) is type(questions) is list
    return [len(p) for p in predictions]

batched.batched = True

def batched_parts(predictions, golds, contexts, questions):
    return {"reward": [1.0] * len(predictions), "size": [len(predictions)] * len(predictions)}

batched_parts.batched = True

def metric(prediction, golds, context, question):
    return {"metric": float(prediction in golds), "length": len(prediction)}

def odd(prediction, golds, context, question):
    return {"length": 1}
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module own_functions, importable."""
    (tmp_path / "own_functions.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("own_functions")


# --- one call ---


def test_a_number_a_dict_and_lists_give_the_same(own):
    found = call_function(own.short, ["abc", ""], ASKED, "reward")
    assert found == {"reward": [-3.0, 0.0]}
    found = call_function(own.parts, ["abc", ""], ASKED, "reward")
    assert found == {"reward": [0.5, 0.5], "length": [3.0, 0.0], "asked": [2.0, 2.0]}
    assert list(found)[0] == "reward"
    assert call_function(own.batched, ["abc", ""], ASKED, "reward") == {"reward": [3.0, 0.0]}
    found = call_function(own.batched_parts, ["abc", ""], ASKED, "reward")
    assert found == {"reward": [1.0, 1.0], "size": [2.0, 2.0]}
    assert call_function(own.batched, [], [], "reward") == {"reward": []}


def test_lists_hold_what_single_calls_get():
    seen = []

    def together(*lists):
        seen.append(lists)
        return torch.tensor([1.0, 2.0])

    together.batched = True
    assert call_function(together, ["a", "b"], ASKED, "reward") == {"reward": [1.0, 2.0]}
    assert seen == [(["a", "b"], [("g1", "h1"), ("g2",)], ["c1", "c2"], ["q1", "q2"])]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1.0], "gave 1 values of reward, expected 2, one for each answer"),
        (3.0, "gave 3.0, expected a list of 2 numbers"),
        ({"reward": [1.0, 2.0], "a": [1.0]}, "gave 1 values of a, expected 2"),
        ({"a": [1.0, 2.0]}, "gave 'a' for 'x', expected 'reward' among the parts"),
        ([1.0, float("nan")], "gave nan for 'y', expected a finite number"),
        ([{"reward": 1.0}, {"reward": 1.0, "a": 2.0}], "expected those of the other answers"),
        ({}, "gave nothing for"),
    ],
)
def test_what_a_batched_function_must_not_give(value, reason):
    def function(*lists):
        return value

    function.batched = True
    with pytest.raises(UserError, match="reward function") as error:
        call_function(function, ["x", "y"], ASKED, "reward")
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value", [10**400, torch.ones(2), None, "x", float("inf")],
    ids=["large", "tensor", "none", "text", "infinite"],
)
def test_what_is_no_finite_number_is_said_in_one_line(value):
    """A tensor of two numbers and a number too large for a float ended in a traceback."""
    with pytest.raises(UserError, match="for 'x', expected a finite number"):
        call_function(lambda *about: value, ["x"], ASKED[:1], "reward")


def test_a_dict_needs_the_number_that_counts(own):
    with pytest.raises(UserError, match="expected 'reward' among the parts: the number"):
        call_function(own.odd, ["x"], ASKED[:1], "reward")


# --- several ---


@given(st.dictionaries(st.from_regex(r"[a-z.]{1,9}:[a-z]{1,5}", fullmatch=True),
                       st.floats(allow_nan=False, allow_infinity=False).filter(bool), min_size=1))
def test_terms_are_read_back(terms):
    text = ",".join(f"{name}={weight!r}" for name, weight in terms.items())
    assert parse_rewards(text) == [Term(*item) for item in terms.items()]


@pytest.mark.parametrize("text", ["", "f1,", "f1=0", "f1=x", "f1=inf", "f1=1,f1=2", "=1", "f1=1=2"])
def test_what_is_no_list_of_rewards(text):
    with pytest.raises(UserError, match="expected each reward once, with a weight"):
        parse_rewards(text)


def test_the_sum_by_hand(own):
    """f1 of "red fox" with "red dog": 1/2; 7 letters cost 0.1 each: 0.5 * 3 - 0.7 = 0.8."""
    tree = ([1], [([2], [PICO.encode(" red fox"), PICO.encode(" red dog")])])
    asked = [QAExample("", "", ("red dog",))]

    def scores_of(name):
        scores = make_reward(name, None, PICO)([tree], asked)
        return scores.reward.tolist(), {name: v.tolist() for name, v in scores.parts.items()}

    total, parts = scores_of("f1=3,own_functions:short=0.1")
    assert total == pytest.approx([0.8, 2.3])
    assert parts == {"f1": [0.5, 1.0], "short": [-7.0, -7.0]}
    total, parts = scores_of("own_functions:short=0.1")
    assert total == pytest.approx([-0.7, -0.7]) and parts == {}
    total, parts = scores_of("own_functions:parts")
    assert total == [0.5, 0.5] and parts == {"length": [7.0, 7.0], "asked": [0.0, 0.0]}
    total, parts = scores_of("own_functions:parts,em")
    assert total == [0.5, 1.5] and set(parts) == {"parts", "parts_length", "parts_asked", "em"}
    assert uses_model("em,model=0.5") and not uses_model("own:model")


def loss_lines():
    text = Path("checkpoints/kgram_train_ppo/metrics.jsonl").read_text()
    return [r for r in map(json.loads, text.splitlines()) if "loss" in r]


def test_ppo_logs_each_reward_by_name(own, workplace):
    """The reward model among them; the mean is the weighted sum of the parts' means."""
    workplace("kgram", ["main_squad", "train_reward_model"])
    text = "model=0.5,own_functions:batched=-0.1,own_functions:parts=2"
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--reward", text])
    assert ended.code == 0, ended.err
    for line in loss_lines():
        model, length, parts = (line[f"reward_{n}_mean"] for n in ("model", "batched", "parts"))
        assert parts == 0.5 and line["reward_parts_length_mean"] == length > 0
        assert line["reward_mean"] == pytest.approx(0.5 * model - 0.1 * length + 1, abs=1e-5)
    final = load_checkpoint("checkpoints/kgram_train_ppo/final.pt")
    assert [entry["stage"] for entry in final.lineage] == ["main_squad", "train_reward_model"]
    names = {"reward", "reward_model", "reward_batched", "reward_parts", "reward_parts_length"}
    assert names <= final.metrics.keys()


def test_a_lone_weight_scales_the_reward(workplace):
    workplace("kgram", ["main_squad"])
    for text, out in (("f1", "one"), ("f1=2", "two")):
        argv = [*flags("train_ppo", "kgram"), "--reward", text, "--output_dir", out]
        assert outcome("train_ppo", argv).code == 0
    one, two = (json.loads(Path(f"{o}/metrics.jsonl").read_text().splitlines()[1])
                for o in ("one", "two"))
    assert two["reward_mean"] == pytest.approx(2 * one["reward_mean"])


# --- the metric ---


def test_a_metric_of_ones_own_is_shown_and_inherited(own, workplace):
    workplace("kgram", [])
    rows = [{"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(60)]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [*flags("main_squad", "kgram"), "--dataset", "tasks.jsonl"]
    sft = call("main_squad", [*argv, "--metric", "own_functions:metric"])
    assert {"metric", "metric_gain", "metric_length"} <= sft.keys() and "em" in sft
    dpo = outcome("train_dpo", flags("train_dpo", "kgram"))
    assert dpo.code == 0, dpo.err
    assert "metric" in dpo.result
    found = load_checkpoint("checkpoints/kgram_train_dpo/final.pt")
    assert found.data["metric"] == found.flags["metric"] == "own_functions:metric"
    ended = outcome("eval_dpo", ["--model_type", "kgram", "--limit", "6"])
    assert ended.code == 0, ended.err
    row = ended.result["policies"]["checkpoints/kgram_train_dpo/final.pt"]
    assert {"metric", "em", "f1"} <= row.keys()
    assert any("metric (own)" in line for line in ended.out)


def test_a_metric_that_is_none_is_refused(workplace):
    workplace("kgram", [])
    for name, reason in (("f1", "--metric f1 given, expected module:function"),
                         ("math:pi", "expected a function, found a float")):
        ended = outcome("main_squad", [*flags("main_squad", "kgram"), "--metric", name])
        assert ended.code == 2 and reason in ended.err[-1], ended.err
