"""The plots that answer at a glance: who answers best, what the reward model prefers, hacking."""

import math
from collections.abc import Sequence

import numpy as np

from src.evaluation.intervals import Interval
from src.report.drawing import LINES, MARKERS, Axes, Plot, Theme, bounds, legend
from src.report.measure import BASE, Measured, interval_of
from src.report.pipelines import Pipeline, Series
from src.utils.constants import DPO, PPO, REWARD, SFT

# One standard deviation of the reward model's score is drawn as high as so many points of F1; a
# reward that is F1 or EM itself goes from 0 to 1.
POINTS_PER_DEVIATION, POINTS_PER_SHARE = 40.0, 100.0
NAMES = {
    BASE: "base (before SFT)", SFT: "SFT", DPO: "DPO",
    PPO: "PPO", REWARD: "Reward model",
}


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """One run's value with its interval; of several runs their mean, and the least and the most."""
    if len(intervals) == 1:
        return intervals[0]
    values = [i.value for i in intervals if math.isfinite(i.value)]
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    return Interval(sum(values) / len(values), min(values), max(values))


def quality_plot(metric: str, unit: str, tables: Sequence[tuple[str, list[dict]]]) -> Plot | None:
    """A metric of rules and policies as dots with intervals. tables: (label, a table a run)."""
    rows = list(dict.fromkeys(name for _, runs in tables for t in runs for name in t))
    rows = [n for n in rows if n.startswith("rule:")] + [n for n in NAMES if n in rows]
    rows = [n for n in rows if any(metric in t.get(n, {}) for _, runs in tables for t in runs)]
    if not rows:
        return None

    def point_of(name: str, runs: list[dict]) -> Interval | None:
        found = [t[name][metric] for t in runs if metric in t.get(name, {})]
        point = mean_of(found) if found else None
        return point if point and math.isfinite(point.value) else None

    # The same rules answer the same questions alike: drawn once, unless the questions differ.
    shared = {
        name for name in rows
        if name.startswith("rule:") and len({point_of(name, runs) for _, runs in tables}) == 1
    }

    def draw(axes: Axes, theme: Theme) -> None:
        for number, (label, runs) in enumerate(tables):
            shift = 0.6 * ((number + 0.5) / len(tables) - 0.5)
            labelled = False
            for row, name in enumerate(rows):
                point, rule = point_of(name, runs), name.startswith("rule:")
                if point is None or (name in shared and number):
                    continue
                one = name in shared
                axes.errorbar(
                    point.value, -row - (0 if one else shift),
                    xerr=bounds(point.low, point.value, point.high), capsize=2.5, markersize=6,
                    color=theme.faint if one else theme.colours[number % len(theme.colours)],
                    marker="|" if rule else MARKERS[number % len(MARKERS)],
                    label=None if rule or labelled else label,
                )
                labelled = labelled or not rule
                if len(tables) == 1:
                    axes.annotate(
                        f"{point.value:.1f}", (point.value, -row), xytext=(0, 5),
                        textcoords="offset points", ha="center", fontsize=9,
                    )
        axes.set_yticks([-row for row in range(len(rows))], [NAMES.get(n, n) for n in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.75)
        axes.set_xlim(-4, 104)
        axes.set_xlabel(f"held-out {unit}")
        axes.grid(axis="y", visible=False)
        legend(axes, len(tables))

    note = "Rules understand nothing; perfect copy is the ceiling."
    if any(len(runs) == 1 for _, runs in tables):
        note = f"Bars: 95% bootstrap intervals over contexts. {note}"
    if any(len(runs) > 1 for _, runs in tables):
        note += " Several runs: their mean, bars from the least to the most."
    if any(name.startswith("rule:") and name not in shared for name in rows):
        note += " The held-out questions differ, so each has its own rules."
    words = "How many answers are exactly right?" if metric == "em" else "How right is each answer?"
    height = 1.1 + 0.27 * len(rows) * max(1, 0.55 * len(tables))
    return Plot(f"quality_{metric}", words, note, draw, max(2.6, height))


def reward_plot(label: str, name: str, measured: Sequence[Measured]) -> Plot | None:
    """Scores of chosen and rejected answers by corruption, a split violin each; runs pooled."""
    kinds: dict[str, list] = {}
    for run in measured:
        for kind, scores in run.kinds.items():
            kinds.setdefault(kind, []).append(scores)
    if not kinds:
        return None
    pairs = {k: sum(len(s.chosen) for s in runs) for k, runs in kinds.items()}
    share = {
        k: sum(s.accuracy.value * len(s.chosen) for s in runs) / pairs[k]
        for k, runs in kinds.items()
    }
    ordered = sorted(kinds, key=share.get)

    def draw(axes: Axes, theme: Theme) -> None:
        for row, kind in enumerate(ordered):
            for side, tone in (("chosen", 0), ("rejected", 1)):
                values = np.concatenate([getattr(s, side) for s in kinds[kind]])
                colour = theme.colours[tone]
                if len(values) > 2:
                    parts = axes.violinplot(
                        values, [-row], orientation="horizontal", widths=0.85, showextrema=False,
                        side="high" if side == "chosen" else "low",
                    )
                    for body in parts["bodies"]:
                        body.set(facecolor=colour, alpha=0.6, edgecolor=colour)
                axes.plot(
                    [np.median(values)], [-row + (0.12 if side == "chosen" else -0.12)],
                    MARKERS[tone], color=colour, markeredgecolor=theme.ink, markersize=5,
                    label=f"{side} (median)" if row == 0 else None,
                )
            axes.annotate(
                f"{share[kind]:.0f}% of {pairs[kind]}", (1, -row), va="center", fontsize=9,
                xycoords=axes.get_yaxis_transform(), xytext=(3, 0), textcoords="offset points",
            )
        axes.set_yticks([-row for row in range(len(ordered))], ordered)
        axes.set_ylim(-len(ordered) + 0.4, 0.6)
        axes.set_xlabel("reward score (0, 1: mean, deviation of golds)")
        axes.grid(axis="y", visible=False)
        legend(axes, 2)

    return Plot(
        f"rewards_{name}",
        f"Which wrong answers does the reward model see through? ({label})",
        "Held-out pairs by kind of corruption, the hardest first; right: pairs in order. "
        "What overlaps is what PPO can exploit.",
        draw,
        0.9 + 0.42 * len(ordered),
    )


def hacking_track(pipeline: Pipeline) -> dict[str, np.ndarray] | None:
    """KL, and the change of reward and F1 from the start, (E, 3) value, low and high, one row an
    evaluation of PPO; None where the log has not all three. The intervals are of the paired
    differences, NaN where an older log has none.
    """
    stage = pipeline.stages.get(PPO)
    if stage is None:
        return None
    wanted = ("kl_nats", "reward", "f1")
    seen = [r for r in stage.evaluations if all(math.isfinite(r.get(n, math.nan)) for n in wanted)]
    if len(seen) < 2:
        return None
    track = {n: np.array([interval_of(r, n)[:3] for r in seen], float) for n in wanted}
    for name in ("reward", "f1"):
        gains = np.array([interval_of(r, f"{name}_gain")[:3] for r in seen], float)
        gains[:, 0] = track[name][:, 0] - track[name][0, 0]
        gains[0] = 0.0
        track[name] = gains
    return track | {"step": np.array([r["step"] for r in seen])}


def mean_track(tracks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One run's track; of several, at the evaluations that all have, their mean, the least and the
    most.
    """
    if len(tracks) == 1:
        return tracks[0]
    steps = sorted(set.intersection(*(set(track["step"]) for track in tracks)))
    mean: dict[str, np.ndarray] = {"step": np.array(steps)}
    for name in ("kl_nats", "reward", "f1"):
        values = np.array([
            [track[name][list(track["step"]).index(step), 0] for step in steps] for track in tracks
        ])
        mean[name] = np.stack([values.mean(0), values.min(0), values.max(0)], -1)
    return mean


def hacking_plot(name: str, series: Series) -> Plot | None:
    """Reward and true F1 against the KL that PPO has spent, in one height: hacking parts them."""
    tracks = [t for p in series.pipelines if (t := hacking_track(p)) is not None]
    if not tracks:
        return None
    track = mean_track(tracks)
    flags = next(p for p in series.pipelines if PPO in p.stages).stages[PPO].flags
    by_model = flags.get("reward", "model") == "model"
    points = POINTS_PER_DEVIATION if by_model else POINTS_PER_SHARE

    def draw(axes: Axes, theme: Theme) -> None:
        for number, (key, words, scale) in enumerate((
            ("reward", "reward model" if by_model else f"reward {flags.get('reward')}", 1.0),
            ("f1", "true F1", 1 / points),
        )):
            values = track[key] * scale
            arms = np.nan_to_num([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
            axes.errorbar(
                track["kl_nats"][:, 0], values[:, 0], yerr=np.clip(arms, 0, None),
                color=theme.colours[number], linestyle=LINES[number], marker=MARKERS[number],
                markersize=5, capsize=2, elinewidth=0.8, label=words,
            )
        axes.axhline(0, color=theme.faint, linewidth=1)
        span = max(0.25, *(np.abs(axes.get_ylim())))
        axes.set_ylim(-span, span)
        room, named = 0.06 * (axes.get_xlim()[1] - axes.get_xlim()[0]), []
        steps, reached = track["step"][1:], track["kl_nats"][1:, 0]
        for step, x in zip(steps[::-1], reached[::-1], strict=True):
            if any(abs(x - other) < room for other in named):
                continue  # its name would lie on that of a later step
            named.append(x)
            axes.annotate(
                f"{step:.0f}", (x, 0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha="center", fontsize=8, color=theme.faint,
            )
        axes.set_xlabel("KL from the start (nats/answer); small: step")
        axes.set_ylabel("change of reward (deviations)" if by_model else "change of reward")
        there_and_back = (lambda y: y * points, lambda y: y / points)
        right = axes.secondary_yaxis("right", functions=there_and_back)
        right.set_ylabel("change of F1 (points)")
        legend(axes, 2)

    question = "Is the reward model being hacked?" if by_model else "Does the reward itself rise?"
    if len(tracks) > 1:
        arms = "the mean of several runs, from the least to the most"
    elif np.isfinite(track["f1"][1:, 1:]).any():
        arms = "with 95% intervals of the paired difference"
    else:
        arms = "without intervals, because this log has none of the paired difference"
    return Plot(
        f"hacking_{name}",
        f"{question} ({series.label})",
        f"Held-out greedy answers at each evaluation of PPO, as change since its start, {arms}. "
        f"Both share one height: 1 of reward is drawn as {points:.0f} points of F1. Rising "
        "together: learning. Reward up while F1 falls: hacking.",
        draw,
        3.3,
    )
