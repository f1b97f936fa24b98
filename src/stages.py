"""What the training scripts share: loading questions, planning steps, evaluating, finishing."""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from src.data.squad_dataset import EncodedParagraph, encode_paragraphs
from src.data.squad_loader import load_from_identity, load_squad
from src.data.squad_types import Paragraph
from src.data.tokenizer import Tokenizer
from src.evaluation import paired_difference
from src.held_out import (
    HeldOut,
    PolicyResult,
    choose_questions,
    evaluate_policy,
    held_out_questions,
    sample_lines,
)
from src.names import UserError
from src.scoring import Tree
from src.utils.checkpoint_utils import Checkpoint, save_checkpoint
from src.utils.run import Run, say

CACHE_DIR = ".cache/encoded"


class Questions(NamedTuple):
    """Training and held-out questions. encoded: of train; chosen: the held-out paragraphs used."""

    train: list[Paragraph]
    encoded: list[EncodedParagraph]
    chosen: list[Paragraph]
    chosen_encoded: list[EncodedParagraph]
    held_out: HeldOut
    identity: dict


def load_questions(
    args: argparse.Namespace,
    tokenizer: Tokenizer,
    block_size: int,
    parent: Checkpoint | None = None,
) -> Questions:
    """The data of the flags; what they leave out is the parent's. Says what was used and dropped.
    """
    inherited = parent is not None and args.dataset is None
    if inherited and args.difficulty is None and args.num_examples is None:
        data = load_from_identity(parent.data)
        say(f"data: {data.identity['dataset']}, inherited from {parent.path}")
    else:
        stored = parent.data if parent else {}
        data = load_squad(
            stored["dataset"] if inherited else args.dataset,
            seed=stored.get("seed", args.seed),
            difficulty=args.difficulty or stored.get("difficulty") or 2,
            num_examples=args.num_examples,
            strict=args.strict_data,
        )
        say(f"data: {data.identity['dataset']}, as the flags say")
    for name in ("dataset", "difficulty", "num_examples"):
        if hasattr(args, name):
            setattr(args, name, data.identity.get(name))
    if data.dropped:
        say("data dropped: " + ", ".join(f"{n} {reason}" for reason, n in data.dropped.items()))
    if not data.validation:
        raise UserError(
            f"{data.identity['dataset']} has no held-out article, expected at least two articles"
        )
    chosen = choose_questions(data.validation, args.eval_limit, seed=0)
    encoded = encode_paragraphs(data.train, tokenizer, CACHE_DIR)
    chosen_encoded = encode_paragraphs(chosen, tokenizer)
    held_out = held_out_questions(chosen, chosen_encoded, block_size)
    say(
        f"data: {sum(len(p.questions) for p in data.train)} training questions, "
        f"{len(held_out.asked)} held out; windows cut off {held_out.lost:.1%} of the held-out golds"
    )
    return Questions(data.train, encoded, chosen, chosen_encoded, held_out, data.identity)


def plan_steps(args: argparse.Namespace, steps_per_epoch: int) -> int:
    """How many optimizer steps the run has: --max_steps, else --epochs; written back to the flags.
    """
    if args.max_steps is None:
        args.max_steps = max(1, math.ceil(args.epochs * steps_per_epoch))
    return args.max_steps


def micro_batches(trees: Sequence[Tree], size: int | None) -> Iterator[Sequence[Tree]]:
    """Consecutive trees, `size` at a time; all of them when None."""
    size = size or len(trees)
    for start in range(0, len(trees), size):
        yield trees[start : start + size]


def log_step(
    run: Run, step: int, started: float, examples: int, record: dict[str, Any], **shown
) -> None:
    """Log one finished step, speeds included, and show its main figures."""
    seconds = time.perf_counter() - started
    if (step + 1) % run.args.log_every == 0 or step + 1 == run.args.max_steps:
        run.log(
            {
                "step": step + 1,
                **record,
                "examples_per_second": examples / seconds,
                "seconds": seconds,
            }
        )
    run.show(step + 1, run.args.max_steps, **shown, questions_per_s=examples / seconds)


def due(run: Run, step: int) -> bool:
    """Whether an evaluation falls after this step (the last one is evaluated at the end anyway)."""
    every = run.args.eval_every
    return bool(every) and (step + 1) % every == 0 and step + 1 < run.args.max_steps


def evaluate_and_log(
    run: Run,
    step: int,
    model: nn.Module,
    tokenizer: Tokenizer,
    held_out: HeldOut,
    device: torch.device,
) -> PolicyResult:
    """EM, F1 and answer loss on the held-out questions, logged and said with three answers."""
    result = evaluate_policy(model, tokenizer, held_out, device)
    summary = result.summary(held_out.groups)
    record: dict[str, Any] = {"step": step, "event": "evaluation"}
    for name, interval in summary.items():
        record |= {
            f"eval_{name}": interval.value,
            f"eval_{name}_low": interval.low,
            f"eval_{name}_high": interval.high,
        }
    run.log(record)
    words = ", ".join(f"{k} {v.value:.3f} [{v.low:.3f}, {v.high:.3f}]" for k, v in summary.items())
    say(f"{run.stage} after step {step}, {len(held_out.asked)} held-out questions: {words}")
    for line in sample_lines(held_out, result.answers):
        say(line)
    return result


def compare(
    name: str,
    after: Sequence[float],
    before: Sequence[float],
    held_out: HeldOut,
    unit: float = 0.01,
) -> dict:
    """Say whether a figure is above its parent's; returns the paired difference with its interval.
    """
    ones = [unit] * len(after)
    difference = paired_difference(after, before, ones, held_out.groups)
    verdict = (
        "above" if difference.low > 0 else "below" if difference.high < 0 else "not different from"
    )
    say(
        f"{name}: {verdict} the parent's by {difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
    )
    return {
        f"{name}_gain": difference.value,
        f"{name}_gain_low": difference.low,
        f"{name}_gain_high": difference.high,
    }


def finish(
    run: Run,
    model: nn.Module,
    model_type: str,
    tokenizer: Tokenizer,
    identity: dict,
    metrics: dict,
    parent: Checkpoint | None = None,
) -> dict:
    """Write final.pt with its whole lineage; returns the metrics."""
    lineage = [*parent.lineage, parent.as_ancestor()] if parent else []
    final = Checkpoint(
        run.stage, model_type, model, tokenizer, identity, vars(run.args), lineage, metrics
    )  # fmt: skip
    save_checkpoint(run.folder / "final.pt", final)
    say(f"{run.folder / 'final.pt'} written")
    return metrics
