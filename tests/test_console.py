"""Better or worse than the model it started from: gains and verdicts worked by hand."""

import pytest

from src.training.reporting import compare

# Three times four questions, one context each: as many contexts as a verdict takes. Points in
# percent, nats of four tokens each, nats an answer.
ONES = [1.0] * 12
PERCENT, TOKENS, GROUPS = [0.01] * 12, [4] * 12, list(range(12))


def figures(em, f1, nats, kl):
    return {
        "em": (em * 3, PERCENT, GROUPS), "f1": (f1 * 3, PERCENT, GROUPS),
        "answer_loss_nats": (nats * 3, TOKENS, GROUPS), "kl_nats": (kl * 3, ONES, GROUPS),
    }


# EM rises by 50 on every question, the loss falls from 3 nats a token to 1, the KL rises; F1 rises
# on two questions and falls on another, by 12.5 in the mean.
BEFORE = figures([0.0, 0.5, 0.0, 0.5], [0.0, 1.0, 0.5, 0.5], [12.0] * 4, [0.0] * 4)
AFTER = figures([0.5, 1.0, 0.5, 1.0], [1.0, 0.0, 0.5, 1.0], [4.0] * 4, [2.0] * 4)


def test_what_is_gained_is_after_less_before(capsys):
    found = compare("toy", BEFORE, AFTER)
    values = {name: found[name] for name in AFTER}
    assert values == pytest.approx({"em": 75, "f1": 62.5, "answer_loss_nats": 1, "kl_nats": 2})
    for name, gain in (("em", 50), ("answer_loss_nats", -2), ("kl_nats", 2)):
        ends = [found[f"{name}_gain{end}"] for end in ("", "_low", "_high")]
        assert ends == pytest.approx([gain] * 3)
    assert found["f1_gain"] == pytest.approx(12.5)
    assert found["f1_gain_low"] < 0 < found["f1_gain_high"]
    back = compare("toy", AFTER, BEFORE)
    assert back["em_gain"] == pytest.approx(-50) and back["em"] == pytest.approx(25)


def test_a_verdict_knows_which_way_is_good(capsys):
    """A loss is better when it is lower; a KL is neither."""
    compare("toy", BEFORE, AFTER)
    compare("toy", AFTER, BEFORE)
    said = capsys.readouterr().err.splitlines()
    places = [line.partition(" by ")[0] for line in said]
    assert places[:4] == [
        "em 75.00: above the figure before training,",
        "f1 62.50: not different from the figure before training,",
        "answer_loss_nats 1.00: below the figure before training,",
        "kl_nats 2.00: above the figure before training,",
    ]
    start = "toy, against the model it started from: "
    better, worse = "better in em (+50.00), answer_loss", "worse in em (-50.00), answer_loss"
    even = "not clearly different in f1"
    assert said[4] == f"{start}{better}_nats (-2.00); {even} (+12.50)"
    assert said[9] == f"{start}{worse}_nats (+2.00); {even} (-12.50)"
