"""An experiment file (TOML) as a list of cells: one run of one script for one seed.

A stage is a script with flags. `grid` makes a variant of it for every combination of values,
`variants` for every named set of flags. `parents` names the stages whose checkpoints it starts
from: each variant of a parent makes another variant, unless two parents would have different
ancestors. docs/experiments.md describes the file. Imports nothing heavy.
"""

import contextlib
import importlib
import io
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from src.utils.cli import Parser
from src.utils.errors import UserError

EVALUATION = "eval_dpo.py"
SCRIPTS = (
    "main_squad.py", "train_dpo.py", "train_reward_model.py", "train_ppo.py", EVALUATION,
)
# Flags that the sweep sets itself.
OWN_FLAGS = (
    "seed", "threads", "output_dir", "resume", "overwrite", "output", "per_question", "predictions",
)
# What each part of a file may have -> what it must be.
TOP = {
    "title": str, "seeds": list, "flags": dict, "stages": dict, "baseline": dict, "metrics": list,
    "compare": list, "matrices": list, "curves": dict,
}
STAGE = {
    "script": str, "parents": dict, "copy": dict, "flags": dict, "grid": dict, "variants": dict,
}
MATRIX = {"metric": str, "rows": str, "columns": str, "where": dict}
CURVES = {"stages": list, "panel": str}


class Cell(NamedTuple):
    """One run. choices: "stage.flag" -> value of every variant chosen, ancestors' included;
    parents: flag -> the cell whose checkpoint is given to it; flags: those of the file; argv: all.
    """

    stage: str
    script: str
    seed: int
    choices: dict[str, Any]
    parents: dict[str, "Cell"]
    folder: Path
    flags: dict[str, Any]
    argv: list[str]

    @property
    def label(self) -> str:
        """The stage and what was chosen, without the seed."""
        return " ".join([self.stage, *words(self.choices, self.stage)])

    @property
    def result(self) -> Path:
        """The file that a run writes last: it is finished once that is there."""
        return self.folder / ("questions.json" if self.script == EVALUATION else "final.pt")

    @property
    def name(self) -> str:
        """The label with the seed."""
        return f"{self.label}, seed {self.seed}"

    @property
    def key(self) -> tuple:
        """What identifies a cell among all of an experiment."""
        return self.stage, tuple(self.choices.items()), self.seed

    def policy(self) -> "Cell":
        """The cell that an evaluation measures; any other cell itself."""
        return self.parents["checkpoint"] if self.script == EVALUATION else self


class Experiment(NamedTuple):
    """A file that was read, and its text. cells: in the order in which they may run; options: what
    the table and the page show.
    """

    path: Path
    text: str
    title: str
    seeds: list[int]
    cells: list[Cell]
    options: dict[str, Any]


def finished(cells: Sequence[Cell]) -> set[tuple]:
    """Keys of the cells whose results are there, and those of all their ancestors. cells: parents
    first.
    """
    done: set[tuple] = set()
    for cell in cells:
        if cell.result.exists() and all(parent.key in done for parent in cell.parents.values()):
            done.add(cell.key)
    return done


def words(choices: dict[str, Any], stage: str) -> list[str]:
    """Choices in words, those of the stage itself without its name.

    >>> words({"rl.algorithm": "ppo", "reward.max_pairs": 100}, "rl")
    ['algorithm=ppo', 'reward.max_pairs=100']
    """
    return [f"{key.removeprefix(f'{stage}.')}={value}" for key, value in choices.items()]


def read_experiment(path: str, output_dir: str | None, threads: int) -> Experiment:
    """Read and check a file; UserError names what is wrong, before anything runs."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} given, expected a TOML file ({reason})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}, expected TOML (docs/experiments.md)") from None
    try:
        return _experiment(Path(path), text, table, folder_of(path, output_dir), threads)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def folder_of(path: str, output_dir: str | None) -> Path:
    """Where an experiment's cells, table and page go."""
    return Path(output_dir or f"runs/{Path(path).stem}")


def _experiment(path: Path, text: str, table: dict, folder: Path, threads: int) -> Experiment:
    _check_table(table, TOP, "the file", ("seeds", "stages"))
    seeds = table["seeds"]
    if not seeds or len(set(map(str, seeds))) < len(seeds) or not all(
        type(seed) is int and seed >= 0 for seed in seeds
    ):
        raise UserError(f"seeds = {seeds}, expected different whole numbers from 0")
    cells: list[Cell] = []
    for seed in seeds:
        of_stage: dict[str, list[Cell]] = {}
        for name, stage in table["stages"].items():
            found = _cells_of(name, stage, of_stage, table.get("flags", {}), seed, folder, threads)
            of_stage[name] = list(found)
            if not of_stage[name]:
                raise UserError(f"stage {name}: no variants of its parents fit together")
            cells += of_stage[name]
    folders = [cell.folder for cell in cells]
    if len(set(folders)) < len(folders):
        twice = next(f for f in folders if folders.count(f) > 1)
        raise UserError(f"two cells have the folder {twice}, expected values that differ")
    keys = [cell.key for cell in cells]
    if len(set(keys)) < len(keys):  # as 1 and 1.0 make them
        twice = next(cell for n, cell in enumerate(cells) if cell.key in keys[:n])
        raise UserError(f"two cells are equal to {twice.label}, expected values that differ")
    known = {flag for script in {cell.script for cell in cells} for flag in _flags_of(script)}
    unknown = set(table.get("flags", {})) - known
    if unknown:
        raise UserError(f"flags: {sorted(unknown)[0]} is a flag of no stage's script")
    _check_options(table, cells)
    options = {name: table[name] for name in TOP if name in table}
    return Experiment(path, text, table.get("title", path.stem), seeds, cells, options)


def _check_table(table: object, known: dict[str, type], where: str, needed=()) -> None:
    if not isinstance(table, dict):
        raise UserError(f"{where} is {table!r}, expected a table")
    for name, value in table.items():
        if name not in known:
            raise UserError(f"{where} has {name}, expected {', '.join(known)}")
        if not isinstance(value, known[name]):
            kind = {str: "a text", list: "a list", dict: "a table"}[known[name]]
            raise UserError(f"{where}: {name} = {value!r}, expected {kind}")
    for name in needed:
        if not table.get(name):
            raise UserError(f"{where} has no {name}, expected it")


def _cells_of(
    name: str, stage: object, earlier: dict[str, list[Cell]], shared: dict, seed: int, folder: Path,
    threads: int,
) -> Iterator[Cell]:
    """All variants of a stage for one seed."""
    where = f"stage {name}"
    _check_table(stage, STAGE, where, ("script",))
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{where}: expected a name of letters, digits and _")
    script = stage["script"]
    if script not in SCRIPTS:
        raise UserError(f"{where}: script {script!r}, expected one of {', '.join(SCRIPTS)}")
    if script == EVALUATION and "checkpoint" not in stage.get("parents", {}):
        raise UserError(f"{where}: no parents.checkpoint, expected the stages to evaluate")
    known = _flags_of(script)
    common = {flag: value for flag, value in shared.items() if flag in known}
    for parents, choices in _parents_of(name, stage.get("parents", {}), earlier):
        for own, flags in _variants_of(name, stage):
            chosen = {**choices, **own}
            place = "+".join(words(chosen, name)) or "."
            place = folder / name / re.sub(r"[^\w.+=-]", "-", place) / f"seed{seed}"
            copied = _copied(where, stage.get("copy", {}), parents)
            given = {**common, **copied, **stage.get("flags", {}), **flags}
            for flag in given:
                if flag in OWN_FLAGS or flag in parents:
                    raise UserError(f"{where}: {flag} in its flags, expected it left out: the "
                                    "sweep sets it")
            files = {flag: cell.result for flag, cell in parents.items()}
            argv = _argv({**given, **files}, where)
            if script == EVALUATION:
                argv += ["--output", str(place / "evaluation.json"),
                         "--per_question", str(place / "questions.json")]
            else:
                argv += ["--output_dir", str(place), "--seed", str(seed)]
            argv += ["--threads", str(threads)]
            _check_argv(script, argv, given, where)
            yield Cell(name, script, seed, chosen, parents, place, given, argv)


def _copied(where: str, copy: dict, parents: dict[str, Cell]) -> dict[str, Any]:
    """Flags that a parent was given too, of those that `copy` names."""
    copied = {}
    for parent, names in copy.items():
        if parent not in parents or not _are_texts(names):
            raise UserError(f"{where}: copy.{parent} = {names!r}, expected a list of flags of one "
                            f"of its parents ({', '.join(parents) or 'there is none'})")
        flags = parents[parent].flags
        copied |= {name: flags[name] for name in names if name in flags}
    return copied


def _parents_of(
    name: str, parents: dict, earlier: dict[str, list[Cell]]
) -> Iterator[tuple[dict[str, Cell], dict[str, Any]]]:
    """Each combination of cells for a stage's parents whose choices agree, and these choices."""
    columns = []
    for flag, value in parents.items():
        stages = value if isinstance(value, list) else [value]
        for stage in stages:
            if stage not in [*earlier]:
                raise UserError(
                    f"stage {name}: parents.{flag} names {stage!r}, expected a stage that stands "
                    f"before it ({', '.join(earlier) or 'there is none'})"
                )
        named = [{f"{name}.{flag}": stage} if len(stages) > 1 else {} for stage in stages]
        columns.append([(flag, cell, which) for stage, which in zip(stages, named, strict=True)
                        for cell in earlier[stage]])
    for row in itertools.product(*columns):
        choices: dict[str, Any] = {}
        parts = [part for _, cell, which in row for part in (cell.choices, which)]
        if all(choices.setdefault(k, v) == v for part in parts for k, v in part.items()):
            yield {flag: cell for flag, cell, _ in row}, choices


def _variants_of(name: str, stage: dict) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(what is chosen, the flags that follow) of each variant."""
    grid, variants = stage.get("grid", {}), stage.get("variants", {})
    for flag, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"stage {name}: grid.{flag} = {values!r}, expected a list of values")
    for variant, flags in variants.items():
        if not isinstance(flags, dict):
            raise UserError(f"stage {name}: variants.{variant} = {flags!r}, expected a table")
    for values in itertools.product(*grid.values()):
        flags = dict(zip(grid, values, strict=True))
        own = {f"{name}.{flag}": value for flag, value in flags.items()}
        for variant, more in variants.items() or [(None, {})]:
            named = {f"{name}.variant": variant} if variants else {}
            yield own | named, flags | more


@cache
def _parser_of(script: str) -> Parser:
    return importlib.import_module(script.removesuffix(".py")).build_parser()


def _flags_of(script: str) -> set[str]:
    return {option.removeprefix("--") for a in _parser_of(script)._actions
            for option in a.option_strings}


def _argv(flags: dict[str, Any], where: str) -> list[str]:
    """Flags as a command line has them: true alone, false left out."""
    argv = []
    for flag, value in flags.items():
        if isinstance(value, list | dict):
            raise UserError(f"{where}: {flag} = {value!r}, expected one value; several: in grid")
        if value is not False:
            argv += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    return argv


def _check_argv(script: str, argv: list[str], given: dict[str, Any], where: str) -> None:
    """UserError for flags that the script does not take, or that are on although they are false."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = _parser_of(script).parse_args(argv)
    except SystemExit:
        raise UserError(f"{where}: {said.getvalue().strip()}") from None
    for flag, value in given.items():
        if value is False and getattr(parsed, flag, False) is True:
            raise UserError(f"{where}: {flag} = false given, which leaves out a flag that is on by "
                            f"default, expected no_{flag} = true")


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check_options(table: dict, cells: list[Cell]) -> None:
    """UserError for options that name what is not there."""
    stages = table["stages"]
    keys = {key for cell in cells for key in cell.choices}
    baseline = table.get("baseline")
    if baseline is not None and baseline.get("stage") not in [*stages]:  # a list is in no dict
        raise UserError(f"baseline = {baseline}, expected stage = one of {', '.join(stages)}")
    for key in set(baseline or {}) - {"stage"}:
        if key not in keys:
            raise UserError(f"baseline: {key} is chosen nowhere, expected one of {sorted(keys)}")
    for name in ("metrics", "compare"):
        if not _are_texts(table.get(name, [])):
            raise UserError(f"{name} = {table[name]!r}, expected a list of metrics' names")
    for number, matrix in enumerate(table.get("matrices", []), 1):
        _check_table(matrix, MATRIX, f"matrix {number}", ("metric", "rows", "columns"))
        for key in (matrix["rows"], matrix["columns"], *matrix.get("where", {})):
            if key not in keys:
                raise UserError(f"matrix {number}: {key} is chosen nowhere, expected one of "
                                f"{sorted(keys)}")
    curves = table.get("curves", {})
    _check_table(curves, CURVES, "curves", ("stages",) if curves else ())
    for stage in (*curves.get("stages", []), *([curves["panel"]] if "panel" in curves else [])):
        if stage not in [*stages]:
            raise UserError(f"curves: {stage!r} given, expected one of {', '.join(stages)}")
