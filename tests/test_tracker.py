"""--tracker: told what metrics.jsonl is told, and no part of the run."""

import json
import sys
import types

import pytest
import torch
from conftest import call, flags, outcome
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_run import run_in

from src.utils.errors import UserError
from src.utils.payload import load_payload


def test_tensorboard_holds_what_the_log_holds(tmp_path):
    with run_in(tmp_path, "--tracker", "tensorboard") as run:
        run.start()
        first = {"eval_em": 12.5, "eval_nothing": float("nan")}
        run.log.append({"step": 0, "event": "evaluation", **first})
        run.log.append({"step": 1, "loss": 2.0})
        run.log.append({"step": 2, "loss": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {key: [(e.step, e.value) for e in events.Scalars(key)]
             for key in events.Tags()["scalars"]}
    assert found == {"main_squad/eval_em": [(0, 12.5)], "main_squad/loss": [(1, 2.0), (2, 0.5)]}


def test_wandb_is_told_the_numbers_with_their_steps(tmp_path, monkeypatch):
    told = []

    class Fake:
        def log(self, record, step):
            told.append((step, record))

        def finish(self):
            told.append("finished")

    def init(**options):
        told.append((options["group"], options["job_type"], options["config"]["lr"]))
        return Fake()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with run_in(tmp_path, "--tracker", "wandb") as run:
        run.start()
        run.log.append({"step": 3, "event": "evaluation", "eval_em": 1.0, "eval_f1": float("inf")})
    assert told == [(tmp_path.name, "main_squad", 1e-3), (3, {"eval_em": 1.0}), "finished"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_there_is_refused_with_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"--tracker {name} given.*run: pip install {name}"):
        run_in(tmp_path, "--tracker", name)
    with run_in(tmp_path) as run:  # the folder was given back, and nothing was written
        assert run.last is None


def test_a_tracked_run_that_is_resumed_ends_as_one_that_is_neither(workplace):
    folder = workplace("kgram", [])
    argv = [*flags("main_squad", "kgram"), "--save_every", "2"]
    call("main_squad", argv)
    place = folder / "checkpoints/kgram_main_squad"
    plain, log = load_payload(place / "final.pt"), (place / "metrics.jsonl").read_text()
    ended = outcome("main_squad", [*argv, "--overwrite", "--tracker", "tensorboard"])
    assert ended.code == 0
    # As if it had been killed before its end was written.
    (place / "final.pt").unlink()
    call("main_squad", ["--model_type", "kgram", "--resume"])
    tracked = load_payload(place / "final.pt")
    assert tracked["flags"] == plain["flags"] and tracked["metrics"] == plain["metrics"]
    for name, weight in plain["weights"].items():
        assert torch.equal(weight, tracked["weights"][name])
    assert [json.loads(line)["step"] for line in log.splitlines()] == [
        json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(list((place / "tensorboard").iterdir())) == 2
