"""The playground's page in Chromium: what people see, and that nothing leaves the machine."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys

from src.evaluation.squad_metrics import QAExample
from src.playground import answers, page
from src.playground.checkpoints import find_checkpoints, load_checkpoints
from src.utils.constants import STAGES

ROOT = Path(__file__).resolve().parent.parent.parent
MARKUP = (
    "</p></textarea><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
    "{{value}} {{#each this}}${window.pwned = 3}`"
)
NAMES = ["kgram SFT", "kgram DPO", "kgram PPO"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def served(chain_of, tmp_path_factory):
    """The address of the script's page for a tiny chain, a damaged file beside it."""
    folder = tmp_path_factory.mktemp("served")
    source = chain_of("kgram").folder / "checkpoints"
    for stage in STAGES:
        place = folder / "checkpoints" / f"kgram_{stage}"
        place.mkdir(parents=True)
        (place / "final.pt").write_bytes((source / place.name / "final.pt").read_bytes())
    (folder / "checkpoints/damaged").mkdir()
    (folder / "checkpoints/damaged/final.pt").write_text("<b>no checkpoint</b>")
    port = free_port()
    script = subprocess.Popen(
        [sys.executable, ROOT / "playground.py", "--port", str(port)], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )
    line = script.stdout.readline()
    assert line == f"playground: http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
    yield f"http://127.0.0.1:{port}/"
    script.terminate()
    script.wait(30)


@pytest.fixture
def serve_here(chain_of):
    """serve_here(change, known): the address of a page in this process; change edits its list."""
    opened = []

    def serve(change, known=()):
        loaded = load_checkpoints(find_checkpoints(str(chain_of("kgram").folder / "checkpoints")))
        opened.append(page.build(change(loaded), known, 0, "cpu"))
        return page.serve(opened[-1], free_port(), block=False)

    yield serve
    for blocks in opened:
        blocks.close()


def test_every_stage_answers_and_each_token_has_alternatives(served, browser):
    one = browser().open(served)
    one.ask()
    assert [h.text for h in one.find(".pg-card h3")] == NAMES
    text = one.find("#results")[0].text
    assert text.count("Log-probability") == text.count("Reward\n") == 3
    assert text.count("KL from kgram base") == 1 and text.count("KL from kgram SFT") == 2
    assert "Gold answer: " in text
    token, tip = one.find(".pg-token")[0], one.find(".pg-tip")[0]
    assert not tip.is_displayed()
    assert one.key(Keys.TAB, 2) == token  # from Answer past Stop
    assert tip.is_displayed()
    assert token.get_attribute("aria-describedby") == tip.get_attribute("id")
    assert len(tip.find_elements("tag name", "li")) in (5, 6)
    assert one.key(Keys.TAB) == one.find(".pg-token")[1]
    assert [t.is_displayed() for t in one.find(".pg-tip")[:2]] == [False, True]
    one.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
    ActionChains(one.driver).move_to_element(token).perform()
    one.wait(tip.is_displayed, "no tip under the pointer")


def test_nothing_leaves_the_machine_and_no_error_is_logged(served, browser):
    one = browser().open(served)
    one.ask()
    urls = one.requests()
    assert any(url.startswith(served) for url in urls)
    assert [url for url in urls if not url.startswith((served, "data:", "blob:"))] == []
    assert one.driver.get_log("browser") == []


def test_a_damaged_checkpoint_is_a_line_on_the_page(served, browser):
    one = browser().open(served)
    text = one.find("body")[0].text
    assert "Not loaded: checkpoints/damaged/final.pt given, expected a checkpoint" in text
    assert [box.text for box in one.find("label") if box.text.startswith("kgram")] == [
        "kgram base", *NAMES,
    ]


def test_mistakes_are_a_line_on_the_page(served, browser):
    one = browser().open(served)
    one.set("#question", "   ")
    one.press("#go")
    one.wait(lambda: "an empty question given" in one.status(), "nothing said")
    assert one.find(".pg-card") == []


def test_a_hundred_kilobytes_are_cut_with_a_note(served, browser):
    one = browser().open(served)
    one.ask(context="The Boru Fair began in 1204. " * 3500, question="When did it begin?")
    notes = [n.text for n in one.find(".pg-card .pg-note")]
    assert len(notes) == 3
    for text in notes:
        found = re.search(r"first ([\d,]+) tokens were read, ([\d,]+) dropped", text)
        read, dropped = (int(number.replace(",", "")) for number in found.groups())
        assert read < 1024 and dropped > 20_000


def test_markup_is_inert_wherever_it_stands(serve_here, browser):
    """In a context, a question, a gold, a checkpoint's name, a message and what a model says."""

    class Loud:
        """A tokenizer that reads markup into every answer."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def decode(self, ids):
            return MARKUP * len(ids)

    def change(loaded):
        sft = loaded.policies["kgram SFT"]
        sft = sft._replace(name=MARKUP, parent_name=MARKUP, tokenizer=Loud(sft.tokenizer))
        return loaded._replace(policies={MARKUP: sft}, reward_models={}, refused=[MARKUP])

    one = browser().open(serve_here(change, [QAExample(MARKUP, MARKUP, (MARKUP,))]))
    one.ask()
    assert [h.text for h in one.find(".pg-card h3")] == [MARKUP]
    text = one.find("#results")[0].text
    assert f"Gold answer: {MARKUP}" in text and f"KL from {MARKUP}" in text
    assert one.find(".pg-token")[0].text == MARKUP
    assert one.driver.execute_script("return window.pwned") is None
    assert one.find("#results img, #results script, #results b") == []
    assert one.driver.get_log("browser") == []


def test_two_people_at_once_see_their_own(served, browser):
    people = [browser().open(served), browser().open(served)]
    texts = [
        {"context": "The Boru Fair began in 1204.", "question": "When did it begin?"},
        {"context": "Kelda Morven wrote the Vorane Song.", "question": "Who wrote it?"},
    ]
    alone = []
    for person, text in zip(people, texts, strict=True):
        person.ask(**text)
        alone.append(person.find(".pg-cards")[0].text)
    assert alone[0] != alone[1]
    threads = [threading.Thread(target=person.ask) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [person.find(".pg-cards")[0].text for person in people] == alone


def test_a_slow_model_shows_where_it_is_and_can_be_stopped(serve_here, browser, monkeypatch):
    """The second policy takes for ever for one person; another is answered meanwhile."""
    released, real = threading.Event(), answers.answer

    def slow(policy, reward_model, example, *rest):
        if policy.name == "kgram DPO" and "slow" in example.question:
            released.wait(300)
        return real(policy, reward_model, example, *rest)

    monkeypatch.setattr(answers, "answer", slow)
    url = serve_here(lambda loaded: loaded)
    try:
        one, two = browser().open(url), browser().open(url)
        one.set("#question", "How slow is it?")
        one.press("#go")
        one.wait(lambda: "kgram DPO is answering (2 of 3)" in one.status(), "no progress")
        assert [h.text for h in one.find(".pg-card h3")] == ["kgram SFT"]
        two.ask(question="How fast is it?")
        assert len(two.find(".pg-card")) == 3
        one.press("#stop")
        one.wait(lambda: "Stopped" in one.status(), "not stopped")
        assert [h.text for h in one.find(".pg-card h3")] == ["kgram SFT"]
        one.ask(question="How fast is it?")
        assert len(one.find(".pg-card")) == 3
    finally:
        released.set()


def brightness(rgb):
    """Relative luminance (WCAG 2.2) of 0 to 255 each."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
              for c in (v / 255 for v in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2.2 contrast ratio."""
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)


def numbers(colour):
    return [float(x) for x in re.findall(r"[\d.]+", colour)]


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_on_phones_and_desks_light_and_dark(served, browser, width, dark):
    one = browser(width, dark).open(served)
    one.ask()
    assert one.driver.execute_script("return document.documentElement.scrollWidth") <= width
    ground = numbers(one.style("body", "background-color"))[:3]
    assert (brightness(ground) < 0.2) == dark
    token = one.find(".pg-token")[0]
    one.driver.execute_script("arguments[0].style.setProperty('--doubt', 1)", token)
    *shade, alpha = numbers(token.value_of_css_property("background-color"))
    assert alpha == 0.9
    fullest = [alpha * s + (1 - alpha) * g for s, g in zip(shade, ground, strict=True)]
    assert contrast(numbers(token.value_of_css_property("color"))[:3], fullest) >= 4.5
    for selector in (".pg-note", ".pg-warn", ".pg-figures dt", ".pg-figures dd", ".pg-card h3"):
        assert contrast(numbers(one.style(selector, "color"))[:3], ground) >= 4.5, selector
    assert one.key(Keys.TAB, 2) == token
    box = one.find(".pg-tip")[0].rect
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
