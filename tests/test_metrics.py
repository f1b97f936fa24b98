"""SQuAD metrics, intervals, win rates and baselines, by hand and by independent re-derivation.

The modules are looked up at call time, so that tests/test_mutations.py can put a broken copy in
their place.
"""

import math
import random
import re
import string
import unicodedata

import numpy as np
import pytest
import torch
from conftest import perturb
from hypothesis import given, settings
from hypothesis import strategies as st

from src import evaluation
from src.data import answer_text
from src.evaluation import baselines, intervals, kl, squad_metrics
from src.model.model import build_model

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
WORDS = st.lists(
    st.sampled_from(["a", "The", "an", "cat", "Cat!", "dog", "3-4", "3–4", "...", "tha", "é", ""]),
    max_size=7,
).map(" ".join)
TEXT = st.one_of(WORDS, st.text(max_size=20))


def derived_words(text: str) -> list[str]:
    """The words of a normalised answer, found by another road than the code's: letter by letter."""
    kept = "".join(
        c for c in text.lower()
        if not (33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96
                or 123 <= ord(c) <= 126)
    )
    # Articles go as words between word boundaries, so cut where word characters meet others.
    parts = re.findall(r"\w+|\W+", kept)
    return "".join(" " if part in ("a", "an", "the") else part for part in parts).split()


def derived_f1(prediction: str, gold: str) -> float:
    left, right = derived_words(prediction), derived_words(gold)
    shared, rest = 0, list(right)
    for word in left:
        if word in rest:
            rest.remove(word)
            shared += 1
    return 2 * shared / (len(left) + len(right)) if shared else 0.0


def test_normalisation_by_hand():
    table = {
        "The Cat!": "cat",
        "a  cat\tand an\nOWL": "cat and owl",
        "3-4": "34",
        "3–4": "3–4",  # an en dash is not ASCII punctuation
        "U.S.": "us",
        "theatre Ana": "theatre ana",  # articles are whole words
        "the": "",
        " 'A' _b_ ": "b",
        "a–b": "–b",  # a dash ends a word: the article before it goes
    }
    for text, expected in table.items():
        assert answer_text.normalize_answer(text) == expected
        assert evaluation.normalize_answer(text) == expected


def test_exact_match_by_hand():
    assert squad_metrics.exact_match("The Cat!", ["dog", "cat"]) == 1.0
    assert squad_metrics.exact_match("cats", ["cat"]) == 0.0
    assert squad_metrics.exact_match("3–4", ["34"]) == 0.0
    assert squad_metrics.exact_match("", [""]) == 1.0
    assert squad_metrics.exact_match("the", ["!"]) == 1.0  # both empty once normalised
    assert squad_metrics.exact_match("", ["cat"]) == 0.0


def test_f1_by_hand():
    assert squad_metrics.f1_score("", [""]) == 0.0
    assert squad_metrics.f1_score("the", ["a"]) == 0.0
    assert squad_metrics.f1_score("The Cat!", ["cat"]) == 1.0
    assert squad_metrics.f1_score("black cat", ["cat"]) == pytest.approx(2 / 3)  # P 1/2, R 1
    assert squad_metrics.f1_score("cat", ["the big black cat"]) == pytest.approx(1 / 2)
    assert squad_metrics.f1_score("b b b", ["b c"]) == pytest.approx(2 / 5)  # one b shared
    assert squad_metrics.f1_score("b c", ["c b"]) == 1.0  # order does not count
    assert squad_metrics.f1_score("b c", ["x", "b c d", "b"]) == pytest.approx(0.8)  # best gold


def test_golds_must_be_a_list():
    with pytest.raises(AssertionError, match="list"):
        squad_metrics.exact_match("a", "abc")
    with pytest.raises(AssertionError, match="list"):
        squad_metrics.f1_score("a", "abc")


def test_mixed_segmentation_by_hand():
    """As MLQA's script cuts Han; F1 of 5 characters against 4 shared: 2 * 4 / 9."""
    table = {
        "《三体》": ["三", "体"],
        "The Cat's, 3–4!": ["cats", "34"],  # an en dash is punctuation here
        "iPhone手机 12": ["iphone", "手", "机", "12"],
        "दिल्ली में।": ["दिल्ली", "में"],
        "น้ำตก": ["น้ำ", "ต", "ก"],
        "서울 시": ["서", "울", "시"],
        "カー、です": ["カ", "ー", "で", "す"],
        "¿Qué?": ["qué"],
        "the 。": [],
    }
    for text, expected in table.items():
        assert answer_text.answer_tokens(text, "mixed") == expected
    assert squad_metrics.f1_score("北京大学校", ["北京大学"], "mixed") == pytest.approx(8 / 9)
    assert squad_metrics.exact_match("《三体》", ["三体"], "mixed") == 1.0
    assert squad_metrics.exact_match("दिल्ली।", ["दिल्ली"], "mixed") == 1.0
    assert squad_metrics.exact_match("دمشق؟", ["دمشق"], "mixed") == 1.0
    assert squad_metrics.exact_match("3–4", ["34"], "mixed") == 1.0
    # The official definition is the default and stays as it is.
    assert squad_metrics.f1_score("北京大学校", ["北京大学"]) == 0.0
    assert squad_metrics.exact_match("《三体》", ["三体"]) == 0.0
    with pytest.raises(ValueError, match="squad or mixed"):
        squad_metrics.exact_match("a", ["a"], "characters")


def mlqa_tokens(text):
    """mixed_segmentation of mlqa_evaluation_v1.py after its normalisation, letter by letter."""
    kept = "".join(
        c for c in text.lower()
        if not unicodedata.category(c).startswith("P") and c not in string.punctuation
    )
    found, word = [], ""
    for c in re.sub(r"\b(a|an|the)\b", " ", kept):
        if "\u4e00" <= c <= "\u9fa5":
            found += [*word.split(), c]
            word = ""
        else:
            word += c
    return found + word.split()


@QUICK
@given(st.text(st.sampled_from("ab Aéß三体北。《》，-–.$ 1ñद।«»١"), max_size=16))
def test_mixed_segmentation_is_mlqas_for_han(text):
    assert answer_text.answer_tokens(text, "mixed") == mlqa_tokens(text)


@QUICK
@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_metrics_equal_an_independent_derivation(prediction, golds):
    assert answer_text.normalize_answer(prediction) == " ".join(derived_words(prediction))
    exact = max(derived_words(prediction) == derived_words(gold) for gold in golds)
    assert squad_metrics.exact_match(prediction, golds) == exact
    expected = max(derived_f1(prediction, gold) for gold in golds)
    assert squad_metrics.f1_score(prediction, golds) == pytest.approx(expected, abs=1e-12)


def test_interval_of_coin_flips_is_the_normal_one():
    """400 independent flips, 120 heads: 0.3 +- 1.96 sqrt(0.3 * 0.7 / 400) = 0.3 +- 0.0449."""
    flips = [1.0] * 120 + [0.0] * 280
    out = intervals.bootstrap_interval(flips, [1] * 400, range(400), draws=4000)
    assert out.value == pytest.approx(0.3)
    assert out.low == pytest.approx(0.3 - 0.0449, abs=0.006)
    assert out.high == pytest.approx(0.3 + 0.0449, abs=0.006)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Contexts of five questions that share their luck; the truth is 1/2, the level 90%."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        luck = np.repeat(rng.random(40) < 0.5, 5).astype(float)
        out = intervals.bootstrap_interval(
            luck, np.ones(200), np.repeat(np.arange(40), 5), seed=trial, draws=200, level=0.9
        )
        hits += out.low <= 0.5 <= out.high
    assert 165 <= hits <= 195  # 90% +- 3.5 standard errors; by single questions about 50%


def test_interval_resamples_contexts_not_questions():
    values = [1.0] * 50 + [0.0] * 50
    alone = intervals.bootstrap_interval(values, [1] * 100, range(100))
    grouped = intervals.bootstrap_interval(values, [1] * 100, [f"c{i // 10}" for i in range(100)])
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.2)


def test_interval_is_of_a_ratio_of_sums():
    """6 nats over 2 tokens and 1 nat over 8: 0.7 nats per token, not the mean of 3 and 1/8."""
    out = intervals.bootstrap_interval([6.0, 1.0], [2, 8], ["a", "b"])
    assert out.value == pytest.approx(0.7)
    assert out.low == pytest.approx(1 / 8) and out.high == pytest.approx(3)
    assert out == intervals.bootstrap_interval([6.0, 1.0], [2, 8], ["a", "b"], seed=0)
    assert all(math.isnan(x) for x in intervals.bootstrap_interval([], [], [])[:3])
    assert all(math.isnan(x) for x in intervals.bootstrap_interval([0.0], [0], ["a"])[:3])


def test_paired_difference_takes_out_what_both_find_hard():
    rng = np.random.default_rng(0)
    parent = (rng.random(300) < 0.5).astype(float)
    policy = parent.copy()
    policy[:30] = 1.0
    gained = float((policy - parent).mean())
    out = intervals.paired_difference(policy, parent, np.ones(300), range(300))
    assert out.value == pytest.approx(gained) and 0 < out.low < gained < out.high
    assert out.high - out.low < 0.06  # two separate intervals are 0.11 wide each
    back = intervals.paired_difference(parent, policy, np.ones(300), range(300))
    assert back.value == pytest.approx(-gained)
    assert intervals.paired_difference(policy, policy, np.ones(300), range(300)) == (0, 0, 0, 300)


def test_ties_are_half_a_win():
    assert intervals.points_in_order([3, 1, 2], [1, 3, 2]).tolist() == [1.0, 0.0, 0.5]


CONTEXT = (
    "In 1804 Dar Bek moved to Fenberg. He paid 35 marks on 12 May 1804 for the Belane Song. "
    "Mira van Halen was a tailor."
)


def test_types_and_spans():
    kinds = {"1804": "date", "12 May 1804": "date", "35": "number", "four marks": "number",
             "2,500.5": "number", "Dar Bek": "name", "Éva": "name", "tailor": "other", "": "other"}
    assert {text: answer_text.answer_type(text) for text in kinds} == kinds
    assert answer_text.typed_spans(CONTEXT, "date") == ["1804", "12 May 1804"]
    assert answer_text.typed_spans(CONTEXT, "number") == ["35"]
    assert answer_text.typed_spans(CONTEXT, "name") == [
        "Dar Bek", "Fenberg", "Belane Song", "Mira van Halen"
    ]
    assert answer_text.typed_spans("blue sky", "other") == ["blue", "sky"]


def test_baselines():
    train = ["1900", "1900", "Ana Lop", "12 May 1804", "40"]
    golds = [("12 May 1804",), ("35 marks", "35"), ("Mira van Halen",), ("a tailor",)]
    contexts = [CONTEXT, CONTEXT, CONTEXT[:40], ""]
    found = baselines.baseline_predictions(contexts, golds, train)
    assert found.first_of_type == ["1804", "35", "Dar Bek", ""]
    assert found.majority == ["1900", "40", "Ana Lop", ""]  # no training answer of type other
    assert found.perfect_copy == ["12 May 1804", "35 marks", "", ""]
    for span, context in zip(found.random_span, contexts, strict=True):
        assert span in context and len(span.split()) <= 3


def test_random_span_is_seeded_uniform_and_as_long_as_training_answers():
    context = " ".join(f"w{i}" for i in range(10))
    many = [context] * 3000, [("w1",)] * 3000, ["one", "two words"]
    spans = baselines.baseline_predictions(*many, seed=3).random_span
    assert spans == baselines.baseline_predictions(*many, seed=3).random_span
    assert spans != baselines.baseline_predictions(*many, seed=4).random_span
    starts = [int(span.split()[0][1:]) for span in spans]
    for start in range(10):
        assert starts.count(start) == pytest.approx(300, abs=70)  # 4 standard deviations
    two = sum(len(span.split()) == 2 for span in spans)
    assert two == pytest.approx(1350, abs=110)  # half of those that do not start at the last word


def test_f1_never_exceeds_one_and_is_symmetric():
    rng = random.Random(0)
    for _ in range(300):
        left, right = (" ".join(rng.choices("bcde", k=rng.randrange(5))) for _ in range(2))
        score = squad_metrics.f1_score(left, [right])
        assert 0 <= score <= 1 and score == pytest.approx(squad_metrics.f1_score(right, [left]))


def test_kl_of_samples_is_the_kl_of_what_was_drawn():
    """By enumeration of all answers of one or two tokens. EOS after an answer that was cut
    off is not a sample of the policy, and would move the mean.
    """
    torch.manual_seed(1)  # a pair whose mean is below 0 with such an EOS
    shape = {"vocab_size": 4, "n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 16}
    models = [build_model("transformer", shape) for _ in range(2)]
    policy, parent = (perturb(model, 0.4) for model in models)
    stop = 3

    def logp_after(model, row):
        tokens = torch.tensor([row])
        hidden, _ = model(tokens, torch.tensor([len(row)]))
        return model.logits(hidden[0, -1]).log_softmax(-1)

    def exact_kl(row, left):
        p, q = (logp_after(model, row) for model in (policy, parent))
        here = float((p.exp() * (p - q)).sum())
        if left == 1:
            return here
        answers = [t for t in range(4) if t != stop]
        later = (float(p[t].exp()) * exact_kl([*row, t], left - 1) for t in answers)
        return here + sum(later)

    prompts = [([1], [[2, 0]] * 3000)]
    for limit in (1, 2):
        with torch.no_grad():
            exact = exact_kl([1, 2, 0], limit)
        found = kl.sample_figures(policy, parent, prompts, stop, max_new_tokens=limit)
        error = float(found.kl_nats.std()) / len(found.kl_nats) ** 0.5
        assert exact > 10 * error
        assert float(found.kl_nats.mean()) == pytest.approx(exact, abs=4 * error)
        assert found.tokens.max() == limit and (found.entropy_nats >= 0).all()
