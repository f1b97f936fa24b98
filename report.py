"""What RLHF did to a model: every stage of a pipeline in one page, with plots and answers.

    PYTHONPATH=src python report.py

Finds the stages in --checkpoints (a folder of stages' folders; several for several seeds or
models), measures their policies on held-out questions, and writes report.html, which needs
nothing else, and the plots as PNG files beside it.
"""

import shlex
from pathlib import Path

from src.utils import cli
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="report.py", description=__doc__.split("\n")[0])
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--checkpoints", nargs="+", default=["checkpoints"], metavar="DIR",
        help="folders of stages' folders; several: other seeds (bands) and models (compared)")
    add("--output_dir", default="report", help="folder for report.html and the PNG files")
    add("--limit", type=cli.positive_int, default=200,
        help="held-out questions measured, a sample by --seed")
    return parser


with flags_first(__name__, build_parser):
    from src.report.curves import CURVES, draw_curve
    from src.report.drawing import png
    from src.report.measure import measure_pipeline
    from src.report.page import Contents, page
    from src.report.pipelines import find_pipelines, group_pipelines
    from src.report.summary_plots import hacking_plot, quality_plot, reward_plot
    from src.training.run import set_up_torch
    from src.utils.files import require_folder, write_atomically
    from src.utils.progress_bar import say


def plots_of(series, measured: dict) -> dict:
    """Section of the page -> its plots, those left out for which nothing was logged."""
    runs_of, tables, place = [], [], 0
    for one in series:
        found = [measured[n] for n in range(place, place + len(one.pipelines)) if n in measured]
        place += len(one.pipelines)
        runs_of.append(found)
        if found:
            tables.append((one.label, [run.table for run in found]))
    numbered = "" if len(series) == 1 else "_{}"
    plots = {
        "quality": [quality_plot("em", "EM (%)", tables), quality_plot("f1", "F1 (%)", tables)],
        "hacking": [
            hacking_plot(f"ppo{numbered.format(n)}", one) for n, one in enumerate(series, 1)
        ],
        "rewards": [
            reward_plot(one.label, f"kinds{numbered.format(n)}", found)
            for n, (one, found) in enumerate(zip(series, runs_of, strict=True), 1)
        ],
    }
    for curve in CURVES:
        plots.setdefault(curve.stage, []).append(draw_curve(curve, series))
    return {section: [p for p in found if p is not None] for section, found in plots.items()}


@command
def main(argv=None) -> dict:
    """Write the report; returns {"report": its path, "plots": the PNG files' paths}."""
    args = build_parser().parse_args(argv)
    folder = Path(args.output_dir)
    require_folder(folder)

    device = set_up_torch(args)
    series = group_pipelines(find_pipelines(args.checkpoints))
    measured, loaded = {}, {}
    for place, pipeline in enumerate(pipeline for one in series for pipeline in one.pipelines):
        found = measure_pipeline(pipeline, args.limit, args.seed, device, loaded)
        if found is not None:
            measured[place] = found
        for note in pipeline.notes:
            say(f"{pipeline.model_type} in {pipeline.folder}: {note}")
    plots = plots_of(series, measured)
    made_by = ["report.py", "--checkpoints", *args.checkpoints, "--limit", str(args.limit)]
    made_by += ["--seed", str(args.seed)]
    text = page(Contents(series, measured, plots, shlex.join(made_by)))

    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for plot in (plot for found in plots.values() for plot in found):
        path = written[plot.name] = folder / f"{plot.name}.png"
        image = png(plot)
        write_atomically(path, lambda file, image=image: file.write(image))
    path = folder / "report.html"
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "replace")))
    say(f"{path} written, {len(written)} plots beside it")
    return {"report": str(path), "plots": [str(p) for p in written.values()]}


if __name__ == "__main__":
    main()
