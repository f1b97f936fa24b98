"""Progress output: lines, a bar on a terminal, nothing from other ranks."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from src.utils import progress_bar
from src.utils.progress_bar import Bar


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the bar's clock shows, set by hand."""
    shown = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: shown.now))
    return shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_a_plain_line_every_ten_seconds_and_at_the_end(clock, capsys):
    shown = Bar("train_dpo")
    for step, now in ((3, 1000), (4, 1009), (8, 1010), (9, 1011), (13, 1012)):
        clock.now = now
        shown.show(step, 13, loss=2.5 / step, tokens_per_s=1234.4)
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        "train_dpo step 3/13 loss 0.8333 tokens_per_s 1234",
        "train_dpo step 8/13 loss 0.3125 tokens_per_s 1234 left 10 s",  # 5 steps in 10 s, 5 to go
        "train_dpo step 13/13 loss 0.1923 tokens_per_s 1234 left 0 s",
    ]


def test_on_a_terminal_a_bar(monkeypatch):
    """tqdm's own, from the step before the first shown: done of all, time left, the figures."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = Bar("train_dpo")
    shown.show(3, 13, loss=2.5, tokens_per_s=999.0)
    shown.show(4, 13, loss=0.25, tokens_per_s=1234.4)
    shown.close()
    first, *_, last = sys.stderr.getvalue().strip().split("\r")
    assert " 2/13 " in first and "\n" not in last
    left = r"4/13 \[\d+:\d\d<\d+:\d\d, .*step.*, loss=0\.25, tokens_per_s=1234\]"
    assert re.search(left, last), last


@pytest.mark.parametrize("place", [io.StringIO, Terminal])
def test_other_ranks_say_nothing(monkeypatch, place):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "stderr", place())
    Bar("train_dpo").show(13, 13, loss=2.5)
    progress_bar.say("done")
    assert sys.stderr.getvalue() == ""
