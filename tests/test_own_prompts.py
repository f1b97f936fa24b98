"""A task of the user's own: prompts and completions, through data, batches and evaluation."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.encoding import encode_paragraphs
from src.data.squad_dataset import context_groups, evaluate_on, indexed_batches, training_trees
from src.data.squad_loader import load_from_identity, load_squad
from src.data.squad_preferences import make_pairs
from src.data.squad_splits import share_beginnings
from src.data.squad_types import NO_PLACE, Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.data.windows import tree_tokens
from src.evaluation.evaluation_set import held_out_questions
from src.evaluation.intervals import intervals
from src.evaluation.squad_metrics import qa_example
from src.inference.prompts import encode_within
from src.utils.errors import UserError
from tests.test_data_files import json_lines

PICO = load_tokenizer("pico")
SUMS = [{"prompt": f"Compute: {a} + {b} =", "completion": str(a + b)}
        for a in range(10) for b in range(10)]


def prompt(text, *answers):
    return Paragraph(text, "", (Question(text, text, answers, (NO_PLACE,) * len(answers)),), False)


def test_prompts_are_loaded_split_and_inherited(tmp_path):
    """Split by prompt; the identity says that there is no template, and loads the same again."""
    data = load_squad(str(json_lines(tmp_path / "a.jsonl", SUMS)))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (90, 10)
    assert data.identity["template"] is False and "by prompt, 10 of 100" in data.report.notes[0]
    assert load_from_identity(json.loads(json.dumps(data.identity))) == data
    asked = {q.text: q.answers for p in data.train + data.validation for q in p.questions}
    assert asked == {row["prompt"]: (row["completion"],) for row in SUMS}
    path = json_lines(tmp_path / "b.jsonl", [SUMS[0] | {"context": "Ada", "question": "Who?"}])
    assert load_squad(str(path), evaluate=True).identity["template"] is True


def test_equal_prompts_are_one_with_all_their_answers(tmp_path):
    rows = [
        {"prompt": "Say hi.", "completion": "hi"},
        {"prompt": "Say no.", "answers": ["no", "nope", "no"], "id": 7},
        {"prompt": "Say hi.", "completion": "hello"},
        {"prompt": "Say hi.", "completion": "hi"},
        {"prompt": "Say 4.", "completion": 4},
    ]
    data = load_squad(str(json_lines(tmp_path / "a.jsonl", rows)), evaluate=True)
    golds = [p.questions[0].answers for p in data.validation]
    assert golds == [("hi", "hello"), ("no", "nope", "no"), ("4",)]
    assert data.validation[1].questions[0].id == "7" and data.report.lines() == []


def test_a_table_has_both_columns_of_which_a_row_fills_one(tmp_path):
    """Rows with an empty `answers` were dropped, though their completion was there."""
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,answers\nSay hi.,hi,\nSay no.,,\"['no', 'nope']\"\n")
    rows = [{"prompt": "Say hi.", "completion": "hi", "answers": None},
            {"prompt": "Say no.", "completion": None, "answers": ["no", "nope"]}]
    for name in (path, json_lines(tmp_path / "a.jsonl", rows)):
        data = load_squad(str(name), evaluate=True)
        assert [p.questions[0].answers for p in data.validation] == [("hi",), ("no", "nope")]
        assert data.report.lines() == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a"}, "no 'completion' and no 'answers'"),
        ({"prompt": "a", "completion": " "}, "question left without answers"),
        ({"prompt": "", "completion": "x"}, "empty prompt"),
        ({"prompt": ["a"], "completion": "x"}, "'prompt' is a list, expected text"),
        ({"prompt": "a", "completion": None}, "no answers"),
        ({"prompt": "a", "answers": {"b": 1}}, "'answers' without 'text'"),
        ({"completion": "x"}, "no 'context'"),
    ],
)
def test_bad_rows_are_dropped_and_counted(tmp_path, row, reason):
    path = str(json_lines(tmp_path / "a.jsonl", [*SUMS, row]))
    data = load_squad(path, evaluate=True)
    assert len(data.validation) == 100 and data.report.dropped[reason] == 1
    assert "row 101" in data.report.first[reason]
    with pytest.raises(UserError, match="row 101"):
        load_squad(path, evaluate=True, strict=True)


def test_prompts_of_the_validation_split_are_not_trained_on(tmp_path):
    """Compared without their blanks; where all are held out, none is left to train on."""
    json_lines(tmp_path / "train.jsonl", SUMS)
    spaced = [row | {"prompt": row["prompt"].replace("+", "\r\n+")} for row in SUMS]
    json_lines(tmp_path / "validation.jsonl", spaced[:10])
    data = load_squad(str(tmp_path))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (90, 10)
    for several in (SUMS, spaced):
        json_lines(tmp_path / "validation.jsonl", several)
        with pytest.raises(UserError, match="no usable question for train; dropped: 100 training"):
            load_squad(str(tmp_path))


def test_both_kinds_of_rows_in_one_set_are_refused(tmp_path):
    row = {"context": "Ada left.", "question": "Who?", "answers": ["Ada"]}
    with pytest.raises(UserError, match="some rows have a prompt, some a context"):
        load_squad(str(json_lines(tmp_path / "a.jsonl", [*SUMS, row])), evaluate=True)


TEXT = st.text(alphabet="ab 1.\n東é:", min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=200, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=5, unique=True))
def test_sharing_a_beginning_changes_no_token(beginning, ends):
    """Parts encoded apart are the tokens of the whole prompt, which are what generation reads."""
    prompts = [prompt(f"{beginning * 201}{end}", "x") for end in ends]
    shared = share_beginnings(prompts)
    encoded = encode_paragraphs(shared, PICO)
    found = {}
    for paragraph, ids in zip(shared, encoded, strict=True):
        for question, asked in zip(paragraph.questions, ids.questions, strict=True):
            assert question.text.startswith(paragraph.context) and asked.tokens
            found[question.text] = [*ids.tokens, *asked.tokens]
    for text in {p.title for p in prompts}:
        context, question = encode_within(PICO, (None, text), 10**6, "", template=False)
        assert found[text] == [*context, *question] == PICO.encode(text)


def test_shared_beginnings_are_read_once():
    """Three prompts on each of two long beginnings: two trees; short ones stay alone."""
    starts = ["The cat sat on the mat and " * 9, "Another day it slept. " * 11]
    texts = [f"{start}{end}" for end in ("ate.", "drank a lot.", "left") for start in starts]
    prompts = [prompt(text, "x") for text in [*texts, "Say hi.", "Say no."]]
    assert [len(p.questions) for p in share_beginnings(prompts)] == [3, 1, 1, 3]
    encoded = encode_paragraphs(share_beginnings(prompts), PICO)
    trees = training_trees(encoded, context_groups(encoded, 500), np.random.default_rng(0))
    alone = encode_paragraphs(prompts, PICO)
    apart = training_trees(alone, context_groups(alone, 500), np.random.default_rng(0))
    assert sum(map(tree_tokens, trees)) < 0.5 * sum(map(tree_tokens, apart))
    # Evaluation shares them too, and every prompt stays a group of its own for intervals.
    held_out = held_out_questions(prompts, alone, 500)
    whole = [[*c, *q] for c, qs in held_out.prompts for q in qs]
    assert whole == [PICO.encode(asked.question) for asked in held_out.examples]
    assert sorted(held_out.groups) == list(range(8))
    assert sorted(len(qs) for _, qs in held_out.prompts) == [1, 1, 3, 3]
    figures = {"em": ([1.0] * 8, [0.01] * 8, held_out.groups)}
    assert intervals(figures)["em"].value == 100


def test_a_beginning_is_shared_by_no_more_prompts_than_a_context_group_has():
    """All were one paragraph: pairs are made for whole paragraphs, however few steps see them."""
    shared = share_beginnings([prompt(f"{'word ' * 50}{n}", "x") for n in range(40)])
    assert [len(p.questions) for p in shared] == [16, 16, 8]
    groups = context_groups(encode_paragraphs(shared, PICO), 500).groups
    assert [number for number, _ in groups] == [0, 1, 2]


def test_prompts_are_never_cut():
    """One that is too long for the block is dropped and counted, in training and evaluation."""
    prompts = [prompt("word " * 100, "x"), prompt("short", "y")]
    encoded = encode_paragraphs(prompts, PICO)
    assert context_groups(encoded, 64).dropped == 1
    evaluation = evaluate_on(encoded, block_size=64, answer_budget=8)
    assert evaluation.dropped == [(0, 0)] and len(evaluation.trees) == 1
    batch = next(indexed_batches(encoded, context_groups(encoded, 64), batch_size=1, seed=0))
    assert batch.trees == [([], [(PICO.encode("short"), [PICO.encode(" y")])])]
    # Nor is a beginning that prompts share; what just fits is read, as in training.
    ends = [prompt(f"{'long ' * 50}{end}", "x") for end in "ab"]
    for paragraphs in (share_beginnings(ends), ends):
        encoded = encode_paragraphs(paragraphs, PICO)
        size = len(encoded[0].tokens) + len(encoded[0].questions[0].tokens)
        assert len(evaluate_on(encoded, block_size=size + 7, answer_budget=8).dropped) == 2
        evaluation = evaluate_on(encoded, block_size=size + 8, answer_budget=8)
        read = [[*context, *tokens] for context, asked in evaluation.trees for tokens, _ in asked]
        assert read == [PICO.encode(p.title) for p in ends]
        assert context_groups(encoded, size + 8, answer_budget=8).dropped == 0


def test_wrong_answers_come_from_other_prompts():
    """Sums against other sums, none of them right, and shorter and longer ones balanced."""
    prompts = [prompt(row["prompt"], row["completion"]) for row in SUMS]
    pairs = make_pairs(prompts, 0, "sums", {"other_answer": 1.0})
    assert len(pairs) == 100
    answers = {row["completion"] for row in SUMS}
    for pair in pairs:
        assert pair.chosen == SUMS[pair.paragraph]["completion"] != pair.rejected
        assert pair.rejected in answers and pair.question == 0
    kinds = {pair.kind for pair in make_pairs(prompts, 0, "sums")}
    assert kinds <= {"other_answer", "unrelated", "same_type"} and "other_answer" in kinds


def test_people_and_rewards_see_the_whole_prompt():
    grouped = share_beginnings([prompt(f"{'long ' * 50}{end}", "x") for end in ("a", "b")])
    assert grouped[0].context
    asked = [qa_example(grouped[0], question) for question in grouped[0].questions]
    assert [a[:2] for a in asked] == [("", f"{'long ' * 50}a"), ("", f"{'long ' * 50}b")]
