"""Loading: what counts as a question, what is refused, and that splits never share an article."""

import copy
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import squad_loader
from src.data.row_files import read_rows
from src.data.squad_loader import Paragraph, Question, load_from_identity, load_squad
from src.data.squad_parse import LoadReport, parse_rows, rows_of
from src.data.squad_types import NO_PLACE
from src.utils.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "squad"
needs_squad = pytest.mark.skipif(not SHARED.is_dir(), reason="real SQuAD is not beside the project")


def qa(key, text="Who?", answer="Ada", start=0, **extra):
    golds = [{"text": answer, "answer_start": start}]
    return {"id": key, "question": text, "answers": golds} | extra


def article(title, *paragraphs):
    return {
        "title": title,
        "paragraphs": [{"context": context, "qas": list(qas)} for context, qas in paragraphs],
    }


def write(path, *articles):
    path.write_text(json.dumps({"version": "1.1", "data": list(articles)}))
    return path


def articles(count, prefix="t"):
    """Articles of two paragraphs with one question each."""
    return [
        article(
            f"{prefix}{i}",
            (f"Ada of {prefix}{i} met Bob.", [qa(f"{prefix}{i}-a")]),
            (f"Ada left {prefix}{i} alone.", [qa(f"{prefix}{i}-b")]),
        )
        for i in range(count)
    ]


def parsed(*rows, context="Ada met Bob and Ada left.", strict=False):
    root = {"data": [article("T", (context, rows))]}
    report = LoadReport(strict)
    return parse(root, report), report.dropped


def parse(root, report=None, source="f.json"):
    report = report or LoadReport()
    return parse_rows(rows_of(root, source, report), report)


def test_the_second_occurrence_stays_the_second():
    """"Ada" stands at 0 and at 16; answer_start says 16, and looking it up would say 0."""
    [paragraph], _ = parsed(qa("1", answer="Ada", start=16))
    assert paragraph.questions == (Question("1", "Who?", ("Ada",), (16,)),)


def test_blanks_around_a_gold_move_its_start():
    [paragraph], _ = parsed(qa("1", answer=" met ", start=3))
    assert paragraph.questions[0][2:] == (("met",), (4,))


BAD_ROWS = {
    "empty answer": qa("1", answer="  "),
    "question left without answers": qa("1", answer="  "),
    "'id' is a list, expected text or a whole number": qa([1]),
    "'question' is null, expected text": qa("1") | {"question": None},
    "an answer is an object, expected text": qa("1", answer={"a": "Ada"}),
    "a number where an object belongs": 7,
    "no answers": qa("1") | {"answers": []},
    "unanswerable (v2.0)": qa("1", is_impossible=True) | {"answers": []},
    "empty question": qa("1", text=" \n"),
    "empty id": qa(""),
    "duplicate id": qa("0"),
    "NUL in the question": qa("1", text="Who\x00?"),
    "lone surrogate in the question": qa("1", text="Who \ud800?"),
    "lone surrogate in the id": qa("\udfff"),
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_bad_rows_are_dropped_and_counted(reason):
    """A good row beside the bad one stays; strict refuses and names the row."""
    paragraphs, counts = parsed(qa("0"), BAD_ROWS[reason])
    assert [q.id for p in paragraphs for q in p.questions] == ["0"]
    assert counts[reason] == 1
    with pytest.raises(UserError, match=r"f\.json, article 1 \(T\), paragraph 1, question 2"):
        parsed(qa("0"), BAD_ROWS[reason], strict=True)


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (" \n", "empty context"),
        ("Ada\x00", "NUL in the context"),
        ("Ada\ud83d", "lone surrogate in the context"),
    ],
)
def test_bad_contexts_take_all_their_questions_along(context, reason):
    assert parsed(qa("0"), qa("1"), context=context) == ([], {reason: 2})


def test_training_needs_a_place_and_evaluation_does_not(tmp_path):
    """Golds that stand nowhere near their answer_start, which the official script never looks at:
    evaluation keeps them, training drops them and counts them."""
    far = {"text": "Bob", "answer_start": 200}
    context = "Ada met Bob and Ada left Bob, who was alone in the end."
    one = qa("1") | {"answers": [far, {"text": "Bob", "answer_start": 8}]}
    articles = [article(t, (f"{context} {t}", [one | {"id": t}])) for t in "ab"]
    lost = article("c", (f"{context} c", [qa("c") | {"answers": [far]}]))
    write(tmp_path / "train.json", *articles, lost)
    write(tmp_path / "dev.json", lost | {"title": "d"})
    data = load_squad(str(tmp_path), evaluate=True)
    assert [p.questions[0][2:] for p in data.validation] == [(("Bob",), (NO_PLACE,))]
    assert not data.report.dropped and "1 held-out answers" in data.report.notes[0]
    write(tmp_path / "dev.json", article("d", (f"{context} d", [qa("d") | {"answers": [far]}])))
    data = load_squad(str(tmp_path))
    assert [q[2:] for p in data.train for q in p.questions] == [(("Bob",), (8,))] * 2
    assert data.report.dropped == {
        "answer not at its answer_start": 3, "question left without answers": 1,
    }
    assert data.validation[0].questions[0].starts == (NO_PLACE,)


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("Bob", 8, 8), ("Bob", 6, 8), ("Bob", 17, 8), ("Bob", 28, 8), ("Bob", 29, NO_PLACE),
        ("Bob", -3, 8),
        ("Ada", 7, NO_PLACE),  # stands at 0 and at 16, both near
        ("Ada", 16, 16), ("Bob", -1, 8), ("left", -1, 20), ("Bob", None, 8),
        ("Ada", None, NO_PLACE),
        ("Bob", "x", 8), ("Bob", 10**30, NO_PLACE), (" met ", 2, 4), ("Eve", 0, NO_PLACE),
    ],
)
def test_an_answer_near_its_place_is_found_again(text, start, found):
    """In "Ada met Bob and Ada left." within 20 characters, where it occurs once there; without a
    place, where it occurs once at all."""
    report = LoadReport()
    rows = [qa("1", answer=text, start=start)]
    [paragraph] = parse({"data": [article("T", ("Ada met Bob and Ada left.", rows))]}, report)
    assert paragraph.questions[0][2:] == ((text.strip(),), (found,))
    moved = found != NO_PLACE and found != start
    assert sum(report.mended.values()) == moved


def change(path, value):
    """An official file of two articles with one place overwritten; value ... deletes the key."""
    root = {"data": articles(2)}
    *upper, key = path
    holder = root
    for step in upper:
        holder = holder[step]
    if value is ...:
        del holder[key]
    else:
        holder[key] = value
    return root


P, Q = ("data", 1, "paragraphs", 1), ("data", 1, "paragraphs", 1, "qas", 0)
IN_PARAGRAPH = r"article 2 \(t1\), paragraph 2"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("data",), {"a": 1}, "an object where a list of rows or articles belongs"),
        (("data", 1), 7, "article 2: a number where a list 'paragraphs' belongs"),
        (("data", 1, "paragraphs"), "x", "article 2: text where a list 'paragraphs' belongs"),
        (P, None, f"{IN_PARAGRAPH}: null where a list 'qas' belongs"),
        ((*P, "qas"), ..., f"{IN_PARAGRAPH}: no 'qas'"),
    ],
)
def test_malformed_files_are_refused_where_they_break(path, value, message):
    with pytest.raises(UserError, match=message):
        parse(change(path, value))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ((*P, "context"), ["x"], "'context' is a list, expected text"),
        ((*P, "context"), ..., "'context' is null, expected text"),
        ((*Q, "id"), True, "'id' is true or false, expected text or a whole number"),
        ((*Q, "question"), ..., "no 'question'"),
        ((*Q, "answers"), ..., "no 'answers'"),
        ((*Q, "answers"), None, "no answers"),
        ((*Q, "answers"), {}, "'answers' without 'text'"),
        ((*Q, "answers", 0, "text"), None, "no answers"),
        ((*Q, "answers", 0, "text"), float("nan"), "no answers"),
        ((*Q, "answers", 0, "text"), True, "an answer is true or false, expected text"),
        ((*Q, "is_impossible"), 1, "unanswerable (v2.0)"),
    ],
)
def test_a_malformed_row_is_dropped_with_its_place(path, value, reason):
    report = LoadReport()
    assert len(parse(change(path, value), report)) == 3
    assert report.dropped == {reason: 1}
    assert report.first[reason].startswith("f.json, article 2 (t1), paragraph 2, question 1")


@pytest.mark.parametrize(
    "content",
    [
        b'{"data": [{"title": "a"',
        b"",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"data": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
    ],
)
def test_broken_files_end_in_one_line(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="broken.json") as error:
        load_squad(str(path))
    assert "\n" not in str(error.value)


def places(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]),
    st.just({}), st.just("\ud800"), st.just(10**30), st.lists(st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_place_may_hold_anything(data):
    """Whatever stands anywhere: UserError, or paragraphs whose golds stand where they say."""
    root = {"data": articles(2)}
    place = data.draw(st.sampled_from(list(places(root))))
    changed = copy.deepcopy(change(place, data.draw(ODD)))
    try:
        paragraphs = parse(changed)
    except UserError as error:
        assert "\n" not in str(error)
        return
    for paragraph in paragraphs:
        for question in paragraph.questions:
            assert question.id.strip() and question.text.strip() and question.answers
            for answer, start in zip(question.answers, question.starts, strict=True):
                assert answer
                assert start == NO_PLACE or paragraph.context[start:].startswith(answer)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        load_squad(str(tmp_path / "absent.json"))
    with pytest.raises(UserError, match=r"expected files train\*"):
        load_squad(str(tmp_path))
    os.mkfifo(tmp_path / "train.json")
    write(tmp_path / "dev.json", *articles(2))
    with pytest.raises(UserError, match="no regular file"):
        load_squad(str(tmp_path))


def test_files_over_2_gb_are_refused_unread(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)  # sparse: takes no disk
    with pytest.raises(UserError, match="2147483649 bytes"):
        read_rows(path)


def titles(paragraphs):
    return {p.title for p in paragraphs}


def test_a_lone_file_is_split_by_title(tmp_path):
    """20 titles: 2 held out, the same whatever the seed; nothing is lost."""
    path = str(write(tmp_path / "all.json", *articles(20)))
    data = load_squad(path)
    assert len(titles(data.validation)) == 2
    assert len(titles(data.train)) == 18
    assert not titles(data.train) & titles(data.validation)
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (36, 4)
    assert load_squad(path, seed=5)[:2] == data[:2]
    whole = load_squad(path, evaluate=True)
    assert whole.train == [] and len(whole.validation) == 40
    assert load_squad(path, evaluate=True, split="train").validation == data.train
    assert load_squad(path, evaluate=True, split="validation").validation == data.validation


def test_one_article_is_split_by_context(tmp_path):
    path = str(write(tmp_path / "one.json", *articles(1)))
    assert len(load_squad(path).train) == len(load_squad(path).validation) == 1
    assert len(load_squad(path, evaluate=True).validation) == 2
    path = str(write(tmp_path / "context.json", article("t", ("Ada left.", [qa("1"), qa("2")]))))
    with pytest.raises(UserError, match=r"questions \(2\) are on one context or prompt"):
        load_squad(path)


def test_a_folder_is_made_disjoint(tmp_path):
    """One title and one context are in both files: the training side gives them up, counted."""
    shared = article("t0", ("Ada wrote this.", [qa("v0")]))
    copied = article("v1", ("Ada of\r\nt3 met  Bob. ", [qa("v1")]))
    write(tmp_path / "train-v1.1.json", *articles(5))
    write(tmp_path / "dev-v1.1.json", shared, copied)
    data = load_squad(str(tmp_path))
    assert titles(data.train) == {"t1", "t2", "t3", "t4"}
    assert "Ada of t3 met Bob." not in {p.context for p in data.train}
    [count] = data.report.dropped.values()
    assert count == 3
    with pytest.raises(UserError, match="validation split"):
        load_squad(str(tmp_path), strict=True)
    assert len(load_squad(str(tmp_path), evaluate=True, split="train").validation) == 10


def test_num_examples_is_a_seeded_sample_of_whole_paragraphs(tmp_path):
    path = str(write(tmp_path / "all.json", *articles(30)))
    everything = load_squad(path).train
    some = load_squad(path, num_examples=11, seed=1).train
    assert len(some) == 11  # a question a paragraph
    assert [p for p in everything if p in some] == some
    assert load_squad(path, num_examples=11, seed=1).train == some
    assert load_squad(path, num_examples=11, seed=2).train != some
    assert load_squad(path, num_examples=10_000).train == everything
    with pytest.raises(UserError, match="--num_examples 0"):
        load_squad(path, num_examples=0)


def test_pico_amounts_and_splits():
    data = load_squad("pico", num_examples=500)
    assert 500 <= data.identity["train_questions"] < 510
    assert 1000 <= data.identity["validation_questions"] < 1010
    assert not titles(data.train) & titles(data.validation)
    assert not {p.context for p in data.train} & {p.context for p in data.validation}
    more = load_squad("pico", num_examples=600)
    assert more.train[: len(data.train)] == data.train
    assert load_squad("pico", num_examples=500, seed=1).train != data.train


def test_identity_loads_the_same_data_or_refuses(tmp_path):
    path = write(tmp_path / "all.json", *articles(10))
    data = load_squad(str(path), num_examples=5, seed=3)
    assert load_from_identity(json.loads(json.dumps(data.identity))) == data
    whole = load_squad(str(path)).identity
    changed = articles(10)
    changed[4]["paragraphs"][0]["qas"][0]["question"] = "Who was it?"
    write(path, *changed)
    with pytest.raises(UserError, match="not what the checkpoint was trained on"):
        load_from_identity(whole)
    with pytest.raises(UserError, match="no fingerprint"):
        load_from_identity({k: v for k, v in data.identity.items() if k != "fingerprint"})


def test_auto_falls_back_in_one_line(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(squad_loader, "_fetched_within", waited.append)  # which returns None
    data = load_squad("auto", num_examples=50)
    assert data.identity["dataset"] == "pico"
    assert waited == [squad_loader.AUTO_SECONDS] and waited[0] <= 10
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--dataset auto" in message and "pico" in message


def test_auto_takes_what_the_child_fetched(monkeypatch):
    parts = {"train": articles(4), "validation": articles(2, "v")}
    sources = {n: lambda its=its: parse({"data": its}) for n, its in parts.items()}
    asked = []
    monkeypatch.setattr(squad_loader, "_fetched_within", lambda seconds: True)
    monkeypatch.setattr(
        squad_loader, "_hub_sources", lambda *given: asked.append(given[:2]) or sources
    )
    data = load_squad("auto")
    assert asked == [("rajpurkar/squad", None)]
    assert data.identity["dataset"] == "squad"
    assert (len(data.train), len(data.validation)) == (8, 4)


def test_the_fetch_ends_in_time(monkeypatch):
    """A child that would sleep for a minute is ended."""
    monkeypatch.setattr(squad_loader.sys, "executable", "/bin/sleep")
    run = squad_loader.subprocess.run
    monkeypatch.setattr(
        squad_loader.subprocess, "run", lambda command, **rest: run([command[0], "60"], **rest)
    )
    assert squad_loader._fetched_within(0.2) is False


@pytest.mark.parametrize(
    ("endpoint", "proxies", "offline"),
    [
        ("https://nowhere.invalid", {}, True),  # a name that has no address anywhere (RFC 2606)
        ("https://nowhere.invalid", {"https": "http://127.0.0.1:1"}, False),
        ("http://127.0.0.1:1", {}, False),  # a hub of one's own, on a port
    ],
)
def test_a_hub_without_an_address_is_not_retried(monkeypatch, endpoint, proxies, offline):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # which setenv puts back after the test
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(squad_loader, "getproxies", lambda: proxies)
    squad_loader._offline_without_address()
    assert (os.environ.get("HF_HUB_OFFLINE") == "1") is offline


def test_rows_of_one_title_and_context_are_one_paragraph():
    """In order, in the layout of the hub, and in the official one too."""
    answers = {"text": ["Ada"], "answer_start": [0]}
    same = {"title": "T", "question": "Who?", "answers": answers}
    rows = [same | {"id": i, "context": f"Ada {i % 2}"} for i in range(4)]
    gold = (("Ada",), (0,))
    expected = [
        Paragraph("T", "Ada 0", (Question("0", "Who?", *gold), Question("2", "Who?", *gold))),
        Paragraph("T", "Ada 1", (Question("1", "Who?", *gold), Question("3", "Who?", *gold))),
    ]
    assert parse(rows) == parse({"data": rows}) == expected
    twice = article("T", *[(f"Ada {i % 2}", [qa(i)]) for i in range(4)])
    assert parse({"data": [twice]}) == expected


@needs_squad
def test_real_squad_counts():
    """README of the data: 6,564 and 1,038 questions, 1,385 and 200 paragraphs, nothing bad."""
    data = load_squad(str(SHARED))
    assert (data.identity["train_questions"], data.identity["validation_questions"]) == (6564, 1038)
    assert (len(data.train), len(data.validation)) == (1385, 200)
    assert data.report.lines() == []
    assert not titles(data.train) & titles(data.validation)
