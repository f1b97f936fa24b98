"""What finished cells have measured: rows of the table, and figures by context for intervals."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from src.report.pipelines import read_log
from src.sweep.crossed import Estimate, bonferroni, contributions, crossed_interval, paired
from src.sweep.experiment import EVALUATION, Cell, Experiment, finished, words

DIGITS = 6
# The metrics of the page where the file names none: those of eval_dpo.py, and seconds of training.
METRICS = ("reward", "f1", "em", "kl_nats", "sample_tokens", "entropy_nats", "seconds")
COMPARED = ("f1",)


class CellResult(NamedTuple):
    """One evaluation cell that is finished. metrics: name -> context -> contribution; best_of: the
    rows of --best_of; seconds: what its policy's training took, without evaluations.
    """

    cell: Cell
    values: dict[str, float | None]
    metrics: dict[str, dict[str, float]]
    best_of: list[dict[str, float]]
    seconds: float


class Row(NamedTuple):
    """Seeds of one variant together. means: metric -> estimate; differences: metric -> that of the
    difference from the baseline; baseline: whether it is the baseline; seeds: those measured.
    """

    label: str
    cell: Cell
    means: dict[str, Estimate]
    differences: dict[str, Estimate]
    baseline: bool
    seeds: int


class Point(NamedTuple):
    """One point of a curve of one seed. at: the step, or n of best of n; KL in nats an answer."""

    at: float
    kl_nats: float
    reward: float
    f1: float


def read_measured(cells: Sequence[Cell]) -> list[CellResult]:
    """The finished evaluations, in their order."""
    done = finished(cells)
    return [_read(cell) for cell in cells if cell.script == EVALUATION and cell.key in done]


def _read(cell: Cell) -> CellResult:
    (values,) = json.loads((cell.folder / "evaluation.json").read_bytes())["policies"].values()
    stored = json.loads(cell.result.read_bytes())
    (figures,) = stored["policies"].values()
    best_of = values.pop("best_of", [])
    return CellResult(
        cell,
        {name: interval["value"] for name, interval in values.items()},
        {name: contributions(figures[name], stored["context_names"]) for name in values},
        best_of,
        sum(record.get("seconds", 0.0) for record in _log(cell.policy())[0]),
    )


def _log(cell: Cell) -> tuple[list[dict], list[dict]]:
    return read_log(cell.folder / "metrics.jsonl")


def label_of(cell: Cell) -> str:
    """A measured policy in words: its stage and what was chosen, and what else the evaluation has.
    """
    policy = cell.policy()
    rest = {k: v for k, v in cell.choices.items()
            if k not in policy.choices and k != f"{cell.stage}.checkpoint"}
    return " ".join([policy.label, *words(rest, cell.stage)])


def rows_of(experiment: Experiment, measured: Sequence[CellResult]) -> tuple[list[Row], int]:
    """A row a variant, and how many differences were looked at, which their intervals allow for.

    Evaluations whose best of n are curves have no row.
    """
    metrics = [*experiment.options.get("metrics", METRICS),
               *(matrix["metric"] for matrix in experiment.options.get("matrices", []))]
    compared = experiment.options.get("compare", COMPARED)
    drawn = experiment.options.get("curves", {}).get("stages", ())
    measured = [one for one in measured if one.cell.stage not in drawn]
    groups: dict[tuple, list[CellResult]] = {}
    for one in measured:
        groups.setdefault(one.cell.key[:2], []).append(one)
    baselines = {one.cell.key: baseline_of(experiment, one, measured) for one in measured}
    own = {key for key, found in baselines.items() if found is not None and found.cell.key == key}
    looks = len(compared) * sum(
        any(baselines[one.cell.key] is not None and one.cell.key not in own for one in group)
        for group in groups.values()
    )
    level = bonferroni(looks)
    rows = []
    for group in groups.values():
        means = {name: _mean(name, group) for name in metrics}
        against = [(one, baselines[one.cell.key]) for one in group]
        differences = {
            name: crossed_interval(
                [paired(one.metrics[name], other.metrics[name]) for one, other in against
                 if other is not None and name in one.metrics and name in other.metrics], level,
            )
            for name in compared if group[0].cell.key not in own
        }
        differences = {name: found for name, found in differences.items() if found.seeds}
        cell = group[0].cell
        is_baseline = cell.key in own
        rows.append(Row(label_of(cell), cell, means, differences, is_baseline, len(group)))
    return rows, looks


def _mean(name: str, group: Sequence[CellResult]) -> Estimate:
    if name == "seconds":  # of training: machines differ, an interval would say little
        return Estimate(sum(one.seconds for one in group) / len(group), math.nan, math.nan, 1)
    return crossed_interval([one.metrics.get(name, {}) for one in group])


def baseline_of(
    experiment: Experiment, one: CellResult, measured: Sequence[CellResult]
) -> CellResult | None:
    """The baseline's evaluation for the same seed by the same stage, and with the same choices
    where both have one; None where there is none, or several.
    """
    wanted = dict(experiment.options.get("baseline", {}))
    stage = wanted.pop("stage", None)
    found = [
        other for other in measured
        if other.cell.policy().stage == stage and other.cell.seed == one.cell.seed
        and other.cell.stage == one.cell.stage
        and all(other.cell.choices.get(k) == v for k, v in wanted.items())
        and all(other.cell.choices.get(k, v) == v for k, v in one.cell.choices.items()
                if k not in wanted and k != f"{one.cell.stage}.checkpoint")
    ]
    return found[0] if len(found) == 1 else None


def points_of(cell: Cell, measured: dict[tuple, CellResult]) -> list[Point]:
    """The points of a cell's curve: its evaluations during training, or its best of n."""
    if cell.script == EVALUATION:
        best_of = measured[cell.key].best_of if cell.key in measured else []
        return [Point(row["n"], row["kl_bound"], row["reward"], row["f1"]) for row in best_of]
    if not cell.result.exists():
        return []
    return [
        Point(r["step"], r["kl_nats"], r["reward"], r["f1"]) for r in _log(cell)[1]
        if all(math.isfinite(r.get(name, math.nan)) for name in ("kl_nats", "reward", "f1"))
    ]


def table_text(experiment: Experiment, measured: Sequence[CellResult]) -> str:
    """The table as CSV: a line for each policy measured, each point of best of n, and each
    evaluation during training, of every seed. No times: the same runs give the same text.
    """
    known = {one.cell.key: one for one in measured}
    lines: list[dict[str, Any]] = []
    for cell in experiment.cells:
        start = {"stage": cell.stage, **cell.choices, "seed": cell.seed}
        if cell.key in known:
            lines.append({**start, "source": "policy", **known[cell.key].values})
            lines += [{**start, "source": "best of n", "at": row["n"],
                       **{k: v for k, v in row.items() if k != "n"}}
                      for row in known[cell.key].best_of]
        elif cell.script != EVALUATION and cell.result.exists():
            lines += [{**start, "source": "training", "at": record.pop("step"), **record}
                      for record in _log(cell)[1]]
    choices = dict.fromkeys(key for cell in experiment.cells for key in cell.choices)
    first = ["source", "stage", *choices, "seed", "at"]
    metrics = sorted({key for line in lines for key in line} - {*first})
    # Ends of intervals are of one run; the page has those over seeds.
    metrics = [name for name in metrics if not name.endswith(("_low", "_high"))]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*first, *metrics], "", "ignore", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: _digits(value) for key, value in line.items()})
    return file.getvalue()


def _digits(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value
