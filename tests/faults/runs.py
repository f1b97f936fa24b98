"""Small runs of every stage on a small file of questions, and when two runs are the same."""

import json
import os
import shutil
from pathlib import Path

import torch

from src.utils.constants import STAGES
from src.utils.payload import load_payload
from tests.conftest import SHAPES

SPEEDS = {"seconds", "examples_per_second", "tokens_per_second"}
# Saved and evaluated often, so that a kill falls into every kind of work.
OFTEN = [
    "--max_steps", "4", "--save_every", "1", "--eval_every", "2", "--eval_limit", "3",
    "--batch_size", "2", "--warmup", "0.25", "--lr", "0.01", "--threads", "1",
]
OF_STAGE = {
    "main_squad": ["--dataset", "small.json", "--block_size", "96"],
    "train_ppo": ["--max_new_tokens", "4", "--minibatches", "2", "--kl_target", "0.01",
                  "--kl_horizon", "50", "--ppo_epochs", "2", "--kl_limit", "1e9"],
}


def small_argv(stage: str, model_type: str) -> list[str]:
    """The flags of a small run, in a folder with small.json and the stages before."""
    shape = SHAPES[model_type] if stage == STAGES[0] else []
    return ["--model_type", model_type, *OFTEN, *OF_STAGE.get(stage, []), *shape]


def small_squad(articles: int = 8) -> dict:
    """The value of a SQuAD file: so many articles, each of a paragraph with two questions."""
    data = []
    for a in range(articles):
        context = f"The fair of Boru{a} began in 12{a:02} and ended in 13{a:02}. Ada{a} met Bo{a}."
        golds = [("When did it begin?", f"12{a:02}"), ("Whom did she meet?", f"Bo{a}")]
        qas = [
            {"id": f"{a}-{n}", "question": question,
             "answers": [{"text": gold, "answer_start": context.rindex(gold)}]}
            for n, (question, gold) in enumerate(golds)
        ]
        data.append({"title": f"Fair {a}", "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "1.1", "data": data}


def folder_of(stage: str, model_type: str) -> Path:
    """Where a stage writes, below the current folder."""
    return Path(f"checkpoints/{model_type}_{stage}")


def enter_copy(place: Path, parents: Path | None, stage: str, model_type: str) -> None:
    """Make `place` anew with the questions and the stages before this one; make it current."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    os.chdir(place)
    Path("small.json").write_text(json.dumps(small_squad()))
    for earlier in STAGES[: STAGES.index(stage)]:
        part = folder_of(earlier, model_type)
        shutil.copytree(parents / part, place / part)


def records(folder: Path) -> list[dict]:
    """metrics.jsonl without what no two runs share."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in SPEEDS} for line in lines]


def assert_same(one, other, where="final.pt"):
    """Equal to the last bit, whatever is nested in it; a NaN equals a NaN."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{place}]")
    else:
        assert one == other or (one != one and other != other), where


def assert_same_runs(one: Path, other: Path) -> None:
    """final.pt in every field (the folders' names are the same too), and every line of the log.

    last.pt is compared but for the flags that say how the run was started.
    """
    assert_same(load_payload(one / "final.pt"), load_payload(other / "final.pt"))
    assert records(one) == records(other)
    ends = [load_payload(folder / "last.pt") for folder in (one, other)]
    for end in ends:
        end.pop("checksum")
        end.pop("metrics_bytes")  # the digits of the speeds
        for name in ("args", "asked"):
            end[name] = {k: v for k, v in end[name].items() if k != "resume"}
    assert_same(ends[0], ends[1], "last.pt")
