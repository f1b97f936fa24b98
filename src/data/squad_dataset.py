"""From paragraphs to batches of trees, in an order that (seed, epoch, step) alone decides.

encoding.py makes the ids, windows.py cuts contexts. A batch is a list of trees,
`(context ids, [(question ids, [answer ids, ...]), ...])`, plain lists without EOS. Batches are made
of context groups: a paragraph with up to `max_questions` of its questions. A group whose questions
need several windows makes several trees.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from src.data.encoding import EncodedParagraph
from src.data.random_streams import Stream, stream
from src.data.windows import (
    EvaluationTrees,
    Place,
    Tree,
    chunks,
    evaluation_trees,
    gold_examples,
    head_tokens,
    windows_for,
)

POOL_BATCHES = 8


class ContextGroups(NamedTuple):
    """groups: (paragraph, some of its questions), which batches are made of; dropped: questions
    that no window can hold; block_size, answer_budget: the limits of those windows.
    """

    groups: list[tuple[int, tuple[int, ...]]]
    dropped: int
    block_size: int
    answer_budget: int


class Batch(NamedTuple):
    """index: per tree, the (paragraph, question) of each of its questions."""

    trees: list[Tree]
    index: list[list[Place]]


def context_groups(
    paragraphs: Sequence[EncodedParagraph],
    block_size: int,
    max_questions: int = 16,
    answer_budget: int = 0,
) -> ContextGroups:
    """The questions that can be trained on, by paragraph, in groups of at most max_questions whose
    first golds fit one window.

    A question is dropped, and counted, if no gold of it fits: with each, the question, the answer
    and a window that holds the gold exceed the block. answer_budget: least tokens to leave for an
    answer and its EOS (PPO samples answers of its own).
    """
    groups, dropped = [], 0
    for p, paragraph in enumerate(paragraphs):
        examples = {
            q: found
            for q, question in enumerate(paragraph.questions)
            if (found := next(gold_examples(paragraph, question, block_size, answer_budget), None))
        }
        dropped += len(paragraph.questions) - len(examples)
        # One window each: a batch reads as much of a long context as of others.
        kept = list(examples)
        rng = np.random.default_rng(0)
        for _, members in windows_for(paragraph, list(examples.values()), block_size, rng):
            groups += [(p, group) for group in chunks([kept[i] for i in members], max_questions)]
    return ContextGroups(groups, dropped, block_size, answer_budget)


def training_trees(
    paragraphs: Sequence[EncodedParagraph],
    units: ContextGroups,
    rng: np.random.Generator,
    gold: str = "random",
) -> list[Tree]:
    """All questions of the groups once, each with one of its golds: `random` or `first`."""
    return [
        tree
        for p, questions in units.groups
        for tree, _ in _group_trees(paragraphs[p], questions, units, rng, gold)
    ]


def _group_trees(
    paragraph: EncodedParagraph,
    questions: Sequence[int],
    units: ContextGroups,
    rng: np.random.Generator,
    gold: str,
) -> list[tuple[Tree, list[int]]]:
    """(tree, its questions) for each window of a context group."""
    if gold not in ("random", "first"):
        raise ValueError(f"gold {gold!r}: expected 'random' or 'first'")
    examples = []
    for q in questions:
        options = list(
            gold_examples(paragraph, paragraph.questions[q], units.block_size, units.answer_budget)
        )
        examples.append(options[int(rng.integers(len(options))) if gold == "random" else 0])
    placed = []
    for context, group in windows_for(paragraph, examples, units.block_size, rng):
        tree = (context, [(examples[i].tokens, examples[i].answers) for i in group])
        placed.append((tree, [questions[i] for i in group]))
    return placed


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in which `count` context groups occur once; the last may be smaller."""
    return -(-count // batch_size)


def batch_order(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of an epoch, as indices into `lengths` (tokens of each group's context).

    All are shuffled, cut into pools of 8 batches, sorted by length within a pool so that little is
    padding, cut into batches, and the batches shuffled. A pure function of its arguments.
    """
    rng = stream(Stream.BATCHES, seed, epoch)
    order = rng.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), POOL_BATCHES * batch_size):
        pool = order[start : start + POOL_BATCHES * batch_size]
        pool = pool[np.argsort(sizes[pool], kind="stable")].tolist()
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def indexed_batches(
    paragraphs: Sequence[EncodedParagraph],
    units: ContextGroups,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Endless batches of `batch_size` context groups, from any step on.

    Batch number n does not depend on start_step: the order comes from (seed, epoch), a group's gold
    and window from (seed, epoch, paragraph, first question). Trees of earlier steps are not made.
    """
    if not units.groups:
        raise ValueError(f"no question fits a block of {units.block_size} tokens")
    lengths = [
        len(paragraphs[p].tokens) or len(paragraphs[p].questions[qs[0]].tokens)
        for p, qs in units.groups
    ]
    epoch, skip = divmod(start_step, steps_per_epoch(len(lengths), batch_size))
    while True:
        for chosen in batch_order(lengths, batch_size, seed, epoch)[skip:]:
            trees: list[Tree] = []
            index: list[list[Place]] = []
            for p, questions in (units.groups[u] for u in chosen):
                rng = stream(Stream.WINDOWS, seed, epoch, p, questions[0])
                for tree, asked in _group_trees(paragraphs[p], questions, units, rng, "random"):
                    trees.append(tree)
                    index.append([(p, q) for q in asked])
            yield Batch(trees, index)
        epoch, skip = epoch + 1, 0


def evaluate_on(
    paragraphs: Sequence[EncodedParagraph],
    *,
    block_size: int,
    answer_budget: int,
    max_questions: int = 16,
    doc_stride: int | None = None,
) -> EvaluationTrees:
    """`evaluation_trees` of encoded paragraphs, without their golds."""
    return evaluation_trees(
        [paragraph.tokens for paragraph in paragraphs],
        [[question.tokens for question in paragraph.questions] for paragraph in paragraphs],
        block_size=block_size,
        answer_budget=answer_budget,
        max_questions=max_questions,
        doc_stride=doc_stride,
        heads=[head_tokens(paragraph) for paragraph in paragraphs],
        whole=[not paragraph.template for paragraph in paragraphs],
    )
