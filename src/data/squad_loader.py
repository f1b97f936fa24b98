"""Where questions come from: the hub, official SQuAD files, or the embedded `pico` generator.

Whatever the source, the outcome is the same: training and validation paragraphs whose article
titles and contexts are disjoint, counts of what was dropped, and an identity from which a later
stage loads the very same data (and is refused when the data has changed since).
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from src.data.pico_squad import generate_articles
from src.data.squad_parse import Dropped, parse_squad, read_json
from src.data.squad_splits import (
    content_hash,
    count_questions,
    disjoint,
    first,
    sample,
    split_by_title,
)
from src.data.squad_types import Paragraph, Question
from src.utils.errors import UserError

__all__ = ["Paragraph", "Question", "SquadData", "load_from_identity", "load_squad"]

HUB_SQUAD = "rajpurkar/squad"
AUTO_SECONDS = 10
PICO_TRAIN_QUESTIONS = 120_000
PICO_VALIDATION_QUESTIONS = 1_000
FOLDER_FILES = {"train": ("train*.json",), "validation": ("dev*.json", "validation*.json")}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ROOT = Path(__file__).resolve().parents[2]


class SquadData(NamedTuple):
    """train, validation: paragraphs with disjoint titles and contexts; identity: see load_squad;
    dropped: what was left out, reason -> count (questions, or answers where the reason says so)."""

    train: list[Paragraph]
    validation: list[Paragraph]
    identity: dict
    dropped: dict[str, int]


def load_squad(
    dataset: str = "auto",
    *,
    seed: int = 0,
    difficulty: int = 2,
    num_examples: int | None = None,
    strict: bool = False,
    evaluate: bool = False,
    split: str | None = None,
) -> SquadData:
    """Load `--dataset`: auto, squad, pico, the path of a SQuAD file or folder, or a hub id.

    seed, difficulty: the generator's; `seed` also draws the sample of `num_examples`.
    num_examples: training questions to keep, in whole paragraphs, so a few more may come; None: all
        there are (of pico, which has no end, 120,000).
    strict: refuse data of which anything would be dropped.
    evaluate: what is measured on becomes `validation`, and `train` is empty: a lone file is taken
        whole, and of several splits `split` (train or validation, the default) is taken.
    The identity holds the arguments that matter, the counts, and a sha256 of the content.
    """
    if num_examples is not None and num_examples < 1:
        raise UserError(f"--num_examples {num_examples}: expected 1 or more")
    if split is not None and (not evaluate or split not in FOLDER_FILES):
        raise UserError(f"--split {split}: expected train or validation, for an evaluation")
    dropped = Dropped(strict)
    wanted: Sequence[str] = ("train", "validation")
    if evaluate:
        wanted = (split or ("whole" if Path(dataset).is_file() else "validation"),)
    dataset, parts = _load(dataset, wanted, seed, difficulty, num_examples, dropped)
    if evaluate:
        train, validation = [], parts[wanted[0]]
    else:
        validation = parts["validation"]
        train = sample(disjoint(parts["train"], validation, dropped), num_examples, seed)
    for name, part in (("training", train), ("validation", validation)):
        if not part and not (evaluate and name == "training"):
            rows = ", ".join(f"{count} x {reason}" for reason, count in dropped.counts.items())
            raise UserError(
                f"--dataset {dataset}: no usable question for {name}; dropped: {rows or 'nothing'}"
            )
    identity = {
        "dataset": dataset,
        "seed": seed,
        "difficulty": difficulty,
        "num_examples": num_examples,
        "strict": strict,
        "evaluate": evaluate,
        "split": split,
        "train_questions": count_questions(train),
        "validation_questions": count_questions(validation),
        "fingerprint": content_hash([*train, *validation]),
    }
    return SquadData(train, validation, identity, dropped.counts)


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


def _load(
    dataset: str,
    wanted: Sequence[str],
    seed: int,
    difficulty: int,
    num_examples: int | None,
    dropped: Dropped,
) -> tuple[str, dict[str, list[Paragraph]]]:
    """(data set that was found, its splits by name, the wanted ones at least) before any sampling.

    wanted: train, validation, or of a lone file `whole`.
    """
    if dataset == "auto":
        layouts = _fetch_within(AUTO_SECONDS)
        if layouts is not None:
            return "squad", _hub_paragraphs(layouts, "squad", dropped)
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
        return dataset, {name: _pico(seed, name, sizes[name], difficulty) for name in wanted}
    if dataset == "squad":
        return dataset, _hub_paragraphs(_hub_layouts(HUB_SQUAD), dataset, dropped)
    path = Path(dataset)
    if path.is_dir():
        return dataset, {name: _folder(path, name, dropped) for name in wanted}
    if os.path.lexists(path):
        whole = parse_squad(read_json(path), str(path), dropped)
        return dataset, {"whole": whole} if "whole" in wanted else split_by_title(whole, dataset)
    if _HUB_ID.fullmatch(dataset) and not dataset.startswith(".") and path.suffix != ".json":
        return dataset, _hub_paragraphs(_hub_layouts(dataset), dataset, dropped)
    raise UserError(
        f"--dataset {dataset}: no such file or folder; expected auto, squad, pico, a SQuAD JSON "
        "file, a folder with train*.json and dev*.json or validation*.json, or a hub id (org/name)"
    )


def _pico(seed: int, split: str, questions: int, difficulty: int) -> list[Paragraph]:
    """The first generated paragraphs that hold this many questions: more articles change none."""
    articles, paragraphs = 4, generate_articles(seed, split, 4, difficulty)
    while (held := count_questions(paragraphs)) < questions:
        articles = max(articles + 1, int(1.02 * questions * articles / held) + 1)
        paragraphs = generate_articles(seed, split, articles, difficulty)
    return first(paragraphs, questions)


def _folder(folder: Path, split: str, dropped: Dropped) -> list[Paragraph]:
    """All files of one split, in the order of their names."""
    files = sorted({file for pattern in FOLDER_FILES[split] for file in folder.glob(pattern)})
    if not files:
        raise UserError(f"--dataset {folder}: no {' or '.join(FOLDER_FILES[split])} in this folder")
    layout: dict[str, Any] = {"data": []}
    for file in files:
        root = read_json(file)
        if len(files) == 1:
            return parse_squad(root, str(file), dropped)
        parse_squad(root, str(file), Dropped())  # so that a fault names its own file
        layout["data"] += root["data"]
    return parse_squad(layout, f"{folder}/{split}", dropped)


def _hub_paragraphs(
    layouts: dict[str, Any], source: str, dropped: Dropped
) -> dict[str, list[Paragraph]]:
    """Training and validation paragraphs of a hub data set; one split alone is split by title."""
    parts = {name: parse_squad(layouts[name], f"{source} {name}", dropped) for name in layouts}
    if len(parts) == 2:
        return parts
    return split_by_title([p for part in parts.values() for p in part], source)


def _hub_layouts(hub_id: str) -> dict[str, Any]:
    """Each split of a hub data set in the official layout, rows grouped by (title, context)."""
    _offline_without_address()
    from datasets import load_dataset  # takes a second, and pico does without

    try:
        splits = load_dataset(hub_id)
    except Exception as error:  # the library raises dozens of kinds, of network, hub and format
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"--dataset {hub_id}: the hub did not give it ({type(error).__name__}: {reason}); "
            "check the name and the network, or use --dataset pico"
        ) from None
    layouts = {}
    for split in ("train", "validation"):
        if split in splits:
            layouts[split] = _official_layout(splits[split], f"{hub_id} {split}")
    if not layouts:
        raise UserError(f"--dataset {hub_id}: no train or validation split; it has {list(splits)}")
    return layouts


def _offline_without_address() -> None:
    """Have the hub's libraries look in their cache alone where the hub's name has no address.

    They would retry for half a minute first. They read the variable as they are imported.
    """
    if getproxies():  # which look names up themselves
        return
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.getaddrinfo(hub.hostname, hub.port or hub.scheme)
    except (OSError, ValueError):  # no address, or no name that could have one
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _official_layout(rows: Any, source: str) -> dict[str, Any]:
    missing = {"id", "context", "question", "answers"} - set(rows.column_names)
    if missing:
        raise UserError(f"--dataset {source}: no column {sorted(missing)[0]!r}; expected SQuAD's")
    grouped: dict[tuple[Any, Any], list[dict]] = {}
    for row in rows:
        answers = row["answers"]
        if not isinstance(answers, dict) or set(answers) < {"text", "answer_start"}:
            raise UserError(f"--dataset {source}: answers without text and answer_start")
        golds = [
            {"text": text, "answer_start": start}
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        ]
        # Without titles every context is an article of its own.
        key = (row.get("title", row["context"]), row["context"])
        grouped.setdefault(key, []).append(
            {"id": row["id"], "question": row["question"], "answers": golds}
        )
    return {
        "data": [
            {"title": title, "paragraphs": [{"context": context, "qas": qas}]}
            for (title, context), qas in grouped.items()
        ]
    }


def _write_hub_layouts(path: str) -> None:
    """The child process of `_fetch_within`: fetch SQuAD and leave it at `path`."""
    Path(path).write_text(json.dumps(_hub_layouts(HUB_SQUAD)), encoding="utf-8")


def _fetch_within(seconds: float) -> dict[str, Any] | None:
    """SQuAD in the official layout, or None. In a child process, since only a process can be ended:
    the library retries and waits in ways no flag bounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "squad.json")
        code = "import sys, src.data.squad_loader as s; s._write_hub_layouts(sys.argv[1])"
        try:
            child = subprocess.run(
                [sys.executable, "-c", code, path],
                cwd=_ROOT,
                timeout=seconds,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        return read_json(Path(path)) if child.returncode == 0 else None
