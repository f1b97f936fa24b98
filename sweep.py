"""Run an experiment: a grid of stages, flags and seeds, as one table and one page.

    PYTHONPATH=src python sweep.py experiments/algorithms.toml

Each cell of the grid is a run of an ordinary script in a folder of its own below --output_dir.
Started again, it skips what is finished and resumes what is not. Ends with table.csv and
index.html; docs/experiments.md says how to write an experiment and how to read the page.
"""

import os
import sys

from src.utils import cli
from src.utils.errors import UserError
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="sweep.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("experiment", metavar="EXPERIMENT.toml", nargs="?", help="the file that describes the grid")
    add("--output_dir", help="folder of all cells, the table and the page; default: runs/ and the "
        "file's name")
    add("--jobs", type=cli.positive_int, help="cells run at once; default: one a core")
    add("--threads", type=cli.positive_int, default=1, help="CPU threads of each cell")
    add("--report_only", action="store_true",
        help="run nothing: table and page of the cells that are finished")
    return parser


with flags_first(__name__, build_parser):
    from src.report.drawing import png
    from src.sweep.curves import panels_of
    from src.sweep.experiment import folder_of, read_experiment
    from src.sweep.page import page, plots_of
    from src.sweep.results import read_measured, table_text
    from src.sweep.runner import check_stored, run_cells
    from src.utils.files import require_folder, write_atomically


@command
def main(argv=None) -> dict:
    """Run what is not finished and write the report; returns {"table", "page", "failed"}."""
    args = build_parser().parse_args(argv)
    if args.experiment is None:
        raise UserError("no experiment given, expected a file, as experiments/algorithms.toml")

    experiment = read_experiment(args.experiment, args.output_dir, args.threads)
    folder = folder_of(args.experiment, args.output_dir)
    require_folder(folder)
    jobs = args.jobs or os.cpu_count() or 1
    failed = {}
    if args.report_only:
        check_stored(experiment.cells, any_threads=True)
    else:
        failed = run_cells(experiment.cells, jobs, args.threads, folder)

    measured = read_measured(experiment.cells)
    panels = panels_of(experiment, measured)
    plots = plots_of(panels)
    files = {
        "table.csv": table_text(experiment, measured).encode(),
        "index.html": page(experiment, measured, failed, panels, plots).encode(),
        **{f"{plot.name}.png": png(plot) for plot in plots},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, lambda file, content=content: file.write(content))
    written = {name: str(folder / name) for name in files}
    print(f"{written['table.csv']} and {written['index.html']} written, {len(plots)} plots beside")
    if failed:
        for cell in experiment.cells:
            if cell.key in failed:
                print(f"sweep.py: {cell.name}: {failed[cell.key]} ({cell.folder})", file=sys.stderr)
        raise SystemExit(1)
    return {"table": written["table.csv"], "page": written["index.html"], "failed": []}


if __name__ == "__main__":
    main()
