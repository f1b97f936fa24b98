"""The voting page in Chromium: mouse, keys, a phone, two windows, and a kill in between."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver import Keys

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Served:
    """playground.py in a folder with checkpoints; it can be killed and started."""

    def __init__(self, folder, flags=()):
        self.folder, self.port, self.flags = folder, free_port(), flags
        self.url = f"http://127.0.0.1:{self.port}/vote"
        self.start()

    def start(self):
        self.script = subprocess.Popen(
            [sys.executable, ROOT / "playground.py", "--port", str(self.port), *self.flags],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, text=True,
        )
        assert self.script.stdout.readline().startswith("playground: ")

    def kill(self):
        self.script.send_signal(signal.SIGKILL)
        self.script.wait()

    def votes(self):
        path = self.folder / "preferences.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        assert text == "" or text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def served(chain_of, tmp_path):
    source = chain_of("kgram").folder / "checkpoints/kgram_main_squad"
    place = tmp_path / "checkpoints/kgram_main_squad"
    place.mkdir(parents=True)
    (place / "final.pt").write_bytes((source / "final.pt").read_bytes())
    one = Served(tmp_path)
    yield one
    one.kill()


class Voter:
    """A person at the page: looks at both answers and presses a button."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.driver.get(url)
        browser.wait(lambda: self.answers(), "no answers")

    def answers(self):
        return [p.text for p in self.browser.find("#comparison .pg-choice p")]

    def status(self):
        return self.browser.find("#vote-status")[0].text

    def after(self, act):
        """Act, and wait until the page has said what came of it."""
        before = self.status(), self.answers()
        act()
        self.browser.wait(lambda: (self.status(), self.answers()) != before, "nothing happened")

    def click(self, name):
        self.after(lambda: self.browser.press(f"#vote-{name}"))

    def key(self, key):
        self.after(lambda: self.browser.key(key))


def visible(texts):
    """What of some texts a page shows for sure: a model that has learnt nothing says anything."""
    return ["".join(re.findall(r"[\w.,]", text)) for text in texts]


def test_mouse_and_keys_vote(served, browser):
    one = Voter(browser(), served.url)
    first = one.answers()
    assert len(first) == 2 and first[0] != first[1]
    assert "kgram" not in one.browser.find("#comparison")[0].text
    one.click("a")
    assert visible([served.votes()[0][key] for key in ("chosen", "rejected")]) == visible(first)
    second = one.answers()
    one.key(Keys.ARROW_RIGHT)
    assert visible([served.votes()[1]["chosen"]]) == visible(second[1:])
    one.key("t")
    one.key("s")
    assert [row["vote"] for row in served.votes()] == ["a", "b", "tie"]
    assert "3 votes in preferences.jsonl: 1 A, 1 B, 1 ties" in one.status()
    shown = one.answers()
    one.key("u")
    assert one.answers() != shown and "Taken back. 2 votes" in one.status()
    one.click("undo")
    assert one.answers() == second and len(served.votes()) == 1
    one.key("1")
    assert visible([served.votes()[1]["chosen"]]) == visible(second[:1])
    assert one.browser.driver.get_log("browser") == []


def test_space_on_another_button_is_no_skip(served, browser):
    one = Voter(browser(), served.url)
    shown = one.answers()
    one.browser.driver.execute_script(
        "[...document.querySelectorAll('button')].find(b => b.textContent.includes('Who answers'))"
        ".focus()"
    )
    one.browser.key(Keys.SPACE)
    one.browser.wait(lambda: one.browser.find("#first")[0].is_displayed(), "it did not open")
    assert one.answers() == shown


def test_nothing_leaves_the_machine(served, browser):
    one = Voter(browser(), served.url)
    one.click("a")
    own = (served.url.removesuffix("vote"), "data:", "blob:")
    assert [url for url in one.browser.requests() if not url.startswith(own)] == []


@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_a_phone(served, browser, width):
    """No sideways scrolling; both answers and all buttons in sight; buttons of a thumb's size."""
    one = Voter(browser(width), served.url)
    script = "return document.documentElement.scrollWidth"
    assert one.browser.driver.execute_script(script) <= width
    a, b = (one.browser.find(f"#answer-{name}")[0].rect for name in "ab")
    if width == 390:
        assert b["y"] >= a["y"] + a["height"]  # one above the other
    else:
        assert a["y"] == b["y"] and b["x"] >= a["x"] + a["width"]
    for name in ("a", "tie", "b", "skip", "undo"):
        box = one.browser.find(f"#vote-{name}")[0].rect
        assert box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= width
    one.click("b")
    assert len(served.votes()) == 1


def test_two_windows_at_once_lose_none(served, browser):
    people = [Voter(browser(), served.url) for _ in range(2)]
    for number in range(10):
        people[number % 2].key("a" if number % 3 else "b")
    assert len(served.votes()) == 10
    assert len({row["id"] for row in served.votes()}) == 10
    people[0].key("u")
    assert len(served.votes()) == 9


def test_kills_lose_none_and_double_none(served, browser):
    """Fifty votes, the playground killed ten times in between, each time as soon as a vote was
    confirmed or while one was under way."""
    confirmed = []
    one = Voter(browser(), served.url)
    for part in range(10):
        for _ in range(5):
            shown = one.answers()
            one.key("a")
            confirmed.append(shown)
        if part % 2:  # a vote whose answer nobody waits for
            one.browser.key("b")
        served.kill()
        found = served.votes()
        mine = [[row["chosen"], row["rejected"]] for row in found if row["vote"] == "a"]
        assert [visible(pair) for pair in mine] == [visible(pair) for pair in confirmed]
        assert len({row["id"] for row in found}) == len(found)
        served.start()
        one = Voter(one.browser, served.url)
    assert len(confirmed) == 50
