"""Data files as people have them: every layout gives the same questions, whatever its file."""

import copy
import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from src.data.row_files import literal, read_rows
from src.data.squad_loader import load_from_identity, load_squad
from src.data.squad_parse import LoadReport
from src.data.squad_splits import split_by_title
from src.data.squad_types import Paragraph, Question
from src.utils.errors import UserError
from tests.test_squad_loader import articles, qa, titles, write

ROOT = Path(__file__).resolve().parents[1]


def rows(number=20):
    """A context a title, two questions each; quotes, commas and line ends as CSV has to bear."""
    return [
        {
            "id": f"q{i}-{n}",
            "title": f"T{i}",
            "context": f'Ada, of "T{i}",\nmet Bob\'s dog; array([\'Eve\']) in 180{i % 10}.',
            "question": f"Who, {n}?",
            "answers": {"text": ["Ada", "Bob's"], "answer_start": [0, 17 + len(str(i))]},
        }
        for i in range(number)
        for n in range(2)
    ]


def official():
    """`rows` in the official layout."""
    groups = {}
    for row in rows():
        golds = [dict(zip(("text", "answer_start"), gold, strict=True))
                 for gold in zip(*row["answers"].values(), strict=True)]
        asked = {"id": row["id"], "question": row["question"], "answers": golds}
        groups.setdefault((row["title"], row["context"]), []).append(asked)
    return {"data": [{"title": t, "paragraphs": [{"context": c, "qas": qas}]}
                     for (t, c), qas in groups.items()]}


def json_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def zipped(path):
    new = path.with_name(f"{path.name}.gz")
    new.write_bytes(gzip.compress(path.read_bytes()))
    return new


def saved(path, way):
    """`rows` as `datasets` writes them."""
    getattr(datasets.Dataset.from_list(rows()), way)(str(path))
    return path


def plain(path, value):
    path.write_text(json.dumps(value))
    return path


LAYOUTS = {
    "official": lambda to: plain(to / "a.json", official()),
    "official, gzipped": lambda to: zipped(plain(to / "a.json", official())),
    "JSON Lines": lambda to: json_lines(to / "a.jsonl", rows()),
    "JSON Lines of another name": lambda to: json_lines(to / "a.txt", rows()),
    "JSON Lines, gzipped": lambda to: zipped(json_lines(to / "a.jsonl", rows())),
    "data: rows": lambda to: plain(to / "a.json", {"version": "1", "data": rows()}),
    "a list of rows": lambda to: plain(to / "a.json", rows()),
    "answers as a list": lambda to: plain(to / "a.json", [
        row | {"answers": [{"text": t, "answer_start": s} for t, s in zip(
            row["answers"]["text"], row["answers"]["answer_start"], strict=True)]}
        for row in rows()]),
    "CSV of datasets": lambda to: saved(to / "a.csv", "to_csv"),
    "CSV of JSON answers": lambda to: saved_csv(to / "a.csv"),
    "CSV of datasets, flattened": lambda to: flattened(to / "a.csv", "to_csv"),
    "parquet of datasets, flattened": lambda to: flattened(to / "a.parquet", "to_parquet"),
    "parquet of datasets": lambda to: saved(to / "a.parquet", "to_parquet"),
    "parquet of another name": lambda to: saved(to / "a.bin", "to_parquet"),
    "JSON Lines of datasets": lambda to: saved(to / "a.json", "to_json"),
    "folder of save_to_disk": lambda to: saved(to / "disk", "save_to_disk"),
    "folder of save_to_disk, one column as arrays": lambda to: saved_arrays(to / "disk"),
}


def flattened(path, way):
    """`rows` with the columns answers.text and answers.answer_start."""
    getattr(datasets.Dataset.from_list(rows()).flatten(), way)(str(path))
    return path


def saved_arrays(path):
    table = datasets.Dataset.from_list(rows()).with_format("numpy", columns=["answers"])
    table.save_to_disk(str(path))
    return path


def saved_csv(path):
    table = [row | {"answers": json.dumps(row["answers"])} for row in rows()]
    datasets.Dataset.from_list(table).to_csv(str(path))
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_questions(tmp_path, layout):
    expected = load_squad(str(plain(tmp_path / "expected.json", official())), evaluate=True)
    assert len(expected.validation) == 20 and expected.report.lines() == []
    path = str(LAYOUTS[layout](tmp_path))
    assert load_squad(path, evaluate=True).validation == expected.validation
    data = load_squad(path)
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (36, 4)
    assert load_from_identity(json.loads(json.dumps(data.identity))) == data


ODD_ANSWERS = {
    "null": (None, "no answers"),
    "start instead of answer_start": ({"text": ["Bob's"], "start": [18]}, ""),
    "single values": ({"text": "Bob's", "answer_start": 18}, ""),
    "null values": ({"text": None, "answer_start": None}, "no answers"),
    "no starts": ({"text": ["Bob's"], "answer_start": []}, ""),
    "a text": ("Bob's", ""),
    "texts": (["Bob's"], ""),
    "a number": (1800, ""),
    "an object": ({"answer": "x"}, "'answers' without 'text'"),
}


@pytest.mark.parametrize("kind", ODD_ANSWERS)
@pytest.mark.parametrize("to", ["jsonl", "parquet"])
def test_one_odd_row_of_answers_is_used_or_dropped(tmp_path, kind, to):
    """As JSON Lines hold them, and alone in a column of a table, as hub data have them."""
    value, reason = ODD_ANSWERS[kind]
    if to == "jsonl":
        several = rows()
        several[0]["answers"] = value
        path = json_lines(tmp_path / "a.jsonl", several)
    else:
        path = tmp_path / "a.parquet"
        table = datasets.Dataset.from_list([rows()[0] | {"answers": value}] + [
            row | {"answers": value} for row in rows()[2:]])
        table.to_parquet(str(path))
    if reason and to == "parquet":
        with pytest.raises(UserError, match=f"no usable question.*39 {reason}; first: .*a.parquet"):
            load_squad(str(path), evaluate=True)
        return
    data = load_squad(str(path), evaluate=True)
    assert data.report.dropped == ({reason: 1} if reason else {})
    if not reason:
        asked = data.validation[0].questions[0]
        assert asked.answers == (str(value) if kind == "a number" else "Bob's",)


@pytest.mark.parametrize(
    ("change", "unit"),
    [
        (lambda row, n: row | {"id": n}, "title"),
        (lambda row, n: row | {"id": float(n)}, "title"),  # of a table with gaps
        (lambda row, n: row | {"id": float("nan")}, "title"),
        (lambda row, n: row | {"title": float("nan")}, "title"),
        (lambda row, n: {k: v for k, v in row.items() if k != "id"}, "title"),
        (lambda row, n: {k: v for k, v in row.items() if k != "title"}, "title"),
        (lambda row, n: row | {"title": None}, "title"),
        (lambda row, n: row | {"title": "T"}, "context"),
    ],
)
def test_ids_and_titles_may_be_what_they_are(tmp_path, change, unit):
    """Whole numbers, also as 7.0, or no ids; no titles (a context is then an article of its own);
    one title for all."""
    changed = [change(row, n) for n, row in enumerate(rows())]
    data = load_squad(str(json_lines(tmp_path / "a.jsonl", changed)))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (36, 4)
    assert f"by {unit}, 2 of 20 are held out" in data.report.notes[0]
    assert not {p.context for p in data.train} & {p.context for p in data.validation}
    assert data.report.dropped == {}


def test_a_place_may_be_written_as_text_or_with_a_point(tmp_path):
    """The second Ada is meant, and found without a look elsewhere; "x" and 2.5 are no places."""
    context = "Ada met Ada and Ada left."
    starts = {8: [8, 8.0, "8", "8.0"], -1: [-1.0, "x", 2.5, "2.5", float("inf"), "9" * 5000]}
    for expected, several in starts.items():
        for start in several:
            answers = {"text": ["Ada"], "answer_start": [start]}
            row = {"context": context, "question": "Who?", "answers": answers}
            path = json_lines(tmp_path / "a.jsonl", [row])
            [paragraph] = load_squad(str(path), evaluate=True).validation
            assert paragraph.questions[0].starts == (expected,), start


def test_one_context_that_is_left_says_why_the_others_are_not(tmp_path):
    """The refusal also says how many rows were dropped, and why."""
    several = [row | {"id": [n]} for n, row in enumerate(rows())]
    path = json_lines(tmp_path / "a.jsonl", [*several[:-1], rows()[-1]])
    with pytest.raises(UserError, match=r"cannot be split.*dropped: 39 'id' is a list"):
        load_squad(str(path))


def test_one_title_in_both_splits_is_split_by_context(tmp_path):
    """4 of 40 rows are a training context again: they go, the others stay."""
    same = [row | {"title": "T"} for row in rows()]
    json_lines(tmp_path / "train.jsonl", same[:36])
    json_lines(tmp_path / "dev.jsonl", [row | {"id": f"v{row['id']}"} for row in same[32:]])
    data = load_squad(str(tmp_path))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (32, 8)
    assert list(data.report.dropped.values()) == [4] and "by context only" in data.report.notes[0]


def test_files_of_a_folder_go_to_their_splits(tmp_path):
    """Formats mixed, several files a split, a folder without a validation split."""
    json_lines(tmp_path / "train-0.jsonl", rows()[:10])
    (tmp_path / "more").mkdir()
    more = zipped(json_lines(tmp_path / "more" / "train-b.json", rows()[10:20]))
    more.rename(tmp_path / more.name)
    (tmp_path / "notes.txt").write_text("no data")
    json_lines(tmp_path / "train-0.jsonl.bak", rows()[20:])
    (tmp_path / "value.json").write_text("no data")
    data = load_squad(str(tmp_path))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (18, 2)
    json_lines(tmp_path / "Val.jsonl", rows()[20:30])
    json_lines(tmp_path / "test_2.jsonl", rows()[30:])
    data = load_squad(str(tmp_path))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (20, 10)
    for split, number in (("train", 20), ("validation", 10), ("test", 10), (None, 10)):
        found = load_squad(str(tmp_path), evaluate=True, split=split)
        assert found.identity["validation_questions"] == number


def test_a_test_split_alone_can_be_measured_on(tmp_path):
    json_lines(tmp_path / "test.jsonl", rows())
    assert load_squad(str(tmp_path), evaluate=True).identity["validation_questions"] == 40
    assert load_squad(str(tmp_path), evaluate=True, split="test").identity["split"] == "test"
    with pytest.raises(UserError, match="only a test split, which eval_dpo.py can measure on"):
        load_squad(str(tmp_path))
    (tmp_path / "test.jsonl").rename(tmp_path / "dev.jsonl")
    with pytest.raises(UserError, match="--split test given, it has validation"):
        load_squad(str(tmp_path), evaluate=True, split="test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", json.dumps(official())[:-100].encode(), "the file ends early: download it"),
        ("a.json", b'{"data": [{]}', "not JSON at line 1, column 12 .*; mend the file there"),
        ("a.json", b"id,context\n1,x\n", "or CSV in a file named .csv"),
        ("a.csv", b'id,context\n1,"x', "no sound CSV"),
        ("a.csv", b"id,ctx\n1,x\n", r"1 no 'context'; first: .*row 1 \(id 1\)"),
        ("a.csv", b"name,ctx\n1,x\n", r"1 no 'context'; first: .*row 1 \(with name, ctx\)"),
        ("a.jsonl", b"torn\nlines\n", "2 no JSON where an object belongs"),
        ("a.json.gz", gzip.compress(b"[]" * 99, mtime=0)[:-9], "no sound gzip file"),
        ("a.parquet", b"PAR1 and no more", "no sound parquet file"),
        ("a.json", "[]".encode("utf-16"), "byte 0 is not UTF-8"),
        ("a.json", b"[]", "no usable question for whole; it is empty"),
        ("a.json", '{"data": [{"title": "بغداد", "paragraphs": 1}]}'.encode(),
         "article 1: a number where a list 'paragraphs' belongs"),
        ("a.json", '{"data": [{"title": "بغداد", "paragraphs": [1]}]}'.encode(),
         r"article 1 \(بغداد\), paragraph 1: a number where a list 'qas'"),
    ],
)
def test_messages_say_what_is_wrong(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_squad(str(path), evaluate=True)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_all_rows_dropped_says_why_and_not_that_articles_are_missing(tmp_path):
    """The reason with its count and first place, in training and in evaluation."""
    path = json_lines(tmp_path / "a.jsonl", [row | {"is_impossible": 1} for row in rows()])
    for evaluate in (False, True):
        with pytest.raises(UserError, match=r"40 unanswerable \(v2.0\); first: .*row 1 \(id q0-0"):
            load_squad(str(path), evaluate=evaluate)


@pytest.mark.parametrize(
    ("sizes", "held_out"),
    [([180, 6], 6), ([6, 180], 6), ([90, 90], 90), ([10] * 10, 10), ([2] * 20, 4), ([1, 999], 1)],
)
def test_a_tenth_of_the_questions_is_held_out(sizes, held_out):
    """Of articles of very unequal sizes too, whatever their names hash to; the counts are said."""
    for name in "abcdefgh":
        paragraphs = [
            Paragraph(f"{name}{i}", f"{name}{i}", (Question("q", "q", ("a",), (0,)),) * size)
            for i, size in enumerate(sizes)
        ]
        report = LoadReport()
        parts = split_by_title(paragraphs, "file", report)
        counts = [sum(len(p.questions) for p in parts[part]) for part in ("train", "validation")]
        assert counts == [sum(sizes) - held_out, held_out]
        assert not titles(parts["train"]) & titles(parts["validation"])
        assert f"{counts[0]} questions to train on, {held_out} held out" in report.notes[0]


README = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train*
- config_name: ar
  data_files:
  - split: test
    path: ar/test*
---
"""
LOAD = """
import json, sys
from src.data.squad_loader import load_squad
from src.utils.errors import UserError
for name, evaluate in json.loads(sys.argv[1]):
    try:
        identity = load_squad(name, evaluate=evaluate).identity
        print(json.dumps([identity["train_questions"], identity["validation_questions"]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def test_hub_sets_through_the_real_library(tmp_path):
    """Folders of a hub set's name, where the library looks first, without a network: a set of two
    configurations, also by its path, and one in the hub's usual layout."""
    table = datasets.Dataset.from_list(rows())
    for path in ("sets/en/train-0.parquet", "sets/ar/test-0.parquet", "one/data/train-0.parquet"):
        (tmp_path / "org" / path).parent.mkdir(parents=True)
        table.to_parquet(str(tmp_path / "org" / path))
    (tmp_path / "org/sets/README.md").write_text(README)
    cases = [
        ("org/sets:en", False), ("org/sets:ar", True), ("org/one", False), ("org/one", True),
        (f"{tmp_path}/org/sets:en", False), ("./org/sets:ar", True),
        ("org/sets", False), ("org/sets:de", False), (f"{tmp_path}/org/sets", False),
        ("org/none", False),
    ]
    child = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(cases)], cwd=tmp_path, capture_output=True,
        text=True, check=True, env=os.environ | {
            "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"),
        },
    )
    *loaded, unnamed, wrong, by_path, absent = map(json.loads, child.stdout.splitlines())
    assert loaded == [[36, 4], [0, 40], [36, 4], [0, 4], [36, 4], [0, 40]]
    for line in (unnamed, wrong, by_path):
        assert "['en', 'ar']" in line and "org/sets:CONFIGURATION" in line
        assert "\n" not in line and "network" not in line
    assert "check the name and the network" in absent


def test_a_saved_folder_has_no_configurations(tmp_path):
    path = saved(tmp_path / "disk", "save_to_disk")
    with pytest.raises(UserError, match="disk:en: expected .*disk, a folder of save_to_disk"):
        load_squad(f"{path}:en")


def test_lists_in_csv_stay_lists(tmp_path):
    """`datasets` writes ['Ada' "Bob's"] there, which Python reads as one text, AdaBob's; NumPy
    breaks long ones into lines."""
    answers = ["Ada", "Bob's", "Eve", *(f"a long answer of number {n}" for n in range(8))]
    table = datasets.Dataset.from_list([row | {"answers": answers} for row in rows()])
    path = tmp_path / "a.csv"
    table.to_csv(str(path))
    for paragraph in load_squad(str(path), evaluate=True).validation:
        assert all(list(question.answers) == answers for question in paragraph.questions)
    for text, value in (("[ 0 18]", [0, 18]), ("[-1  3 -1]", [-1, 3, -1]), ("['a']", ["a"]),
                        ("[]", []), ("{'text': array(['a', 'b'], dtype=object)}",
                                     {"text": ["a", "b"]}), ("['a\\nb' 'c']", ["a\nb", "c"]),
                        ("[{'role': 'user'}\n {'role': None}]", [{"role": "user"}, {"role": None}]),
                        ("[x y", "[x y"), ("{'a'", "{'a'")):
        assert literal(text) == value


def test_csv_keeps_texts_as_they_are(tmp_path):
    """An id 007, an answer that looks like a list and is none, a question NA."""
    path = tmp_path / "a.csv"
    path.write_text("id,context,question,answers\n007,[sic] 1804,NA,[sic]\n")
    [paragraph] = load_squad(str(path), evaluate=True).validation
    assert paragraph[1:3] == ("[sic] 1804", (Question("007", "NA", ("[sic]",), (0,)),))
    assert csv.field_size_limit() < 2**31  # a C long of Windows


def test_parquet_values_that_python_does_not_have_are_one_line(tmp_path):
    """A date after the year 9999, a text that is no UTF-8, in a column that nobody asked for."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    ends, content = pyarrow.py_buffer(bytes(4) + b"\x01\0\0\0"), pyarrow.py_buffer(b"\xff")
    for odd, reason in (
        (pyarrow.array([10**7], pyarrow.date32()), "date value out of range"),
        (pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, ends, content]), "can't decode"),
    ):
        parquet.write_table(pyarrow.table({"question": ["Who?"], "odd": odd}), path)
        with pytest.raises(UserError, match=f"a.parquet: no sound parquet file .*{reason}"):
            read_rows(path)


def test_reading_is_bounded_after_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr("src.data.row_files.MAX_FILE_BYTES", 1000)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 100_000 + b"]"))
    with pytest.raises(UserError, match="1001 bytes; expected at most 1000"):
        read_rows(path)


def test_moved_answers_are_counted(tmp_path):
    """An annotation tool's answers, one to nine characters off: all 8 questions are used."""
    moved = copy.deepcopy(articles(4))
    for i, each in enumerate(moved):
        for paragraph in each["paragraphs"]:
            paragraph["context"] = f"{'x' * 15} {paragraph['context']}"
            off = (i + 1) * (-1) ** i
            paragraph["qas"] = [qa(q["id"], start=16 + off) for q in paragraph["qas"]]
    data = load_squad(str(write(tmp_path / "a.json", *moved)))
    assert {p.questions[0].starts for p in data.train + data.validation} == {(16,)}
    assert data.report.mended == {"answer found again near its answer_start": 8}
