"""Preference pairs as trees: every question carries the answers of its pairs, in the order [chosen,
rejected], or for several pairs [chosen, rejected, chosen, rejected, ...].

The trees of a set of pairs are made once, windows included, so that the reference log-probabilities
of a pair hold for the whole run. Epochs only change their order.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from src.data.encoding import EncodedParagraph, answer_text
from src.data.random_streams import Stream, stream
from src.data.squad_dataset import batch_order, evaluate_on, steps_per_epoch
from src.data.squad_preferences import Fits, Pair
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.windows import (
    EOS_TOKENS,
    TrainingExample,
    Tree,
    attach_answers,
    chunks,
    cut_context,
    longest_fitting_answer,
    make_example,
    windows_for,
)


class PairTrees(NamedTuple):
    """index: per tree, the number of each of its pairs in the list of pairs; dropped: pairs that no
    window of the block can hold.
    """

    trees: list[Tree]
    index: list[list[int]]
    dropped: int = 0


def count_pairs(trees: Sequence[Tree]) -> int:
    """The pairs of some trees.

    >>> count_pairs([([1], [([2], [[3], [4]]), ([5], [[6], [7], [8], [9]])])])
    3
    """
    return sum(len(answers) // 2 for _, questions in trees for _, answers in questions)


def fits_block(encoded: Sequence[EncodedParagraph], tokenizer: Tokenizer, block_size: int) -> Fits:
    """Which answers fit a window of the block that `preference_trees` finds."""

    @cache
    def longest(p: int, q: int, gold: int) -> int:
        return longest_fitting_answer(encoded[p], encoded[p].questions[q], gold, block_size)

    return lambda p, q, gold, text: _is_within(text, longest(p, q, gold), tokenizer)


def fits_budget(tokenizer: Tokenizer, answer_budget: int) -> Fits:
    """Which answers `evaluation_pair_trees` keeps."""
    return lambda p, q, gold, text: _is_within(text, answer_budget - EOS_TOKENS, tokenizer)


def _is_within(text: str, tokens: int, tokenizer: Tokenizer) -> bool:
    """Whether an answer has at most so many tokens. A token is of one byte or more."""
    answer = answer_text(text)
    return len(answer.encode()) <= tokens or len(tokenizer.encode(answer)) <= tokens


def preference_trees(
    encoded: Sequence[EncodedParagraph],
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    block_size: int,
    *,
    seed: int,
    max_questions: int = 16,
) -> PairTrees:
    """Training pairs, grouped by context; where a context is too long, in windows with the gold."""
    answers = _answers(pairs, tokenizer)
    trees: list[Tree] = []
    index: list[list[int]] = []
    for p, numbers in _by_paragraph(pairs).items():
        examples: dict[int, TrainingExample] = {}
        for n in numbers:
            question = encoded[p].questions[pairs[n].question]
            example = make_example(encoded[p], question, pairs[n].gold, answers[n], block_size)
            if example is not None:
                examples[n] = example
        for group in chunks(list(examples), max_questions):
            rng = stream(Stream.PAIR_WINDOWS, seed, p, pairs[group[0]].question)
            own = [examples[n] for n in group]
            for context, members in windows_for(encoded[p], own, block_size, rng):
                chosen = [group[i] for i in members]
                trees.append((context, [(examples[n].tokens, examples[n].answers) for n in chosen]))
                index.append(chosen)
    return PairTrees(trees, index, len(pairs) - sum(map(len, index)))


def evaluation_pair_trees(
    encoded: Sequence[EncodedParagraph],
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    block_size: int,
    *,
    answer_budget: int,
) -> PairTrees:
    """Held-out pairs below the contexts that evaluation reads: the first tokens, whatever the gold.

    answer_budget: tokens for an answer and its EOS; a pair with a longer answer is dropped.
    """
    answers = _answers(pairs, tokenizer)
    numbers = {(pair.paragraph, pair.question): n for n, pair in enumerate(pairs)}
    evaluation = evaluate_on(encoded, block_size=block_size, answer_budget=answer_budget)
    by_place = {where: answers[n] for where, n in numbers.items()}
    trees, places = attach_answers(evaluation, by_place, answer_budget)
    index = [[numbers[where] for where in row] for row in places]
    return PairTrees(trees, index, len(pairs) - sum(map(len, index)))


def given_pair_trees(
    encoded: Sequence[EncodedParagraph],
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    block_size: int,
    *,
    max_pairs: int = 16,
) -> PairTrees:
    """Pairs that somebody gave, training and held-out alike. Several may be of one question, which
    is then read once. A context that is too long is cut to its first tokens, as at evaluation,
    because nobody knows where in it an answer stands. A prompt of the user's own is never cut.
    """
    answers = _answers(pairs, tokenizer)
    trees: list[Tree] = []
    index: list[list[int]] = []
    for p, numbers in _by_paragraph(pairs).items():
        paragraph = encoded[p]
        need = {
            n: len(paragraph.questions[pairs[n].question].tokens)
            + max(map(len, answers[n]))
            + EOS_TOKENS
            for n in numbers
        }
        size = len(paragraph.tokens)
        whole = [n for n in numbers if size + need[n] <= block_size]
        groups = list(chunks(sorted(whole, key=lambda n: pairs[n].question), max_pairs))
        if paragraph.template:
            cut = (n for n in numbers if size + need[n] > block_size > need[n])
            groups += [(n,) for n in cut]
        for group in groups:
            context = cut_context(paragraph.tokens, block_size - max(need[n] for n in group))
            asked: dict[int, list[list[int]]] = {}
            for n in group:
                asked.setdefault(pairs[n].question, []).extend(answers[n])
            questions = [(paragraph.questions[q].tokens, ids) for q, ids in asked.items()]
            trees.append((context, questions))
            index.append(list(group))
    return PairTrees(trees, index, len(pairs) - sum(map(len, index)))


def pair_batches(
    pair_trees: PairTrees, *, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[PairTrees]:
    """Batches of `batch_size` trees without end, from any step on; `seed` decides the order."""
    if not pair_trees.trees:
        raise ValueError("no preference pair fits the block")
    lengths = [len(context) or len(qs[0][0]) for context, qs in pair_trees.trees]
    epoch, skip = divmod(start_step, steps_per_epoch(len(lengths), batch_size))
    while True:
        for chosen in batch_order(lengths, batch_size, seed, epoch)[skip:]:
            trees = [pair_trees.trees[i] for i in chosen]
            yield PairTrees(trees, [pair_trees.index[i] for i in chosen])
        epoch, skip = epoch + 1, 0


def _answers(pairs: Sequence[Pair], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """[chosen ids, rejected ids] of each pair."""
    chosen = tokenizer.encode_batch([answer_text(pair.chosen) for pair in pairs])
    rejected = tokenizer.encode_batch([answer_text(pair.rejected) for pair in pairs])
    return [list(both) for both in zip(chosen, rejected, strict=True)]


def _by_paragraph(pairs: Sequence[Pair]) -> dict[int, list[int]]:
    """Numbers of the pairs of each paragraph, in order."""
    grouped: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        grouped.setdefault(pair.paragraph, []).append(number)
    return grouped
