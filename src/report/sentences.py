"""What each stage changed, in a sentence of plain English."""

import math

from src.evaluation.intervals import Interval, caution
from src.report.measure import interval_of
from src.report.pipelines import Pipeline, Stage
from src.report.summary_plots import NAMES
from src.utils.constants import REWARD


def stage_sentences(pipeline: Pipeline) -> list[str]:
    """A line for each finished stage, from the gains that its checkpoint stored."""
    lines = []
    for name, stage in pipeline.stages.items():
        if stage.checkpoint is not None:
            line = _reward_model(stage) if name == REWARD else _policy(NAMES[name], stage)
            lines += [line] if line else []
    return lines


def _reward_model(stage: Stage) -> str:
    """Its accuracy beside a coin's; the interval is the last evaluation's."""
    evaluated = [interval_of(record, "accuracy") for record in stage.evaluations]
    metrics = _numbers(stage)
    if evaluated and math.isfinite(evaluated[-1].value):
        found = evaluated[-1]
    elif "accuracy" in metrics:
        found = Interval(metrics["accuracy"], math.nan, math.nan)
    else:
        return ""
    text = f"The reward model puts {found.value:.0f} of 100 held-out pairs in the right order"
    if not math.isfinite(found.low):
        return f"{text}; a coin would get 50{_reservations([found], metrics)}."
    text += f" (95% interval: {found.low:.0f} to {found.high:.0f})"
    coin = "; a coin would get 50"
    if found.low <= 50 <= found.high and not found.few:
        coin = ", which is not clearly different from the 50 of a coin"
    return f"{text}{coin}{_reservations([found], metrics)}."


def _policy(name: str, stage: Stage) -> str:
    """How many more questions it answers, or else pairs it orders, and how its reward moved."""
    metrics = _numbers(stage)
    start = "the model it started from" if stage.checkpoint.lineage else "the untrained model"
    em, pairs, f1, reward = (
        _gain_of(metrics, metric) for metric in ("em", "preference_accuracy", "f1", "reward")
    )
    used, sentences = [], []
    if em is not None:
        used.append(em)
        sentences.append(_compared(name, em, "answers", "questions exactly right", start))
    elif pairs is not None:
        used.append(pairs)
        sentences.append(_compared(name, pairs, "puts", "held-out pairs in the right order", start))
    if reward is not None:
        used.append(reward)
        subject = "Its reward" if sentences else f"The reward of {name}"
        sentences.append(_reward_change(subject, reward))
        if reward.verdict() == 1 and f1 is not None and f1.verdict() == -1:
            sentences.append("The reward rose while F1 fell: the reward was hacked.")
    if sentences:
        sentences[0] = sentences[0][:-1] + f"{_reservations(used, metrics)}."
    return " ".join(sentences)


def _compared(name: str, gain: Interval, verb: str, what: str, start: str) -> str:
    """One sentence on a difference of shares in percent, said as a number of 100."""
    ends = [gain.low, gain.high]
    known = all(map(math.isfinite, ends))
    values = [gain.value, *ends] if known else [gain.value]
    places = 1 if any(0 < round(abs(value), 1) < 1 for value in values) else 0
    count = f"{_more(gain.value, places)} of 100 {what}"
    if gain.verdict() == 0 and known:
        low, high = (_more(end, places) for end in ends)
        return (
            f"{name} shows no clear difference from {start}: it {verb} {count}, and the 95% "
            f"interval is from {low} to {high}."
        )
    text = f"{name} {verb} {count} than {start}"
    if not known:
        return f"{text}."
    if gain.verdict() is None:  # its two ends can have two signs
        return f"{text}; the 95% interval is from {' to '.join(_more(e, places) for e in ends)}."
    low, high = sorted(abs(end) for end in ends)
    return f"{text}; the 95% interval is {low:.{places}f} to {high:.{places}f}."


def _more(value: float, places: int) -> str:
    """A difference as a number of things.

    >>> _more(12.4, 0), _more(-3, 0), _more(0.04, 1)
    ('12 more', '3 fewer', '0 more')
    """
    count = f"{abs(value):.{places}f}"
    if float(count) == 0:
        return "0 more"
    return f"{count} {'more' if value > 0 else 'fewer'}"


def _reward_change(subject: str, gain: Interval) -> str:
    """One sentence on a change of the reward, in the units of its scores."""
    known = math.isfinite(gain.low) and math.isfinite(gain.high)
    moved = f"{subject} {'rose' if gain.value > 0 else 'fell'} by {abs(gain.value):.2f}"
    if not known:
        return f"{moved}."
    if gain.verdict():
        low, high = sorted([abs(gain.low), abs(gain.high)])
        return f"{moved}; the 95% interval is {low:.2f} to {high:.2f}."
    interval = f"the 95% interval is {gain.low:+.2f} to {gain.high:+.2f}"
    if gain.verdict() == 0:
        return f"{subject} did not clearly change: {gain.value:+.2f}, and {interval}."
    return f"{moved}; {interval}."


def _reservations(found: list[Interval], metrics: dict[str, float]) -> str:
    """Too few contexts for a verdict, or contexts that were trained on; empty where neither is."""
    seen = metrics.get("trained_on_questions")
    words = [f"of {seen:.0f} questions the context was trained on"] if seen else []
    words += [warning] if (warning := caution(found)) else []
    return f" ({'; '.join(words)})" if words else ""


def _numbers(stage: Stage) -> dict[str, float]:
    """The metrics of a finished stage that are numbers."""
    stored = stage.checkpoint.metrics
    return {name: value for name, value in stored.items() if isinstance(value, int | float)}


def _gain_of(metrics: dict[str, float], name: str) -> Interval | None:
    """A stored gain with its interval; None where there is none. Older checkpoints do not say how
    many contexts it is from.
    """
    if f"{name}_gain" not in metrics:
        return None
    ends = (metrics.get(f"{name}_gain{end}", math.nan) for end in ("", "_low", "_high"))
    return Interval(*ends, metrics.get(f"{name}_gain_contexts"))
