"""Answers as HTML. All text written by a person or a model is escaped, including braces, which
Gradio's templates could interpret.
"""

import html
from collections.abc import Sequence

from src.evaluation.squad_metrics import QAExample
from src.playground.answers import Alternative, PolicyAnswers, Sample, Token

STOP_NAME = "end of answer"
# How white space is shown.
_VISIBLE = str.maketrans({" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"})

# --shade is mixed in by how improbable a token is. Light and dark were chosen so that text keeps a
# contrast of 4.5 to 1 on the strongest shade. .dark is Gradio's.
CSS = """
.gradio-container { --pg-shade: 245 158 11; --pg-line: #9ca3af; --pg-tip: #ffffff;
  --pg-tip-text: #111827; --pg-bar: #bfdbfe; --pg-soft: #4b5563; --pg-warn: #92400e; }
.dark .gradio-container, .dark.gradio-container, .dark { --pg-shade: 180 83 9; --pg-line: #6b7280;
  --pg-tip: #111827; --pg-tip-text: #f9fafb; --pg-bar: #1e3a8a; --pg-soft: #d1d5db;
  --pg-warn: #fcd34d; }
/* A long choice ends before the arrow of its dropdown. */
.gradio-container input[role="listbox"] { text-overflow: ellipsis;
  padding-right: 2.6em !important; }
/* Gradio's grey of what explains a setting, and of a slider's ends, is too faint. */
.gradio-container { --block-info-text-color: var(--pg-soft); }
.gradio-container .min_value, .gradio-container .max_value { color: var(--pg-soft) !important; }
/* Its sliders' knobs are white, on white: a rim shows where they stand. */
.gradio-container input[type="range"]::-webkit-slider-thumb { border: 1px solid var(--pg-soft); }
.gradio-container input[type="range"]::-moz-range-thumb { border: 1px solid var(--pg-soft); }
/* What people type has its own direction, as dir="auto" gives it. */
.gradio-container textarea { unicode-bidi: plaintext; text-align: start; }
.pg-cards { display: grid; gap: 16px; margin-bottom: 9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); }
.pg-card { border: 1px solid var(--pg-line); border-radius: 8px; padding: 12px; min-width: 0; }
.pg-card h3 { margin: 0 0 8px; font-size: 1.05rem; }
.pg-sample { padding: 6px 0; }
.pg-sample + .pg-sample { border-top: 1px solid var(--pg-line); }
.pg-tokens { position: relative; font-size: 1.15rem; line-height: 1.9; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.pg-token { padding: 3px 1px; border-radius: 3px; cursor: help;
  background: rgb(var(--pg-shade) / calc(var(--doubt) * 0.9)); }
.pg-token:hover, .pg-token:focus-visible { outline: 2px solid currentColor; }
.pg-stop { margin-left: 6px; font-size: 0.8rem; border: 1px dotted currentColor; }
.pg-tip { display: none; position: absolute; z-index: 20; left: 0; right: 0; top: 100%;
  margin-top: 2px; white-space: normal; font-size: 0.9rem; line-height: 1.5; padding: 8px 10px;
  border: 1px solid var(--pg-line); border-radius: 6px; background: var(--pg-tip);
  color: var(--pg-tip-text); box-shadow: 0 4px 14px rgb(0 0 0 / 0.35); }
.pg-token:hover + .pg-tip, .pg-token:focus + .pg-tip { display: block; }
.pg-tip ol { list-style: none; margin: 4px 0; padding: 0; }
.pg-tip li { display: flex; justify-content: space-between; padding: 0 6px; margin: 2px 0;
  background: linear-gradient(to right, var(--pg-bar) calc(var(--p) * 100%), transparent 0); }
.pg-tip li span { overflow-wrap: anywhere; }
.pg-tip li.pg-chosen { font-weight: 700; outline: 1px solid currentColor; }
.pg-figures { display: grid; grid-template-columns: auto 1fr; gap: 0 10px; margin: 4px 0 0;
  font-size: 0.9rem; }
.pg-figures dt { color: var(--pg-soft); }
.pg-figures dd { margin: 0; font-variant-numeric: tabular-nums; }
.pg-note { font-size: 0.9rem; color: var(--pg-soft); margin: 4px 0; overflow-wrap: anywhere; }
.pg-warn { color: var(--pg-warn); }
.pg-scale { display: inline-block; width: 7em; height: 1em; vertical-align: -0.15em;
  border: 1px solid var(--pg-line); border-radius: 3px; margin: 0 4px; background:
  linear-gradient(to right, transparent, rgb(var(--pg-shade) / 0.9)); }
"""


def escape(text: str) -> str:
    """Text as HTML shows it, in elements and in quoted attributes."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def note(text: str, warning: bool = False) -> str:
    """A line of small print."""
    return f'<p class="pg-note{" pg-warn" if warning else ""}">{escape(text)}</p>'


def render_all(results: Sequence[PolicyAnswers], example: QAExample, reward_name: str) -> str:
    """The cards of all policies side by side, below a legend of shades and metrics."""
    if not results:
        return ""
    gold = f"Gold answer: {' or '.join(dict.fromkeys(example.golds))}. " if example.golds else ""
    scored = (
        f"Reward: the score of {reward_name}; gold answers have mean 0, standard deviation 1. "
        if reward_name
        else "No reward model chosen. "
    )
    legend = (
        '<p class="pg-note">Shade of a token: its probability, 100%'
        '<span class="pg-scale" role="img" aria-label="from no shade to full shade"></span>0%. '
        "Point at a token, tap it or move to it with Tab to see what else could have stood there. "
        "Probabilities are the model&#x27;s own, before temperature, top-k and top-p.</p>"
    )
    kl = "KL: exact over the vocabulary at each token, summed along the answer."
    cards = "".join(render(result, number) for number, result in enumerate(results))
    return f'{legend}{note(gold + scored + kl)}<div class="pg-cards">{cards}</div>'


def render(result: PolicyAnswers, number: int = 0) -> str:
    """One policy's card. number: makes the ids of its elements unique on the page."""
    head = f'<section class="pg-card"><h3>{escape(result.name)}</h3>'
    if result.refusal:
        return f"{head}{note(result.refusal, warning=True)}</section>"
    cut = ""
    if result.dropped_tokens:
        cut = note(
            f"The context is too long: its first {result.context_tokens:,} tokens were read, "
            f"{result.dropped_tokens:,} dropped.",
            warning=True,
        )
    samples = "".join(
        _sample(sample, result.parent_name, f"pg-{number}-{i}")
        for i, sample in enumerate(result.samples)
    )
    return f"{head}{cut}{samples}</section>"


def _sample(sample: Sample, parent_name: str, name: str) -> str:
    tokens = "".join(_token(t, parent_name, f"{name}-{i}") for i, t in enumerate(sample.tokens))
    rows = [("Log-probability", f"{sample.logp_nats:.2f} nats")]
    if sample.kl_nats is not None:
        rows.append((f"KL from {parent_name}", f"{sample.kl_nats:.2f} nats"))
    if sample.reward is not None:
        rows.append(("Reward", f"{sample.reward:+.2f} sd"))
    if sample.f1 is not None:
        rows.append(("F1 with the gold", f"{100 * sample.f1:.0f}%"))
    if not sample.stopped:
        rows.append(("Cut off", f"after {len(sample.tokens)} tokens"))
    figures = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    return (
        f'<div class="pg-sample"><div class="pg-tokens" dir="auto">{tokens}</div>'
        f'<dl class="pg-figures">{figures}</dl></div>'
    )


def _token(token: Token, parent_name: str, name: str) -> str:
    """The token on its shade, followed by the tooltip for hover and focus."""
    stop = token.text is None
    text = STOP_NAME if stop else token.text or "\u22ef"
    words = f"Probability {_percent(token.probability)}"
    if token.kl_nats is not None:
        words += f", KL from {parent_name} {token.kl_nats:.2f} nats"
    rows = "".join(map(_alternative, token.alternatives))
    return (
        f'<span class="pg-token{" pg-stop" if stop else ""}" tabindex="0" '
        f'aria-describedby="{name}" style="--doubt:{1 - token.probability:.3f}">{escape(text)}'
        f'</span><span class="pg-tip" role="tooltip" id="{name}" dir="ltr">{escape(words)}'
        f"<ol>{rows}</ol></span>"
    )


def _alternative(other: Alternative) -> str:
    text = f"({STOP_NAME})"
    if other.text is not None:
        text = f"\u201c{other.text.translate(_VISIBLE)}\u201d"
    return (
        f'<li style="--p:{other.probability:.3f}"{" class=pg-chosen" if other.chosen else ""}>'
        f'<span dir="auto">{escape(text)}</span><span>{_percent(other.probability)}</span></li>'
    )


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%" if probability >= 0.0005 else "under 0.1%"
