"""Preference pairs: wrong answers that are wrong, of every kind, and whose length tells nothing."""

from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from src.data import corruptions as corrupt
from src.data.answer_text import normalize_answer
from src.data.encoding import encode_paragraphs
from src.data.pico import generate_articles
from src.data.squad_loader import load_squad
from src.data.squad_preferences import (
    CORRUPTIONS,
    SAMPLED_WEIGHT,
    Pair,
    make_pairs,
    parse_corruptions,
)
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.preference import pairs as pairs_module
from src.preference.pair_batches import (
    PairTrees,
    evaluation_pair_trees,
    pair_batches,
    preference_trees,
)
from src.preference.pairs import PairSet
from src.utils.constants import CORRUPTIONS as KINDS
from src.utils.errors import UserError

SQUAD = Path(__file__).resolve().parents[2] / "shared" / "squad" / "train.json"
PICO = load_tokenizer("pico")


@pytest.fixture(scope="module", params=["pico", "squad"])
def source(request):
    """(paragraphs, their pairs): 6,000 generated questions, or the real ones."""
    if request.param == "squad" and not SQUAD.is_file():
        pytest.skip("real SQuAD is not beside the project")
    if request.param == "pico":
        paragraphs = load_squad("pico", num_examples=6000).train
    else:
        paragraphs = load_squad(str(SQUAD), evaluate=True).validation
    return paragraphs, make_pairs(paragraphs, 0, request.param)


def test_every_question_has_a_pair_and_no_rejected_text_is_right(source):
    """Re-derived from the paragraph: chosen is a gold, rejected matches none, kinds are known."""
    paragraphs, pairs = source
    assert len(pairs) > 0.99 * sum(len(p.questions) for p in paragraphs)
    assert len({pair.question_id for pair in pairs}) == len(pairs)
    for pair in pairs:
        question = paragraphs[pair.paragraph].questions[pair.question]
        assert question.id == pair.question_id
        assert question.answers[pair.gold] == pair.chosen
        golds = {normalize_answer(answer) for answer in question.answers}
        assert normalize_answer(pair.rejected) not in golds | {""}
        assert pair.kind in KINDS


def test_every_kind_is_made(source):
    """Eight kinds; those that need several words are rarer where golds are single words. The ninth
    needs a model's answers.
    """
    _, pairs = source
    shares = {kind: n / len(pairs) for kind, n in Counter(p.kind for p in pairs).items()}
    assert set(shares) == set(KINDS) - {"sampled"}
    assert all(share > 0.02 for share in shares.values())
    assert max(shares.values()) < 0.25


@pytest.mark.parametrize("measure", ["characters", "tokens"])
def test_length_tells_nothing(source, measure):
    """'The shorter wins' is right on 50 +- 3%, ties half; 'the longer wins' is 1 minus that."""
    _, pairs = source
    size = len if measure == "characters" else lambda text: len(PICO.encode(f" {text}"))
    wins = 0.0
    for pair in pairs:
        chosen, rejected = size(pair.chosen), size(pair.rejected)
        wins += (chosen < rejected) + 0.5 * (chosen == rejected)
    assert 0.47 <= wins / len(pairs) <= 0.53


def test_the_length_rule_by_hand():
    """Of the pairs in the trees the chosen answer is shorter, shorter, longer, as long: 2.5 of 4;
    the fifth pair, where it is shorter too, fits no tree."""
    texts = [("abc", "a"), ("ab", "abc"), ("xy", "ab"), ("", "a"), ("a", "ab")]
    pairs = [Pair(f"q{n}", n, 0, *both, "shifted", 0) for n, both in enumerate(texts)]
    found = pairs_module.length_rule(PairSet(pairs, PairTrees([], [[3, 1], [0], [2]], 1)))
    assert found.value == pytest.approx(62.5) and found.low < 62.5 < found.high


def test_kinds_are_what_they_say(source):
    """An independent check of each kind against the context and the golds."""
    paragraphs, pairs = source
    for pair in pairs:
        paragraph = paragraphs[pair.paragraph]
        words, wrong = pair.chosen.split(), pair.rejected.split()
        if pair.kind == "shuffled":
            assert sorted(words) == sorted(wrong) and words != wrong
        elif pair.kind == "truncated":
            assert pair.rejected in pair.chosen and len(pair.rejected) < len(pair.chosen)
        elif pair.kind == "sentence":
            assert pair.chosen in pair.rejected and pair.rejected in paragraph.context
        elif pair.kind == "other_answer":
            others = [q for i, q in enumerate(paragraph.questions) if i != pair.question]
            assert any(pair.rejected in question.answers for question in others)
        elif pair.kind == "unrelated":
            assert pair.rejected.lower() not in paragraph.context.lower()
        else:
            assert pair.rejected in paragraph.context


def scene_of(context, answer, start, *others):
    questions = [Question("0", "q", (answer,), (start,))]
    questions += [Question(str(i + 1), "q", (other,), (0,)) for i, other in enumerate(others)]
    paragraph = Paragraph("T", context, tuple(questions))
    return corrupt.make_scene(corrupt.make_view(paragraph), 0, 0)


def test_the_kinds_by_hand():
    """"red bus" at 13 of a text of two sentences."""
    context = "On 3 May the red bus left. Old Ada Byron met Bob in 1804."
    scene = scene_of(context, "red bus", 13, "Bob", "1804")
    rng = Random(0)
    assert set(corrupt.truncated(scene, rng)) == {"bus", "red"}
    assert set(corrupt.shuffled(scene, rng)) <= {"bus red", "red bus"}
    assert corrupt.sentence(scene, rng) == ["On 3 May the red bus left."]
    assert list(corrupt.other_answer(scene, rng)) == ["Bob", "1804"]
    assert set(corrupt.shifted(scene, rng)) == {
        "May the red bus", "May the red", "the red bus", "the red", "red bus left",
        "red bus left. Old", "bus left", "bus left. Old", "red", "bus", "the red bus left",
        "the red bus left. Old", "May the red bus left", "May the red bus left. Old",
    }
    for span in corrupt.other_span(scene, rng):
        assert span in context and "red" not in span and "bus" not in span
    year = scene_of(context, "1804", 52)
    assert corrupt.truncated(year, rng) == corrupt.shuffled(year, rng) == []
    assert corrupt.same_type(year, rng) == ["3 May", "1804"]


def test_an_answer_that_occurs_twice_is_spoiled_where_it_stands():
    """The second "Ada" (character 18) stands between "met" and "today", the first before "sang"."""
    scene = scene_of("Ada sang. Bob met Ada today.", "Ada", 18)
    assert corrupt.sentence(scene, Random(0)) == ["Bob met Ada today."]
    assert "Ada today" in corrupt.shifted(scene, Random(0))
    assert not any("sang" in text for text in corrupt.shifted(scene, Random(0)))


def test_pairs_are_a_pure_function(source):
    """Same arguments, same pairs; other paragraphs and their order play no part."""
    paragraphs, pairs = source
    some = paragraphs[:40]
    known = {pair.question_id: pair for pair in pairs}
    name = "pico" if some[0].questions[0].id.startswith("pico") else "squad"
    for pair in make_pairs(some[::-1], 0, name):
        assert pair._replace(paragraph=0) == known[pair.question_id]._replace(paragraph=0)
    for other in (make_pairs(some, 1, name), make_pairs(some, 0, "another name")):
        changed = sum(pair[3:6] != known[pair.question_id][3:6] for pair in other)
        assert changed > 0.7 * len(other)


def test_the_mix_can_be_chosen():
    paragraphs = generate_articles(0, "train", 60, 2)
    pairs = make_pairs(paragraphs, 0, "pico", parse_corruptions("sentence=3,unrelated=1"))
    kinds = Counter(pair.kind for pair in pairs)
    assert set(kinds) == {"sentence", "unrelated"}
    # Sentences only lengthen. Phrases can only be shorter for a quarter of the pairs, so sentences
    # give up weight until both are as likely.
    assert abs(kinds["sentence"] / len(pairs) - 0.5) < 0.06
    only = make_pairs(paragraphs, 0, "pico", {"truncated": 1.0})
    assert {pair.kind for pair in only} == {"truncated"}
    assert all(" " in pair.chosen for pair in only)
    assert set(CORRUPTIONS) == set(KINDS) == set(parse_corruptions(None))


@pytest.mark.parametrize(
    ("answer", "absent"), [("Red Cross", set()), ("Kent", {"truncated", "shuffled"})]
)
def test_by_default_the_kinds_that_apply_are_equally_likely(answer, absent):
    """2,000 pairs, so a kind's count has a standard deviation of 17 at most: four of them."""
    expected = dict.fromkeys(KINDS, 1.0) | {"sampled": SAMPLED_WEIGHT}
    assert parse_corruptions(None) == expected
    context = "Old Ada Byron met Bob. On 3 May the Red Cross left Big Town. It was late in Kent."
    others = [Question(f"other{i}", "q", (text,), (context.index(text),))
              for i, text in enumerate(("Bob", "Big Town"))]
    asked = (answer,), (context.index(answer),)
    paragraphs = [
        Paragraph("T", context, (Question(str(i), "q", *asked), *others)) for i in range(2000)
    ]
    pairs = [pair for pair in make_pairs(paragraphs, 0, "x") if pair.question == 0]
    counts = Counter(pair.kind for pair in pairs)
    assert set(counts) == set(KINDS) - absent - {"sampled"}
    assert all(abs(n - 2000 / len(counts)) < 68 for n in counts.values()), counts


@pytest.mark.parametrize(
    "text",
    ["rhyme=1", "sentence", "sentence=-1", "sentence=x", "sentence=nan", "sentence=inf",
     "sentence=0", "", "sentence=1,sentence=2", "sentence=1,"],
)
def test_a_wrong_mix_is_refused(text):
    with pytest.raises(UserError, match="--corruptions"):
        parse_corruptions(text)


def test_a_question_that_nothing_can_spoil_has_no_pair():
    lonely = Paragraph("T", "Ada", (Question("1", "Who?", ("Ada",), (0,)),))
    weights = {kind: 1.0 for kind in KINDS if kind != "unrelated"}
    assert make_pairs([lonely], 0, "x", weights) == []
    [pair] = make_pairs([lonely], 0, "x")
    assert pair.kind == "unrelated"


@pytest.mark.parametrize("block", [32, 500])
def test_trees_carry_chosen_then_rejected(block):
    """Each pair once or counted; paths fit; a window holds the chosen answer's place."""
    paragraphs = generate_articles(0, "train", 8, 2)
    encoded = encode_paragraphs(paragraphs, PICO)
    pairs = make_pairs(paragraphs, 0, "pico")
    made = preference_trees(encoded, pairs, PICO, block, seed=0, max_questions=4)
    placed = [n for row in made.index for n in row]
    assert len(set(placed)) == len(placed) == len(pairs) - made.dropped
    assert (made.dropped == 0) == (block == 500)
    for (context, questions), row in zip(made.trees, made.index, strict=True):
        assert len(questions) <= 4
        for (question, answers), n in zip(questions, row, strict=True):
            pair = pairs[n]
            known = encoded[pair.paragraph].questions[pair.question]
            assert question == known.tokens
            assert answers == [PICO.encode(f" {pair.chosen}"), PICO.encode(f" {pair.rejected}")]
            assert answers[0] == known.golds[pair.gold]
            assert len(context) + len(question) + max(map(len, answers)) + 1 <= block
            assert pair.chosen in PICO.decode(context)
    again = preference_trees(encoded, pairs, PICO, block, seed=0, max_questions=4)
    assert again == made


def test_pair_batches_go_on_from_any_step():
    paragraphs = generate_articles(0, "train", 8, 2)
    encoded = encode_paragraphs(paragraphs, PICO)
    pairs = make_pairs(paragraphs, 0, "pico")
    made = preference_trees(encoded, pairs, PICO, 500, seed=0)
    whole = list(islice(pair_batches(made, batch_size=4, seed=1), 40))
    for start in (3, 17):
        rest = pair_batches(made, batch_size=4, seed=1, start_step=start)
        assert list(islice(rest, 40 - start)) == whole[start:]
    first_epoch = whole[: -(-len(made.trees) // 4)]
    assert sorted(n for b in first_epoch for row in b.index for n in row) == list(range(len(pairs)))
    assert whole[: len(first_epoch)] != list(islice(pair_batches(made, batch_size=4, seed=2), 3))


def test_held_out_pairs_that_leave_no_room_are_counted():
    paragraphs = generate_articles(0, "validation", 4, 2)
    encoded = encode_paragraphs(paragraphs, PICO)
    pairs = make_pairs(paragraphs, 0, "pico")
    made = evaluation_pair_trees(encoded, pairs, PICO, 500, answer_budget=64)
    assert sorted(n for row in made.index for n in row) == list(range(len(pairs)))
    small = evaluation_pair_trees(encoded, pairs, PICO, 500, answer_budget=6)
    kept = {n for row in small.index for n in row}
    fits = {
        n
        for n, pair in enumerate(pairs)
        if max(len(PICO.encode(f" {text}")) for text in (pair.chosen, pair.rejected)) + 1 <= 6
    }
    assert kept == fits and small.dropped == len(pairs) - len(fits) > 0
