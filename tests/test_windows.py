"""Windows: only contexts are cut, golds stay in training, evaluation does not use answers."""

import inspect
import itertools
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import windows
from src.data.encoding import encode_paragraphs
from src.data.pico import generate_articles
from src.data.squad_dataset import context_groups, evaluate_on, indexed_batches, training_trees
from src.data.squad_loader import load_squad
from src.data.squad_splits import count_questions
from src.data.squad_types import NO_PLACE, Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.data.windows import attach_answers, evaluation_trees, golds_lost, tree_tokens

SHARED = Path(__file__).resolve().parents[2] / "shared" / "squad"
PICO = load_tokenizer("pico")
HEAD = PICO.encode("Context:")
LINE_END = PICO.encode("\n")
CHI_SQUARE_1E4 = {9: 33.72, 19: 50.80}  # 99.99% points, from a table


def paragraph_of(words, *golds, title="T"):
    """A context of these words; a gold is (first word, number of words), one question each."""
    context = " ".join(words)
    questions = []
    for number, (first, size) in enumerate(golds):
        start = len(" ".join(words[:first])) + (first > 0)
        answer = " ".join(words[first : first + size])
        questions.append(Question(f"{title}-{number}", "Who was it?", (answer,), (start,)))
    return Paragraph(title, context, tuple(questions))


def encoded(*paragraphs):
    return encode_paragraphs(list(paragraphs), PICO)


def all_trees(paragraphs, block, rng, max_questions=16, gold="random"):
    return training_trees(paragraphs, context_groups(paragraphs, block, max_questions), rng, gold)


def path_lengths(trees, stop=1):
    """Tokens of every path from root to completion, EOS included."""
    for context, questions in trees:
        for question, answers in questions:
            for answer in answers:
                yield len(context) + len(question) + len(answer) + stop


def has_run(row, run):
    return any(row[i : i + len(run)] == run for i in range(len(row) - len(run) + 1))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aé東🙂 .\ufffd\n5", min_size=1, max_size=40), st.data())
def test_gold_spans_cover_their_gold(text, data):
    """Oracle: the ids of a span decode to a text that holds the gold; one token less does not."""
    if not text.strip():
        return
    text = text.rstrip()
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    [paragraph] = encoded(Paragraph("T", text, (Question("1", "q", (text[start:end],), (start,)),)))
    first, last = windows.gold_span(paragraph, start, text[start:end])
    whole = "Context: " + text + "\n"
    sizes = [len(PICO._encoding.decode_single_token_bytes(i)) for i in paragraph.tokens]
    byte_ends = np.cumsum([0, *sizes])
    low, high = len(whole[: 9 + start].encode()), len(whole[: 9 + end].encode())
    assert byte_ends[first] <= low and high <= byte_ends[last]
    assert byte_ends[last - 1] < high
    # The first token begins at the gold's first character, or with it inside.
    assert byte_ends[first + 1] > low or whole[9 + start].encode()[:1] >= b"\x80"


@pytest.mark.parametrize(("gold_words", "places"), [(1, 20), (6, 10)])
def test_window_starts_are_uniform(gold_words, places):
    """A gold of g tokens far from both ends and a room of w: w - g + 1 starts, all as likely.

    Chi-square over 4,000 draws against its 99.99% point. The starts are read off the windows.
    """
    words = [f"w{i}" for i in range(100)]
    [paragraph] = encoded(paragraph_of(words, (50, gold_words)))
    span = windows.gold_span(paragraph, *_only_gold(paragraph))
    width = span[1] - span[0]
    assert width == 2 * gold_words  # a word is 2 tokens: " w" and "50"
    room = width + places - 1
    question = paragraph.questions[0]
    block = len(HEAD) + 1 + room + len(question.tokens) + len(question.golds[0]) + 1
    counts = {}
    for seed in range(4000):
        [(context, _)] = all_trees([paragraph], block, np.random.default_rng(seed))
        assert context[: len(HEAD)] == HEAD and context[-1:] == LINE_END
        body = context[len(HEAD) : -1]
        assert len(body) == room
        gold = paragraph.tokens[span[0] : span[1]]
        [offset] = [i for i in range(room) if body[i : i + width] == gold]
        counts[offset] = counts.get(offset, 0) + 1
    assert sorted(counts) == list(range(places))
    expected = 4000 / places
    chi = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi < CHI_SQUARE_1E4[places - 1]


def _only_gold(paragraph):
    question = paragraph.questions[0]
    return question.starts[0], question.texts[0]


@pytest.mark.parametrize("place", [0, 99])
def test_windows_at_the_ends_stay_inside(place):
    """A gold at an end: the window may not reach beyond it, and still has its full size."""
    words = [f"w{i}" for i in range(100)]
    [paragraph] = encoded(paragraph_of(words, (place, 1)))
    block = 60
    for seed in range(50):
        [(context, _)] = trees = all_trees([paragraph], block, np.random.default_rng(seed))
        assert list(path_lengths(trees)) == [block]
        assert has_run(context, PICO.encode(f" w{place}"))


def test_questions_share_a_window_where_their_golds_fit():
    """Golds at words 2, 5, 90 of 100, room for some 20 words: two windows, {0, 1} and {2}."""
    words = [f"w{i}" for i in range(100)]
    [paragraph] = encoded(paragraph_of(words, (2, 1), (5, 1), (90, 1)))
    block = 60
    for seed in range(30):
        trees = all_trees([paragraph], block, np.random.default_rng(seed))
        answers = [[a for _, [a] in questions] for _, questions in trees]
        golds = [question.golds[0] for question in paragraph.questions]
        assert answers == [golds[:2], golds[2:]]
        for context, questions in trees:
            assert all(has_run(context, answer) for _, [answer] in questions)


def test_only_contexts_that_are_too_long_are_cut():
    """At the very size of the longest path nothing is cut; one token less and it is."""
    [paragraph] = encoded(generate_articles(0, "train", 1, 2)[0])
    longest = max(path_lengths(all_trees([paragraph], 10_000, np.random.default_rng(0))))
    rng = np.random.default_rng(0)
    assert [c for c, _ in all_trees([paragraph], longest, rng)] == [paragraph.tokens]
    cut = [c for c, _ in all_trees([paragraph], longest - 1, rng)]
    assert min(map(len, cut)) < len(paragraph.tokens)


@settings(max_examples=150, deadline=None)
@given(st.integers(20, 160), st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 5))
def test_nothing_but_the_context_is_ever_cut(block, seed, number, max_questions):
    """At any block size, paths fit and questions and golds are whole. Each question is there once
    or counted as dropped. A context is whole, or a window of it that holds the gold's tokens.
    """
    source = generate_articles(number, "train", 1, 2)
    paragraphs = encoded(*source)
    units = context_groups(paragraphs, block, max_questions)
    trees = all_trees(paragraphs, block, np.random.default_rng(seed), max_questions)
    assert all(length <= block for length in path_lengths(trees))
    assert sum(len(q) for _, q in trees) + units.dropped == count_questions(source)
    whole = {tuple(p.tokens): p for p in paragraphs}
    by_question = {
        (tuple(q.tokens), tuple(q.golds[0])): (p, q) for p in paragraphs for q in p.questions
    }
    for context, questions in trees:
        assert len(questions) <= max_questions
        for question, [answer] in questions:
            paragraph, known = by_question[tuple(question), tuple(answer)]
            if tuple(context) not in whole:
                start, text = known.starts[0], known.texts[0]
                first, end = windows.gold_span(paragraph, start, text)
                body = context[len(HEAD) : -1]
                assert has_run(paragraph.tokens, body)
                assert has_run(body, paragraph.tokens[first:end])


def test_dropped_questions_are_those_that_cannot_fit():
    """By hand: head 2, line end 1, gold twice (in the window and as the answer), question, stop."""
    [paragraph] = encoded(paragraph_of([f"w{i}" for i in range(50)], (25, 2)))
    question = paragraph.questions[0]
    least = 2 + 1 + 4 + len(question.tokens) + 4 + 1
    assert len(question.golds[0]) == 4
    assert context_groups([paragraph], least).dropped == 0
    assert context_groups([paragraph], least - 1).dropped == 1
    assert context_groups([paragraph], least, answer_budget=6).dropped == 1


def test_random_golds_are_the_questions_own():
    """Three golds, drawn about equally often; `first` takes the first."""
    context = "Ada met Bob near Rome."
    question = Question("1", "Who?", ("Ada", "Bob", "Rome"), (0, 8, 17))
    [paragraph] = encoded(Paragraph("T", context, (question,)))
    rng = np.random.default_rng(0)
    drawn = [all_trees([paragraph], 500, rng)[0][1][0][1][0] for _ in range(600)]
    counts = [drawn.count(gold) for gold in paragraph.questions[0].golds]
    assert sum(counts) == 600 and min(counts) > 150  # 200 each, standard deviation 12
    first = [all_trees([paragraph], 500, rng, gold="first")[0][1][0][1][0] for _ in range(20)]
    assert first == [paragraph.questions[0].golds[0]] * 20


def test_many_questions_on_one_context_are_dealt_in_groups():
    words = [f"w{i}" for i in range(20)]
    [paragraph] = encoded(paragraph_of(words, *[(i % 20, 1) for i in range(50)]))
    units = context_groups([paragraph], 500, max_questions=16).groups
    assert [len(questions) for _, questions in units] == [16, 16, 16, 2]


def test_the_evaluation_builder_is_shown_no_answers():
    assert set(inspect.signature(evaluation_trees).parameters) == {
        "contexts", "questions", "block_size", "answer_budget", "max_questions", "doc_stride",
        "heads", "whole",
    }


def test_evaluation_takes_the_first_tokens():
    """Room by hand: the context's first tokens, its last one, whatever the golds."""
    words = [f"w{i}" for i in range(100)]
    early, late = paragraph_of(words, (1, 1)), paragraph_of(words, (98, 1))
    block, room = 100, 8
    for source in (early, late):
        paragraphs = encoded(source)
        evaluation = evaluate_on(paragraphs, block_size=block, answer_budget=room)
        [(context, [(question, answers)])] = evaluation.trees
        kept = block - room - len(question) - 1
        assert context == paragraphs[0].tokens[:kept] + LINE_END
        assert answers == [] and evaluation.index == [[(0, 0)]]
        assert golds_lost(paragraphs, evaluation) == (1.0 if source is late else 0.0)


@pytest.mark.parametrize("stride", [1, 7, 30, 1000])
def test_overlapping_windows_read_all_of_a_long_context(stride):
    """100 words of 2 tokens: each is in a window. Windows are full and start `stride` tokens apart
    (no more than a window holds; the last one is at the end). Without a stride there is only the
    first window.
    """
    words = [f"w{i}" for i in range(100)]
    [paragraph] = encoded(paragraph_of(words, (98, 1), (1, 1)))
    options = {"block_size": 100, "answer_budget": 8}
    first = evaluate_on([paragraph], **options)
    evaluation = evaluate_on([paragraph], **options, doc_stride=stride)
    assert evaluation[:3] == first[:3] and first.later == []
    room = len(first.trees[0][0])
    size, step = room - 3, min(stride, room - 3)
    starts = [window.first for window in evaluation.later]
    gaps = [b - a for a, b in itertools.pairwise([2, *starts])]
    assert set(gaps[:-1]) <= {step} and 0 < gaps[-1] <= step
    assert starts[-1] + size == len(paragraph.tokens) - 1
    text = PICO.decode(first.trees[0][0])
    for (context, questions), index, _ in evaluation.later:
        assert len(context) == room and questions == first.trees[0][1] and index == first.index[0]
        assert context[:2] == HEAD and context[-1:] == LINE_END
        assert has_run(paragraph.tokens, context[2:-1])
        text += PICO.decode(context)
    assert all(word in text for word in words)
    assert golds_lost([paragraph], first) == 0.5 and golds_lost([paragraph], evaluation) == 0


def test_a_context_that_fits_has_one_window():
    paragraphs = encoded(paragraph_of([f"w{i}" for i in range(10)], (3, 1)))
    assert evaluate_on(paragraphs, block_size=200, answer_budget=8, doc_stride=5).later == []


def test_golds_without_a_place_are_in_no_window_and_not_lost():
    """Where the context fits they are learnt from; where it is cut they are dropped, counted."""
    source = paragraph_of([f"w{i}" for i in range(100)], (98, 1))
    unknown = source.questions[0]._replace(starts=(NO_PLACE,))
    paragraphs = encoded(source._replace(questions=(unknown,)))
    assert context_groups(paragraphs, 1000).dropped == 0
    assert context_groups(paragraphs, 100).dropped == 1
    evaluation = evaluate_on(paragraphs, block_size=100, answer_budget=8)
    assert golds_lost(paragraphs, evaluation) == 0


def test_a_batch_reads_no_more_of_a_long_context_than_of_others():
    """300 questions all over a context of 60 windows: as many windows a batch as it has units, not
    sixteen times as many, and each question once an epoch."""
    words = [f"w{i}" for i in range(3000)]
    paragraphs = encoded(paragraph_of(words, *[(10 * (37 * i % 300), 1) for i in range(300)]))
    units = context_groups(paragraphs, 128)
    batches = list(islice(indexed_batches(paragraphs, units, batch_size=8, seed=0),
                          -(-len(units.groups) // 8)))
    assert max(len(batch.trees) for batch in batches) == 8
    assert sum(map(tree_tokens, batches[0].trees)) <= 8 * (128 + 16 * 20)
    places = [place for batch in batches for row in batch.index for place in row]
    assert sorted(places) == [(0, q) for q in range(300)]


def test_golds_are_lost_exactly_where_the_cut_text_lacks_them():
    """Every word of 100 in turn is the gold; the decoded context says which are left."""
    words = [f"w{i}x" for i in range(10, 100)]
    for place in range(len(words)):
        paragraphs = encoded(paragraph_of(words, (place, 1)))
        evaluation = evaluate_on(paragraphs, block_size=100, answer_budget=8)
        read = PICO.decode(evaluation.trees[0][0]).split()
        assert golds_lost(paragraphs, evaluation) == float(words[place] not in read)


def test_evaluation_drops_and_counts_what_has_no_room():
    paragraphs = encoded(generate_articles(0, "train", 1, 2)[0])
    questions = paragraphs[0].questions
    evaluation = evaluate_on(paragraphs, block_size=16, answer_budget=8)
    left = [(0, j) for j, q in enumerate(questions) if len(q.tokens) < 8]
    assert sorted(place for row in evaluation.index for place in row) == left
    assert len(left) + len(evaluation.dropped) == len(questions)


def test_a_long_question_does_not_shorten_its_siblings_context():
    words = [f"w{i}" for i in range(100)]
    source = paragraph_of(words, (1, 1), (2, 1))
    long = source.questions[1]._replace(text="Who " * 60)
    paragraphs = encoded(source._replace(questions=(source.questions[0], long)))
    evaluation = evaluate_on(paragraphs, block_size=120, answer_budget=8)
    alone = evaluate_on(encoded(source), block_size=120, answer_budget=8)
    assert evaluation.index == [[(0, 0)], [(0, 1)]]
    assert evaluation.trees[0][0] == alone.trees[0][0]


def test_answers_are_attached_where_they_belong():
    paragraphs = encoded(*generate_articles(0, "train", 1, 2))
    evaluation = evaluate_on(paragraphs, block_size=500, answer_budget=6, max_questions=3)
    answers = {(0, 1): [[5, 6]], (1, 0): [[7]], (1, 2): [[8, 8, 8, 8, 8, 8]]}
    trees, index = attach_answers(evaluation, answers, 6)
    assert index == [[(0, 1)], [(1, 0)]]  # the third has no room for its EOS
    assert trees[0] == (paragraphs[0].tokens, [(paragraphs[0].questions[1].tokens, [[5, 6]])])


def test_windows_are_drawn_anew_each_epoch():
    """One paragraph, one question: 30 epochs show many windows, the same ones when run again."""
    paragraphs = encoded(paragraph_of([f"w{i}" for i in range(100)], (50, 1)))
    units = context_groups(paragraphs, 60)
    stream = indexed_batches(paragraphs, units, batch_size=1, seed=0)
    windows = [tuple(batch.trees[0][0]) for batch in islice(stream, 30)]
    assert len(set(windows)) > 15
    later = indexed_batches(paragraphs, units, batch_size=1, seed=0, start_step=20)
    assert [tuple(batch.trees[0][0]) for batch in islice(later, 10)] == windows[20:]


@pytest.mark.skipif(not SHARED.is_dir(), reason="real SQuAD is not beside the project")
def test_real_squad_golds_stand_in_their_tokens():
    """Over all 38 articles: a gold's tokens decode to a text that holds it, and windows keep it."""
    data = load_squad(str(SHARED))
    paragraphs = encode_paragraphs(data.validation, PICO)
    for paragraph in paragraphs:
        for question in paragraph.questions:
            for start, text in zip(question.starts, question.texts, strict=True):
                first, end = windows.gold_span(paragraph, start, text)
                assert text in PICO.decode(paragraph.tokens[first:end])
    trees = all_trees(paragraphs, 128, np.random.default_rng(0))
    assert max(path_lengths(trees)) == 128
    for context, questions in trees:
        read = PICO.decode(context)
        assert all(PICO.decode(answer).strip() in read for _, [answer] in questions)
