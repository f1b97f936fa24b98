"""Trees that fit the model: a context that is too long is cut to a window, nothing else ever is.

A block of `block_size` tokens must hold context, question, answer and stop token of every path from
root to leaf. Where the whole context fits it is taken whole. Otherwise a window keeps the head
(`Context:`), a run of the text's tokens, and the last token (the line's end).

Training knows the golds: questions whose golds fit one window share it, and its start is drawn
uniformly from those that hold them all, so that a gold's place in the window tells nothing.
Evaluation takes the first tokens and is never shown an answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from src.data.encoding import CONTEXT_HEAD, EncodedParagraph, EncodedQuestion

# (context ids, [(question ids, [answer ids, ...]), ...]): one root of a forest.
Tree = tuple[list[int], list[tuple[list[int], list[list[int]]]]]
Place = tuple[int, int]  # (paragraph, question in it)
STOP = 1  # tokens of the stop token
# At evaluation a question longer than this share of a block is read apart from its siblings, whose
# context it would shorten.
_LONE_SHARE = 4


class Ask(NamedTuple):
    """A question to be placed. tokens, answers: ids; need: tokens below the context (question,
    longest answer, stop); span: token range [first, end) of the gold that its window must hold, or
    None where the whole context fits."""

    tokens: list[int]
    answers: list[list[int]]
    need: int
    span: tuple[int, int] | None


class EvaluationTrees(NamedTuple):
    """trees: questions without answers; index: per tree, the (context, question) of each question;
    dropped: the questions that leave no room for a context."""

    trees: list[Tree]
    index: list[list[Place]]
    dropped: list[Place]


def gold_span(paragraph: EncodedParagraph, start: int, text: str) -> tuple[int, int]:
    """Token range [first, end) of the context's characters [start, start + len(text))."""
    starts = paragraph.token_starts
    offset = len(CONTEXT_HEAD) + 1
    begin = np.searchsorted(starts, offset + start, side="right") - 1
    first = np.searchsorted(starts, starts[begin])  # a character may be several tokens
    return int(first), int(np.searchsorted(starts, offset + start + len(text)))


def make_ask(
    paragraph: EncodedParagraph,
    question: EncodedQuestion,
    gold: int,
    answers: list[list[int]],
    block_size: int,
    answer_budget: int = 0,
) -> Ask | None:
    """The question with these answers, in a window that holds its gold number `gold`.

    answer_budget: tokens to leave for an answer and its stop, at least. None where no window holds
    the gold beside question, answers and stop.
    """
    room = max(answer_budget, max(map(len, answers)) + STOP)
    need = len(question.tokens) + room
    if len(paragraph.tokens) + need <= block_size:
        return Ask(question.tokens, answers, need, None)
    span = gold_span(paragraph, question.starts[gold], question.texts[gold])
    if span[1] - span[0] > _room(paragraph, need, block_size):
        return None
    return Ask(question.tokens, answers, need, span)


def longest_answer(
    paragraph: EncodedParagraph, question: EncodedQuestion, gold: int, block_size: int
) -> int:
    """Tokens, without the stop token, of the longest answer with which `make_ask` finds a window.
    """
    first, end = gold_span(paragraph, question.starts[gold], question.texts[gold])
    need = len(question.tokens) + STOP
    window = _room(paragraph, need, block_size) - (end - first)
    return max(window, block_size - len(paragraph.tokens) - need)


def gold_asks(
    paragraph: EncodedParagraph, question: EncodedQuestion, block_size: int, answer_budget: int = 0
) -> Iterator[Ask]:
    """One ask for each gold that can be learnt from in this block. None: drop the question."""
    for number, ids in enumerate(question.golds):
        ask = make_ask(paragraph, question, number, [ids], block_size, answer_budget)
        if ask is not None:
            yield ask


def chunks(items: Sequence, size: int) -> list[tuple]:
    """The items in groups of `size`, the last one smaller where they do not come out even."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def place(
    paragraph: EncodedParagraph, asks: Sequence[Ask], block_size: int, rng: np.random.Generator
) -> list[tuple[list[int], list[int]]]:
    """(context ids, indices into asks) of each window.

    Those that fit beside the whole context share it; the rest are grouped greedily by position.
    """
    whole = [i for i, ask in enumerate(asks) if ask.span is None]
    placed = [(paragraph.tokens, whole)] if whole else []
    rest = sorted((ask.span, i) for i, ask in enumerate(asks) if ask.span is not None)
    while rest:
        group: list[int] = []
        first, end, need = rest[0][0][0], 0, 0
        for span, i in rest:
            wider, higher = max(end, span[1]), max(need, asks[i].need)
            if wider - first > _room(paragraph, higher, block_size):
                break
            end, need = wider, higher
            group.append(i)
        room = _room(paragraph, need, block_size)
        placed.append((_window(paragraph, first, end, room, rng), sorted(group)))
        rest = rest[len(group) :]
    return placed


def _head(paragraph: EncodedParagraph) -> int:
    return int(np.searchsorted(paragraph.token_starts, len(CONTEXT_HEAD)))


def _room(paragraph: EncodedParagraph, need: int, block_size: int) -> int:
    """Tokens of text that a window may hold beside its head and its last token."""
    return block_size - _head(paragraph) - 1 - need


def _window(
    paragraph: EncodedParagraph, first: int, end: int, room: int, rng: np.random.Generator
) -> list[int]:
    """A window of `room` text tokens that holds [first, end), its start uniform over all such."""
    tokens, head = paragraph.tokens, _head(paragraph)
    last_start = len(tokens) - 1 - room
    # A gold that reaches into the last token (".\n" may be one) is whole only at the very end.
    low = last_start if end == len(tokens) else max(head, end - room)
    start = int(rng.integers(low, max(low, min(first, last_start)) + 1))
    return tokens[:head] + tokens[start : start + room] + tokens[-1:]


def evaluation_trees(
    contexts: Sequence[list[int]],
    questions: Sequence[Sequence[list[int]]],
    *,
    block_size: int,
    answer_budget: int,
    max_questions: int = 16,
) -> EvaluationTrees:
    """Each context's first tokens (all of them where they fit) with its questions, in order.

    contexts[i], questions[i][j]: ids; answer_budget: tokens left for the answer and its stop token.
    Nothing here depends on an answer.
    """
    trees: list[Tree] = []
    index: list[list[Place]] = []
    dropped: list[Place] = []
    for i, (context, asked) in enumerate(zip(contexts, questions, strict=True)):
        shared: list[int] = []
        groups: list[Iterable[int]] = []
        for j, tokens in enumerate(asked):
            if len(tokens) + answer_budget >= block_size:
                dropped.append((i, j))
            elif _is_lone(len(context), len(tokens), answer_budget, block_size):
                groups.append([j])
            else:
                shared.append(j)
        for group in [*chunks(shared, max_questions), *groups]:
            room = block_size - answer_budget - max(len(asked[j]) for j in group)
            trees.append((cut_context(context, room), [(asked[j], []) for j in group]))
            index.append([(i, j) for j in group])
    return EvaluationTrees(trees, index, dropped)


def cut_context(context: list[int], room: int) -> list[int]:
    """A context's first tokens and its last, the line's end; all of them where they fit."""
    return context if len(context) <= room else [*context[: room - 1], context[-1]]


def _is_lone(context: int, question: int, answer_budget: int, block_size: int) -> bool:
    """A long question whose own context must be cut."""
    too_long = context + question + answer_budget > block_size
    return too_long and question > block_size // _LONE_SHARE


def golds_lost(paragraphs: Sequence[EncodedParagraph], evaluation: EvaluationTrees) -> float:
    """Share of all questions of which no gold is left in the context that evaluation reads."""
    lost = len(evaluation.dropped)
    total = lost + sum(map(len, evaluation.index))
    for (context, _), places in zip(evaluation.trees, evaluation.index, strict=True):
        for i, j in places:
            paragraph = paragraphs[i]
            if len(context) < len(paragraph.tokens):
                question = paragraph.questions[j]
                ends = [
                    gold_span(paragraph, start, text)[1]
                    for start, text in zip(question.starts, question.texts, strict=True)
                ]
                lost += all(end > len(context) - 1 for end in ends)
    return lost / max(1, total)


def attach_answers(
    evaluation: EvaluationTrees, answers: Mapping[Place, list[list[int]]], answer_budget: int
) -> tuple[list[Tree], list[list[Place]]]:
    """The evaluation's trees with the given answers as leaves, and the place of each question.

    Questions without an entry, or of which one answer with its stop exceeds answer_budget, are left
    out: compare the number of places to see how many.
    """
    trees, index = [], []
    for (context, asked), places in zip(evaluation.trees, evaluation.index, strict=True):
        kept = [
            (place, (tokens, answers[place]))
            for place, (tokens, _) in zip(places, asked, strict=True)
            if place in answers and max(map(len, answers[place])) + STOP <= answer_budget
        ]
        if kept:
            trees.append((context, [node for _, node in kept]))
            index.append([place for place, _ in kept])
    return trees, index
