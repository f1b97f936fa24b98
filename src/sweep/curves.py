"""Reward and true F1 against the square root of the KL: curves, fits, and where F1 peaks."""

import math
from typing import NamedTuple

import numpy as np

from src.evaluation.overoptimisation import Fit, fit_best_of_n, fit_rl
from src.report.drawing import LINES, MARKERS, Axes, Plot, Theme, legend
from src.sweep.crossed import Estimate, crossed_interval
from src.sweep.experiment import Cell, Experiment, words
from src.sweep.results import CellResult, Point, label_of, points_of


class Line(NamedTuple):
    """One curve: the points that all seeds have. at: steps or n; distance: sqrt of the mean KL in
    nats; gains over the first point, with intervals over seeds; fits: of the mean gain of F1.
    """

    label: str
    at: list[float]
    distance: list[float]
    reward: list[Estimate]
    f1: list[Estimate]
    fits: tuple[Fit | None, Fit | None]

    @property
    def peak(self) -> int:
        """The point where the mean F1 is highest."""
        return int(np.argmax([gain.value for gain in self.f1]))


def panels_of(experiment: Experiment, measured: list[CellResult]) -> dict[str, list[Line]]:
    """Panel -> its lines. A panel is a variant of the stage `panel`, or all of them together."""
    options = experiment.options.get("curves", {})
    known = {one.cell.key: one for one in measured}
    groups: dict[str, dict[str, list[list[Point]]]] = {}
    for cell in experiment.cells:
        if cell.stage in options.get("stages", ()) and (points := points_of(cell, known)):
            panel, label = _names(cell, options.get("panel"))
            groups.setdefault(panel, {}).setdefault(label, []).append(points)
    return {
        panel: [line for label, seeds in lines.items() if (line := line_of(label, seeds))]
        for panel, lines in groups.items()
    }


def _names(cell: Cell, panel: str | None) -> tuple[str, str]:
    """The panel that a cell's curve is in, and what the curve is called there."""
    own = f"{panel}."
    chosen = {k: v for k, v in cell.choices.items() if k.startswith(own)} if panel else {}
    rest = cell._replace(choices={k: v for k, v in cell.choices.items() if k not in chosen})
    best = "best of n, " if cell.policy() is not cell else ""
    if best:
        policy = cell.policy()
        policy = policy._replace(choices={k: v for k, v in policy.choices.items()
                                          if k not in chosen})
        rest = rest._replace(parents={**cell.parents, "checkpoint": policy})
    return " ".join(words(chosen, "")) or "all policies", best + label_of(rest)


def line_of(label: str, seeds: list[list[Point]]) -> Line | None:
    """The curve of some seeds; None where they share fewer than two points."""
    tables = [{point.at: point for point in points} for points in seeds]
    at = sorted(set.intersection(*map(set, tables)))
    if len(at) < 2:
        return None
    kl = [sum(table[x].kl_nats for table in tables) / len(tables) for x in at]

    def gains(name: str) -> list[Estimate]:
        start = at[0]
        return [
            crossed_interval([{str(n): getattr(t[x], name) - getattr(t[start], name)}
                              for n, t in enumerate(tables)])
            for x in at
        ]

    f1 = gains("f1")
    # One sample a question may put a small KL below 0.
    kl = [max(0.0, value) for value in kl]
    means = [gain.value for gain in f1]
    fits = tuple(_fit_or_none(fit, kl, means) for fit in (fit_best_of_n, fit_rl))
    return Line(label, at, [math.sqrt(value) for value in kl], gains("reward"), f1, fits)


def _fit_or_none(fit, kl: list[float], gain: list[float]) -> Fit | None:
    try:
        return fit(kl, gain)
    except ValueError:  # fewer than two distances
        return None


def draw_panel(name: str, panel: str, lines: list[Line]) -> list[Plot]:
    """Two plots of a panel: F1 and the proxy reward, as gains over each curve's start."""
    note = (
        "Gain over the first point; bands: 95% intervals over seeds at each point. "
        "Horizontal: the square root of the KL, of best of n its bound."
    )
    return [
        _draw(f"{name}_f1", f"True F1, {panel}", note, lines, "f1", "gain of F1 (points)"),
        _draw(f"{name}_reward", f"Proxy reward, {panel}", note, lines, "reward",
              "gain of reward (deviations)"),
    ]


def _draw(name: str, title: str, note: str, lines: list[Line], metric: str, unit: str) -> Plot:
    def draw(axes: Axes, theme: Theme) -> None:
        for number, line in enumerate(lines):
            order = np.argsort(line.distance, kind="stable")
            x = np.array(line.distance)[order]
            found = [getattr(line, metric)[i] for i in order]
            style = {"color": theme.colours[number % len(theme.colours)]}
            axes.plot(
                x, [e.value for e in found], label=line.label, markersize=4,
                linestyle=LINES[number % len(LINES)], marker=MARKERS[number % len(MARKERS)],
                **style,
            )
            if found[0].seeds > 1:
                axes.fill_between(x, [e.low for e in found], [e.high for e in found], alpha=0.15,
                                  linewidth=0, **style)
        axes.axhline(0, color=theme.faint, linewidth=1)
        axes.set_xlabel("sqrt(KL), KL in nats an answer")
        axes.set_ylabel(unit)
        legend(axes, len(lines))

    return Plot(name, title, note, draw, 3.3)
