"""The voting page: two answers side by side, blind, in random order; a vote is written at once.

Gradio is passed in, so that only page.py imports it. What is shown and how often was voted belongs
to a window; the votes of all windows go to one file.
"""

import random
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from src.playground import render
from src.playground.checkpoints import CheckpointList
from src.playground.comparisons import Voting, draw_comparison
from src.playground.votes import (
    TIE,
    A,
    B,
    Comparison,
    append_vote,
    count_votes,
    remove_vote,
    vote_row,
)
from src.training.device import in_this_precision
from src.utils.errors import UserError

SKIP, UNDO = "skip", "undo"
# Button -> its label and the keys that press it.
BUTTONS = {
    A: ("A is better", ("ArrowLeft", "a", "1")),
    TIE: ("Tie", ("ArrowDown", "t", "0")),
    B: ("B is better", ("ArrowRight", "b", "2")),
    SKIP: ("Skip", ("s", " ")),
    UNDO: ("Undo", ("u", "Backspace")),
}
# A key presses a button where nobody types and the button can be pressed.
KEYS = """<script>document.addEventListener("keydown", event => {
  const typing = event.target.closest("input, textarea, select, [role=listbox], [contenteditable]");
  const opening = event.key === " " && event.target.closest("a, button:not([id^='vote-'])");
  if (typing || opening || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const keys = %s;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const button = document.querySelector("#vote-" + keys[key]);
  if (!button || button.disabled) return;
  event.preventDefault();
  button.click();
});</script>"""
CSS = """
.pg-pair { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr)); }
.pg-choice { border: 2px solid var(--pg-line); border-radius: 8px; padding: 10px 12px;
  min-width: 0; }
.pg-choice h3 { margin: 0 0 4px; font-size: 1.05rem; }
.pg-choice p { font-size: 1.15rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.pg-question { font-weight: 600; font-size: 1.1rem; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: 4px 0; }
.pg-context { max-height: 11rem; overflow-y: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.pg-votes { position: sticky; bottom: 0; z-index: 10; background: var(--body-background-fill);
  padding: 6px 0; }
.pg-votes button { min-width: 0 !important; min-height: 44px; }
"""


class Window(NamedTuple):
    """One window's voting: what is shown, None before the first; the votes that undo can take back,
    the last one last, with their ids.
    """

    shown: Comparison | None = None
    done: tuple[tuple[Comparison, str], ...] = ()


def keys_script() -> str:
    """The script that presses the buttons by keys."""
    keys = {key: name for name, (_, its) in BUTTONS.items() for key in its}
    return KEYS % repr(keys)


def voter(
    voting: Voting, loaded: CheckpointList, device: torch.device | str
) -> Callable[..., tuple[Window, str, str]]:
    """The function behind the buttons: (button, window, policy A, policy B, temperature) -> the
    window as it is now, what to show of it, and a line on how many votes there are.

    A vote is on the disk before the next answers are sampled. Without a button, or where other
    policies were chosen, it only shows the next two answers.

    Gradio gives a button that is pressed before they are there the window of the press before. Such
    a press casts no second vote on the same pair, and undo takes back the vote that is on it.
    """
    rng, draw = random.Random(), in_this_precision(draw_comparison, device)
    lock, votes_on = threading.Lock(), {}  # the pairs that have a vote -> its id

    def press(button: str, window: Window, first: str, second: str, temperature: float):
        message = ""
        try:
            if button == UNDO:
                with lock:
                    shown, done = window.shown, window.done
                    if shown in votes_on:
                        vote_id = votes_on[shown]
                    elif done:
                        *done, (shown, vote_id) = done
                    else:
                        return _outputs(window, voting, "Nothing to take back in this window.")
                    known = remove_vote(voting.path, vote_id)
                    votes_on.pop(shown, None)
                message = "Taken back." if known else "That vote is not in the file any more."
                return _outputs(Window(shown, tuple(done)), voting, message)
            if button in (A, B, TIE) and window.shown is not None:
                row = vote_row(window.shown, button)
                with lock:
                    if window.shown in votes_on:
                        return _outputs(window, voting, "These two have a vote: wait for the next.")
                    append_vote(voting.path, row)
                    votes_on[window.shown] = row["id"]
                message = f"Saved: {BUTTONS[button][0]}."
                window = Window(None, (*window.done, (window.shown, row["id"])))
            policies = loaded.policies[first], loaded.policies[second]
            shown = draw(voting, policies, float(temperature), rng)
            return _outputs(window._replace(shown=shown), voting, message)
        except (UserError, OSError) as error:
            return _outputs(window, voting, str(error), warning=True)

    return press


def _outputs(
    window: Window, voting: Voting, message: str, warning: bool = False
) -> tuple[Window, str, str]:
    counts = count_votes(voting.path)
    line = (
        f"{message} {sum(counts.values())} votes in {voting.path.name}: {counts[A]} A, "
        f"{counts[B]} B, {counts[TIE]} ties; {len(window.done)} from this window."
    )
    return window, render_comparison(window.shown), render.note(line.strip(), warning)


def render_comparison(shown: Comparison | None) -> str:
    """The question and both answers as HTML, without a word on where they come from."""
    if shown is None:
        return render.note("No answers to compare.")
    context = ""
    if shown.context:
        context = f'<div class="pg-context pg-note">{render.escape(shown.context)}</div>'
    cards = "".join(
        f'<section class="pg-choice" id="answer-{name.lower()}"><h3>{name}</h3>'
        f'<p dir="auto">{render.escape(candidate.text)}</p></section>'
        for name, candidate in (("A", shown.a), ("B", shown.b))
    )
    question = f'<p class="pg-question" dir="auto">{render.escape(shown.question)}</p>'
    return f'{context}{question}<div class="pg-pair">{cards}</div>'


def add_vote_page(
    gr: Any, page: Any, voting: Voting, loaded: CheckpointList, device: torch.device | str
) -> None:
    """Add the page at /vote to a gradio.Blocks."""
    names = list(loaded.policies)
    trained = [name for name, policy in loaded.policies.items() if policy.trained] or names
    press = voter(voting, loaded, device)
    with page.route("Vote", "/vote"):
        gr.Markdown("# Which answer is better?")
        window = gr.State(Window())
        shown = gr.HTML(elem_id="comparison", padding=False)
        with gr.Row(elem_classes="pg-votes"):
            buttons = {
                name: gr.Button(
                    label, elem_id=f"vote-{name}", min_width=0,
                    variant="primary" if name in (A, B) else "secondary",
                )
                for name, (label, _) in BUTTONS.items()
            }
        status = gr.HTML(elem_id="vote-status", padding=False)
        keys = ", ".join(f"{label}: {' or '.join(its[:2])}".replace("or  ", "or space")
                         for label, its in BUTTONS.values())
        gr.HTML(render.note(f"Keys. {keys}."), padding=False)
        with gr.Accordion("Who answers", open=False):
            first = gr.Dropdown(names, value=trained[0], label="One answer", elem_id="first")
            second = gr.Dropdown(names, value=trained[0], label="The other", elem_id="second")
            temperature = gr.Slider(
                0.05, 2, 1, step=0.05, label="Temperature", info="higher: answers differ more"
            )
        outputs = [window, shown, status]
        options = {"show_progress": "hidden", "api_visibility": "private"}
        inputs = [window, first, second, temperature]

        def pressing(name: str) -> Callable[..., tuple]:
            return lambda *values: press(name, *values)

        for name, button in buttons.items():
            button.click(pressing(name), inputs, outputs, **options)
        for control in (first, second, temperature):
            event = control.release if control is temperature else control.input
            event(pressing(""), inputs, outputs, **options)
        page.load(pressing(""), inputs, outputs, **options)
