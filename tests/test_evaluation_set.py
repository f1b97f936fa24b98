"""Evaluation and comparison of policies, by hand: models of which everything is known."""

import math

import pytest
import torch
from torch import nn

from src.data.encoding import context_text
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation import compare_policies
from src.evaluation.baselines import Baselines
from src.evaluation.compare_policies import measure_policy
from src.evaluation.evaluation_set import (
    MAX_ANSWER_TOKENS,
    EvaluationSet,
    baselines_of,
    evaluate_policy,
)
from src.evaluation.intervals import intervals
from src.evaluation.squad_metrics import QAExample
from src.model.model import build_model
from src.preference.pair_batches import PairTrees
from src.preference.pairs import PairSet
from src.training.reporting import compare

CPU = torch.device("cpu")
TOKENIZER = load_tokenizer("pico")
VOCAB, EOS = TOKENIZER.vocab_size, TOKENIZER.eos_id
# Three questions on two contexts; golds of 2 and 3 tokens, and one longer than an answer may be.
HELD_OUT = EvaluationSet(
    prompts=[([65, 66], [[67], [68, 69]]), ([], [[70]])],
    golds=[[71, 72], [73] * MAX_ANSWER_TOKENS, [74, 75, 76]],
    examples=[QAExample("a context", "a question?", (gold,)) for gold in ("GH", "III", "JKL")],
    ids=["a", "b", "c"], groups=[0, 0, 1], lost=0.0, dropped=0,
)


def model_that_says(stop=0.0):
    """Every token is equally probable but EOS, whose logit is `stop`."""
    model = build_model("kgram", {"vocab_size": VOCAB, "n_embd": 4, "n_layer": 1})
    said = torch.zeros(VOCAB).index_fill(0, torch.tensor([EOS]), stop)
    model.logits = lambda hidden: said.expand(*hidden.shape[:-1], -1)
    return model


def test_a_uniform_model_loses_ln_v_a_token():
    """EOS tokens are counted; a gold that no answer could give is not."""
    result = evaluate_policy(model_that_says(), TOKENIZER, HELD_OUT)
    assert result.tokens == [3, 0, 4]
    assert result.nats == pytest.approx([3 * math.log(VOCAB), 0, 4 * math.log(VOCAB)])
    summary = intervals(result.figures(HELD_OUT.groups))
    assert summary["answer_loss_nats"].value == pytest.approx(math.log(VOCAB))
    assert summary["em"].value == summary["f1"].value == 0


def test_rules_read_the_window_and_the_first_answers_of_training():
    """Two questions on a window of one word, of a context that goes on to both golds; one on a
    window that holds its gold. Of training's dates 1900 is the most frequent first answer."""
    prompts = [(TOKENIZER.encode("Ada"), [[67], [68]]), (TOKENIZER.encode("1804"), [[69]])]
    whole = "Ada met Bob Lop in 1804"
    asked = [QAExample(whole, "a question?", (gold,)) for gold in ("1804", "Bob Lop", "1804")]
    held_out = EvaluationSet(prompts, [[70]] * 3, asked, ["a", "b", "c"], [0, 0, 1], 0.0, 0)
    golds = (("1900",), ("1900", "1700", "1700", "1700"), ("Eve Lop",))
    train = [Paragraph("t", "c", tuple(Question("q", "q", g, (0,) * len(g)) for g in golds))]
    assert baselines_of(held_out, TOKENIZER, train) == Baselines(
        random_span=["Ada", "Ada", "1804"], first_of_type=["", "Ada", "1804"],
        majority=["1900", "Eve Lop", "1900"], perfect_copy=["", "", "1804"],
    )


def test_a_policy_is_measured_against_its_parent_and_not_the_other_way_round(monkeypatch):
    """A parent that knows nothing, a policy that stops at once, and a reward that likes it short.
    The policy wins all. Its one token costs ln V. The parent's answers cost 32 times 40 nats under
    it.
    """

    def brevity(reward, trees, eos_id):
        return torch.tensor([-float(len(a[0])) for _, qs in trees for _, a in qs])

    monkeypatch.setattr(compare_policies, "model_rewards", brevity)
    parent, policy = model_that_says(), model_that_says(stop=40.0)
    pairs = PairSet([], PairTrees([], [], 0))
    c = compare_policies.common_ground(HELD_OUT, pairs, TOKENIZER, parent, nn.Identity(), CPU)
    result, found = measure_policy(c, policy)
    assert result.ids == [[], [], []]
    assert found["reward"] == (0, 0, 0, 2) and found["win_rate"] == (100, 100, 100, 2)
    assert found["kl_nats"].value == pytest.approx(math.log(VOCAB), rel=1e-5)
    assert found["answer_loss_nats"].value == pytest.approx((2 + 3) * 40 / (3 + 4), rel=1e-5)
    _, same = measure_policy(c, parent)
    assert same["win_rate"] == (50, 50, 50, 2) and same["kl_nats"] == (0, 0, 0, 2)
    assert same["reward"] == (*[-MAX_ANSWER_TOKENS] * 3, 2)
    # EOS is a token where it was drawn: one of the policy's, and ln V for each of the parent's.
    assert found["sample_tokens"] == (1, 1, 1, 2) and found["entropy_nats"].value < 1e-6
    assert same["entropy_nats"].value == pytest.approx(math.log(VOCAB), rel=1e-5)


def test_equal_answers_tie_however_their_scores_are_rounded(monkeypatch):
    """Scored beside other answers, the same one has other last digits."""
    calls = []

    def rounded(reward, trees, eos_id):
        calls.append(len(trees))
        return torch.full((3,), 0.1 + 1e-7 * len(calls))

    monkeypatch.setattr(compare_policies, "model_rewards", rounded)
    pairs = PairSet([], PairTrees([], [], 0))
    parent, policy = model_that_says(stop=40.0), model_that_says(stop=40.0)
    c = compare_policies.common_ground(HELD_OUT, pairs, TOKENIZER, parent, nn.Identity(), CPU)
    _, found = measure_policy(c, policy)
    assert len(calls) == 2 and found["win_rate"] == (50, 50, 50, 2)


def test_the_parent_answers_once(monkeypatch):
    asked, evaluate = [], compare_policies.evaluate_policy

    def counting(model, *rest):
        asked.append(model)
        return evaluate(model, *rest)

    monkeypatch.setattr(compare_policies, "evaluate_policy", counting)
    monkeypatch.setattr(compare_policies, "model_rewards", lambda *_: torch.zeros(3))
    parent = model_that_says(stop=40.0)
    pairs = PairSet([], PairTrees([], [], 0))
    c = compare_policies.common_ground(HELD_OUT, pairs, TOKENIZER, parent, nn.Identity(), CPU)
    result, _ = measure_policy(c, parent)
    assert asked == [parent] and result is c.parent_result


def test_the_summary_counts_what_was_dropped_or_has_no_loss():
    summary = HELD_OUT._replace(lost=0.25, dropped=2).summary()
    assert summary == (
        "3 held out (2 more leave no room for an answer); windows cut off 25.0% of the held-out "
        "golds; 1 are longer than an answer may be and have no loss; perfect copy within 32 tokens "
        "(--max_answer_tokens): EM 100.0"
    )
    for seen, count in ((1, "1 of 3 trained on ("), (3, "3 trained on (")):  # not "3 1 of 3"
        assert HELD_OUT._replace(seen=seen).summary().startswith(count)


def test_rules_read_the_text_and_not_the_prompt_around_it():
    """'Context:' is no first name, and no word that a random span may hold."""
    context = TOKENIZER.encode(context_text("the Vozar Bridge was built by Tivda Zimsin."))
    golds = [QAExample("", "", (gold,)) for gold in ("Tivda Zimsin", "Ana Lop", "Dar Bek")]
    held_out = HELD_OUT._replace(prompts=[(context, [[67], [68, 69]]), (context, [[70]])],
                                 examples=golds)
    baselines = baselines_of(held_out, TOKENIZER, [])
    assert baselines.first_of_type == ["Vozar Bridge"] * 3
    assert baselines.perfect_copy == ["Tivda Zimsin", "", ""]
    assert not any("Context" in span for span in baselines.random_span)


def test_a_figure_that_nothing_can_measure_is_said_and_left_out(capsys):
    """All golds longer than an answer may be: no answer loss, and no division by 0."""
    figures = {"em": ([1.0], [0.01], [0]), "answer_loss_nats": ([0.0], [0], [0])}
    metrics = compare("main_squad", figures, figures)
    assert metrics["em"] == 100 and not any(name.startswith("answer_loss") for name in metrics)
    assert "answer_loss_nats: no held-out question to measure it on" in capsys.readouterr().err


def test_the_most_probable_answer_of_overlapping_windows_is_taken(monkeypatch):
    """Windows of which each has its own answer: the one of the highest log-probability wins, with
    the window that it was read from, and a question without windows keeps its answer."""
    held_out = HELD_OUT._replace(
        later=[([66], [[67], [68, 69]]), ([70], [[68, 69]])], later_of=[0, 1, 1]
    )
    said = {(65, 66): -3.0, (): -9.0, (66,): -2.0, (70,): -4.0}

    def generate_all(model, prompts, eos_id, **options):
        return [[200 + len(context), *question] for context, qs in prompts for question in qs]

    def completion_logps(model, trees, eos_id):
        # Of the first question the later window is surer, of the second the first one is.
        rows = [(tuple(c), tuple(q)) for c, qs in trees for q, answers in qs for _ in answers]
        return torch.tensor([said[c] - 2 * (q == (68, 69) and c != (65, 66)) for c, q in rows])

    monkeypatch.setattr("src.evaluation.evaluation_set.generate_all", generate_all)
    monkeypatch.setattr("src.evaluation.evaluation_set.completion_logps", completion_logps)
    result = evaluate_policy(nn.Identity(), TOKENIZER, held_out)
    assert result.ids == [[201, 67], [202, 68, 69], [200, 70]]
    assert result.trees == [
        ([66], [([67], [[201, 67]])]),
        ([65, 66], [([68, 69], [[202, 68, 69]])]),
        ([], [([70], [[200, 70]])]),
    ]
    # The rules and the ceiling see all windows too.
    asked = [QAExample("", "", (TOKENIZER.decode([n]),)) for n in (65, 70, 99)]
    copied = baselines_of(held_out._replace(examples=asked), TOKENIZER, []).perfect_copy
    assert copied == [asked[0].golds[0], asked[1].golds[0], ""]
