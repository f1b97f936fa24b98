"""Trees that fit the model: a context that is too long is cut to a window, nothing else ever is.

A block of `block_size` tokens must hold context, question, answer and EOS of every path from root
to completion. Where the whole context fits it is taken whole. Otherwise a window keeps the head
(`Context:`), a run of the text's tokens, and the last token (the line's end).

Training knows the golds. Questions whose golds fit one window share it. Its start is drawn
uniformly from those that hold them all, so that a gold's place in the window tells nothing.
Evaluation takes the first tokens, or overlapping windows, whatever the answer is. Custom prompts
are never cut.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.data.encoding import CONTEXT_HEAD, EncodedParagraph, EncodedQuestion
from src.data.squad_types import NO_PLACE

# One prefix tree: (context ids, [(question ids, [answer ids, ...]), ...]); answers without EOS.
Tree = tuple[Sequence[int], Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]]
Place = tuple[int, int]  # (paragraph, question in it)
EOS_TOKENS = 1  # EOS takes one token
# At evaluation a question longer than 1 / _LONE_SHARE of a block is read apart from its siblings,
# whose context it would shorten.
_LONE_SHARE = 4


class TrainingExample(NamedTuple):
    """A question to train on, before it has a window. tokens, answers: ids; need: tokens below the
    context (question, longest answer, EOS); span: token range [first, end) of the gold that its
    window must hold, or None where the whole context fits."""

    tokens: list[int]
    answers: list[list[int]]
    need: int
    span: tuple[int, int] | None


class LaterWindow(NamedTuple):
    """The same questions below a later part of their context, from its token `first` on."""

    tree: Tree
    index: list[Place]
    first: int


class EvaluationTrees(NamedTuple):
    """trees: questions without answers.
    index: per tree, the (context, question) of each question.
    dropped: the questions that leave no room for a context, and own prompts that do not fit.
    later: windows further on in contexts that were cut, where they are asked for.
    """

    trees: list[Tree]
    index: list[list[Place]]
    dropped: list[Place]
    later: list[LaterWindow]


def tree_tokens(tree: Any) -> int:
    """Tokens to read for a tree, or for a prompt without answers."""
    context, questions = tree
    asked = [q if isinstance(q, tuple) else (q, ()) for q in questions]
    return len(context) + sum(len(q) + sum(len(a) + 2 for a in answers) for q, answers in asked)


def batching_length(tree: Any) -> int:
    """Trees of like length are padded little: that of the context or, without one, of the prompt.
    """
    return len(tree[0]) or tree_tokens(tree)


def gold_span(paragraph: EncodedParagraph, start: int, text: str) -> tuple[int, int]:
    """Token range [first, end) of the context's characters [start, start + len(text))."""
    starts = paragraph.token_starts
    offset = len(CONTEXT_HEAD) + 1
    begin = np.searchsorted(starts, offset + start, side="right") - 1
    first = np.searchsorted(starts, starts[begin])  # a character may be several tokens
    return int(first), int(np.searchsorted(starts, offset + start + len(text)))


def make_example(
    paragraph: EncodedParagraph,
    question: EncodedQuestion,
    gold: int,
    answers: list[list[int]],
    block_size: int,
    answer_budget: int = 0,
) -> TrainingExample | None:
    """The question with these answers, in a window that holds its gold number `gold`.

    answer_budget: least tokens to leave for an answer and its EOS. None if no window holds the gold
    beside question, answers and EOS, or if the gold's place is not known.
    """
    budget = max(answer_budget, max(map(len, answers)) + EOS_TOKENS)
    need = len(question.tokens) + budget
    if len(paragraph.tokens) + need <= block_size:
        return TrainingExample(question.tokens, answers, need, None)
    if question.starts[gold] == NO_PLACE:
        return None
    span = gold_span(paragraph, question.starts[gold], question.texts[gold])
    if span[1] - span[0] > _text_budget(paragraph, need, block_size):
        return None
    return TrainingExample(question.tokens, answers, need, span)


def longest_fitting_answer(
    paragraph: EncodedParagraph, question: EncodedQuestion, gold: int, block_size: int
) -> int:
    """Tokens, EOS excluded, of the longest answer with which `make_example` finds a window."""
    need = len(question.tokens) + EOS_TOKENS
    whole = block_size - len(paragraph.tokens) - need
    if question.starts[gold] == NO_PLACE:
        return whole
    first, end = gold_span(paragraph, question.starts[gold], question.texts[gold])
    return max(whole, _text_budget(paragraph, need, block_size) - (end - first))


def gold_examples(
    paragraph: EncodedParagraph, question: EncodedQuestion, block_size: int, answer_budget: int = 0
) -> Iterator[TrainingExample]:
    """One example for each gold that can be learnt from in this block, which may be none."""
    for number, ids in enumerate(question.golds):
        example = make_example(paragraph, question, number, [ids], block_size, answer_budget)
        if example is not None:
            yield example


def chunks(items: Sequence, size: int) -> list[tuple]:
    """The items in groups of `size`, the last one smaller where they do not come out even."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def windows_for(
    paragraph: EncodedParagraph,
    examples: Sequence[TrainingExample],
    block_size: int,
    rng: np.random.Generator,
) -> list[tuple[list[int], list[int]]]:
    """(context ids, indices into examples) of each window.

    Those that fit beside the whole context share it; the rest are grouped greedily by position.
    """
    whole = [i for i, x in enumerate(examples) if x.span is None]
    placed = [(paragraph.tokens, whole)] if whole else []
    rest = sorted((x.span, i) for i, x in enumerate(examples) if x.span is not None)
    while rest:
        group: list[int] = []
        first, end, need = rest[0][0][0], 0, 0
        for span, i in rest:
            wider, higher = max(end, span[1]), max(need, examples[i].need)
            if wider - first > _text_budget(paragraph, higher, block_size):
                break
            end, need = wider, higher
            group.append(i)
        budget = _text_budget(paragraph, need, block_size)
        placed.append((_window(paragraph, first, end, budget, rng), sorted(group)))
        rest = rest[len(group) :]
    return placed


def head_tokens(paragraph: EncodedParagraph) -> int:
    """Tokens of `Context:`, with which every window of a context begins."""
    return int(np.searchsorted(paragraph.token_starts, len(CONTEXT_HEAD)))


def _text_budget(paragraph: EncodedParagraph, need: int, block_size: int) -> int:
    """Tokens of text that a window may hold beside its head and its last token."""
    return block_size - head_tokens(paragraph) - 1 - need


def _window(
    paragraph: EncodedParagraph, first: int, end: int, budget: int, rng: np.random.Generator
) -> list[int]:
    """A window of `budget` text tokens that holds [first, end), its start uniform over all such."""
    tokens, head = paragraph.tokens, head_tokens(paragraph)
    last_start = len(tokens) - 1 - budget
    # A gold that reaches into the last token (".\n" may be one) is whole only at the very end.
    low = last_start if end == len(tokens) else max(head, end - budget)
    start = int(rng.integers(low, max(low, min(first, last_start)) + 1))
    return tokens[:head] + tokens[start : start + budget] + tokens[-1:]


def evaluation_trees(
    contexts: Sequence[list[int]],
    questions: Sequence[Sequence[list[int]]],
    *,
    block_size: int,
    answer_budget: int,
    max_questions: int = 16,
    doc_stride: int | None = None,
    heads: Sequence[int] = (),
    whole: Sequence[bool] = (),
) -> EvaluationTrees:
    """Each context's first tokens (all of them where they fit) with its questions, in order.
    Prompts without a context that begin alike come side by side, their beginning as a context.

    contexts[i], questions[i][j]: ids; answer_budget: tokens left for the answer and its EOS.
    doc_stride: tokens from one window's start to the next, in a context that is cut; None: only its
    first window. heads: per context, the tokens that every window begins with (for doc_stride).
    whole: per context, whether it may not be cut, as the user's own prompts; (): all may be.
    Nothing here depends on an answer.
    """
    trees: list[Tree] = []
    index: list[list[Place]] = []
    dropped: list[Place] = []
    later: list[LaterWindow] = []
    for i, (context, asked) in enumerate(zip(contexts, questions, strict=True)):
        shared: list[int] = []
        groups: list[Iterable[int]] = []
        least = len(context) if whole and whole[i] else 1
        for j, tokens in enumerate(asked):
            if least + len(tokens) + answer_budget > block_size:
                dropped.append((i, j))
            elif _is_lone(len(context), len(tokens), answer_budget, block_size):
                groups.append([j])
            else:
                shared.append(j)
        for group in [*chunks(shared, max_questions), *groups]:
            budget = block_size - answer_budget - max(len(asked[j]) for j in group)
            below, places = [(asked[j], []) for j in group], [(i, j) for j in group]
            trees.append((cut_context(context, budget), below))
            index.append(places)
            if doc_stride:
                windows = _later_windows(context, heads[i], budget, doc_stride)
                later += [LaterWindow((w, below), places, first) for first, w in windows]
    return EvaluationTrees(*_share_beginnings(trees, index, max_questions), dropped, later)


def _later_windows(
    context: list[int], head: int, budget: int, stride: int
) -> list[tuple[int, list[int]]]:
    """(first token, window) of the windows after the first, the last of which ends the context."""
    size = budget - head - 1
    if len(context) <= budget or size < 1:
        return []
    last = len(context) - 1 - size
    firsts = [*range(head + min(stride, size), last, min(stride, size)), last]
    return [(i, context[:head] + context[i : i + size] + context[-1:]) for i in firsts]


def _share_beginnings(
    trees: list[Tree], index: list[list[Place]], max_questions: int
) -> tuple[list[Tree], list[list[Place]]]:
    """The trees, and after them those without a context. Prompts that share a beginning of at least
    half their length are one tree.
    """
    own = sorted((i for i in range(len(trees)) if not trees[i][0]), key=lambda i: trees[i][1][0][0])
    groups: list[tuple[list[int], list[int]]] = []  # (beginning, trees)
    for i in own:
        prompt = trees[i][1][0][0]
        if groups and len(groups[-1][1]) < max_questions:
            beginning, members = groups[-1]
            shared = os.path.commonprefix([beginning, prompt[:-1]])
            longest = max(len(trees[m][1][0][0]) for m in (i, *members))
            if 2 * len(shared) >= longest:
                groups[-1] = (shared, [*members, i])
                continue
        groups.append((prompt[:-1], [i]))
    kept = [i for i in range(len(trees)) if trees[i][0]]
    shared_trees, shared_index = [], []
    for beginning, members in groups:
        cut = len(beginning) if len(members) > 1 else 0
        asked = [(tokens[cut:], []) for m in members for tokens, _ in trees[m][1]]
        shared_trees.append((beginning[:cut], asked))
        shared_index.append([where for m in members for where in index[m]])
    return [trees[i] for i in kept] + shared_trees, [index[i] for i in kept] + shared_index


def cut_context(context: list[int], budget: int) -> list[int]:
    """A context's first tokens and its last, the line's end; all of them where they fit."""
    return context if len(context) <= budget else [*context[: budget - 1], context[-1]]


def _is_lone(context: int, question: int, answer_budget: int, block_size: int) -> bool:
    """A long question whose own context must be cut."""
    too_long = context + question + answer_budget > block_size
    return too_long and question > block_size // _LONE_SHARE


def read_ranges(
    paragraphs: Sequence[EncodedParagraph], evaluation: EvaluationTrees
) -> dict[Place, list[tuple[int, int]]]:
    """The token ranges [low, high) that evaluation reads of each question's context, if it is cut.
    """
    read: dict[Place, list[tuple[int, int]]] = {}
    for (context, _), places in zip(evaluation.trees, evaluation.index, strict=True):
        for i, j in places:
            if len(context) < len(paragraphs[i].tokens):
                read[i, j] = [(0, len(context) - 1)]
    for (context, _), places, first in evaluation.later:
        for i, j in places:
            read[i, j].append((first, first + len(context) - head_tokens(paragraphs[i]) - 1))
    return read


def golds_lost(paragraphs: Sequence[EncodedParagraph], evaluation: EvaluationTrees) -> float:
    """Share of all questions without a gold left in the context that evaluation reads. Golds whose
    place is not known do not count.
    """
    lost = len(evaluation.dropped)
    for (i, j), ranges in read_ranges(paragraphs, evaluation).items():
        question = paragraphs[i].questions[j]
        spans = [gold_span(paragraphs[i], start, text)
                 for start, text in zip(question.starts, question.texts, strict=True)
                 if start != NO_PLACE]
        lost += bool(spans) and not any(
            low <= first and end <= high for first, end in spans for low, high in ranges
        )
    return lost / max(1, len(evaluation.dropped) + sum(map(len, evaluation.index)))


def attach_answers(
    evaluation: EvaluationTrees, answers: Mapping[Place, list[list[int]]], answer_budget: int
) -> tuple[list[Tree], list[list[Place]]]:
    """The evaluation's trees with the given answers, and the place of each question.

    A question without an entry is left out, and so is one with an answer that exceeds answer_budget
    with its EOS. Compare the number of places to see how many.
    """
    trees, index = [], []
    for (context, asked), places in zip(evaluation.trees, evaluation.index, strict=True):
        kept = [
            (place, (tokens, answers[place]))
            for place, (tokens, _) in zip(places, asked, strict=True)
            if place in answers and max(map(len, answers[place])) + EOS_TOKENS <= answer_budget
        ]
        if kept:
            trees.append((context, [node for _, node in kept]))
            index.append([place for place, _ in kept])
    return trees, index
