"""Encoding, windows and order: nothing but contexts is cut, and every batch can be made again."""

import inspect
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import squad_encoding, squad_windows
from src.data.pico_squad import generate_articles
from src.data.squad_dataset import (
    attach_answers,
    batch_order,
    encode_paragraphs,
    encode_prompt,
    epoch_batches,
    evaluate_on,
    evaluation_trees,
    fixed_batches,
    golds_lost,
    indexed_batches,
    split_prompt,
    steps_per_epoch,
    training_batches,
    training_trees,
    training_units,
)
from src.data.squad_loader import load_squad
from src.data.squad_splits import count_questions
from src.data.squad_types import Paragraph, Question
from src.data.tokenizer import load_tokenizer

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


def path_lengths(trees, stop=1):
    """Tokens from root to leaf, the stop token included."""
    for context, questions in trees:
        for question, answers in questions:
            for answer in answers:
                yield len(context) + len(question) + len(answer) + stop


def has_run(row, run):
    return any(row[i : i + len(run)] == run for i in range(len(row) - len(run) + 1))


# Encoding


def test_a_prompt_is_three_strings():
    """By hand: c and q lose their trailing blanks, the answer gets one blank in front."""
    source = Paragraph("T", "It rained. \n", (Question("1", "What  ", ("rained",), (3,)),))
    [paragraph] = encoded(source)
    assert PICO.decode(paragraph.tokens) == "Context: It rained.\n"
    [question] = paragraph.questions
    assert PICO.decode(question.tokens) == "Question: What\nAnswer:"
    assert PICO.decode(question.golds[0]) == " rained"
    assert (paragraph.tokens, question.tokens) == encode_prompt(PICO, "It rained. \n", "What  ")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Context: a b\nQuestion: c?\nAnswer:", ("Context: a b\n", "Question: c?\nAnswer:")),
        ("Context: a \nQuestion: c? \nAnswer: ", ("Context: a\n", "Question: c?\nAnswer:")),
        (  # a context may hold the marker: the last one counts
            "Context: a\nQuestion: b\nQuestion: c\nAnswer:",
            ("Context: a\nQuestion: b\n", "Question: c\nAnswer:"),
        ),
        ("Context: a\nQuestion: c", ("", "Context: a\nQuestion: c")),
        ("Context: a\nQuestion: \nAnswer:", ("Context: a\n", "Question: \nAnswer:")),
        ("Context: a\nQuestion:\nAnswer:", ("", "Context: a\nQuestion:\nAnswer:")),
        ("hello\n", ("", "hello\n")),
        ("", ("", "")),
    ],
)
def test_raw_prompts_are_split_as_in_training(text, parts):
    assert split_prompt(text) == parts


def test_split_prompt_undoes_the_join():
    [paragraph] = generate_articles(0, "train", 1, 1)[:1]
    for question in paragraph.questions:
        context, asked = encode_prompt(PICO, paragraph.context, question.text)
        parts = split_prompt(PICO.decode(context) + PICO.decode(asked))
        assert tuple(PICO.encode(part) for part in parts) == (context, asked)


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
    first, last = squad_windows.gold_span(paragraph, start, text[start:end])
    whole = "Context: " + text + "\n"
    sizes = [len(PICO._encoding.decode_single_token_bytes(i)) for i in paragraph.tokens]
    byte_ends = np.cumsum([0, *sizes])
    low, high = len(whole[: 9 + start].encode()), len(whole[: 9 + end].encode())
    assert byte_ends[first] <= low and high <= byte_ends[last]
    assert byte_ends[last - 1] < high
    # The first token begins at the gold's first character, or with it inside.
    assert byte_ends[first + 1] > low or whole[9 + start].encode()[:1] >= b"\x80"


def test_the_cache_gives_the_same_and_notices_changes(tmp_path, monkeypatch):
    source = generate_articles(0, "train", 2, 2)
    first = encode_paragraphs(source, PICO, tmp_path)
    [file] = tmp_path.iterdir()
    plain = encode_paragraphs(source, PICO)

    def forbidden(*_):
        raise AssertionError("encoded again")

    with monkeypatch.context() as patch:
        patch.setattr(squad_encoding, "_encode", forbidden)
        second = encode_paragraphs(source, PICO, tmp_path)
    for a, b, c in zip(first, second, plain, strict=True):
        assert a.tokens == b.tokens == c.tokens and a.questions == b.questions == c.questions
        assert a.token_starts.tolist() == b.token_starts.tolist() == c.token_starts.tolist()
    changed = [source[0]._replace(context=source[0].context + " More."), *source[1:]]
    assert encode_paragraphs(changed, PICO, tmp_path)[0].tokens != first[0].tokens
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "range"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    source = generate_articles(0, "train", 1, 2)
    expected = encode_paragraphs(source, PICO, tmp_path)
    [file] = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 3] ^= 64
    elif damage == "empty":
        content = bytearray()
    file.write_bytes(content)
    if damage == "foreign":
        with file.open("wb") as target:
            np.savez(target, contexts=np.zeros(3, dtype=np.int32))
    if damage == "range":
        arrays = dict(np.load(file))
        arrays["golds"][0] = PICO.vocab_size
        with file.open("wb") as target:
            np.savez(target, **arrays)
    again = encode_paragraphs(source, PICO, tmp_path)
    assert [p.tokens for p in again] == [p.tokens for p in expected]
    assert [p.questions for p in again] == [p.questions for p in expected]


# Windows


@pytest.mark.parametrize(("size", "places"), [(1, 20), (11, 10)])
def test_window_starts_are_uniform(size, places):
    """A gold of g tokens far from both ends and a room of w: w - g + 1 starts, all as likely.

    Chi-square over 4,000 draws against its 99.99% point. The starts are read off the windows.
    """
    words = [f"w{i}" for i in range(100)]
    # Two-digit names are 2 tokens each (" w", "17"), so a gold of 1 word is 2 tokens.
    [paragraph] = encoded(paragraph_of(words, (50, 1)))
    per_word = squad_windows.gold_span(paragraph, *_only_gold(paragraph))
    assert per_word[1] - per_word[0] == 2
    if size > 1:
        [paragraph] = encoded(paragraph_of(words, (50, 6)))
    span = squad_windows.gold_span(paragraph, *_only_gold(paragraph))
    width = span[1] - span[0]
    room = width + places - 1
    question = paragraph.questions[0]
    block = len(HEAD) + 1 + room + len(question.tokens) + len(question.golds[0]) + 1
    counts = {}
    for seed in range(4000):
        [(context, _)] = training_trees([paragraph], block, np.random.default_rng(seed))
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
        [(context, _)] = trees = training_trees([paragraph], block, np.random.default_rng(seed))
        assert list(path_lengths(trees)) == [block]
        assert has_run(context, PICO.encode(f" w{place}"))


def test_questions_share_a_window_where_their_golds_fit():
    """Golds at words 2, 5, 90 of 100, room for some 20 words: two windows, {0, 1} and {2}."""
    words = [f"w{i}" for i in range(100)]
    [paragraph] = encoded(paragraph_of(words, (2, 1), (5, 1), (90, 1)))
    block = 60
    for seed in range(30):
        trees = training_trees([paragraph], block, np.random.default_rng(seed))
        answers = [[a for _, [a] in questions] for _, questions in trees]
        golds = [question.golds[0] for question in paragraph.questions]
        assert answers == [golds[:2], golds[2:]]
        for context, questions in trees:
            assert all(has_run(context, answer) for _, [answer] in questions)


def test_only_contexts_that_are_too_long_are_cut():
    """At the very size of the longest path nothing is cut; one token less and it is."""
    [paragraph] = encoded(generate_articles(0, "train", 1, 2)[0])
    longest = max(path_lengths(training_trees([paragraph], 10_000, np.random.default_rng(0))))
    rng = np.random.default_rng(0)
    assert [c for c, _ in training_trees([paragraph], longest, rng)] == [paragraph.tokens]
    cut = [c for c, _ in training_trees([paragraph], longest - 1, rng)]
    assert min(map(len, cut)) < len(paragraph.tokens)


@settings(max_examples=150, deadline=None)
@given(st.integers(20, 160), st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 5))
def test_nothing_but_the_context_is_ever_cut(block, seed, number, max_questions):
    """At any block size: paths fit, questions and golds are whole, each question is there once or
    counted as dropped, and a context is whole or a window of it that holds the gold's tokens."""
    source = generate_articles(number, "train", 1, 2)
    paragraphs = encoded(*source)
    units = training_units(paragraphs, block, max_questions)
    trees = training_trees(paragraphs, block, np.random.default_rng(seed), max_questions)
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
                first, end = squad_windows.gold_span(paragraph, start, text)
                body = context[len(HEAD) : -1]
                assert has_run(paragraph.tokens, body)
                assert has_run(body, paragraph.tokens[first:end])


def test_dropped_questions_are_those_that_cannot_fit():
    """By hand: head 2, line end 1, gold twice (in the window and as the answer), question, stop."""
    [paragraph] = encoded(paragraph_of([f"w{i}" for i in range(50)], (25, 2)))
    question = paragraph.questions[0]
    least = 2 + 1 + 4 + len(question.tokens) + 4 + 1
    assert len(question.golds[0]) == 4
    assert training_units([paragraph], least).dropped == 0
    assert training_units([paragraph], least - 1).dropped == 1
    assert training_units([paragraph], least, answer_room=6).dropped == 1


def test_random_golds_are_the_questions_own():
    """Three golds, drawn about equally often; `first` takes the first."""
    context = "Ada met Bob near Rome."
    question = Question("1", "Who?", ("Ada", "Bob", "Rome"), (0, 8, 17))
    [paragraph] = encoded(Paragraph("T", context, (question,)))
    rng = np.random.default_rng(0)
    drawn = [training_trees([paragraph], 500, rng)[0][1][0][1][0] for _ in range(600)]
    counts = [drawn.count(gold) for gold in paragraph.questions[0].golds]
    assert sum(counts) == 600 and min(counts) > 150  # 200 each, standard deviation 12
    first = [training_trees([paragraph], 500, rng, gold="first")[0][1][0][1][0] for _ in range(20)]
    assert first == [paragraph.questions[0].golds[0]] * 20


def test_many_questions_on_one_context_are_dealt_in_groups():
    words = [f"w{i}" for i in range(20)]
    [paragraph] = encoded(paragraph_of(words, *[(i % 20, 1) for i in range(50)]))
    units = training_units([paragraph], 500, max_questions=16).units
    assert [len(questions) for _, questions in units] == [16, 16, 16, 2]


# Evaluation


def test_the_evaluation_builder_is_shown_no_answers():
    assert set(inspect.signature(evaluation_trees).parameters) == {
        "contexts", "questions", "block_size", "answer_room", "max_questions",
    }  # fmt: skip


def test_evaluation_takes_the_first_tokens():
    """Room by hand: the context's first tokens, its last one, whatever the golds."""
    words = [f"w{i}" for i in range(100)]
    early, late = paragraph_of(words, (1, 1)), paragraph_of(words, (98, 1))
    block, room = 100, 8
    for source in (early, late):
        paragraphs = encoded(source)
        evaluation = evaluate_on(paragraphs, block_size=block, answer_room=room)
        [(context, [(question, answers)])] = evaluation.trees
        kept = block - room - len(question) - 1
        assert context == paragraphs[0].tokens[:kept] + LINE_END
        assert answers == [] and evaluation.index == [[(0, 0)]]
        assert golds_lost(paragraphs, evaluation) == (1.0 if source is late else 0.0)


def test_evaluation_drops_and_counts_what_has_no_room():
    paragraphs = encoded(generate_articles(0, "train", 1, 2)[0])
    questions = paragraphs[0].questions
    evaluation = evaluate_on(paragraphs, block_size=16, answer_room=8)
    left = [(0, j) for j, q in enumerate(questions) if len(q.tokens) < 8]
    assert sorted(place for row in evaluation.index for place in row) == left
    assert len(left) + len(evaluation.dropped) == len(questions)


def test_a_long_question_does_not_shorten_its_siblings_context():
    words = [f"w{i}" for i in range(100)]
    source = paragraph_of(words, (1, 1), (2, 1))
    long = source.questions[1]._replace(text="Who " * 60)
    paragraphs = encoded(source._replace(questions=(source.questions[0], long)))
    evaluation = evaluate_on(paragraphs, block_size=120, answer_room=8)
    alone = evaluate_on(encoded(source), block_size=120, answer_room=8)
    assert evaluation.index == [[(0, 0)], [(0, 1)]]
    assert evaluation.trees[0][0] == alone.trees[0][0]


def test_answers_are_attached_where_they_belong():
    paragraphs = encoded(*generate_articles(0, "train", 1, 2))
    evaluation = evaluate_on(paragraphs, block_size=500, answer_room=6, max_questions=3)
    answers = {(0, 1): [[5, 6]], (1, 0): [[7]], (1, 2): [[8, 8, 8, 8, 8, 8]]}
    trees, index = attach_answers(evaluation, answers, 6)
    assert index == [[(0, 1)], [(1, 0)]]  # the third has no room for its stop token
    assert trees[0] == (paragraphs[0].tokens, [(paragraphs[0].questions[1].tokens, [[5, 6]])])


# Order


def test_batch_order_is_a_permutation_in_even_batches():
    lengths = [7 * i % 50 for i in range(1003)]
    batches = batch_order(lengths, 16, seed=1, epoch=2)
    assert sorted(i for batch in batches for i in batch) == list(range(1003))
    assert len(batches) == steps_per_epoch(1003, 16) == 63
    assert sorted(map(len, batches)) == [11] + [16] * 62
    assert batch_order(lengths, 16, seed=1, epoch=2) == batches
    assert batch_order(lengths, 16, seed=1, epoch=3) != batches
    assert batch_order(lengths, 16, seed=2, epoch=2) != batches


def test_pools_keep_padding_small():
    """Lengths uniform on 100..300 pad by about 1/4 in random batches of 16; in pools far less."""
    lengths = np.random.default_rng(0).integers(100, 300, 2000)

    def padded(batches):
        width = sum(max(lengths[b]) * len(b) for b in batches)
        return 1 - sum(lengths[b].sum() for b in batches) / width

    assert padded([list(range(i, i + 16)) for i in range(0, 2000, 16)]) > 0.25
    assert padded(batch_order(lengths, 16, seed=0, epoch=0)) < 0.08
    assert padded(fixed_batches(lengths, 16)) < 0.01


def test_any_step_can_be_the_first():
    """Started at any step, also in a later epoch, the stream goes on as the undisturbed one."""
    paragraphs = encoded(*generate_articles(0, "train", 6, 2))
    options = {"batch_size": 4, "seed": 7, "block_size": 80, "max_questions": 5}
    steps = steps_per_epoch(len(training_units(paragraphs, 80, 5).units), 4)
    whole = list(islice(training_batches(paragraphs, **options), 3 * steps))
    assert [epoch for epoch, _ in whole] == [0] * steps + [1] * steps + [2] * steps
    for start in (1, steps - 1, steps, steps + 3, 2 * steps):
        rest = training_batches(paragraphs, **options, start_step=start)
        assert list(islice(rest, 3 * steps - start)) == whole[start:]
    one_epoch = list(epoch_batches(paragraphs, epoch=1, **options))
    assert one_epoch == [trees for _, trees in whole[steps : 2 * steps]]


def test_the_index_names_the_questions():
    paragraphs = encoded(*generate_articles(0, "train", 3, 2))
    seen = []
    steps = steps_per_epoch(len(training_units(paragraphs, 70).units), 4)
    stream = indexed_batches(paragraphs, batch_size=4, seed=0, block_size=70)
    for batch in islice(stream, steps):
        for (_, questions), places in zip(batch.trees, batch.index, strict=True):
            for (tokens, [answer]), (p, q) in zip(questions, places, strict=True):
                assert tokens == paragraphs[p].questions[q].tokens
                assert answer in paragraphs[p].questions[q].golds
                seen.append((p, q))
    assert len(set(seen)) == len(seen) == sum(len(p.questions) for p in paragraphs)


def test_no_room_for_any_question_is_an_error():
    paragraphs = encoded(*generate_articles(0, "train", 1, 2))
    with pytest.raises(ValueError, match="block of 5"):
        next(indexed_batches(paragraphs, batch_size=4, seed=0, block_size=5))


# Real data and scale


@pytest.mark.skipif(not SHARED.is_dir(), reason="real SQuAD is not beside the project")
def test_real_squad_golds_stand_in_their_tokens():
    """Over all 38 articles: a gold's tokens decode to a text that holds it, and windows keep it."""
    data = load_squad(str(SHARED))
    paragraphs = encode_paragraphs(data.validation, PICO)
    for paragraph in paragraphs:
        for question in paragraph.questions:
            for start, text in zip(question.starts, question.texts, strict=True):
                first, end = squad_windows.gold_span(paragraph, start, text)
                assert text in PICO.decode(paragraph.tokens[first:end])
    trees = training_trees(paragraphs, 128, np.random.default_rng(0))
    assert max(path_lengths(trees)) == 128
    for context, questions in trees:
        read = PICO.decode(context)
        assert all(PICO.decode(answer).strip() in read for _, [answer] in questions)


SCALE = """
import json, resource, sys, time
from src.data.squad_dataset import encode_paragraphs, training_batches, training_units
from src.data.squad_loader import load_squad
from src.data.tokenizer import load_tokenizer
start = time.perf_counter()
source = load_squad("pico", num_examples=87_599).train
tokenizer = load_tokenizer("pico")
paragraphs = encode_paragraphs(source, tokenizer, sys.argv[1])
units = training_units(paragraphs, 512).units
first = next(training_batches(paragraphs, batch_size=16, seed=0, block_size=512))
built = time.perf_counter()
again = encode_paragraphs(source, tokenizer, sys.argv[1])
print(json.dumps({
    "build_seconds": built - start,
    "cached_seconds": time.perf_counter() - built,
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    "questions": sum(len(paragraph.questions) for paragraph in source),
    "grouped": sum(len(questions) for _, questions in units),
    "first_batch": len(first[1]),
    "same": all(a.tokens == b.tokens for a, b in zip(again, paragraphs)),
}))
"""


def test_squad_scale_stays_within_bounds(tmp_path):
    """87,599 generated questions in a process of their own: load, encode, group in under 2 GB.

    Times are printed (`pytest tests/test_squad_dataset.py -k scale -s`), not asserted.
    """
    child = subprocess.run(
        [sys.executable, "-c", SCALE, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(child.stdout)
    print(result)
    assert 87_599 <= result["questions"] == result["grouped"]
    assert result["first_batch"] == 16
    assert result["same"] is True
    assert result["peak_gb"] < 2
