"""What the training scripts share: planning steps, logging, evaluating, finishing."""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.data.squad_dataset import Batch, ContextGroups, steps_per_epoch
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import contexts_of, union
from src.evaluation.evaluation_set import (
    EvaluationSet,
    PolicyResult,
    evaluate_policy,
    evenly_spaced,
    sample_lines,
)
from src.evaluation.intervals import (
    Figures,
    Interval,
    bootstrap_interval,
    caution,
    intervals,
)
from src.inference.logprobs import Tree
from src.losses import DpoLoss
from src.preference.pairs import PairSet, accuracy, length_rule, pair_points
from src.training.progress import Progress, tokens_read
from src.training.run import Run, say
from src.training.run_data import Questions
from src.utils.checkpoint_utils import Checkpoint, save_checkpoint
from src.utils.constants import STARTED
from src.utils.errors import UserError
from src.utils.payload import load_payload

# A run of fewer steps prints a warning.
FEW_STEPS = 20
# Flags of how a run was started or watched, which do not change its checkpoint and are not stored.
UNSTORED_FLAGS = ("resume", "overwrite", "tracker")


def plan_steps(args: argparse.Namespace, units: ContextGroups) -> int:
    """The number of steps: --max_steps, else --epochs over the context groups in batches of
    --batch_size. Sets the flags that depend on it, and warns if the run is short.
    """
    _require_units(units)
    if args.max_steps is None:
        args.max_steps = steps_of_epochs(args.epochs, len(units.groups), args.batch_size)
    return _planned(args)


def steps_of_epochs(epochs: float, count: int, batch_size: int) -> int:
    """Batches in so many epochs over `count` items, at least one.

    >>> steps_of_epochs(2.5, 10, 4), steps_of_epochs(0.1, 10, 4)
    (8, 1)
    """
    return max(1, math.ceil(epochs * steps_per_epoch(count, batch_size)))


def steps_for_pairs(
    args: argparse.Namespace, asked_steps: int | None, units: ContextGroups | None
) -> int:
    """The number of steps of --batch_size context groups for which pairs are made: the given
    --max_steps, else --epochs; 0 for no units, where pairs are given. `plan_pair_steps` then counts
    the trees of their contexts.
    """
    if units is None:
        return 0
    _require_units(units)
    return asked_steps or steps_of_epochs(args.epochs, len(units.groups), args.batch_size)


def plan_pair_steps(args: argparse.Namespace, asked_steps: int | None, train: PairSet) -> int:
    """`plan_steps` for batches of pair trees, of which a long context makes one for each window.

    Without --max_steps: --epochs over the trees. Below one epoch `train` holds only that share of
    the contexts, and is used once; but pairs of --pairs are all there.
    """
    if asked_steps is None:
        epochs = args.epochs if train.given else max(1.0, args.epochs)
        args.max_steps = steps_of_epochs(epochs, len(train.trees.trees), args.batch_size)
    return _planned(args)


def _require_units(units: ContextGroups) -> None:
    if not units.groups:
        raise UserError(
            "no training question fits the model's block beside its answer, expected some: train "
            "on shorter ones, or from main_squad.py --block_size on with a larger block"
        )


def _planned(args: argparse.Namespace) -> int:
    """The steps that the flags now have, with what follows from them."""
    if args.eval_every is None:
        args.eval_every = math.ceil(args.max_steps / 3)
    if args.max_steps < FEW_STEPS:
        steps = "1 step" if args.max_steps == 1 else f"{args.max_steps} steps"
        say(
            f"a run of {steps}, fewer than {FEW_STEPS}: "
            "hardly enough to learn from; for more raise --epochs or --max_steps, or lower "
            "--batch_size"
        )
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
        run.log.append(
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
    run.log.show(step + 1, run.args.max_steps, **displayed, tokens_per_s=tokens_per_second)


def plan_steps_of_tokens(
    args: argparse.Namespace, units: ContextGroups, batches: Iterator[Batch]
) -> int:
    """`plan_steps` where --max_tokens or --same_compute_as may say how long a run is: the first
    steps whose batches, those that it will see, have so many tokens.
    """
    _require_units(units)
    budget = _token_budget(args)
    if budget is not None and args.max_steps is None:
        read, args.max_steps = 0, 0
        while read < budget:
            read += tokens_read(next(batches).trees)
            args.max_steps += 1
        say(f"{args.max_steps} steps for {budget} tokens")
    return plan_steps(args, units)


def _token_budget(args: argparse.Namespace) -> int | None:
    """The tokens of --max_tokens, or those that the checkpoints of --same_compute_as processed."""
    if not args.same_compute_as:
        return args.max_tokens
    total = 0
    for path in args.same_compute_as.split(","):
        metrics = load_payload(Path(path)).get("metrics")
        tokens = metrics.get("processed_tokens") if isinstance(metrics, dict) else None
        if type(tokens) is not int or tokens < 1:
            raise UserError(
                f"--same_compute_as {path} given, which does not say how many tokens its stage "
                "processed, expected a final.pt that the scripts write now"
            )
        total += tokens
    return total


def due(run: Run, step: int) -> bool:
    """Whether to evaluate after this step (after the last step an evaluation always follows)."""
    every = run.args.eval_every
    return bool(every) and (step + 1) % every == 0 and step + 1 < run.args.max_steps


def log_intervals(
    run: Run,
    step: int,
    table: dict[str, Interval],
    held_out: EvaluationSet | PairSet,
    gains: dict[str, Interval],
) -> None:
    """Log held-out figures with their 95% intervals, and say them, as what they are (`kind`).

    gains: of `Progress.gains`, only logged. Each is a difference of paired questions, and its
    interval is narrower than those of the two figures.
    """
    contexts = max((interval.groups or 0 for interval in table.values()), default=0)
    record: dict[str, Any] = {"step": step, "event": "evaluation", "eval_contexts": contexts}
    if held_out.seen:
        record["eval_trained_on"] = held_out.seen
    for name, interval in (table | {f"{name}_gain": g for name, g in gains.items()}).items():
        record[f"eval_{name}"] = interval.value
        record[f"eval_{name}_low"], record[f"eval_{name}_high"] = interval.low, interval.high
    run.log.append(record)
    words = ", ".join(f"{name} {interval.in_words()}" for name, interval in table.items())
    warning = caution(table.values())
    kind = held_out.kind
    say(f"{run.stage} {kind}, after step {step}: {words}{warning and f'; {warning}'}")


def evaluate_and_log(
    run: Run,
    step: int,
    model: nn.Module,
    tokenizer: Tokenizer,
    held_out: EvaluationSet | None,
    device: torch.device,
    progress: Progress,
    more: Callable[[PolicyResult], Figures] = lambda result: {},
) -> Figures:
    """Log and print EM, F1, answer loss and `more` on the held-out questions, with three answers.

    held_out: None where there are no golds to compare with: no figures.
    """
    if held_out is None:
        return {}
    result = evaluate_policy(model, tokenizer, held_out, device)
    figures = result.figures(held_out.groups) | more(result)
    log_intervals(run, step, intervals(figures), held_out, progress.gains(figures))
    for line in sample_lines(held_out, result.answers, progress.sample_answers):
        say(line)
    progress.sample_answers = progress.sample_answers or [
        result.answers[i] for i in evenly_spaced(len(result.answers))
    ]
    return figures


def log_pair_figures(
    run: Run,
    step: int,
    scores: Tensor,
    found: DpoLoss,
    pair_set: PairSet,
    held_out: EvaluationSet | None,
    progress: Progress,
) -> Figures:
    """Log the held-out metrics of DPO: accuracies, rewards, margin and log-probabilities.

    scores: (P, 2) log-probs in nats; found: what the loss makes of them.
    Returns the accuracy pair by pair, to be compared with the model's before training.
    """
    rewards = torch.stack([found.chosen_reward, found.rejected_reward], 1)
    table = {
        "preference_accuracy": accuracy(scores, pair_set),
        "reward_accuracy": accuracy(rewards, pair_set),
    }
    groups = pair_set.groups()
    ones = [1.0] * len(groups)
    for name, values in (
        ("chosen_reward", rewards[:, 0]),
        ("rejected_reward", rewards[:, 1]),
        ("reward_margin", rewards[:, 0] - rewards[:, 1]),
        ("chosen_logp_nats", scores[:, 0]),
        ("rejected_logp_nats", scores[:, 1]),
    ):
        table[name] = bootstrap_interval(values.numpy(), ones, groups)
    table["length_rule"] = length_rule(pair_set)
    figures = {"preference_accuracy": pair_points(scores, pair_set)}
    measured = pair_set if held_out is None or pair_set.given else held_out
    log_intervals(run, step, table, measured, progress.gains(figures))
    return figures


def publish(
    run: Run,
    model: nn.Module,
    tokenizer: Tokenizer,
    questions: Questions,
    metrics: dict,
    parents: Sequence[Checkpoint],
) -> dict:
    """Write final.pt with its whole lineage and all contexts that were trained on; returns the
    metrics.

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
        questions.identity,
        {name: v for name, v in vars(run.args).items() if name not in UNSTORED_FLAGS},
        lineage,
        metrics,
        trained_on=union([*(p.trained_on for p in parents), contexts_of(questions.trained_on)]),
    )
    path = run.folder / "final.pt"
    save_checkpoint(path, final)
    say(f"{path} written")
    return metrics
