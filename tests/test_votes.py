"""Votes: the file under kills and several writers, the pairs it makes, what is asked about."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from conftest import flags, outcome

from src.data.squad_loader import load_squad
from src.playground import comparisons, vote_page
from src.playground.checkpoints import find_checkpoints, load_checkpoints
from src.playground.comparisons import Voting, draw_comparison, training_questions
from src.playground.vote_page import Window, render_comparison, voter
from src.playground.votes import (
    Candidate,
    Comparison,
    append_vote,
    count_votes,
    remove_vote,
    require_vote_file,
    vote_row,
)
from src.preference.pair_files import load_given_pairs
from src.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SHORT = Candidate("1204", "kgram SFT", "ab" * 32, 7, 1.0)
LONG = Candidate("It began in 1204.", "kgram DPO", "cd" * 32, 8, 0.5)


def comparison(number=0, context="The fair began in 1204."):
    return Comparison(context, f"When, {number}?", SHORT, LONG)


def rows_of(path):
    """Every line, each of which must be whole."""
    text = Path(path).read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# --- the rows ---


def test_a_vote_is_a_pair_and_says_where_it_is_from():
    now = datetime(2026, 11, 28, 3, 2, 1, tzinfo=UTC)
    row = vote_row(comparison(), "b", now)
    assert (row["chosen"], row["rejected"]) == (LONG.text, SHORT.text)
    assert (row["context"], row["question"]) == ("The fair began in 1204.", "When, 0?")
    assert row["time"] == "2026-11-28T03:02:01+00:00" and row["vote"] == "b"
    assert row["a"] == {"text": "1204", "policy": "kgram SFT", "sha256": "ab" * 32, "seed": 7,
                        "temperature": 1.0}
    row = vote_row(comparison(context=None), "a")
    assert row["prompt"] == "When, 0?" and row["chosen"] == "1204" and "context" not in row
    tie = vote_row(comparison(), "tie")
    assert "chosen" not in tie and "rejected" not in tie
    assert len({vote_row(comparison(), "a")["id"] for _ in range(100)}) == 100


def test_the_file_is_what_pairs_takes(tmp_path):
    path = tmp_path / "preferences.jsonl"
    for number in range(40):
        vote = "tie" if number % 10 == 0 else "a"
        append_vote(path, vote_row(comparison(number, f"Context {number}."), vote))
    given = load_given_pairs(str(path))
    assert len(given.train) + len(given.held_out) == 36
    assert given.report.dropped == {"a tie": 4}
    assert {row[2:] for row in given.train} == {("1204", "It began in 1204.")}
    assert count_votes(path) == {"a": 36, "b": 0, "tie": 4}


def test_any_text_is_one_line(tmp_path):
    path = tmp_path / "p.jsonl"
    odd = SHORT._replace(text='a\nb\u2028c\r"\\ \ud800 \x00')
    append_vote(path, vote_row(comparison()._replace(a=odd), "a"))
    append_vote(path, vote_row(comparison(), "a"))
    assert path.read_bytes().count(b"\n") == 2
    assert json.loads(path.read_bytes().split(b"\n")[0])["chosen"] == odd.text


# --- the file ---


def test_undo_takes_one_vote_back_wherever_it_stands(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [vote_row(comparison(n), "a") for n in range(5)]
    for row in rows:
        append_vote(path, row)
    assert remove_vote(path, rows[2]["id"])
    assert not remove_vote(path, rows[2]["id"])
    assert rows_of(path) == [*rows[:2], *rows[3:]]
    assert not remove_vote(tmp_path / "none.jsonl", "x")


def test_a_line_torn_by_another_program_stays_alone(tmp_path):
    """The next vote is whole, and --pairs counts the torn line."""
    path = tmp_path / "p.jsonl"
    for number in range(12):
        append_vote(path, vote_row(comparison(number, f"Context {number}."), "a"))
    path.write_bytes(path.read_bytes() + b'{"prompt": "torn')
    append_vote(path, vote_row(comparison(99), "a"))
    assert count_votes(path)["a"] == 13
    given = load_given_pairs(str(path))
    assert given.report.dropped == {"no JSON where an object belongs": 1}


def test_lines_of_other_programs_are_not_counted(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"vote": ["a"]}\n{"vote": {}}\n{"vote": 1}\n[]\n{"vote": "c"}\n')
    append_vote(path, vote_row(comparison(), "b"))
    assert count_votes(path) == {"a": 0, "b": 1, "tie": 0}


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    append_vote(path, vote_row(comparison(), "a"))
    before = path.read_bytes()

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:  # the copy is written when it goes to the disk
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            append_vote(path, vote_row(comparison(), "a"))
    assert path.read_bytes() == before
    append_vote(path, vote_row(comparison(), "a"))
    assert count_votes(path)["a"] == 2


def test_many_writers_lose_none(tmp_path):
    """Four threads of 25 votes, every fifth of which is taken back at once: 80 stay."""
    path = tmp_path / "p.jsonl"
    kept, lock = [], threading.Lock()

    def vote(start):
        for number in range(start, start + 25):
            row = vote_row(comparison(number), "a")
            append_vote(path, row)
            if number % 5 == 0:
                assert remove_vote(path, row["id"])
            else:
                with lock:
                    kept.append(row["id"])

    threads = [threading.Thread(target=vote, args=(25 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["id"] for row in rows_of(path)) == sorted(kept) and len(kept) == 80


VOTER = """
import sys
from pathlib import Path
from src.playground.votes import Candidate, Comparison, append_vote, vote_row, remove_vote
answer = Candidate("x" * 3000, "p", "s", 1, 1.0)
for number in range(50):
    row = vote_row(Comparison("c", f"q{number}", answer, answer), "a")
    append_vote(Path(sys.argv[1]), row)
    print(row["id"], flush=True)
    if number % 7 == 3:
        again = vote_row(Comparison("c", f"undone{number}", answer, answer), "b")
        append_vote(Path(sys.argv[1]), again)
        remove_vote(Path(sys.argv[1]), again["id"])
"""


@pytest.mark.parametrize("trial", range(10))
def test_a_kill_loses_no_vote_that_was_counted(trial, tmp_path):
    """kill -9 after 3 to 30 of 50 votes: every vote that was reported is there once, whole; beside
    them at most the one that was under way."""
    path = tmp_path / "p.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", VOTER, str(path)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    rng = random.Random(trial)
    reported = [child.stdout.readline().strip() for _ in range(rng.randrange(3, 30))]
    time.sleep(rng.random() * 0.003)
    child.send_signal(signal.SIGKILL)
    reported += child.stdout.read().split()
    child.wait()
    found = rows_of(path)
    voted = [row["id"] for row in found if row["vote"] == "a"]
    assert voted[: len(reported)] == reported and len(voted) <= len(reported) + 1
    assert len(set(voted)) == len(voted)
    append_vote(path, vote_row(comparison(), "tie"))  # no lock is left
    assert len(rows_of(path)) == len(found) + 1


# --- what is asked about ---


@pytest.fixture
def loaded(kgram):
    return load_checkpoints(find_checkpoints("checkpoints"))


def test_only_training_questions_are_asked_about(loaded):
    data = load_squad("pico", num_examples=60)
    asked = training_questions(loaded.data)
    assert {e.context for e in asked} <= {p.context for p in data.train}
    assert len(asked) >= 60
    dealt = training_questions(loaded.data | {"shares": "40,30,30"})
    assert 0 < len(dealt) < len(asked) and set(dealt) < set(asked)


def test_two_different_answers_in_random_order(loaded):
    """Of two policies, each is A about half of the time; the seed makes the same answer again."""
    voting = Voting(training_questions(loaded.data), True, Path("p.jsonl"))
    pair = loaded.policies["kgram SFT"], loaded.policies["kgram PPO"]
    rng = random.Random(0)
    found = [draw_comparison(voting, pair, 1.0, rng) for _ in range(30)]
    first = [one.a.policy for one in found].count("kgram SFT")
    assert 7 <= first <= 23
    asked = {(e.context, e.question): e for e in voting.questions}
    for one in found:
        assert one.a.text != one.b.text and one.a.text and one.b.text
        assert {one.a.policy, one.b.policy} == {"kgram SFT", "kgram PPO"}
        assert len(one.a.sha256) == 64
    one = found[0]
    again = comparisons.sample_text(
        loaded.policies[one.a.policy], asked[one.context, one.question], 1.0, one.a.seed
    )
    assert again == one.a.text


def test_an_answer_is_as_long_as_at_evaluation(loaded, monkeypatch):
    """A vote for one that is cut off sooner would teach to stop there."""
    policy = loaded.policies["kgram SFT"]._replace(max_answer_tokens=50)
    generate, limits = comparisons.generate, []

    def noted(*given, **options):
        limits.append(options["max_new_tokens"])
        return generate(*given, **options)

    monkeypatch.setattr(comparisons, "generate", noted)
    comparisons.sample_text(policy, training_questions(loaded.data)[0], 1.0, 0)
    assert limits == [50]


def test_what_cannot_be_compared_is_said(loaded, monkeypatch):
    pair = (loaded.policies["kgram SFT"],) * 2
    questions = training_questions(loaded.data)
    rng = random.Random(0)
    for voting, reason in (
        (Voting([], True, Path("p")), "no training questions to vote on"),
        (Voting(questions, False, Path("p")), "another kind of prompt"),
    ):
        with pytest.raises(UserError, match=reason):
            draw_comparison(voting, pair, 1.0, rng)
    monkeypatch.setattr("src.playground.comparisons.sample_text", lambda *about: "same")
    with pytest.raises(UserError, match="no two different answers"):
        draw_comparison(Voting(questions, True, Path("p")), pair, 1.0, rng)


# --- the buttons ---


def press_all(press, buttons, window=None):
    window = window or Window()
    for button in buttons:
        window, _, status = press(button, window, "kgram SFT", "kgram SFT", 1.0)
    return window, status


def test_buttons_vote_skip_and_undo(loaded):
    path = Path("preferences.jsonl")
    press = voter(Voting(training_questions(loaded.data), True, path), loaded, "cpu")
    window, status = press_all(press, [""])
    assert not path.exists() and window.shown is not None and "0 votes" in status
    window, status = press_all(press, ["skip", "a", "b", "tie", "skip"], window)
    assert "3 votes in preferences.jsonl: 1 A, 1 B, 1 ties; 3 from this window" in status
    assert [row["vote"] for row in rows_of(path)] == ["a", "b", "tie"]
    undone = window.done[-1][0]
    window, status = press_all(press, ["undo"], window)
    assert window.shown == undone and "Taken back. 2 votes" in status
    window, status = press_all(press, ["a", "undo", "undo", "undo", "undo"], window)
    assert "Nothing to take back in this window. 0 votes" in status and rows_of(path) == []


def test_presses_before_the_next_two_answers_are_there(loaded):
    """They get the window as it was at the press before: a pair has one vote, and undo takes back
    that one and not the vote before it."""
    path = Path("preferences.jsonl")
    press = voter(Voting(training_questions(loaded.data), True, path), loaded, "cpu")
    window, _ = press_all(press, ["", "tie"])
    _, status = press_all(press, ["a"], window)
    assert "Saved: A is better." in status
    same, status = press_all(press, ["b"], window)
    assert same == window and "These two have a vote" in status
    assert [row["vote"] for row in rows_of(path)] == ["tie", "a"]
    same, status = press_all(press, ["undo"], window)
    assert same.shown == window.shown and "Taken back. 1 votes" in status
    assert [row["vote"] for row in rows_of(path)] == ["tie"]
    press_all(press, ["b"], same)
    assert [row["vote"] for row in rows_of(path)] == ["tie", "b"]


def test_buttons_sample_in_the_precision_of_the_flag(loaded, monkeypatch):
    """Gradio presses them in threads of its own, where torch's autocast is off."""
    seen = []

    def noted(*about):
        seen.append(torch.is_autocast_enabled("cpu"))
        return f"answer {len(seen)}"

    monkeypatch.setattr(comparisons, "sample_text", noted)
    voting = Voting(training_questions(loaded.data), True, Path("preferences.jsonl"))
    torch.set_autocast_enabled("cpu", True)
    try:
        press = voter(voting, loaded, "cpu")
    finally:
        torch.set_autocast_enabled("cpu", False)
    thread = threading.Thread(target=press_all, args=(press, [""]))
    thread.start()
    thread.join()
    assert seen == [True, True]


def test_two_windows_write_one_file(loaded):
    path = Path("preferences.jsonl")
    press = voter(Voting(training_questions(loaded.data), True, path), loaded, "cpu")
    one, two = press_all(press, [""])[0], press_all(press, [""])[0]
    one, _ = press_all(press, ["a"], one)
    two, _ = press_all(press, ["b"], two)
    one, status = press_all(press, ["undo"], one)
    assert [row["vote"] for row in rows_of(path)] == ["b"] and "0 from this window" in status


def test_a_disk_that_refuses_is_a_line_and_the_vote_can_be_cast_again(loaded, monkeypatch):
    path = Path("preferences.jsonl")
    press = voter(Voting(training_questions(loaded.data), True, path), loaded, "cpu")
    window, _ = press_all(press, [""])

    def refuse(path, row):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(vote_page, "append_vote", refuse)
    same, status = press_all(press, ["a"], window)
    assert same == window and "No space left on device" in status and "pg-warn" in status


def test_a_vote_that_could_not_be_taken_back_can_be_later(loaded, monkeypatch):
    """The window still has it, as the file does."""
    path = Path("preferences.jsonl")
    press = voter(Voting(training_questions(loaded.data), True, path), loaded, "cpu")
    window, _ = press_all(press, ["", "a"])

    def refuse(path, vote_id):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr(vote_page, "remove_vote", refuse)
        same, status = press_all(press, ["undo"], window)
    assert same == window and "No space left on device" in status
    undone, status = press_all(press, ["undo"], same)
    assert undone.shown == window.done[-1][0] and "Taken back. 0 votes" in status
    assert rows_of(path) == []


def test_the_page_is_blind_and_markup_is_inert():
    loud = comparison(context="<b>{{x}}")._replace(
        question="<script>1</script>", a=SHORT._replace(text="<img src=x>")
    )
    page = render_comparison(loud)
    assert "kgram" not in page and "<script" not in page and "<img" not in page
    assert "<b>" not in page and "{{" not in page
    assert page.index("&lt;img") < page.index("It began in 1204.")


def test_votes_train(kgram):
    """A voter that likes short answers, through the buttons; DPO takes the file as it is."""
    loaded = load_checkpoints(find_checkpoints("checkpoints"))
    press = voter(Voting(training_questions(loaded.data), True, Path("preferences.jsonl")),
                  loaded, "cpu")
    window, _ = press_all(press, [""])
    for _ in range(30):
        short = len(window.shown.a.text) <= len(window.shown.b.text)
        window, _ = press_all(press, ["a" if short else "b"], window)
    ended = outcome("train_dpo", [*flags("train_dpo", "kgram"), "--pairs", "preferences.jsonl",
                                  "--output_dir", "new"])
    assert ended.code == 0, ended.err


def test_a_place_that_takes_no_votes_is_refused_first(tmp_path):
    for path in (tmp_path, tmp_path / "none/p.jsonl"):
        with pytest.raises(UserError, match="--preferences .* expected a file in a folder that"):
            require_vote_file(path)
    require_vote_file(tmp_path / "new.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_of_a_link_the_place_that_it_names_counts(tmp_path, monkeypatch):
    link, disk = tmp_path / "p.jsonl", tmp_path / "disk"
    link.symlink_to("disk/p.jsonl")
    with pytest.raises(UserError, match="expected a file in a folder that exists"):
        require_vote_file(link)
    disk.mkdir()
    require_vote_file(link)
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != disk)
    with pytest.raises(UserError, match="cannot be written"):
        require_vote_file(link)


@pytest.mark.parametrize("closed", ["", "p.jsonl"])
def test_a_file_or_folder_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, closed):
    path = tmp_path / "p.jsonl"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path / closed)
    with pytest.raises(UserError, match="cannot be written"):
        require_vote_file(path)
