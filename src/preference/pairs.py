"""Preference pairs of a run, training and held-out: scores, accuracies and a length baseline."""

import argparse
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from src.data.encoding import EncodedParagraph, encode_paragraphs
from src.data.random_streams import Stream, stream
from src.data.squad_preferences import Pair, make_pairs
from src.data.squad_types import Paragraph
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import context_hash
from src.data.windows import Place, Tree
from src.evaluation.evaluation_set import context_numbers, kind_of_set
from src.evaluation.intervals import Interval, bootstrap_interval, points_in_order
from src.inference.logprobs import completion_logps
from src.model.heads import RewardModel, scores_differ
from src.preference.pair_batches import (
    PairTrees,
    evaluation_pair_trees,
    fits_block,
    fits_budget,
    given_pair_trees,
    pair_batches,
    preference_trees,
)
from src.preference.pair_files import pair_questions, unit_of
from src.preference.pair_rows import PreferenceRow
from src.rl.rewards import model_rewards
from src.training.distributed import map_over_ranks
from src.utils.checkpoint_utils import kept_on_disk
from src.utils.constants import CORRUPTIONS, MAX_ANSWER_TOKENS
from src.utils.payload import weights_hash
from src.utils.progress_bar import say

REFERENCE_DIR = ".cache/reference"
AnyPair = TypeVar("AnyPair", Pair, PreferenceRow)


class PairSet(NamedTuple):
    """Pairs and their trees. Arrays called (P,) run pair after pair in the order of the trees.

    contexts: by paragraph, the number of its context; empty if each has its own.
    paragraphs: those of the pairs.
    given_groups: for given pairs, by pair, the number of its context or prompt; empty if the pairs
    were made.
    given_seen: the pairs whose context or prompt earlier stages were trained on.
    """

    pairs: list[Pair]
    trees: PairTrees
    contexts: Sequence[int] = ()
    paragraphs: Sequence[Paragraph] = ()
    given_groups: Sequence[int] = ()
    given_seen: frozenset[int] = frozenset()

    @property
    def given(self) -> bool:
        """Whether the pairs were given by `--pairs`, all that there are."""
        return bool(self.given_groups)

    @property
    def seen(self) -> int:
        """Given pairs in the trees whose context or prompt earlier stages were trained on."""
        return sum(n in self.given_seen for numbers in self.trees.index for n in numbers)

    @property
    def kind(self) -> str:
        """What metrics of given pairs are of, as `EvaluationSet.kind`."""
        return kind_of_set(self.seen, sum(map(len, self.trees.index)))

    def in_order(self) -> list[Pair]:
        """The pairs that the trees hold, in their order."""
        return [self.pairs[n] for numbers in self.trees.index for n in numbers]

    def groups(self) -> list[int]:
        """(P,) the context of each pair, for intervals."""
        if self.given_groups:
            return [self.given_groups[n] for numbers in self.trees.index for n in numbers]
        return [
            self.contexts[pair.paragraph] if self.contexts else pair.paragraph
            for pair in self.in_order()
        ]


def training_pairs(
    paragraphs: Sequence[Paragraph],
    encoded: Sequence[EncodedParagraph],
    tokenizer: Tokenizer,
    block_size: int,
    data_name: str,
    weights: dict[str, float],
    seed: int,
    metric: str = "squad",
    max_pairs: int | None = None,
    label_noise: float = 0.0,
    sampled: Mapping[Place, Sequence[str]] | None = None,
) -> PairSet:
    """One pair a training question, in windows that hold its gold; answers that fit, if any do.

    max_pairs, label_noise: as in `chosen_pairs`; sampled: as in `make_pairs`.
    """
    fits = fits_block(encoded, tokenizer, block_size)
    pairs = make_pairs(paragraphs, seed, data_name, weights, metric, fits, sampled)
    pairs = chosen_pairs(pairs, max_pairs, label_noise, seed)
    trees = preference_trees(encoded, pairs, tokenizer, block_size, seed=seed)
    return PairSet(pairs, trees, paragraphs=paragraphs)


def chosen_pairs(
    pairs: Sequence[AnyPair], max_pairs: int | None, label_noise: float, seed: int
) -> list[AnyPair]:
    """A seeded choice of max_pairs of the pairs, in their order. A share label_noise of them has
    chosen and rejected swapped, to measure what wrong labels cost.

    A smaller choice is part of a larger one. A pair that is swapped at one share is swapped at any
    larger share.
    """
    order = stream(Stream.PAIR_CHOICE, seed).permutation(len(pairs))
    swapped = stream(Stream.LABEL_NOISE, seed).random(len(pairs)) < label_noise
    return [
        pairs[i]._replace(chosen=pairs[i].rejected, rejected=pairs[i].chosen)
        if swapped[i] else pairs[i]
        for i in sorted(order[:max_pairs].tolist())
    ]


def held_out_pairs(
    paragraphs: Sequence[Paragraph],
    encoded: Sequence[EncodedParagraph],
    tokenizer: Tokenizer,
    block_size: int,
    data_name: str,
    weights: dict[str, float],
    metric: str = "squad",
    sampled: Mapping[Place, Sequence[str]] | None = None,
) -> PairSet:
    """One pair a held-out question, below the context's first tokens; the same for every seed."""
    room = min(4 * MAX_ANSWER_TOKENS, block_size // 2)
    fits = fits_budget(tokenizer, room)
    pairs = make_pairs(paragraphs, 0, data_name, weights, metric, fits, sampled)
    trees = evaluation_pair_trees(encoded, pairs, tokenizer, block_size, answer_budget=room)
    return PairSet(pairs, trees, context_numbers(paragraphs), paragraphs)


def given_pairs(
    rows: Sequence[PreferenceRow],
    tokenizer: Tokenizer,
    block_size: int,
    cache_dir: str | None = None,
    trained_on: Collection[int] = frozenset(),
) -> PairSet:
    """Pairs of `--pairs`, training or held-out. trained_on: hashes of contexts and prompts."""
    found = pair_questions(rows)
    encoded = encode_paragraphs(found.paragraphs, tokenizer, cache_dir)
    trees = given_pair_trees(encoded, found.pairs, tokenizer, block_size)
    seen = frozenset(n for n, row in enumerate(rows) if context_hash(unit_of(row)) in trained_on)
    return PairSet(found.pairs, trees, (), found.paragraphs, found.groups, seen)


def chosen_trees(pair_set: PairSet, limit: int) -> list[Tree]:
    """The first trees of a set with their chosen answers alone."""
    return [
        (context, [(question, answers[0::2]) for question, answers in questions])
        for context, questions in pair_set.trees.trees[:limit]
    ]


def policy_scores(model: nn.Module, trees: Sequence[Tree], eos_id: int) -> Tensor:
    """Log-probabilities (P, 2) in nats of chosen and rejected answers, EOS included. With other
    answers to a pair there are as many columns as answers.
    """
    parts = map_over_ranks(model, trees, lambda mine: completion_logps(model, mine, eos_id))
    return torch.cat(parts).view(-1, answers_a_pair(trees))


def answers_a_pair(trees: Sequence[Tree]) -> int:
    """How many answers each pair of the trees has: 2, 3 with another question's answer, 1 for that
    answer alone. A question may have several pairs of 2.
    """
    found = next((len(answers) for _, questions in trees for _, answers in questions), 2)
    return found if found % 2 else 2


def raw_scores(reward: RewardModel, trees: Sequence[Tree], eos_id: int) -> Tensor:
    """Raw scores (N,) of every answer of the trees (of pairs: chosen, rejected, chosen, ...). The
    ranks share the work.
    """
    parts = map_over_ranks(reward, trees, lambda t: model_rewards(reward, t, eos_id, raw=True))
    return torch.cat(parts)


def normalise_on(reward: RewardModel, golds: Sequence[Tree], eos_id: int) -> None:
    """Make the scores of gold answers mean 0 and standard deviation 1; log it if all are equal."""
    raw = raw_scores(reward, golds, eos_id)
    reward.set_normalisation(raw)
    if not scores_differ(raw):
        say(f"the scores of {len(raw)} gold answers do not differ: they keep their scale")


def pair_points(scores: Tensor, pair_set: PairSet) -> tuple[list[float], list[float], list[int]]:
    """Share of pairs, in percent, whose chosen answer scores higher, ties half, as one of
    `Figures`. scores: (P, 2).
    """
    points = points_in_order(*scores.numpy().T).tolist()
    return points, [0.01] * len(points), pair_set.groups()


def accuracy(scores: Tensor, pair_set: PairSet) -> Interval:
    """`pair_points` with its interval."""
    return bootstrap_interval(*pair_points(scores, pair_set))


def accuracy_by_kind(scores: Tensor, pair_set: PairSet) -> dict[str, Interval]:
    """`accuracy` for each kind of corruption that occurs."""
    pairs, contexts = pair_set.in_order(), pair_set.groups()
    points = points_in_order(scores[:, 0].numpy(), scores[:, 1].numpy())
    table = {}
    for kind in CORRUPTIONS:
        rows = np.flatnonzero([pair.kind == kind for pair in pairs])
        if len(rows):
            groups = [contexts[i] for i in rows]
            table[kind] = bootstrap_interval(points[rows], [0.01] * len(rows), groups)
    return table


def margin(scores: Tensor, pair_set: PairSet) -> Interval:
    """Mean of the chosen answers' scores less the rejected ones', in nats. scores: (P, 2)."""
    margins = (scores[:, 0] - scores[:, 1]).numpy()
    return bootstrap_interval(margins, [1.0] * len(margins), pair_set.groups())


def length_rule(pair_set: PairSet) -> Interval:
    """Accuracy in percent of "the shorter answer wins"; far from 50, length predicts the label."""
    pairs = pair_set.in_order()
    points = points_in_order([len(p.rejected) for p in pairs], [len(p.chosen) for p in pairs])
    return bootstrap_interval(points, [0.01] * len(pairs), pair_set.groups())


def trees_of_steps(pair_set: PairSet, args: argparse.Namespace, steps: int) -> PairTrees:
    """The trees that the first `steps` steps of the first epoch will see."""
    batches = pair_batches(pair_set.trees, batch_size=args.batch_size, seed=args.seed)
    seen = list(itertools.islice(batches, steps))
    return PairTrees(
        [tree for batch in seen for tree in batch.trees],
        [numbers for batch in seen for numbers in batch.index],
        0,
    )


def reference_logps(
    reference: nn.Module,
    pair_set: PairSet,
    needed: PairTrees,
    eos_id: int,
    cache_dir: str = REFERENCE_DIR,
) -> Tensor:
    """Log-probabilities (pairs, 2) in nats of pairs under a frozen reference, (pairs, 3) where
    every question has a third answer.

    Row n is pair number n; NaN if the pair is not needed, so that a missing entry is noticed.
    Cached on disk under a hash of the weights, the device, its precision, the threads and all
    tokens, so that a resumed run finds it. A damaged file is computed anew; a folder that cannot be
    written is ignored.
    """
    started = time.perf_counter()
    kind = reference.embedding.weight.device.type
    precision = kind, torch.is_autocast_enabled(kind), torch.get_num_threads()
    read = f"{weights_hash(reference)}{precision}{eos_id}{needed}"
    numbers = [n for row in needed.index for n in row]
    width = answers_a_pair(needed.trees)
    rows = torch.full((len(pair_set.pairs), width), torch.nan)
    rows[numbers] = kept_on_disk(
        cache_dir, read,
        lambda found: isinstance(found, Tensor) and found.shape == (len(numbers), width),
        lambda: policy_scores(reference, needed.trees, eos_id),
    )
    seconds = time.perf_counter() - started
    say(f"reference log-probs of {len(numbers)} training pairs: {seconds:.1f} s")
    return rows
