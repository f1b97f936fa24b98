"""The report as one HTML file: nothing is fetched, all foreign text is escaped."""

import base64
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.evaluation.intervals import Interval, caution
from src.report.answers import answers_table
from src.report.drawing import Plot
from src.report.html import Markup, join, tag
from src.report.measure import BASE, Measured
from src.report.pipelines import Pipeline, Series
from src.report.summary_plots import NAMES
from src.training.console import VERDICTS
from src.utils.checkpoint_utils import Checkpoint
from src.utils.constants import STAGES

# metric -> (heading, unit)
COLUMNS = {
    "em": ("EM", "%"), "f1": ("F1", "%"), "answer_loss_nats": ("answer loss", "nats/token"),
    "preference_accuracy": ("pairs in order", "%"), "reward": ("reward", "deviations"),
    "win_rate": ("wins against start", "%"), "kl_nats": ("KL from start", "nats/answer"),
    "answer_tokens": ("length", "tokens"), "eos_rate": ("stops", "%"),
}  # fmt: skip
# metric of a stage's gains -> (what to call it, unit of a difference)
GAINS = {
    "em": ("EM", "points"), "f1": ("F1", "points"),
    "preference_accuracy": ("pairs in order", "points"), "accuracy": ("pairs in order", "points"),
    "reward": ("reward", "score units"),
}  # fmt: skip
OWN_QUESTIONS = (
    "Each on the held-out questions that its stage evaluated itself on (--eval_limit), which need "
    "not be those measured below."
)


class Contents(NamedTuple):
    """What a page is made of. measured: by the index of the pipeline among all pipelines;
    plots: section -> plots; limit: questions measured.
    """

    series: list[Series]
    measured: dict[int, Measured]
    plots: dict[str, list[Plot]]
    limit: int
    command: str

    @property
    def pipelines(self) -> list[Pipeline]:
        """All pipelines, series after series."""
        return [pipeline for series in self.series for pipeline in series.pipelines]


def figure_of(plot: Plot) -> Markup:
    """A plot that follows the page's light or dark, with its question and how to read it."""
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(image).decode()}"
        for image in (plot.light, plot.dark)
    )
    picture = tag(
        "picture",
        tag("source", srcset=dark, media="screen and (prefers-color-scheme: dark)"),
        tag("img", src=light, alt=f"{plot.question} {plot.note}"),
    )
    caption = tag("figcaption", tag("strong", plot.question), tag("p", plot.note))
    return tag("figure", caption, picture)


def names_of(pipelines: Sequence[Pipeline]) -> list[str]:
    """A name for each pipeline: its model type, with its folder where the type is not unique."""
    names = []
    for pipeline in pipelines:
        model_type = pipeline.model_type
        unique = sum(p.model_type == model_type for p in pipelines) == 1
        names.append(model_type if unique else f"{model_type} {pipeline.folder}")
    return names


def verdicts(pipeline: Pipeline) -> list[str]:
    """A line a stage: better or worse than the model it started from, from the gains it stored."""
    lines = []
    for name, stage in pipeline.stages.items():
        stored = stage.checkpoint.metrics if stage.checkpoint else {}
        metrics = {k: v for k, v in stored.items() if isinstance(v, int | float)}
        texts, gains = [], {}
        for metric, (words, unit) in GAINS.items():
            gain = _gain_of(metrics, metric)
            if gain is not None:
                gains[metric] = gain
                verdict = VERDICTS[gain.verdict()]
                texts.append(f"{words} {verdict} ({gain.in_words(sign='+')} {unit})")
        if texts:
            warning = caution(gains.values())
            seen = metrics.get("trained_on_questions")
            marked = f" (of {seen} questions the context was trained on)" if seen else ""
            lines.append(
                f"{NAMES[name]} against the model it started from{marked}: {'; '.join(texts)}"
                f"{warning and f' ({warning})'}."
            )
        signs = [gains[n].verdict() if n in gains else None for n in ("reward", "f1")]
        if signs == [1, -1]:
            lines.append("The reward rose while F1 fell: the reward was hacked.")
    return lines


def _gain_of(metrics: dict, name: str) -> Interval | None:
    """A stored gain with its interval; None where there is none. Older checkpoints do not say how
    many contexts it is from.
    """
    if f"{name}_gain" not in metrics:
        return None
    ends = (metrics.get(f"{name}_gain{end}", math.nan) for end in ("", "_low", "_high"))
    return Interval(*ends, metrics.get(f"{name}_gain_contexts"))


def figures_table(
    table: dict[str, dict[str, Interval]], questions: int, base: bool, metric: str
) -> Markup:
    """Every policy and rule with every metric and its interval."""
    columns = [n for n in COLUMNS if any(n in row for row in table.values())]
    heads = [tag("th", "", scope="col")]
    for name in columns:
        words, unit = COLUMNS[name]
        heads.append(tag("th", words, " ", tag("small", f"({unit})"), scope="col"))
    rows = []
    for name, metrics in table.items():
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
        f"{questions} held-out questions, greedy answers, 95% bootstrap intervals over contexts; "
        f"start: the SFT model that the last stage started from; answers compared by {metric}"
    )
    if base:
        words += "; base: as main_squad.py logged it before its first step, on its eval_limit"
    if warning := caution(value for row in table.values() for value in row.values()):
        words += f"; {warning}"
    caption, head = tag("caption", tag("div", words)), tag("thead", tag("tr", *heads))
    return tag("div", tag("table", caption, head, tag("tbody", *rows)), class_="wide")


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
        )  # fmt: skip
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
            ] if first else []  # fmt: skip
    table = tag("table", tag("thead", tag("tr", *(tag("th", h, scope="col") for h in heads))),
                tag("tbody", *rows))  # fmt: skip
    return join([
        tag("div", table, class_="wide runs"),
        *data,
        tag("details", tag("summary", "all flags, as they were resolved"), *flags),
    ])  # fmt: skip


def answer_sections(contents: Contents) -> list[Markup]:
    """A table for each set of questions; policies that met the same questions share one."""
    tables: dict[tuple, tuple] = {}
    names, done = names_of(contents.pipelines), set()
    for place, measured in contents.measured.items():
        key = tuple(measured.held_out.ids), tuple(measured.held_out.asked)
        _, policies = tables.setdefault(key, (measured.held_out, {}))
        checkpoints = contents.pipelines[place].policies()
        for stage, result in measured.answers.items():
            same = (key, checkpoints[stage].sha256)
            if same in done:  # an ancestor of several pipelines
                continue
            done.add(same)
            prefix = f"{names[place]} " if len(names) > 1 else ""
            policies[f"{prefix}{NAMES[stage]}"] = result
    return [answers_table(n, *table) for n, table in enumerate(tables.values(), 1)]


def page(contents: Contents) -> str:
    """The whole document."""
    pipelines, names = contents.pipelines, names_of(contents.pipelines)
    title = f"RLHF run: {', '.join(s.label for s in contents.series)}"
    notes = [f"{n}: {note}" for n, p in zip(names, pipelines, strict=True) for note in p.notes]
    glance = [
        f"{n}: {line}" if len(pipelines) > 1 else line
        for n, p in zip(names, pipelines, strict=True)
        for line in verdicts(p)
    ]
    sections: list[tuple[str, str, list[Markup]]] = []
    figures = []
    for place, measured in contents.measured.items():
        head = tag("h3", names[place]) if len(pipelines) > 1 else None
        found = measured.table
        held_out = measured.held_out
        table = figures_table(found, len(held_out.asked), BASE in found, held_out.metric)
        figures.append(join([head, table]))
    plots = {name: [tag("div", *map(figure_of, found), class_="plots")]
             for name, found in contents.plots.items() if found}  # fmt: skip
    sections.append(("quality", "How good are the answers?", plots.get("quality", []) + figures))
    sections.append(("hacking", "Reward against KL", plots.get("hacking", [])))
    sections.append(("rewards", "What the reward model prefers", plots.get("rewards", [])))
    for stage in STAGES:
        sections.append((stage, f"{NAMES[stage]}, step by step", plots.get(stage, [])))
    sections.append(("answers", "Answers side by side", answer_sections(contents)))
    runs = [join([tag("h3", f"{n} ({p.folder})"), run_table(p)])
            for n, p in zip(names, pipelines, strict=True)]  # fmt: skip
    made = f"Report made {time.strftime('%Y-%m-%d %H:%M:%S %Z')} by {contents.command}"
    sections.append(("run", "What was run", [*runs, tag("p", made, class_="faint")]))
    nothing = tag("p", "Nothing to show here: see what is missing, at the top.", class_="faint")
    here = Path(__file__)
    body = join([
        tag("h1", title),
        tag("ul", *(tag("li", line) for line in glance)) if glance else None,
        tag("p", OWN_QUESTIONS, class_="faint") if glance else None,
        tag("h3", "Missing or not as expected") if notes else None,
        tag("ul", *(tag("li", note) for note in notes)) if notes else None,
        tag("nav", *(tag("a", words, href=f"#{key}") for key, words, _ in sections)),
        *(tag("section", tag("h2", words), *(content or [nothing]), id=key)
          for key, words, content in sections),
        tag("script", Markup(here.with_name("page.js").read_text(encoding="utf-8"))),
    ])  # fmt: skip
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(here.with_name("page.css").read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body), lang='en')}\n"
