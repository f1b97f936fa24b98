"""From paragraphs to batches of trees, in an order that (seed, epoch, step) alone decides.

Encoding lives in squad_encoding, windows in squad_windows; both are offered here. A batch is a
list of trees, `(context ids, [(question ids, [answer ids, ...]), ...])`, plain lists without stop
tokens. What is dealt into batches are units: a paragraph with up to `max_questions` of its
questions. A unit whose questions need several windows makes several trees.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from src.data.squad_encoding import (
    EncodedParagraph,
    EncodedQuestion,
    encode_paragraphs,
    encode_prompt,
    split_prompt,
)
from src.data.squad_windows import (
    EvaluationTrees,
    Place,
    Tree,
    attach_answers,
    chunks,
    evaluation_trees,
    gold_asks,
    golds_lost,
    place,
)
from src.data.streams import Stream, stream

__all__ = [
    "Batch",
    "EncodedParagraph",
    "EncodedQuestion",
    "EvaluationTrees",
    "Place",
    "Tree",
    "Units",
    "attach_answers",
    "batch_order",
    "encode_paragraphs",
    "encode_prompt",
    "evaluate_on",
    "evaluation_trees",
    "golds_lost",
    "indexed_batches",
    "split_prompt",
    "steps_per_epoch",
    "training_trees",
    "training_units",
]

POOL_BATCHES = 8


class Units(NamedTuple):
    """units: (paragraph, its questions) to deal out; dropped: questions that no window can hold."""

    units: list[tuple[int, tuple[int, ...]]]
    dropped: int


class Batch(NamedTuple):
    """index: per tree, the (paragraph, question) of each of its questions."""

    trees: list[Tree]
    index: list[list[Place]]


def training_units(
    paragraphs: Sequence[EncodedParagraph],
    block_size: int,
    max_questions: int = 16,
    answer_room: int = 0,
) -> Units:
    """The questions that can be trained on, by paragraph, in groups of at most max_questions.

    A question is dropped, and counted, where with each of its golds the question, the answer and a
    window that holds the gold exceed the block. answer_room: least tokens to leave for an answer
    and its stop (PPO samples answers of its own).
    """
    units, dropped = [], 0
    for p, paragraph in enumerate(paragraphs):
        kept = [
            q
            for q, question in enumerate(paragraph.questions)
            if next(gold_asks(paragraph, question, block_size, answer_room), None)
        ]
        dropped += len(paragraph.questions) - len(kept)
        units += [(p, group) for group in chunks(kept, max_questions)]
    return Units(units, dropped)


def training_trees(
    paragraphs: Sequence[EncodedParagraph],
    block_size: int,
    rng: np.random.Generator,
    max_questions: int = 16,
    gold: str = "random",
) -> list[Tree]:
    """All trainable questions once, each with one of its golds: a `random` one, or the `first`."""
    units = training_units(paragraphs, block_size, max_questions).units
    return [
        tree
        for p, questions in units
        for tree, _ in _unit_trees(paragraphs[p], questions, block_size, rng, gold, 0)
    ]


def _unit_trees(
    paragraph: EncodedParagraph,
    questions: Sequence[int],
    block_size: int,
    rng: np.random.Generator,
    gold: str,
    answer_room: int,
) -> list[tuple[Tree, list[int]]]:
    """(tree, its questions) for each window of a unit."""
    if gold not in ("random", "first"):
        raise ValueError(f"gold {gold!r}: expected 'random' or 'first'")
    asks = []
    for q in questions:
        options = list(gold_asks(paragraph, paragraph.questions[q], block_size, answer_room))
        asks.append(options[int(rng.integers(len(options))) if gold == "random" else 0])
    placed = []
    for context, group in place(paragraph, asks, block_size, rng):
        tree = (context, [(asks[i].tokens, asks[i].answers) for i in group])
        placed.append((tree, [questions[i] for i in group]))
    return placed


def steps_per_epoch(units: int, batch_size: int) -> int:
    """Batches that hold all units once, the last one perhaps smaller."""
    return -(-units // batch_size)


def batch_order(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of an epoch, as indices into `lengths` (tokens of each unit's context).

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
    *,
    batch_size: int,
    seed: int,
    block_size: int,
    start_step: int = 0,
    max_questions: int = 16,
    gold: str = "random",
    answer_room: int = 0,
) -> Iterator[Batch]:
    """Batches of `batch_size` units without end, from any step on.

    Batch number n is the same whichever start_step led to it: the order comes from (seed, epoch),
    a unit's gold and window from (seed, epoch, paragraph, first question). Earlier trees are not
    made.
    """
    units = training_units(paragraphs, block_size, max_questions, answer_room).units
    if not units:
        raise ValueError(f"no question fits a block of {block_size} tokens")
    lengths = [len(paragraphs[p].tokens) for p, _ in units]
    epoch, skip = divmod(start_step, steps_per_epoch(len(units), batch_size))
    while True:
        for chosen in batch_order(lengths, batch_size, seed, epoch)[skip:]:
            trees: list[Tree] = []
            index: list[list[Place]] = []
            for p, questions in (units[u] for u in chosen):
                rng = stream(Stream.WINDOWS, seed, epoch, p, questions[0])
                for tree, asked in _unit_trees(
                    paragraphs[p], questions, block_size, rng, gold, answer_room
                ):
                    trees.append(tree)
                    index.append([(p, q) for q in asked])
            yield Batch(trees, index)
        epoch, skip = epoch + 1, 0


def evaluate_on(
    paragraphs: Sequence[EncodedParagraph],
    *,
    block_size: int,
    answer_room: int,
    max_questions: int = 16,
) -> EvaluationTrees:
    """`evaluation_trees` of encoded paragraphs; this is where their golds are left behind."""
    return evaluation_trees(
        [paragraph.tokens for paragraph in paragraphs],
        [[question.tokens for question in paragraph.questions] for paragraph in paragraphs],
        block_size=block_size,
        answer_room=answer_room,
        max_questions=max_questions,
    )
