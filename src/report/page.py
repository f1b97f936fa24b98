"""The report as one HTML file: nothing is fetched, all foreign text is escaped."""

import base64
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.evaluation.evaluation_set import EvaluationSet, PolicyResult
from src.evaluation.intervals import Interval, caution
from src.report.answers import answers_table, few_answers
from src.report.drawing import DARK, LIGHT, WIDE, WIDTH, Plot, png
from src.report.html import Markup, document, join, sections, table, tag
from src.report.measure import BASE, Measured
from src.report.pipelines import Pipeline, Series
from src.report.sentences import stage_sentences
from src.report.summary_plots import NAMES
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import STAGES

# metric -> (heading, unit)
COLUMNS = {
    "em": ("EM", "%"), "f1": ("F1", "%"), "answer_loss_nats": ("answer loss", "nats/token"),
    "preference_accuracy": ("pairs in order", "%"), "reward": ("reward", "deviations"),
    "win_rate": ("wins against start", "%"), "kl_nats": ("KL from start", "nats/answer"),
    "answer_tokens": ("length", "tokens"), "eos_rate": ("stops", "%"),
}
# Screens on which page.css sets plots in two columns.
TWO_COLUMNS = "(min-width: 50rem)"
OWN_QUESTIONS = (
    "Each stage is compared on the held-out questions of its own evaluations (--eval_limit). The "
    "plots, tables and answers of this page can be of other questions."
)


class Contents(NamedTuple):
    """What a page is made of. measured: by the index of the pipeline among all pipelines;
    plots: section -> plots; command: that made it.
    """

    series: list[Series]
    measured: dict[int, Measured]
    plots: dict[str, list[Plot]]
    command: str

    @property
    def pipelines(self) -> list[Pipeline]:
        """All pipelines, series after series."""
        return [pipeline for series in self.series for pipeline in series.pipelines]


def plot_grid(plots: Sequence[Plot]) -> Markup:
    """Plots in two columns where there is room; the last of an odd number is as wide as both."""
    last = len(plots) - 1
    figures = [figure_of(plot, wide=n == last and n % 2 == 0) for n, plot in enumerate(plots)]
    return tag("div", *figures, class_="plots")


def figure_of(plot: Plot, wide: bool) -> Markup:
    """A plot that follows the page's light or dark, with its question and how to read it.

    wide: drawn for two columns too, for screens that have them.
    """
    dark = "screen and (prefers-color-scheme: dark)"
    variants = [(f"{dark} and {TWO_COLUMNS}", DARK, WIDE), (TWO_COLUMNS, LIGHT, WIDE)]
    variants = [*(variants if wide else []), (dark, DARK, WIDTH)]
    picture = tag(
        "picture",
        *(tag("source", srcset=_image(png(plot, theme, width)), media=media)
          for media, theme, width in variants),
        tag("img", src=_image(png(plot)), alt=f"{plot.question} {plot.note}"),
    )
    caption = tag("figcaption", tag("strong", plot.question), tag("p", plot.note))
    return tag("figure", caption, picture, class_="wide-plot" if wide else None)


def _image(png_file: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png_file).decode()}"


def names_of(pipelines: Sequence[Pipeline]) -> list[str]:
    """A name for each pipeline: its model type, with its folder where the type is not unique."""
    names = []
    for pipeline in pipelines:
        model_type = pipeline.model_type
        unique = sum(p.model_type == model_type for p in pipelines) == 1
        names.append(model_type if unique else f"{model_type} {pipeline.folder}")
    return names


def figures_table(
    measured: dict[str, dict[str, Interval]], questions: int, metric: str
) -> Markup:
    """Every policy and rule with every metric and its interval."""
    columns = [n for n in COLUMNS if any(n in row for row in measured.values())]
    heads = [join([words, " ", tag("small", f"({unit})")])
             for words, unit in (COLUMNS[name] for name in columns)]
    rows = []
    for name, metrics in measured.items():
        cells = []
        for column in columns:
            value = metrics.get(column)
            if value is None or not math.isfinite(value.value):
                cells.append(tag("td", "–", class_="number"))
                continue
            places = 1 if COLUMNS[column][1] == "%" else 2
            text, _, ends = value.in_words(places).partition(" ")
            cells.append(tag("td", text, tag("small", f" {ends}"), class_="number"))
        rows.append(tag("tr", tag("th", NAMES.get(name, name), scope="row"), *cells))
    words = (
        f"{questions} held-out questions, greedy answers (KL: of one sampled answer each), 95% "
        "bootstrap intervals over contexts; "
        f"start: the SFT model that the last stage started from; answers compared by {metric}"
    )
    if BASE in measured:
        words += "; base: as main_squad.py logged it before its first step, on its eval_limit"
    if warning := caution(value for row in measured.values() for value in row.values()):
        words += f"; {warning}"
    return table(["", *heads], rows, words)


def _ancestors(found: Checkpoint | None) -> str:
    """What a checkpoint came from, by stage and file."""
    if found is None:
        return "?"
    entries = [(entry.get("stage"), Path(str(entry.get("path"))).name) for entry in found.lineage]
    return ", ".join(f"{stage} ({file})" for stage, file in dict.fromkeys(entries)) or "scratch"


def run_table(pipeline: Pipeline) -> Markup:
    """What was run: a row a stage, its flags below."""
    heads = ("stage", "seed", "steps", "time of logged steps", "started from", "sha256", "machine")
    rows, flags = [], []
    for name, stage in pipeline.stages.items():
        times = [record.get("seconds", math.nan) for record in stage.steps]
        seconds = sum(t for t in times if math.isfinite(t))
        found = stage.checkpoint
        cells = (
            name, stage.flags.get("seed", "?"), stage.steps[-1]["step"] if stage.steps else "?",
            f"{seconds / 60:.1f} min", _ancestors(found),
            found.sha256[:12] if found else "not finished",
            ", ".join(f"{k} {v}" for k, v in stage.machine.items()) or "not recorded",
        )
        rows.append(tag("tr", *(tag("td", cell) for cell in cells)))
        words = " ".join(
            f"--{k}" if v is True else f"--{k} {v}"
            for k, v in stage.flags.items()
            if v is not None and v is not False
        )
        flags.append(tag("p", f"{name}.py {words}", class_="flags"))
    first = next((s.checkpoint for s in pipeline.stages.values() if s.checkpoint), None)
    data = [tag("p", "Data: ", json.dumps(first.data, ensure_ascii=False), class_="flags"),
            tag("p", "Tokenizer: ", json.dumps(first.tokenizer.identity()), class_="flags"),
            ] if first else []
    return join([
        table(heads, rows, class_="runs"),
        *data,
        tag("details", tag("summary", "all flags, as they were resolved"), *flags),
    ])


def answers_of(contents: Contents) -> list[tuple[EvaluationSet, dict[str, PolicyResult]]]:
    """Each set of questions with the policies that answered it, under their names on the page."""
    tables: dict[tuple, tuple[EvaluationSet, dict[str, PolicyResult]]] = {}
    names, done = names_of(contents.pipelines), set()
    for place, measured in contents.measured.items():
        key = tuple(measured.held_out.ids), tuple(measured.held_out.examples)
        _, policies = tables.setdefault(key, (measured.held_out, {}))
        checkpoints = contents.pipelines[place].policies()
        for stage, result in measured.answers.items():
            same = (key, checkpoints[stage].sha256)
            if same in done:  # an ancestor of several pipelines
                continue
            done.add(same)
            prefix = f"{names[place]} " if len(names) > 1 else ""
            policies[f"{prefix}{NAMES[stage]}"] = result
    return list(tables.values())


def page(contents: Contents) -> str:
    """The whole document."""
    pipelines, names = contents.pipelines, names_of(contents.pipelines)
    title = f"RLHF run: {', '.join(s.label for s in contents.series)}"
    notes = [f"{n}: {note}" for n, p in zip(names, pipelines, strict=True) for note in p.notes]
    sentences = [
        f"{n}: {line}" if len(pipelines) > 1 else line
        for n, p in zip(names, pipelines, strict=True)
        for line in stage_sentences(p)
    ]
    answers = answers_of(contents)
    parts: list[tuple[str, str, list[Markup]]] = []
    figures = []
    for place, measured in contents.measured.items():
        head = tag("h3", names[place]) if len(pipelines) > 1 else None
        found, held_out = measured.table, measured.held_out
        shown = figures_table(found, len(held_out.examples), held_out.metric)
        figures.append(join([head, shown]))
    plots = {name: [plot_grid(found)] for name, found in contents.plots.items() if found}
    parts.append(("quality", "How good are the answers?", plots.get("quality", [])))
    parts.append(("hacking", "Reward against KL", plots.get("hacking", [])))
    parts.append(("rewards", "What the reward model prefers", plots.get("rewards", [])))
    for stage in STAGES:
        parts.append((stage, f"{NAMES[stage]}, step by step", plots.get(stage, [])))
    parts.append(("metrics", "All metrics", figures))
    tables = [answers_table(n, *asked) for n, asked in enumerate(answers, 1)]
    parts.append(("answers", "All answers side by side", tables))
    runs = [join([tag("h3", f"{n} ({p.folder})"), run_table(p)])
            for n, p in zip(names, pipelines, strict=True)]
    made = f"Report made {time.strftime('%Y-%m-%d %H:%M:%S %Z')} by {contents.command}"
    parts.append(("run", "What was run", [*runs, tag("p", made, class_="faint")]))
    body = join([
        tag("h1", title),
        *(few_answers(*asked) for asked in answers),
        tag("h2", "What each stage changed") if sentences else None,
        tag("ul", *(tag("li", line) for line in sentences)) if sentences else None,
        tag("p", OWN_QUESTIONS, class_="faint") if sentences else None,
        tag("h3", "Missing or not as expected") if notes else None,
        tag("ul", *(tag("li", note) for note in notes)) if notes else None,
        sections(parts, "Nothing to show here: see what is missing, at the top."),
        tag("script", Markup(Path(__file__).with_name("page.js").read_text(encoding="utf-8"))),
    ])
    return document(title, body)
