"""Figures over the steps of a stage: training as it went, held-out questions as dots."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from src.report.drawing import LINES, MARKERS, Axes, Plot, Theme, legend
from src.report.pipelines import Series
from src.utils.constants import DPO, PPO, REWARD, SFT


class Curve(NamedTuple):
    """A panel: a stage's figure in training (one key, times scale) and on held-out questions (keys
    of evaluations with what to call them). level: a line to compare with, and its name.
    """

    stage: str
    name: str
    question: str
    unit: str
    training: str | None
    held_out: dict[str, str]
    scale: float = 1.0
    level: tuple[float, str] | None = None


EM_F1 = {"f1": "F1", "em": "EM"}
LN_2 = (math.log(2), "ln 2: no preference")
# Of --loss_type, those that are nats, and ln 2 where nothing is preferred.
IN_NATS = {"sigmoid", "orpo", "nll"}
CHANCE = (50.0, "chance")
# Percentages are never drawn closer than this.
PERCENT_SPAN = 10.0
CURVES = (
    Curve(SFT, "loss", "Does it learn the answers?", "loss (nats/token)",
          "answer_loss_nats", {"answer_loss_nats": "held out"}),
    Curve(SFT, "quality", "Are its answers right?", "held-out EM, F1 (%)", None, EM_F1),
    Curve(DPO, "loss", "Does the preference loss fall?", "DPO loss (nats/pair)",
          "loss", {}, level=LN_2),
    Curve(DPO, "accuracy", "Did the chosen answer gain on the rejected one?",
          "implicit rewards in order (%)", "reward_accuracy", {"reward_accuracy": "held out"},
          level=CHANCE),
    Curve(DPO, "preference", "Is the chosen answer the likelier one?",
          "held-out pairs in order (%)", None, {"preference_accuracy": "held out"}),
    Curve(DPO, "log_probability", "What happens to both answers' probability?",
          "log-probability (nats/answer)", None,
          {"chosen_logp_nats": "chosen", "rejected_logp_nats": "rejected"}),
    Curve(DPO, "quality", "Are its answers right?", "held-out EM, F1 (%)", None, EM_F1),
    Curve(REWARD, "loss", "Does the pair loss fall?", "loss (nats/pair)",
          "loss", {}, level=LN_2),
    Curve(REWARD, "accuracy", "Does it prefer the chosen answer?",
          "pairs in order (%)", "accuracy",
          {"accuracy": "held out", "length_rule": "shorter wins"}, level=CHANCE),
    Curve(PPO, "reward", "Does the reward rise?", "reward (score units)",
          "reward_mean", {"reward": "held out, greedy"}),
    Curve(PPO, "quality", "Are its answers right?", "held-out EM, F1 (%)", None, EM_F1),
    Curve(PPO, "kl", "How far from its start?", "KL (nats/answer)",
          "kl_nats", {"kl_nats": "held out"}),
    Curve(PPO, "length", "Do answers grow or shrink?", "answer length (tokens)",
          "answer_tokens", {}),
    Curve(PPO, "entropy", "Does it still vary its answers?", "entropy (nats/token)",
          "entropy_nats", {}),
    Curve(PPO, "stopped", "Does it end its answers itself?", "answers that stop (%)",
          "eos_rate", {}, 100),
)


def by_step(logs: Sequence[list[dict]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps (S,), values (runs, S)) of all steps that a run logged, NaN where one did not."""
    tables = [{r["step"]: r[key] for r in log if key in r} for log in logs]
    steps = sorted({step for table in tables for step in table})
    values = [[table.get(step, np.nan) for step in steps] for table in tables]
    return np.array(steps), np.array(values).reshape(len(tables), len(steps))


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the `window` values around each (..., S), fewer at the ends, NaN left out.

    >>> running_mean(np.array([1.0, 2.0, 6.0]), 3)
    array([1.5, 3. , 4. ])
    """
    place, half = np.arange(values.shape[-1]), window // 2
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(place))

    def sums(x: np.ndarray) -> np.ndarray:
        total = np.concatenate([np.zeros((*x.shape[:-1], 1)), x.cumsum(-1)], -1)
        return total[..., high] - total[..., low]

    known = np.isfinite(values)
    counts = sums(known.astype(float))
    return sums(np.where(known, values, 0.0)) / np.where(counts > 0, counts, np.nan)


def _mean_and_band(axes: Axes, steps: np.ndarray, values: np.ndarray, **style) -> None:
    """The mean over runs (runs, S) and, where there are several, the band from least to most."""
    known = np.isfinite(values).any(0)
    steps, values = steps[known], values[:, known]
    if not len(steps):
        return
    axes.plot(steps, np.nanmean(values, 0), **style)
    if len(values) > 1:
        axes.fill_between(
            steps, np.nanmin(values, 0), np.nanmax(values, 0), color=style["color"], alpha=0.2,
            linewidth=0,
        )


def _training(axes: Axes, curve: Curve, series: Series, number: int, theme: Theme) -> bool:
    """The figure in training, smoothed over a twentieth of the run; one run's raw, faintly."""
    logs = [p.stages[curve.stage].steps for p in series.pipelines]
    if curve.training is None:
        return False
    steps, values = by_step(logs, curve.training)
    if not np.isfinite(values).any():
        return False
    values = values * curve.scale
    colour = theme.colours[number % len(theme.colours)]
    if len(values) == 1:
        axes.plot(steps, values[0], color=colour, alpha=0.25, linewidth=0.8)
    _mean_and_band(
        axes, steps, running_mean(values, max(5, len(steps) // 20)),
        color=colour, linestyle=LINES[number % len(LINES)], label=series.label,
    )
    return True


def _held_out(axes: Axes, curve: Curve, all_series: Sequence[Series], theme: Theme) -> int:
    """Held-out figures as markers with intervals, or bands over seeds; returns how many lines."""
    lines = 0
    for number, series in enumerate(all_series):
        logs = [p.stages[curve.stage].evaluations for p in series.pipelines]
        for place, (key, words) in enumerate(curve.held_out.items()):
            steps, values = by_step(logs, key)
            if not len(steps):
                continue
            # Colours name series where there are several, else the figures of the one.
            tone = number if len(all_series) > 1 else place + (curve.training is not None)
            style = {
                "color": theme.colours[tone % len(theme.colours)],
                "marker": MARKERS[(number + place) % len(MARKERS)], "markersize": 5,
                "linestyle": LINES[place + 1 if curve.training else place],
                "label": f"{series.label}: {words}" if len(all_series) > 1 else words,
                "markerfacecolor": "none" if place else None,
            }
            _mean_and_band(axes, steps, values, **style)
            if len(values) == 1:
                _, low = by_step(logs, f"{key}_low")
                _, high = by_step(logs, f"{key}_high")
                if low.shape == high.shape == values.shape:
                    axes.vlines(steps, low[0], high[0], color=style["color"], linewidth=1.2)
            lines += 1
    return lines


def _each_once(stage: str, all_series: Sequence[Series]) -> list[Series]:
    """The series with the pipelines that have a run of the stage, a run that several share in the
    first of them.
    """
    drawn, found = set(), []
    for series in all_series:
        own = {p.stages[stage].folder.resolve(): p for p in series.pipelines if stage in p.stages}
        found.append(series._replace(pipelines=[own[f] for f in own if f not in drawn]))
        drawn |= own.keys()
    return found


def _of_their_loss(curve: Curve, all_series: Sequence[Series]) -> Curve:
    """A loss's curve; without the line at ln 2 and the nats where --loss_type has neither."""
    pipelines = [pipeline for series in all_series for pipeline in series.pipelines]
    losses = {p.stages[curve.stage].flags.get("loss_type", "sigmoid") for p in pipelines}
    if losses <= IN_NATS:
        return curve
    return curve._replace(unit=f"{', '.join(sorted(losses))} loss", level=None)


def draw_curve(curve: Curve, all_series: Sequence[Series]) -> Plot | None:
    """The panel of a curve for all series; None where no run logged anything for it."""
    all_series = _each_once(curve.stage, all_series)
    if curve.level is LN_2:
        curve = _of_their_loss(curve, all_series)
    keys = curve.held_out
    records = [
        record
        for series in all_series
        for stage in (pipeline.stages[curve.stage] for pipeline in series.pipelines)
        for record in (*stage.steps, *stage.evaluations)
    ]
    marked = any(key in record for record in records for key in keys)
    if not marked and not any(curve.training in record for record in records):
        return None

    def draw(axes: Axes, theme: Theme) -> None:
        lines = sum(_training(axes, curve, s, n, theme) for n, s in enumerate(all_series))
        if lines == 1 and len(all_series) == 1:
            axes.lines[-1].set_label("training")
        lines += _held_out(axes, curve, all_series, theme)
        if curve.level is not None:
            axes.axhline(curve.level[0], color=theme.faint, linewidth=1, linestyle=":")
            axes.annotate(
                curve.level[1], (1, curve.level[0]), xycoords=axes.get_yaxis_transform(),
                xytext=(0, 3), textcoords="offset points", ha="right", color=theme.faint,
                fontsize=9,
            )
        axes.set_xlabel("optimizer step" if curve.stage != PPO else "batch of answers")
        axes.set_ylabel(curve.unit)
        low, high = axes.get_ylim()
        if curve.unit.endswith("(%)") and high - low < PERCENT_SPAN:
            # Less than that would make a drama of nothing; below 0 and above 100 nothing is.
            middle = np.clip((low + high) / 2, PERCENT_SPAN / 2 - 0.3, 100.3 - PERCENT_SPAN / 2)
            axes.set_ylim(middle - PERCENT_SPAN / 2, middle + PERCENT_SPAN / 2)
        legend(axes, max(lines, len(all_series)))

    several = any(len(series.pipelines) > 1 for series in all_series)
    note = []
    if curve.training:
        note.append("Line: training, smoothed over a twentieth of the run")
        note[-1] += "." if several else " (faint: as logged)."
    if marked:
        note.append("Markers: held-out questions" + ("." if several else " with 95% intervals."))
    if several:
        note.append("Several runs: their mean, band from the least to the most.")
    return Plot(f"{curve.stage}_{curve.name}", curve.question, " ".join(note), draw)
