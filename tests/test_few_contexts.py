"""Few contexts: no interval of one, no verdict from less than ten."""

import math

import pytest
import torch

from src.data.encoding import encode_paragraphs
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.compare_policies import print_table
from src.evaluation.evaluation_set import held_out_questions
from src.evaluation.intervals import Interval, bootstrap_interval, caution
from src.preference.pairs import held_out_pairs, pair_points
from src.report.pipelines import Pipeline, Stage
from src.report.sentences import stage_sentences
from src.training.reporting import compare
from src.utils.checkpoint_utils import Checkpoint

PICO = load_tokenizer("pico")


def figures(contexts, before=0.0, after=1.0):
    """(before, after): accuracy of six pairs a context, all wrong and then all right."""
    count = 6 * contexts
    groups = [n // 6 for n in range(count)]
    return tuple({"accuracy": ([v] * count, [0.01] * count, groups)} for v in (before, after))


def test_one_context_has_no_interval():
    """Of six pairs of one context one turns: 16.67%, and there is nothing to resample."""
    points = [1.0, *[0.0] * 5]
    found = bootstrap_interval(points, [0.01] * 6, ["one"] * 6)
    assert found.value == pytest.approx(100 / 6) and found.groups == 1
    assert math.isnan(found.low) and math.isnan(found.high) and found.verdict() is None
    assert found.in_words(sign="+") == "+16.67 (one context)"
    # A second context in which nothing is counted gives no interval either.
    found = bootstrap_interval([*points, 0.0], [*[0.01] * 6, 0.0], [*["one"] * 6, "two"])
    assert found.groups == 1 and math.isnan(found.low)
    assert found.as_json() == {"value": pytest.approx(100 / 6), "low": None, "high": None}


@pytest.mark.parametrize(("contexts", "sign"), [(1, None), (2, None), (9, None), (10, 1), (40, 1)])
def test_a_verdict_needs_ten_contexts(contexts, sign, capsys):
    metrics = compare("train_reward_model", *figures(contexts))
    said = capsys.readouterr().err
    assert metrics["accuracy_gain"] == pytest.approx(100)
    assert metrics["accuracy_gain_contexts"] == contexts
    assert ("better in accuracy" in said) == (sign == 1) != ("no verdict in accuracy" in said)
    assert ("expected at least 10" in said) == (sign is None)
    assert ("above the figure before training" in said) == (sign == 1)
    assert (metrics["accuracy_gain_low"] is None) == (contexts == 1)


def test_the_caution_names_how_few():
    def of(*groups):
        return caution(Interval(1, 0, 2, n) for n in groups)

    assert of(10, 12, None) == "" and of(0) == ""
    assert of(1).startswith("from 1 context, expected at least 10: no interval")
    assert of(4, 4, 30).startswith("from 4 contexts, expected at least 10: intervals of so few")
    assert of(2, 9, 30).startswith("from 2 to 9 contexts")


def test_the_table_has_no_interval_of_one_context(capsys):
    print_table({"a": {"em": bootstrap_interval([1.0, 0.0], [0.01] * 2, [7, 7])}}, {"em": "%"})
    said = capsys.readouterr().out
    assert "50.00 (one context)" in said and "[" not in said
    assert "caution: from 1 context" in said
    print_table({"a": {"em": bootstrap_interval([1.0] * 10, [0.01] * 10, range(10))}}, {"em": "%"})
    said = capsys.readouterr().out
    assert "100.00 [100.00, 100.00]" in said and "caution" not in said


def pipeline_with(tmp_path, **metrics):
    found = Checkpoint("train_dpo", "kgram", None, PICO, {}, {}, [], metrics)
    stage = Stage(tmp_path, found, [], [], {}, {})
    return Pipeline(tmp_path, "kgram", {"train_dpo": stage}, [])


@pytest.mark.parametrize(
    ("contexts", "few"), [(1, True), (9, True), (10, False), (None, False)]
)
def test_the_report_gives_no_verdict_from_few_contexts(contexts, few, tmp_path):
    """None: an older checkpoint, which does not say."""
    gain = {"em_gain": 16.67, "em_gain_low": 10.0, "em_gain_high": 20.0}
    if contexts == 1:
        gain |= {"em_gain_low": None, "em_gain_high": None}
    if contexts:
        gain["em_gain_contexts"] = contexts
    (line,) = stage_sentences(pipeline_with(tmp_path, **gain))
    assert line.startswith("DPO answers 17 more of 100 questions exactly right than ")
    assert ("expected at least 10" in line) == ("no verdict" in line) == few


def test_a_context_that_comes_with_every_question_anew_is_one():
    """Twelve rows of one context, as exports with one question a row have it, are one context."""
    rows = [
        Paragraph(f"t{n}", "Ada met Bo in 1204.", (Question(f"q{n}", "Who?", ("Ada",), (0,)),))
        for n in range(12)
    ]
    encoded = encode_paragraphs(rows, PICO)
    held_out = held_out_questions(rows, encoded, 512)
    assert held_out.groups == [0] * 12
    assert bootstrap_interval([1.0] * 12, [0.01] * 12, held_out.groups).groups == 1
    pairs = held_out_pairs(rows, encoded, PICO, 512, "rows", None)
    scores = torch.zeros(len(pairs.in_order()), 2)
    assert len(scores) > 1 and set(pair_points(scores, pairs)[2]) == {0}
