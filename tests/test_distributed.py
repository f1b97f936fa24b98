"""Several ranks, as torchrun starts them: equal gradients, resume, stopping, --shard, dead ranks.

This file is also the program that torchrun starts here: `test_distributed.py WHAT OUT`.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SHAPES, flags, outcome, refusal
from hypothesis import given
from hypothesis import strategies as st

from src.model.heads import RewardModel
from src.rl.metrics import describe
from src.rl.update import update_policy
from src.training import distributed, reporting
from src.training.distributed import (
    gather,
    map_over_ranks,
    micro_batches,
    partition,
    rank_partition,
    sum_gradients,
    within,
)
from src.training.run import Run
from src.training.sharding import full_tensors, shard
from src.utils import exit_handling
from src.utils.constants import MODEL_TYPES, STAGES
from src.utils.payload import load_payload
from src.utils.ranks import rank, world_size
from tests.faults.runs import records

ROOT = Path(__file__).resolve().parent.parent
BATCHES = ((2, None), (7, 2))  # contexts of the global batch (2: fewer than 3 ranks), micro-batch
CASES = [*(("sft", m) for m in MODEL_TYPES)]
CASES += [(stage, "transformer") for stage in ("dpo", "kto", "reward")]


def launch(ranks, what, out, cwd=None, **environment):
    """Run this file's `what` on so many ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(ranks), str(Path(__file__)), what, str(out)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=600
    )


# --- what runs on the ranks, and once more in this process as one rank ---


def one_step(stage, name, contexts, size, divided=False):
    """Gradients, summed, and figures of one step's batch."""
    from test_stages import BACKWARD, flags_of, model_of, trees_of

    answers, backward = BACKWARD[stage]
    model = model_of(name)
    model = RewardModel(model) if stage == "reward" else model
    if divided:
        shard(model, torch.device("cpu"))
    trees = trees_of(answers, contexts)
    figures = backward(model, trees, flags_of(micro_batch_size=size, nll_weight=0.5))
    sum_gradients(list(model.parameters()))
    return full_tensors({n: p.grad for n, p in model.named_parameters()}), figures


def ppo_step(algorithm):
    """Gradients of two minibatches of a rollout without a step between them, and the figures."""
    from test_ppo import PROMPTS, length_of_answers, models_of, rollout_of, settings

    models = models_of("transformer", critic=algorithm == "ppo")
    modules = [m for m in (models.policy, models.critic) if m]
    parameters = [p for module in modules for p in module.parameters()]
    s = settings(algorithm=algorithm, minibatches=2, micro_contexts=1)
    found = []

    def update(loss):
        sum_gradients(parameters)
        found.append({str(i): p.grad for i, p in enumerate(parameters)})
        for parameter in parameters:
            parameter.grad = None
        return {}

    share = rank_partition(PROMPTS)
    mine = PROMPTS[share.start : share.stop]
    rollout = rollout_of(models, mine, length_of_answers, 0.1, 0, s)
    figures = describe(rollout, s) | update_policy(models, rollout, 0, s, update)
    tensors = {name: getattr(rollout, name) for name in ("logp", "advantages", "returns", "score")}
    return found[0] | {f"second {k}": g for k, g in found[1].items()} | tensors, figures


def all_steps():
    """Everything that must not depend on the number of ranks: name -> (tensors, figures)."""
    found = {
        f"{stage} {name} {contexts}": one_step(stage, name, contexts, size)
        for stage, name in CASES
        for contexts, size in BATCHES
    }
    found |= {algorithm: ppo_step(algorithm) for algorithm in ("ppo", "rloo", "reinforce", "grpo")}
    linear = torch.nn.Linear(1, 1)
    trees = [([1] * n, [([2], [[3]])]) for n in (5, 1, 9)]
    parts = map_over_ranks(linear, trees, lambda mine: [len(context) for context, _ in mine])
    rows = [row for part in parts for row in part]
    return found | {"map_over_ranks": ({}, {str(place): row for place, row in enumerate(rows)})}


def on_ranks_steps(out):
    """Rank 0 writes what it found; all must have found the same figures."""
    found = all_steps()
    if world_size() == 2:
        for name in MODEL_TYPES:
            for contexts, size in ((1, None), (7, 2)):  # 1: one rank has no tree
                found[f"shard {name} {contexts}"] = one_step("sft", name, contexts, size, True)
        found["shard reward"] = one_step("reward", "transformer", 7, 2, True)
    figures = gather({name: figures for name, (_, figures) in found.items()})
    assert all(f == figures[0] for f in figures)
    if not rank():
        torch.save(found, out)


def stage_argv(stage, folder, *more):
    often = ["--max_steps", "4", "--eval_every", "0", "--lr", "0.01", "--output_dir", folder]
    kl = ["--kl_target", "0.01", "--kl_horizon", "50"] if stage == "train_ppo" else []
    return [*flags(stage, "transformer"), *often, *kl, *more]


def stop_rank_1(step_to_stop):
    """SIGTERM to rank 1 alone, in the middle of a step."""
    log_step = reporting.log_step

    def stopping(run, step, *args, **shown):
        if step + 1 == step_to_stop and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        log_step(run, step, *args, **shown)

    reporting.log_step = stopping
    return log_step


def on_ranks_stages(out):
    """Each stage in one go, and stopped and resumed; with --shard too PPO, which has the most
    state, and the reward model, which has a parameter outside of all units.
    """
    ended = {}
    for stage in STAGES:
        sharded = stage in ("train_reward_model", "train_ppo")
        for more in ([], ["--shard"]) if sharded else ([],):
            folder = "-".join([stage, *(word.strip("-") for word in more)])
            ended[f"{folder} whole"] = outcome(stage, stage_argv(stage, f"{folder}-whole", *more))
            log_step = stop_rank_1(2)
            ended[f"{folder} stopped"] = outcome(stage, stage_argv(stage, f"{folder}-parts", *more))
            reporting.log_step = log_step
            resume = ["--model_type", "transformer", "--output_dir", f"{folder}-parts", "--resume"]
            ended[f"{folder} resumed"] = outcome(stage, resume)
    said = gather({name: (end.code, end.err) for name, end in ended.items()})
    if not rank():
        Path(out).write_text(json.dumps(said))


def on_ranks_dead(out):
    """The rank that DEAD names is killed in its second step; at the other SIGTERM comes, as from
    torchrun, at the worst moments.
    """
    import main_squad

    log_step, close, out_of_memory = reporting.log_step, Run.close, exit_handling.out_of_memory

    def closing(run):
        signal.raise_signal(signal.SIGTERM)
        close(run)
        signal.raise_signal(signal.SIGTERM)

    def telling(error):
        signal.raise_signal(signal.SIGTERM)
        return out_of_memory(error)

    Run.close, exit_handling.out_of_memory = closing, telling

    def dying(run, step, *args, **shown):
        if step == 1 and rank() == int(os.environ["DEAD"]):
            os.kill(os.getpid(), signal.SIGKILL)
        log_step(run, step, *args, **shown)

    reporting.log_step = dying
    main_squad.main([*flags("main_squad", "kgram"), "--output_dir", out, "--save_every", "1"])


# --- tests ---


@pytest.fixture(scope="module")
def alone():
    return all_steps()


def assert_close(tensors, expected, figures, expected_figures, where):
    assert tensors.keys() == expected.keys(), where
    if expected:
        largest = max(float(t.abs().max()) for t in expected.values())
        assert largest > 1e-4
        for key, tensor in expected.items():
            assert float((tensors[key] - tensor).abs().max()) <= 1e-5 * largest, (where, key)
    assert figures == pytest.approx(expected_figures, rel=1e-5, abs=1e-6), where


@pytest.mark.parametrize("ranks", [2, 3])
def test_gradients_and_figures_do_not_depend_on_the_ranks(ranks, alone, tmp_path):
    """Ragged trees, fewer trees than ranks, micro-batches, PPO's whitening; --shard on 2 ranks."""
    done = launch(ranks, "steps", tmp_path / "found.pt")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt")
    divided = {name: found.pop(name) for name in list(found) if name.startswith("shard")}
    assert found.keys() == alone.keys() and len(divided) == (7 if ranks == 2 else 0)
    for name, (tensors, figures) in found.items():
        assert_close(tensors, alone[name][0], figures, alone[name][1], name)
    for name, (tensors, figures) in divided.items():
        _, what, *contexts = name.split()
        case = ("reward", "transformer") if what == "reward" else ("sft", what)
        expected = one_step(*case, int(contexts[0]) if contexts else 7, None)
        assert_close(tensors, expected[0], figures, expected[1], name)


def test_stages_on_two_ranks(workplace, tmp_path):
    """Stopped by a signal to one rank and resumed: bit-equal to one go; files as of one rank."""
    place = workplace("transformer")
    done = launch(2, "stages", tmp_path / "said.json", cwd=place)
    assert done.returncode == 0, done.stderr
    said, silent = json.loads((tmp_path / "said.json").read_text())
    assert all(err == [] for _, err in silent.values())
    for name, (code, err) in said.items():
        assert code == silent[name][0] == (143 if "stopped" in name else 0), (name, err)
        assert "stopped" not in name or "stopped by SIGTERM after step 2, saved" in err[-1]
    for folder in sorted({name.split()[0] for name in said}):
        whole_run, parts = place / f"{folder}-whole", place / f"{folder}-parts"
        one, other = load_payload(whole_run / "final.pt"), load_payload(parts / "final.pt")
        assert all(torch.equal(w, other["weights"][k]) for k, w in one["weights"].items())
        assert records(whole_run) == records(parts)
        assert [r["step"] for r in records(parts) if "loss" in r] == [1, 2, 3, 4]
        # One rank's run of the same flags begins with the same figures.
        stage = folder.split("-")[0]
        ended = outcome(stage, stage_argv(stage, f"{folder}-one"))
        assert ended.code == 0, ended.err
        first, first_alone = records(whole_run), records(place / f"{folder}-one")
        pairs = [(a, b) for a, b in zip(first, first_alone, strict=True) if a["step"] <= 1]
        assert len(pairs) == 1 + sum("event" in r for r in first if not r["step"])
        for a, b in pairs:
            assert a.keys() == b.keys()
            words = {k for k, v in a.items() if isinstance(v, str)}
            if stage == "train_dpo":  # policy and reference are equal: rounding orders such pairs
                words.add("reward_accuracy")
            missing = {k for k, v in a.items() if v is None}  # the interval of one context
            assert missing == {k for k, v in b.items() if v is None}
            for k in a.keys() - words - missing:
                assert a[k] == pytest.approx(b[k], rel=1e-3, abs=1e-4), (folder, k)


@pytest.mark.parametrize("dead", ["0", "1"])
def test_a_dead_rank_ends_the_job_with_a_clear_line(dead, tmp_path):
    done = launch(2, "dead", tmp_path / "run", cwd=tmp_path, DEAD=dead)
    assert done.returncode == 1
    assert "another rank ended or hangs, so this job ends; continue with --resume" in done.stderr
    assert load_payload(tmp_path / "run/last.pt")["step"] == 1
    # The lock went with the job: one rank may not go on with it, two may.
    argv = ["--model_type", "kgram", "--output_dir", tmp_path / "run", "--resume"]
    line = refusal("main_squad", argv)
    assert "1 ranks given to resume a run of 2" in line


def test_shard_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "pico", "--num_examples", "60", *SHAPES["transformer"], "--shard"]
    ended = outcome("main_squad", argv)
    assert ended.code == 2 and "--shard given to one process" in ended.err[-1]


@given(st.lists(st.integers(1, 50), max_size=12), st.integers(1, 5))
def test_shares_hold_every_item_once_in_order_and_balance(costs, ranks):
    """No rank has more than an equal part and one item beyond it."""
    dealt = partition(costs, ranks)
    assert [i for share in dealt for i in share] == list(range(len(costs)))
    assert len(dealt) == ranks
    for share in dealt:
        assert sum(costs[i] for i in share) <= sum(costs) / ranks + max(costs, default=0)


def test_every_rank_gets_as_many_parts(monkeypatch):
    """Shares of 3 and 1 trees, one at a time: three parts on both ranks, the empty ones last."""
    trees = [([1] * n, []) for n in (2, 2, 2, 6)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        found.append([[len(context) for context, _ in part] for part in micro_batches(trees, 1)])
    assert found == [[[2], [2], [2]], [[6], [], []]]


@pytest.mark.parametrize(
    ("costs", "size", "tokens", "expected"),
    [
        ([5, 5, 5, 5], None, 10, [[0, 1], [2, 3]]),
        ([5, 6, 5, 5], None, 10, [[0], [1], [2, 3]]),
        ([1] * 5, 2, 10, [[0, 1], [2, 3], [4]]),
        ([99, 1, 99], None, 10, [[0], [1], [2]]),  # what is too much by itself is alone
        ([], 3, 10, []),
    ],
)
def test_a_token_budget_bounds_what_is_read_at_a_time(costs, size, tokens, expected):
    assert [list(group) for group in within(costs, size, tokens)] == expected
    assert sum(map(list, within(costs, size, tokens)), []) == list(range(len(costs)))


if __name__ == "__main__":
    distributed.join()
    {"steps": on_ranks_steps, "stages": on_ranks_stages, "dead": on_ranks_dead}[sys.argv[1]](
        sys.argv[2]
    )
    torch.distributed.destroy_process_group()
