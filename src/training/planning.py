"""How long a run is, and when it evaluates."""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.data.squad_dataset import ContextGroups, steps_per_epoch
from src.data.windows import Tree
from src.preference.pairs import PairSet
from src.training.progress import tokens_read
from src.utils.errors import UserError
from src.utils.payload import load_payload
from src.utils.progress_bar import say

# A run of fewer steps prints a warning.
FEW_STEPS = 20


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
    args: argparse.Namespace, asked_steps: int | None, units: ContextGroups
) -> int:
    """The number of steps of --batch_size context groups for which pairs are made: the given
    --max_steps, else --epochs. `plan_pair_steps` then counts the trees of their contexts.
    """
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
    """Set --eval_every if it was left out, warn of a short run, and return --max_steps."""
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


def plan_steps_of_tokens(
    args: argparse.Namespace, units: ContextGroups, batches: Iterator[Sequence[Tree]]
) -> int:
    """`plan_steps` where --max_tokens or --same_compute_as may say how long a run is: the first
    steps whose batches have so many tokens.

    batches: the trees that each step will train on.
    """
    _require_units(units)
    # A resumed run has its steps, and needs the files of --same_compute_as no more.
    if args.max_steps is None and (budget := _token_budget(args)) is not None:
        read, args.max_steps = 0, 0
        while read < budget:
            read += tokens_read(next(batches))
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
