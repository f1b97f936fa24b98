"""A tiny chain of all stages for each model, trained once a session: parents for tests."""

import contextlib
import importlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from src.utils.constants import MODEL_TYPES, STAGES

SHAPES = {
    "transformer": ["--n_embd", "16", "--n_layer", "1", "--n_head", "2"],
    "lstm": ["--n_embd", "16", "--n_layer", "2"],
    "kgram": ["--n_embd", "16", "--n_layer", "1", "--kgram_k", "12"],
}
# What every stage gets here: few questions, few steps, few of them evaluated.
SMALL = ["--eval_limit", "6", "--batch_size", "2", "--max_steps", "4", "--warmup", "0.25"]
FIRST = ["--dataset", "pico", "--num_examples", "60"]
OF_STAGE = {"main_squad": FIRST, "train_ppo": ["--max_new_tokens", "6", "--minibatches", "2"]}


def flags(stage, model_type):
    """The flags of a stage in small."""
    shape = SHAPES[model_type] if stage == STAGES[0] else []
    return ["--model_type", model_type, *SMALL, *OF_STAGE.get(stage, []), *shape]


def perturb(model, scale=0.2):
    """The model, its weights moved far from the small initial ones, so that mistakes show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def call(script, argv):
    """main(argv) of a script in this process."""
    return importlib.import_module(script).main([str(word) for word in argv])


class Outcome(NamedTuple):
    """How a script ended: exit code (0 if it returned), lines on stderr and on stdout, and what
    `main` returned."""

    code: int
    err: list[str]
    out: list[str]
    result: dict | None


def outcome(script, argv):
    """`call`, its output and exit code caught."""
    err, out, code, result = io.StringIO(), io.StringIO(), 0, None
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            result = call(script, argv)
        except SystemExit as stop:
            code = stop.code
    return Outcome(code, err.getvalue().splitlines(), out.getvalue().splitlines(), result)


def refusal(script, argv):
    """The one line with which a script refuses its flags; it must end with exit code 2."""
    ended = outcome(script, argv)
    assert ended.code == 2, ended.err
    assert len(ended.err) == 1 and not ended.out, ended.err
    return ended.err[0]


class Chain(NamedTuple):
    """A folder with checkpoints/ of all stages, and what each stage returned."""

    folder: Path
    metrics: dict[str, dict]


@pytest.fixture(scope="session")
def chain_of(tmp_path_factory):
    """chain_of(model_type): its whole chain, trained on the first call of the session; plain: of
    the model without a pointer."""
    made = {}

    def chain(model_type, plain=False):
        key = model_type, plain
        if key not in made:
            more = {STAGES[0]: ["--no_pointer"]} if plain else {}
            folder = tmp_path_factory.mktemp(f"chain_{model_type}")
            before = Path.cwd()
            os.chdir(folder)
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    metrics = {
                        s: call(s, [*flags(s, model_type), *more.get(s, [])]) for s in STAGES
                    }
            finally:
                os.chdir(before)
            made[key] = Chain(folder, metrics)
        return made[key]

    return chain


@pytest.fixture(params=MODEL_TYPES)
def model_type(request):
    return request.param


@pytest.fixture
def workplace(tmp_path, monkeypatch, chain_of):
    """workplace(model_type, stages): a folder of its own, made the current one, that holds copies
    of those stages' checkpoints (of all stages by default)."""

    def enter(model_type, stages=STAGES, name="workplace", plain=False):
        source = chain_of(model_type, plain).folder
        folder = tmp_path / name
        for stage in stages:
            part = f"checkpoints/{model_type}_{stage}"
            shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
        folder.mkdir(exist_ok=True)
        if not (folder / ".cache").exists():
            shutil.copytree(source / ".cache", folder / ".cache")
        monkeypatch.chdir(folder)
        return folder

    return enter


@pytest.fixture
def kgram(workplace):
    """A folder with the k-gram's whole chain, made the current one."""
    return workplace("kgram")


def path_of(stage):
    """The checkpoint of the k-gram that a stage writes."""
    return f"checkpoints/kgram_{stage}/final.pt"


def generated(*argv):
    """The JSON lines of generate_from_checkpoint.py with the k-gram."""
    ended = outcome("generate_from_checkpoint", ["--model_type", "kgram", "--json", *argv])
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out]
