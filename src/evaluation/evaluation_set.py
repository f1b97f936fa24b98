"""Held-out questions as policies meet them, chosen once and the same for all who are compared."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.data.encoding import CONTEXT_HEAD, EncodedParagraph, answer_text, encode_paragraphs
from src.data.squad_dataset import evaluate_on
from src.data.squad_splits import count_questions
from src.data.squad_types import Paragraph
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.trained_contexts import split_by_training
from src.data.windows import golds_lost
from src.evaluation.baselines import Baselines, baseline_predictions
from src.evaluation.intervals import Figures
from src.evaluation.squad_metrics import QAExample, em_and_f1
from src.inference.logprobs import Tree, completion_logps
from src.inference.sampling import PromptTree, generate_all
from src.training.distributed import map_over_ranks
from src.utils.constants import MAX_ANSWER_TOKENS
from src.utils.errors import UserError
from src.utils.progress_bar import say

# What a window leaves for it: a reward model reads a stop token after an answer that was cut off.
ANSWER_BUDGET = MAX_ANSWER_TOKENS + 1


class EvaluationSet(NamedTuple):
    """Lists run question after question in the order of the prompts.

    prompts: cut to their windows; golds: ids of each question's first gold.
    groups: the context of each question, for intervals. lost: share of questions of which the
    window keeps no gold; dropped: questions that leave no room for a context.
    max_answer_tokens: longest answer, its stop token included; ceiling: percent of questions of
    which the window holds a gold no longer than that. seen: questions whose context was trained on,
    which are no held-out ones.
    """

    prompts: list[PromptTree]
    golds: list[list[int]]
    asked: list[QAExample]
    ids: list[str]
    groups: list[int]
    lost: float
    dropped: int
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    ceiling: float = 100.0
    seen: int = 0

    @property
    def kind(self) -> str:
        """What its metrics are of: `held out`, or how much of it was trained on."""
        if not self.seen:
            return "held out"
        total = len(self.asked)
        return "trained on" if self.seen == total else f"{self.seen} of {total} trained on"

    def gold_tokens(self) -> list[int]:
        """Tokens of each gold and its stop, (Q,); 0 where they are more than an answer may have:
        the windows leave max_answer_tokens, so a longer gold has no place in them, and no loss.
        """
        counts = (len(gold) + 1 for gold in self.golds)
        return [n if n <= self.max_answer_tokens else 0 for n in counts]

    def told(self) -> str:
        """How many questions there are, and what of them was dropped or cut."""
        return (
            f"{len(self.asked)} {self.kind} ({self.dropped} more leave no room for an answer); "
            f"windows cut off {self.lost:.1%} of the held-out golds; "
            f"{self.gold_tokens().count(0)} are longer than an answer may be and have no loss; "
            f"perfect copy within {self.max_answer_tokens} tokens (--max_answer_tokens): EM "
            f"{self.ceiling:.1f}"
        )

    def with_answers(self, ids: Sequence[Sequence[int]]) -> list[Tree]:
        """The prompts with one answer (Q,) each, as trees."""
        answers = iter(ids)
        return [(context, [(q, [next(answers)]) for q in qs]) for context, qs in self.prompts]


def choose_questions(
    paragraphs: Sequence[Paragraph], limit: int | None, seed: int
) -> list[Paragraph]:
    """`limit` questions of whole paragraphs in a seeded order, the last one cut; None: all."""
    if limit is None or limit >= sum(len(p.questions) for p in paragraphs):
        return list(paragraphs)
    order = list(range(len(paragraphs)))
    random.Random(seed).shuffle(order)
    chosen, left = [], limit
    for index in order:
        paragraph = paragraphs[index]
        chosen.append(paragraph._replace(questions=paragraph.questions[:left]))
        left -= len(chosen[-1].questions)
        if not left:
            break
    return chosen


def context_numbers(paragraphs: Sequence[Paragraph]) -> list[int]:
    """For each paragraph the number of the first with the same context: the groups of intervals. A
    file may give a context anew with every question.
    """
    numbers: dict[str, int] = {}
    return [numbers.setdefault(p.context.strip(), n) for n, p in enumerate(paragraphs)]


def held_out_questions(
    paragraphs: Sequence[Paragraph],
    encoded: Sequence[EncodedParagraph],
    block_size: int,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> EvaluationSet:
    """All questions of some paragraphs, each context read from its start, wherever its golds
    are.
    """
    trees = evaluate_on(encoded, block_size=block_size, answer_budget=max_answer_tokens + 1)
    places = [place for index in trees.index for place in index]
    if not places:
        raise UserError(
            f"no held-out question leaves room for an answer of {max_answer_tokens} tokens in a "
            f"block of {block_size}, expected a larger --block_size of main_squad.py or a smaller "
            "--max_answer_tokens"
        )
    questions = [(paragraphs[p], paragraphs[p].questions[q]) for p, q in places]
    numbers = context_numbers(paragraphs)
    read = [len(context) for context, qs in trees.trees for _ in qs]
    reached = [
        _can_be_copied(encoded[p], q, kept, max_answer_tokens)
        for (p, q), kept in zip(places, read, strict=True)
    ]
    return EvaluationSet(
        [(context, [q for q, _ in qs]) for context, qs in trees.trees],
        [encoded[p].questions[q].golds[0] for p, q in places],
        [QAExample(p.context, q.text, q.answers) for p, q in questions],
        [q.id for _, q in questions],
        [numbers[p] for p, _ in places],
        golds_lost(encoded, trees),
        len(trees.dropped),
        max_answer_tokens,
        100 * sum(reached) / len(reached),
    )


def _can_be_copied(paragraph: EncodedParagraph, question: int, kept: int, longest: int) -> bool:
    """Whether the first `kept` tokens of a context hold a gold that has `longest` tokens at most.
    """
    text, asked = paragraph.context, paragraph.questions[question]
    if kept < len(paragraph.tokens):  # all but the last of them are the context's first
        text = text[: max(0, int(paragraph.token_starts[kept - 1]) - len(CONTEXT_HEAD) - 1)]
    golds = zip(asked.texts, asked.golds, strict=True)
    return any(len(ids) < longest and gold in text for gold, ids in golds)


class Held(NamedTuple):
    """Questions to evaluate on: their paragraphs, encodings, and the set. left_out: questions whose
    contexts were trained on.
    """

    chosen: list[Paragraph]
    encoded: list[EncodedParagraph]
    questions: EvaluationSet
    left_out: int


def hold_out(
    paragraphs: Sequence[Paragraph],
    trained_on: Tensor,
    tokenizer: Tokenizer,
    block_size: int,
    max_answer_tokens: int,
    *,
    source: str,
    limit: int | None = None,
    seed: int = 0,
    include_trained: bool = False,
) -> Held:
    """The evaluation set of some paragraphs, `limit` questions of those that were not trained on.

    trained_on: contexts, as `Checkpoint.trained_on`; include_trained: they stay, and are counted.
    source: what messages call the data. UserError where nothing is left.
    """
    unseen, seen = split_by_training(paragraphs, trained_on)
    left_out = 0 if include_trained else count_questions(seen)
    if not unseen and seen and not include_trained:
        raise UserError(
            f"{source} given, but nothing of it is held out: all {len(seen)} contexts were trained "
            "on, expected some that were not: name other data with --dataset, or add "
            "--include_trained to evaluate on them and mark the metrics as trained on"
        )
    if left_out:
        say(
            f"{source}: {left_out} of {count_questions(paragraphs)} questions are left out, their "
            "contexts were trained on (--include_trained keeps them)"
        )
    chosen = choose_questions(paragraphs if include_trained else unseen, limit, seed)
    encoded = encode_paragraphs(chosen, tokenizer)
    questions = held_out_questions(chosen, encoded, block_size, max_answer_tokens)
    if include_trained:
        known = {context.strip() for context in (p.context for p in seen)}
        count = sum(asked.context.strip() in known for asked in questions.asked)
        questions = questions._replace(seen=count)
    return Held(chosen, encoded, questions, left_out)


class PolicyResult(NamedTuple):
    """answers, ids: greedy texts and tokens; em, f1: points (Q,); nats, tokens: of the first gold
    and its stop (Q,), 0 where that gold is longer than an answer may be.
    """

    answers: list[str]
    ids: list[list[int]]
    em: list[float]
    f1: list[float]
    nats: list[float]
    tokens: list[int]

    def figures(self, groups: Sequence[int]) -> Figures:
        """EM and F1 in percent and the answer loss in nats a token."""
        percent = [0.01] * len(self.em)
        return {
            "em": (self.em, percent, groups),
            "f1": (self.f1, percent, groups),
            "answer_loss_nats": (self.nats, self.tokens, groups),
        }


def evaluate_policy(
    model: nn.Module, tokenizer: Tokenizer, held_out: EvaluationSet, device="cpu"
) -> PolicyResult:
    """Greedy answers with their EM and F1, and the loss of the golds, on all held-out questions."""
    eos_id = tokenizer.eos_id

    def answer(prompts: Sequence[PromptTree]) -> list[list[int]]:
        options = {"max_new_tokens": held_out.max_answer_tokens, "device": device}
        return generate_all(model, prompts, eos_id, **options)

    ids = [row for part in map_over_ranks(model, held_out.prompts, answer) for row in part]
    answers = [tokenizer.decode(answer).strip() for answer in ids]
    em, f1 = em_and_f1(answers, held_out.asked)
    tokens = held_out.gold_tokens()
    golds = [gold if n else [] for gold, n in zip(held_out.golds, tokens, strict=True)]
    trees = held_out.with_answers(golds)
    logp = torch.cat(
        map_over_ranks(model, trees, lambda t: completion_logps(model, t, eos_id, device))
    )
    nats = torch.where(torch.tensor(tokens) > 0, -logp, 0.0)
    return PolicyResult(answers, ids, em, f1, nats.tolist(), tokens)


def baselines_of(
    held_out: EvaluationSet, tokenizer: Tokenizer, train: Sequence[Paragraph]
) -> Baselines:
    """The rules' answers to the same questions, in the text that the policies see."""
    texts = (tokenizer.decode(context) for context, qs in held_out.prompts for _ in qs)
    # Without "Context:", which would be the first name of each.
    seen = [text.removeprefix(CONTEXT_HEAD).strip() for text in texts]
    train_answers = [q.answers[0] for p in train for q in p.questions]
    golds = [asked.golds for asked in held_out.asked]
    found = baseline_predictions(seen, golds, train_answers)
    # No policy may write a longer answer, so neither may the copier.
    longest = held_out.max_answer_tokens
    short = [[a for a in g if len(tokenizer.encode(answer_text(a))) < longest] for g in golds]
    copies = [next((a for a in g if a in t), "") for g, t in zip(short, seen, strict=True)]
    return found._replace(perfect_copy=copies)


def evenly_spaced(total: int, number: int = 3) -> list[int]:
    """The same few places, evenly spread over so many, every time.

    >>> spread(10), spread(2)
    ([0, 3, 6], [0, 1])
    """
    return list(range(0, total, max(1, total // number)))[:number]


def sample_lines(
    held_out: EvaluationSet, answers: Sequence[str], before: Sequence[str] = ()
) -> list[str]:
    """A few fixed questions with the gold, an answer and, where given, the answer before training
    (one a question shown), for people to read.
    """
    lines = []
    for number, place in enumerate(evenly_spaced(len(answers))):
        about, was = held_out.asked[place], before[number : number + 1]
        told = f"  before: {was[0]!r}" if was else ""
        lines.append(
            f"  Q: {about.question}  gold: {about.golds[0]!r}  answer: {answers[place]!r}{told}"
        )
    return lines
