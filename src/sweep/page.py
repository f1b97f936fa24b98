"""The page of an experiment: one HTML file that fetches nothing."""

import math
import shlex
from collections.abc import Sequence

from src.report.drawing import Plot
from src.report.html import Markup, document, join, sections, table, tag
from src.report.page import COLUMNS, plot_grid
from src.sweep.crossed import FAMILY_LEVEL, Estimate, bonferroni
from src.sweep.curves import Line, draw_panel
from src.sweep.experiment import Cell, Experiment, finished
from src.sweep.results import METRICS, CellResult, Row, rows_of

HEADINGS = {
    name: f"{heading} ({unit})" for name, (heading, unit) in COLUMNS.items()
} | {
    "sample_tokens": "length (tokens)", "entropy_nats": "entropy (nats/token)",
    "seconds": "training (s)",
}
CSS = """
.up { color: var(--right); font-weight: 600; }
.down { color: var(--wrong); font-weight: 600; }
.matrix td { padding: 0.5rem 0.8rem; text-align: right; }
@media (max-width: 44rem) {
  .wide th[scope="row"] { white-space: normal; min-width: 8.5rem; overflow-wrap: anywhere; }
}
"""


def plots_of(panels: dict[str, list[Line]]) -> list[Plot]:
    """Two plots of each panel that has a curve."""
    return [plot for number, (panel, lines) in enumerate(panels.items(), 1)
            if lines for plot in draw_panel(f"panel{number}", panel, lines)]


def page(
    experiment: Experiment, measured: list[CellResult], failed: dict[tuple, str],
    panels: dict[str, list[Line]], plots: Sequence[Plot],
) -> str:
    """The whole document. panels, plots: of the curves."""
    rows, looks = rows_of(experiment, measured)
    matrices = [matrix_table(m, rows) for m in experiment.options.get("matrices", [])]
    contents = [("results", "Results", [results_table(experiment, rows, looks)] if rows else [])]
    if matrices:
        contents.append(("matrices", "Matrices", matrices))
    if panels:
        shown = [plot_grid(plots), peaks_table(panels)]
        contents.append(("curves", "Reward and F1 against the KL", shown if plots else []))
    contents.append(("cells", "What was run", cells_section(experiment)))
    body = join([
        tag("h1", experiment.title),
        tag("ul", *(tag("li", line) for line in glance(experiment, failed))),
        sections(contents, "Nothing here yet."),
    ])
    return document(experiment.title, body, CSS)


def glance(experiment: Experiment, failed: dict[tuple, str]) -> list[str]:
    """What is here and what is missing, a line each."""
    done, seeds = finished(experiment.cells), len(experiment.seeds)
    lines = [f"{len(done)} of {len(experiment.cells)} cells finished; seeds: {seeds}."]
    if seeds == 1:
        lines.append("One seed: intervals are over contexts alone, nothing is called different.")
    lines += [f"{cell.name}: {failed[cell.key]}" for cell in experiment.cells
              if cell.key in failed]
    return lines


def results_table(experiment: Experiment, rows: Sequence[Row], looks: int) -> Markup:
    """A row a variant: means over seeds, and differences from the baseline."""
    metrics = [m for m in experiment.options.get("metrics", METRICS)
               if any(math.isfinite(row.means[m].value) for row in rows)]
    compared = list(dict.fromkeys(m for row in rows for m in row.differences))
    heads = [*(HEADINGS.get(m, m) for m in metrics),
             *(f"{HEADINGS.get(m, m)} against baseline" for m in compared)]
    lines = []
    for row in rows:
        cells = [_cell(row.means[m]) for m in metrics]
        cells += [_difference(row.differences.get(m)) for m in compared]
        name = f"{row.label} (baseline)" if row.baseline else row.label
        if row.seeds < len(experiment.seeds):
            name += f" ({row.seeds} of {len(experiment.seeds)} seeds)"
        lines.append(tag("tr", tag("th", name, scope="row"), *cells))
    words = (
        "Mean over seeds, below it the 95% interval over contexts and seeds (of one seed over "
        "contexts alone)."
    )
    if compared:
        words += (
            f" Differences are paired: same seed, same questions. {looks} were looked at, so each "
            f"interval has the level {100 * bonferroni(looks):.2f}% (Bonferroni): with probability "
            f"{FAMILY_LEVEL:.0%} or more all of them hold. ▲ above, ▼ below the baseline: the "
            "interval does not contain 0."
        )
    return table(["", *heads], lines, words)


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.1f}" if abs(value) >= 10 else f"{value:{sign}.2f}"


def _interval(found: Estimate, sign: str = "") -> str:
    if not math.isfinite(found.low):
        return ""
    return f" [{_number(found.low, sign)}, {_number(found.high, sign)}]"


def _cell(found: Estimate) -> Markup:
    if not math.isfinite(found.value):
        return tag("td", "–", class_="number")
    return tag("td", _number(found.value), tag("small", _interval(found)), class_="number")


def _difference(found: Estimate | None) -> Markup:
    if found is None:
        return tag("td", "–", class_="number")
    arrow, name = {1: (" ▲", "up"), -1: (" ▼", "down"), 0: ("", None)}[found.verdict()]
    value = tag("span", _number(found.value, "+") + arrow, class_=name)
    return tag("td", value, tag("small", _interval(found, "+")), class_="number")


def matrix_table(options: dict, rows: Sequence[Row]) -> Markup:
    """A metric's means over seeds by two choices; a darker cell has a higher value."""
    metric, across, down = options["metric"], options["columns"], options["rows"]
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        chosen = row.cell.choices
        wanted = all(chosen.get(k) == v for k, v in options.get("where", {}).items())
        known = math.isfinite(row.means[metric].value)
        if wanted and known and across in chosen and down in chosen:
            cells.setdefault((chosen[down], chosen[across]), []).append(row)
    columns = list(dict.fromkeys(column for _, column in cells))
    values = [row.means[metric].value for found in cells.values() for row in found]
    low, span = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    lines = []
    for name in dict.fromkeys(line for line, _ in cells):
        found = []
        for column in columns:
            here = cells.get((name, column), [])
            if len(here) != 1:  # none, or several: the file has to say which, with where
                found.append(tag("td", "–" if not here else f"{len(here)} variants"))
                continue
            mean = here[0].means[metric]
            share = round(45 * (mean.value - low) / span) if span else 0
            style = f"background: color-mix(in srgb, var(--right) {share}%, transparent)"
            found.append(tag("td", _number(mean.value), tag("small", _interval(mean)),
                             class_="number", style=style))
        lines.append(tag("tr", tag("th", f"{down}={name}", scope="row"), *found))
    if not lines:
        return tag("p", "Nothing here yet.", class_="faint")
    words = f"{HEADINGS.get(metric, metric)}: mean over seeds, 95% interval over contexts and seeds"
    return table(["", *(f"{across}={c}" for c in columns)], lines, words, class_="matrix")


def peaks_table(panels: dict[str, list[Line]]) -> Markup:
    """Where F1 is highest on each curve, what the proxy says there and at the end, and the fits."""
    heads = ("points", "sqrt(KL) at the peak of F1", "gain of F1 there", "gain of reward there",
             "gain of F1 at the end", "gain of reward at the end", "d(a - b d): a, b, R2",
             "d(a - b log d): a, b, R2")
    lines = []
    for panel, curves in panels.items():
        for line in curves:
            peak, last = line.peak, len(line.at) - 1
            gains = [line.f1[peak], line.reward[peak], line.f1[last], line.reward[last]]
            fits = ["–" if fit is None or math.isnan(fit.r2) else
                    f"{fit.a:.2f}, {fit.b:.2f}, {fit.r2:.2f}" for fit in line.fits]
            cells = [tag("td", str(len(line.at)), class_="number"),
                     tag("td", f"{line.distance[peak]:.2f}", class_="number"),
                     *(tag("td", _number(g.value, "+"), tag("small", _interval(g, "+")),
                           class_="number") for g in gains),
                     *(tag("td", fit, class_="number") for fit in fits)]
            lines.append(tag("tr", tag("th", f"{panel}: {line.label}", scope="row"), *cells))
    words = (
        "d = sqrt(KL); fits by least squares to the mean gain of F1 in points (Gao et al. 2022, "
        "2210.10760). The peak is the best of the points measured, so its F1 is a little too high; "
        "95% intervals over seeds, not corrected for the choice."
    )
    return table(["", *heads], lines, words)


def cells_section(experiment: Experiment) -> list[Markup]:
    """The experiment file, and the command of every cell."""
    commands = [tag("p", command_of(cell), class_="flags") for cell in experiment.cells]
    return [
        tag("details", tag("summary", f"the file {experiment.path.name}"),
            tag("pre", experiment.text)),
        tag("details", tag("summary", f"{len(commands)} commands"), *commands),
    ]


def command_of(cell: Cell) -> str:
    """The cell's command line."""
    return f"python {cell.script} {shlex.join(cell.argv)}"
