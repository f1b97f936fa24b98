"""What the training scripts share: planning steps, logging, evaluating, finishing."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.data.squad_dataset import ContextGroups, steps_per_epoch
from src.data.tokenizers.tokenizer import Tokenizer
from src.evaluation.evaluation_set import (
    EvaluationSet,
    PolicyResult,
    evaluate_policy,
    evenly_spaced,
    sample_lines,
)
from src.evaluation.intervals import Figures, Interval, bootstrap_interval, intervals
from src.inference.logprobs import Tree
from src.losses import dpo_loss
from src.preference.pairs import PairSet, accuracy
from src.training.console import tokens_read
from src.training.run import Run, say
from src.utils.checkpoint_utils import Checkpoint, save_checkpoint
from src.utils.constants import STARTED
from src.utils.errors import UserError

# Steps over which the loss is smoothed that --snapshot_loss looks at.
SMOOTHED_STEPS = 50
# Flags of how a run was started or watched, which do not change its checkpoint and are not stored.
UNSTORED_FLAGS = ("resume", "overwrite", "tracker")


def plan_steps(args: argparse.Namespace, units: ContextGroups) -> int:
    """The number of optimizer steps: --max_steps, else --epochs over the context groups in batches
    of --batch_size. Also sets the flags that depend on it.
    """
    if not units.groups:
        raise UserError(
            "no training question fits the model's block beside its answer, expected some: train "
            "on shorter ones, or from main_squad.py --block_size on with a larger block"
        )
    if args.max_steps is None:
        per_epoch = steps_per_epoch(len(units.groups), args.batch_size)
        args.max_steps = max(1, math.ceil(args.epochs * per_epoch))
    if args.eval_every is None:
        args.eval_every = math.ceil(args.max_steps / 4)
    return args.max_steps


def log_step(
    run: Run,
    step: int,
    started: float,
    examples: int,
    trees: Sequence[Tree],
    record: dict[str, Any],
    **displayed: float,
) -> None:
    """Log one finished step on these trees, with speeds, and display its main metrics."""
    seconds = time.perf_counter() - started
    tokens_per_second = tokens_read(trees) / seconds
    if (step + 1) % run.args.log_every == 0 or step + 1 == run.args.max_steps:
        run.log(
            {
                "step": step + 1,
                **record,
                "examples_per_second": examples / seconds,
                "tokens_per_second": tokens_per_second,
                "seconds": seconds,
            }
        )
    if step == run.steps_done:
        say(f"{run.stage}: first step done {time.perf_counter() - STARTED:.1f} s after the start")
    run.show(step + 1, run.args.max_steps, **displayed, tokens_per_s=tokens_per_second)


def due(run: Run, step: int) -> bool:
    """Whether to evaluate after this step (after the last step an evaluation always follows)."""
    every = run.args.eval_every
    return bool(every) and (step + 1) % every == 0 and step + 1 < run.args.max_steps


def snapshot_due(
    args: argparse.Namespace, step: int, max_steps: int, loss: float, extra: dict[str, Any]
) -> bool:
    """Whether to write snapshot.pt after this step of SFT, whose answer loss is given: after the
    share --snapshot_at of the run, or once the loss, smoothed over SMOOTHED_STEPS, is below
    --snapshot_loss (after the last step if it never was).

    The step at which a model learns to read varies between seeds, so a share of the run may be
    before or after it. A loss measures what the model knows. extra: keeps the smoothed loss, None
    once the snapshot is written.
    """
    if not args.snapshot_loss:
        return step + 1 == math.ceil(args.snapshot_at * max_steps)
    smoothed = extra.get("smoothed_loss", math.inf)
    if smoothed is None:
        return False
    if math.isfinite(loss):  # a step that --skip_nonfinite left out has no loss
        first = smoothed == math.inf
        smoothed = loss if first else smoothed + (loss - smoothed) / SMOOTHED_STEPS
    reached = smoothed < args.snapshot_loss or step + 1 == max_steps
    extra["smoothed_loss"] = None if reached else smoothed
    return reached


def log_intervals(run: Run, step: int, table: dict[str, Interval]) -> None:
    """Log held-out figures with their 95% intervals, and say them."""
    record: dict[str, Any] = {"step": step, "event": "evaluation"}
    for name, interval in table.items():
        record[f"eval_{name}"] = interval.value
        record[f"eval_{name}_low"], record[f"eval_{name}_high"] = interval.low, interval.high
    run.log(record)
    words = ", ".join(f"{k} {v.value:.2f} [{v.low:.2f}, {v.high:.2f}]" for k, v in table.items())
    say(f"{run.stage} held out, after step {step}: {words}")


def evaluate_and_log(
    run: Run,
    step: int,
    model: nn.Module,
    tokenizer: Tokenizer,
    held_out: EvaluationSet,
    device: torch.device,
    extra: dict[str, Any],
    more: Callable[[PolicyResult], Figures] = lambda result: {},
) -> Figures:
    """Log and print EM, F1, answer loss and `more` on the held-out questions, with three answers.

    extra: keeps the answers of the first call, which later calls print beside theirs.
    """
    result = evaluate_policy(model, tokenizer, held_out, device)
    figures = result.figures(held_out.groups) | more(result)
    log_intervals(run, step, intervals(figures))
    for line in sample_lines(held_out, result.answers, extra.get("sample_answers", ())):
        say(line)
    extra.setdefault(
        "sample_answers", [result.answers[i] for i in evenly_spaced(len(result.answers))]
    )
    return figures


def log_pair_figures(
    run: Run, step: int, scores: Tensor, reference: Tensor, pair_set: PairSet, beta: float
) -> None:
    """Log the held-out metrics of DPO: accuracies, rewards, margin and log-probabilities."""
    found = dpo_loss(*scores.T, *reference.T, beta)
    rewards = torch.stack([found.chosen_reward, found.rejected_reward], 1)
    table = {
        "preference_accuracy": accuracy(scores, pair_set),
        "reward_accuracy": accuracy(rewards, pair_set),
    }
    groups = [pair.paragraph for pair in pair_set.in_order()]
    ones = [1.0] * len(groups)
    for name, values in (
        ("chosen_reward", rewards[:, 0]),
        ("rejected_reward", rewards[:, 1]),
        ("reward_margin", rewards[:, 0] - rewards[:, 1]),
        ("chosen_logp_nats", scores[:, 0]),
        ("rejected_logp_nats", scores[:, 1]),
    ):
        table[name] = bootstrap_interval(values.numpy(), ones, groups)
    log_intervals(run, step, table)


def publish(
    run: Run,
    model: nn.Module,
    tokenizer: Tokenizer,
    identity: dict,
    metrics: dict,
    parents: Sequence[Checkpoint],
    file: str = "final.pt",
) -> dict:
    """Write final.pt (or a snapshot) with its whole lineage; returns the metrics.

    parents: the checkpoint that the weights start from, then others that were used.
    """
    lineage: list[dict] = []
    for parent in parents:
        for ancestor in [*parent.lineage, parent.as_ancestor()]:
            if ancestor not in lineage:
                lineage.append(ancestor)
    final = Checkpoint(
        run.stage,
        run.args.model_type,
        model,
        tokenizer,
        identity,
        {name: v for name, v in vars(run.args).items() if name not in UNSTORED_FLAGS},
        lineage,
        metrics,
    )
    save_checkpoint(run.folder / file, final)
    say(f"{run.folder / file} written")
    return metrics
