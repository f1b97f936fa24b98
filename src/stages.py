"""What the training scripts share: loading questions, planning steps, evaluating, finishing."""

import argparse
import contextlib
import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from src.data.squad_dataset import (
    EncodedParagraph,
    encode_paragraphs,
    steps_per_epoch,
    training_trees,
    training_units,
)
from src.data.squad_loader import load_from_identity, load_squad
from src.data.squad_preferences import parse_corruptions
from src.data.squad_types import Paragraph
from src.data.tokenizer import Tokenizer
from src.evaluation import Interval, bootstrap_interval
from src.held_out import (
    HeldOut,
    PolicyResult,
    choose_questions,
    evaluate_policy,
    held_out_questions,
    sample_lines,
    spread,
)
from src.names import STARTED, UserError
from src.pairs import PairSet, accuracy, held_out_pairs, training_pairs
from src.progress import Figures, figures_of, tokens_read
from src.scoring import Tree
from src.utils.checkpoint_utils import Checkpoint, save_checkpoint
from src.utils.distributed import first_alone
from src.utils.run import Run, say

CACHE_DIR = ".cache/encoded"
# Flags that say how a run was started or watched: the same checkpoint comes out whatever they are.
UNTOLD_FLAGS = ("resume", "overwrite", "tracker")
# What a stream of random numbers is for.
_GOLDS, _PAIRS = 3, 4


class Questions(NamedTuple):
    """Training and held-out questions. encoded: of train; chosen: the held-out paragraphs used."""

    train: list[Paragraph]
    encoded: list[EncodedParagraph]
    chosen: list[Paragraph]
    chosen_encoded: list[EncodedParagraph]
    held_out: HeldOut
    identity: dict


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage while millions of lists come to be and none goes, nor in them later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@first_alone()
@_uncollected()
def load_questions(
    args: argparse.Namespace,
    tokenizer: Tokenizer,
    block_size: int,
    parent: Checkpoint | None = None,
) -> Questions:
    """The data of the flags; what they leave out is the parent's. Says what was used and dropped.

    Rank 0 loads and encodes first, the others find its caches.
    """
    inherited = parent is not None and args.dataset is None
    changed = args.difficulty or args.num_examples or args.strict_data
    if inherited and not changed:
        data = load_from_identity(parent.data)
        say(f"data: {data.identity['dataset']}, inherited from {parent.path}")
    else:
        stored = parent.data if parent else {}
        data = load_squad(
            stored["dataset"] if inherited else args.dataset,
            seed=stored.get("seed", args.seed),
            difficulty=args.difficulty or stored.get("difficulty") or 2,
            num_examples=args.num_examples or (stored.get("num_examples") if inherited else None),
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
    unfit = training_units(encoded, block_size).dropped
    say(
        f"data: {sum(len(p.questions) for p in data.train)} training questions ({unfit} fit no "
        f"window of {block_size} tokens), "
        f"{len(held_out.asked)} held out; windows cut off {held_out.lost:.1%} of the held-out golds"
    )
    return Questions(data.train, encoded, chosen, chosen_encoded, held_out, data.identity)


def inputs_of(questions: Questions, parents: Sequence[Checkpoint] = ()) -> dict[str, str]:
    """What a run depends on besides its flags -> its hash, for `Run.start`."""
    data = f"the data of --dataset {questions.identity['dataset']}"
    return {data: questions.identity["fingerprint"]} | {p.path: p.sha256 for p in parents}


def require_same_tokenizer(policy: Checkpoint, reward: Checkpoint) -> None:
    """Refuse a reward model that reads other ids than the policy writes."""
    mine, its = policy.tokenizer.identity(), reward.tokenizer.identity()
    if mine != its:
        raise UserError(
            f"{reward.path} reads tokenizer {its['name']} ({its['vocab_size']} ids), the policy "
            f"{mine['name']} ({mine['vocab_size']} ids), expected the same: train the reward model "
            "from the same SFT checkpoint"
        )


def plan_steps(args: argparse.Namespace, per_epoch: int) -> int:
    """How many optimizer steps the run has: --max_steps, else --epochs; written back to the flags.
    """
    if not per_epoch:
        raise UserError(
            "no training question fits the model's block beside its answer, expected some: train "
            "on shorter ones, or from main_squad.py --block_size on with a larger block"
        )
    if args.max_steps is None:
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
    **shown,
) -> None:
    """Log one finished step on these trees, speeds included, and show its main figures."""
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
    run.show(step + 1, run.args.max_steps, **shown, tokens_per_s=tokens_per_second)


def due(run: Run, step: int) -> bool:
    """Whether an evaluation falls after this step (the last one is evaluated at the end anyway)."""
    every = run.args.eval_every
    return bool(every) and (step + 1) % every == 0 and step + 1 < run.args.max_steps


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
    held_out: HeldOut,
    device: torch.device,
    extra: dict[str, Any],
    more: Callable[[PolicyResult], Figures] = lambda result: {},
) -> Figures:
    """EM, F1, answer loss and `more` on the held-out questions, logged and said with three answers.

    extra: keeps those answers from the first call, so that later ones can show what was before.
    """
    result = evaluate_policy(model, tokenizer, held_out, device)
    figures = figures_of(result, held_out) | more(result)
    log_intervals(run, step, {name: bootstrap_interval(*f) for name, f in figures.items()})
    for line in sample_lines(held_out, result.answers, extra.get("sample_answers", ())):
        say(line)
    extra.setdefault("sample_answers", [result.answers[i] for i in spread(len(result.answers))])
    return figures


def load_pairs(
    args: argparse.Namespace, questions: Questions, tokenizer: Tokenizer, block_size: int
) -> tuple[PairSet, PairSet]:
    """Training and held-out preference pairs of the flags' mix of corruptions.

    Also plans the steps, and makes training pairs only for as many contexts as they will see.
    """
    weights = parse_corruptions(args.corruptions)
    name = questions.identity["dataset"]
    contexts = len(questions.train)
    seen = plan_steps(args, steps_per_epoch(contexts, args.batch_size)) * args.batch_size
    chosen = sorted(np.random.default_rng([args.seed, _PAIRS]).permutation(contexts)[:seen])
    train = training_pairs(
        [questions.train[i] for i in chosen],
        [questions.encoded[i] for i in chosen],
        tokenizer,
        block_size,
        name,
        weights,
        args.seed,
    )
    unseen = held_out_pairs(
        questions.chosen, questions.chosen_encoded, tokenizer, block_size, name, weights
    )
    for what, pair_set in (("training", train), ("held-out", unseen)):
        kinds = Counter(pair.kind for pair in pair_set.in_order())
        mix = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
        dropped = pair_set.trees.dropped
        if not kinds:
            raise UserError(
                f"no {what} pair of {dropped} fits a block of {block_size} tokens, expected some: "
                "shorter data, or a larger --block_size of main_squad.py"
            )
        say(f"{what} pairs: {kinds.total()} ({mix}); {dropped} did not fit the block")
    return train, unseen


def log_pair_figures(
    run: Run, step: int, scores: Tensor, reference: Tensor, pair_set: PairSet, beta: float
) -> None:
    """Held-out figures of DPO, as in training: accuracies, rewards, margin and log-probs."""
    rewards = beta * (scores - reference)
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


def some_gold_trees(
    encoded: Sequence[EncodedParagraph], block_size: int, seed: int, paragraphs: int = 128
) -> list[Tree]:
    """Gold answers of a seeded choice of training paragraphs, to normalise scores on."""
    rng = np.random.default_rng([seed, _GOLDS])
    chosen = rng.permutation(len(encoded))[:paragraphs]
    return training_trees([encoded[i] for i in sorted(chosen)], block_size, rng, gold="first")


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

    parents: the checkpoint that the weights start from first, then others that had a part.
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
        {name: v for name, v in vars(run.args).items() if name not in UNTOLD_FLAGS},
        lineage,
        metrics,
    )
    save_checkpoint(run.folder / file, final)
    say(f"{run.folder / file} written")
    return metrics
