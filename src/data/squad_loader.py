"""Where questions come from: data files, the hub, or the embedded `pico` generator.

Whatever the source, the outcome is the same: training and validation paragraphs with disjoint
article titles and contexts, a report of what was dropped and mended, and an identity. From the
identity a later stage loads the very same data, or is refused if the data has changed since.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from src.data.pico import generate_questions
from src.data.row_files import SUFFIXES, read_rows
from src.data.squad_parse import EXPECTED_ROWS, LoadReport, parse_rows, rows_of
from src.data.squad_splits import (
    content_hash,
    count_questions,
    disjoint,
    note_no_places,
    sample,
    share_beginnings,
    split_by_title,
    with_places,
)
from src.data.squad_types import Paragraph, Question
from src.utils.constants import DEFAULT_DIFFICULTY
from src.utils.errors import UserError

__all__ = ["Paragraph", "Question", "SquadData", "load_from_identity", "load_squad"]

HUB_SQUAD = "rajpurkar/squad"
AUTO_SECONDS = 10
PICO_TRAIN_QUESTIONS = 60_000
PICO_VALIDATION_QUESTIONS = 1_000
SPLITS = ("train", "validation", "test")
# How the names of files and of hub splits begin.
_SPLIT = re.compile(
    r"(?P<train>train)|(?P<validation>valid|dev|val(?![a-z]))|(?P<test>test)", re.IGNORECASE
)
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_FETCH = "import datasets, sys; datasets.load_dataset(sys.argv[1])"

# A split's name -> what loads it. `whole` is that of a lone file, which has no splits.
Sources = dict[str, Callable[[], list]]
# Reads rows, each with its place, as questions, or for `--pairs` as preference pairs.
Parse = Callable[[Iterable[tuple[str, Any]], LoadReport], list]


class Reading(NamedTuple):
    """How the rows of files and hub sets are read. flag: the one that names them, for messages;
    expected: the kinds of rows, in words.
    """

    parse: Parse = parse_rows
    flag: str = "--dataset"
    expected: str = EXPECTED_ROWS


QUESTIONS = Reading()


class SquadData(NamedTuple):
    """train, validation: paragraphs with disjoint titles and contexts; identity: see load_squad;
    report: what was left out, mended and decided."""

    train: list[Paragraph]
    validation: list[Paragraph]
    identity: dict
    report: LoadReport


def load_squad(
    dataset: str = "auto",
    *,
    seed: int = 0,
    difficulty: int = DEFAULT_DIFFICULTY,
    num_examples: int | None = None,
    strict: bool = False,
    evaluate: bool = False,
    split: str | None = None,
) -> SquadData:
    """Load `--dataset`: auto, squad, pico, a file, a folder or a hub id. A folder or a hub id may
    name one of its configurations, as NAME:CONFIG.

    seed, difficulty: the generator's; `seed` also draws the sample of `num_examples`.
    num_examples: training questions to keep, in whole paragraphs, so there may be a few more. None:
        all there are (for pico, which has no end, 60,000).
    strict: refuse data if any of it would be dropped.
    evaluate: `train` is empty, and `validation` is what to measure on: `split`, else the validation
        split, else a lone file as a whole, else the test split.
    The identity holds the arguments that matter, the counts, and a sha256 of the content.
    """
    if num_examples is not None and num_examples < 1:
        raise UserError(f"--num_examples {num_examples}: expected 1 or more")
    if split is not None and (not evaluate or split not in SPLITS):
        raise UserError(f"--split {split}: expected {', '.join(SPLITS)}, for an evaluation")
    report = LoadReport(strict)
    dataset, sources = _find(dataset, seed, difficulty, num_examples, report)
    if evaluate:
        train, validation = [], _measured(sources, split, dataset, report)
    else:
        parts = _halves(sources, dataset, report)
        validation = parts["validation"]
        train = with_places(disjoint(parts["train"], validation, report), report)
        _usable(train, "train", dataset, report)
        train = share_beginnings(sample(train, num_examples, seed))
    note_no_places(validation, report)
    templates = {p.template for p in (*train, *validation)}
    if len(templates) > 1:
        raise UserError(
            f"--dataset {dataset}: some rows have a prompt, some a context and a question; "
            "expected one kind in all splits"
        )
    identity = {
        "dataset": dataset,
        "seed": seed,
        "difficulty": difficulty,
        "num_examples": num_examples,
        "strict": strict,
        "evaluate": evaluate,
        "split": split,
        "template": templates.pop(),
        "train_questions": count_questions(train),
        "validation_questions": count_questions(validation),
        "fingerprint": content_hash([*train, *validation]),
    }
    return SquadData(train, validation, identity, report)


def _usable(
    paragraphs: list[Paragraph], name: str, dataset: str, report: LoadReport
) -> list[Paragraph]:
    """The paragraphs, if there are any."""
    if paragraphs:
        return paragraphs
    raise UserError(
        f"--dataset {dataset}: no usable question for {name}; "
        + ("; ".join(report.lines()) or "it is empty")
    )


def _measured(
    sources: Sources, split: str | None, dataset: str, report: LoadReport
) -> list[Paragraph]:
    """What an evaluation measures on."""
    found = (name for name in ("validation", "whole", "test") if name in sources)
    name = split or next(found, "validation")
    if name in sources:
        return _usable(sources[name](), name, dataset, report)
    if name == "test":
        raise UserError(f"--dataset {dataset}: --split test given, it has {', '.join(sources)}")
    return _halves(sources, dataset, report)[name]


def _halves(sources: Sources, dataset: str, report: LoadReport) -> dict[str, list[Paragraph]]:
    """Train and validation. If there is only one of them, or a lone file, it is split."""
    if "train" in sources and "validation" in sources:
        found = {name: sources[name]() for name in ("train", "validation")}
        for name, paragraphs in found.items():
            _usable(paragraphs, name, dataset, report)
        return found
    lone = next((name for name in ("whole", "train", "validation") if name in sources), None)
    if lone is None:
        raise UserError(
            f"--dataset {dataset}: only a test split, which eval_dpo.py can measure on; expected a "
            "training split too"
        )
    return split_by_title(_usable(sources[lone](), lone, dataset, report), dataset, report)


def require_difficulties(dataset: str, difficulty: int | None) -> None:
    """UserError if a difficulty is given for data without difficulties."""
    if difficulty and dataset != "pico":
        raise UserError(
            f"--difficulty {difficulty} given, but the data is {dataset}, expected it left out: "
            "only the embedded data has difficulties"
        )


def load_from_identity(identity: dict) -> SquadData:
    """The data of an earlier stage. UserError when it is not the same any more."""
    arguments = ("seed", "difficulty", "num_examples", "strict", "evaluate", "split")
    missing = {"dataset", "fingerprint", *arguments} - set(identity)
    if missing:
        raise UserError(
            f"the stored data set identity has no {sorted(missing)[0]}; the checkpoint is damaged "
            "or not of this project"
        )
    data = load_squad(identity["dataset"], **{name: identity[name] for name in arguments})
    if data.identity["fingerprint"] != identity["fingerprint"]:
        raise UserError(
            f"--dataset {identity['dataset']}: its content is not what the checkpoint was trained "
            f"on (sha256 {data.identity['fingerprint'][:12]}, expected "
            f"{str(identity['fingerprint'])[:12]}); restore the data, or name another --dataset"
        )
    return data


def _find(
    dataset: str, seed: int, difficulty: int, num_examples: int | None, report: LoadReport
) -> tuple[str, Sources]:
    """(data set that was found, its splits, each loaded when it is asked for)."""
    if dataset == "auto":
        if _fetched_within(AUTO_SECONDS):
            dataset = "squad"
        else:
            print(
                f"--dataset auto: SQuAD could not be had within {AUTO_SECONDS} seconds; "
                "using the embedded pico data (--dataset pico)",
                file=sys.stderr,
            )
            dataset = "pico"
    if dataset == "pico":
        sizes = {
            "train": num_examples or PICO_TRAIN_QUESTIONS,
            "validation": PICO_VALIDATION_QUESTIONS,
        }
        return dataset, {
            name: partial(generate_questions, seed, name, size, difficulty)
            for name, size in sizes.items()
        }
    if dataset == "squad":
        return dataset, _hub_sources(HUB_SQUAD, None, report)
    return dataset, sources_at(dataset, report, names="auto, squad, pico, ")


def sources_at(
    name: str, report: LoadReport, reading: Reading = QUESTIONS, names: str = ""
) -> Sources:
    """The splits of a file, a folder or a hub set, each loaded when it is asked for.

    names: what else the flag takes, for the message where nothing is found.
    """
    path = Path(name)
    if path.is_dir():
        return _folder_sources(path, report, reading) or _hub_sources(name, None, report, reading)
    if os.path.lexists(path):
        return {"whole": partial(_of_files, [path], report, reading)}
    folder, colon, config = name.rpartition(":")
    if colon and Path(folder).is_dir():
        return _hub_sources(folder, config or None, report, reading)
    hub_id = _HUB_ID.fullmatch(name)
    if hub_id and name[0] != "." and path.suffix.removeprefix(".") not in (*SUFFIXES, "gz"):
        return _hub_sources(*hub_id.groups(), report, reading)
    raise UserError(
        f"{reading.flag} {name}: no such file or folder; expected {names}a data file "
        f"({', '.join(SUFFIXES)}), a folder of them named train*, dev* or validation*, test*, or a "
        "hub id (org/name); of a hub set or folder with configurations one of them, as "
        "name:configuration"
    )


def _folder_sources(folder: Path, report: LoadReport, reading: Reading) -> Sources:
    """The splits whose files stand in the folder itself, by the beginnings of their names."""
    ends = tuple(f".{suffix}" for suffix in SUFFIXES)
    files = sorted(file.name for file in folder.iterdir())
    split = _by_split(name for name in files if name.removesuffix(".gz").endswith(ends))
    return {name: partial(_of_files, [folder / n for n in its], report, reading)
            for name, its in split.items()}


def _by_split(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each split."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _SPLIT.match(name):
            found.setdefault(match.lastgroup, []).append(name)
    return found


def _of_files(files: list[Path], report: LoadReport, reading: Reading) -> list:
    """The rows of some files, read together in their order."""
    rows = (
        row
        for file in files
        for row in rows_of(read_rows(file), str(file), report, reading.expected)
    )
    return reading.parse(rows, report)


def _hub_sources(
    hub_id: str, config: str | None, report: LoadReport, reading: Reading = QUESTIONS
) -> Sources:
    """The splits of a hub data set, or of a folder that is laid out or was saved as one."""
    _offline_without_address()
    import datasets  # takes a second; pico does not need it

    saved = any(Path(hub_id, name).exists() for name in ("dataset_dict.json", "state.json"))
    if saved and config:
        raise UserError(
            f"{reading.flag} {hub_id}:{config}: expected {hub_id}, a folder of save_to_disk has no "
            "configurations"
        )
    try:
        if saved:  # in plain values, with all columns, whatever format it was saved in
            found = datasets.load_from_disk(hub_id).with_format(None)
        else:
            found = datasets.load_dataset(hub_id, config)
    except Exception as error:  # the library raises dozens of kinds, of network, hub and format
        reason = " ".join(str(error).split())[:1000]
        advice = "check the name and the network"
        if reading is QUESTIONS:
            advice += ", or use --dataset pico"
        if isinstance(error, ValueError) and "config" in reason.lower():
            advice = f"name one as {reading.flag} {hub_id}:CONFIGURATION"
        elif Path(hub_id).is_dir():
            advice = f"expected files train*, dev* or validation*, test* ({', '.join(SUFFIXES)})"
        raise UserError(
            f"{reading.flag} {hub_id}: the datasets library cannot load it "
            f"({type(error).__name__}: {reason}); {advice}"
        ) from None
    if not isinstance(found, dict):  # save_to_disk of a single split
        return {"whole": partial(_of_hub, {hub_id: found}, report, reading)}
    sources: Sources = {}
    for split, names in _by_split(found).items():
        rows = {f"{hub_id} {name}": found[name] for name in names}
        sources[split] = partial(_of_hub, rows, report, reading)
    if not sources:
        raise UserError(
            f"{reading.flag} {hub_id}: it has the splits {', '.join(found)}; expected one of "
            f"{', '.join(SPLITS)}"
        )
    return sources


def _of_hub(splits: dict[str, Iterable[Any]], report: LoadReport, reading: Reading) -> list:
    """The rows of some splits, read together."""
    return reading.parse(
        (
            (f"{source}, row {number}", row)
            for source, rows in splits.items()
            for number, row in enumerate(rows, 1)
        ),
        report,
    )


def _offline_without_address() -> None:
    """Make the hub's libraries look only in their cache if the hub's name has no address.

    Otherwise they would retry for half a minute first. They read the variable on import.
    """
    if getproxies():  # which look names up themselves
        return
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.getaddrinfo(hub.hostname, hub.port or hub.scheme)
    except (OSError, ValueError):  # no address, or no name that could have one
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _fetched_within(seconds: float) -> bool:
    """Whether the hub's SQuAD came into the library's cache in time. This runs in a child process,
    because only a process can be ended: the library retries and waits in ways that no flag bounds.
    """
    _offline_without_address()
    try:
        child = subprocess.run(
            [sys.executable, "-c", _FETCH, HUB_SQUAD],
            timeout=seconds,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return child.returncode == 0
