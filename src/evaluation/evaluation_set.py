"""The evaluation set: held-out questions as prompts, the same for all compared policies."""

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
from src.data.trained_contexts import context_hash, contexts_of, split_by_training
from src.data.windows import EvaluationTrees, Place, Tree, golds_lost, read_ranges
from src.evaluation.baselines import Baselines, baseline_predictions
from src.evaluation.intervals import Figures
from src.evaluation.squad_metrics import QAExample, em_and_f1, qa_example
from src.evaluation.user_functions import Function, call_function
from src.inference.logprobs import completion_logps
from src.inference.sampling import PromptTree, generate_all, with_answers
from src.training.distributed import map_over_ranks
from src.utils.constants import MAX_ANSWER_TOKENS
from src.utils.errors import UserError
from src.utils.progress_bar import one_line, say

# What a window leaves for it: a reward model reads EOS even after an answer that was cut off.
ANSWER_BUDGET = MAX_ANSWER_TOKENS + 1


def kind_of_set(seen: int, total: int) -> str:
    """What metrics are of: `held out`, or how many of the questions or pairs were trained on.

    >>> kind_of_set(0, 9), kind_of_set(2, 9), kind_of_set(9, 9)
    ('held out', '2 of 9 trained on', 'trained on')
    """
    if not seen:
        return "held out"
    return "trained on" if seen == total else f"{seen} of {total} trained on"


class EvaluationSet(NamedTuple):
    """All lists have one entry for each question, in the order of the prompts.

    prompts: cut to their windows. golds: ids of each question's first gold.
    groups: the context of each question, for intervals.
    lost: share of questions whose window keeps no gold.
    dropped: questions that leave no room for a context.
    later: the same questions below later windows of contexts that are cut, with --doc_stride.
    later_of: the number of each question there.
    metric: how answers are compared with golds. own_metric: the function of --metric.
    max_answer_tokens: longest answer, EOS included.
    ceiling: percent of questions with a window that holds a gold no longer than that.
    seen: questions whose context was trained on, so that they are not held out.
    """

    prompts: list[PromptTree]
    golds: list[list[int]]
    examples: list[QAExample]
    ids: list[str]
    groups: list[int]
    lost: float
    dropped: int
    later: Sequence[PromptTree] = ()
    later_of: Sequence[int] = ()
    metric: str = "squad"
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    ceiling: float = 100.0
    seen: int = 0
    own_metric: Function | None = None

    @property
    def kind(self) -> str:
        """What its metrics are of: `held out`, or how much of it was trained on."""
        return kind_of_set(self.seen, len(self.examples))

    def gold_tokens(self) -> list[int]:
        """Tokens of each gold with its EOS, (Q,); 0 if there are more than max_answer_tokens. The
        windows leave no room for such a gold, so it has no loss.
        """
        counts = (len(gold) + 1 for gold in self.golds)
        return [n if n <= self.max_answer_tokens else 0 for n in counts]

    def summary(self) -> str:
        """One line: the number of questions, of dropped ones, and of golds that were cut off."""
        total = len(self.examples)
        count = self.kind if 0 < self.seen < total else f"{total} {self.kind}"  # says the total
        return (
            f"{count} ({self.dropped} more leave no room for an answer); "
            f"windows cut off {self.lost:.1%} of the held-out golds; "
            f"{self.gold_tokens().count(0)} are longer than an answer may be and have no loss; "
            f"perfect copy within {self.max_answer_tokens} tokens (--max_answer_tokens): EM "
            f"{self.ceiling:.1f}"
        )


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
    file may repeat a context with every question. Each prompt of the user's own is a group.
    """
    numbers: dict[str, int] = {}
    keys = (p.context.strip() if p.template else p.title for p in paragraphs)
    return [numbers.setdefault(key, n) for n, key in enumerate(keys)]


def context_names(paragraphs: Sequence[Paragraph]) -> dict[int, str]:
    """The name of each group of intervals: the hash of its context, or the title of a prompt of the
    user's own. It does not depend on which questions are chosen.
    """
    return {
        number: f"{context_hash(p.context):x}" if p.template else p.title
        for number, p in zip(context_numbers(paragraphs), paragraphs, strict=True)
    }


def held_out_questions(
    paragraphs: Sequence[Paragraph],
    encoded: Sequence[EncodedParagraph],
    block_size: int,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    doc_stride: int | None = None,
    metric: str = "squad",
    own_metric: Function | None = None,
) -> EvaluationSet:
    """All questions of some paragraphs. Each context is read from its start, wherever its golds
    are. With doc_stride it is also read in windows that start every `doc_stride` tokens.
    """
    trees = evaluate_on(
        encoded,
        block_size=block_size,
        answer_budget=max_answer_tokens + 1,
        doc_stride=doc_stride,
    )
    places = [place for index in trees.index for place in index]
    if not places:
        raise UserError(
            f"no held-out question leaves room for an answer of {max_answer_tokens} tokens in a "
            f"block of {block_size}, expected a larger --block_size of main_squad.py or a smaller "
            "--max_answer_tokens"
        )
    questions = [(paragraphs[p], paragraphs[p].questions[q]) for p, q in places]
    number = {where: n for n, where in enumerate(places)}
    numbers = context_numbers(paragraphs)
    texts = visible_texts(paragraphs, encoded, trees)
    reached = [
        any(
            len(ids) < max_answer_tokens and any(gold in text for text in texts[p, q])
            for gold, ids in zip(paragraphs[p].questions[q].answers, golds, strict=True)
        )
        for p, q in places
        for golds in [encoded[p].questions[q].golds]
    ]
    return EvaluationSet(
        [(context, [q for q, _ in qs]) for context, qs in trees.trees],
        [encoded[p].questions[q].golds[0] for p, q in places],
        [qa_example(p, q) for p, q in questions],
        [q.id for _, q in questions],
        [numbers[p] for p, _ in places],
        golds_lost(encoded, trees),
        len(trees.dropped),
        [(context, [q for q, _ in qs]) for (context, qs), _, _ in trees.later],
        [number[where] for _, index, _ in trees.later for where in index],
        metric,
        max_answer_tokens,
        100 * sum(reached) / len(reached),
        own_metric=own_metric,
    )


def visible_texts(
    paragraphs: Sequence[Paragraph], encoded: Sequence[EncodedParagraph], trees: EvaluationTrees
) -> dict[Place, list[str]]:
    """For each question the parts of its context that are read; of a custom prompt all of it."""
    cut = read_ranges(encoded, trees)
    texts = {}
    for p, q in (place for index in trees.index for place in index):
        if paragraphs[p].template:
            text = paragraphs[p].context
            starts = (encoded[p].token_starts - len(CONTEXT_HEAD) - 1).clip(0)
            ranges = cut.get((p, q))
            texts[p, q] = [text[starts[a] : starts[b]] for a, b in ranges] if ranges else [text]
        else:
            texts[p, q] = [paragraphs[p].questions[q].text]
    return texts


class Held(NamedTuple):
    """Questions to evaluate on: their paragraphs, encodings, and the set. left_out: the number of
    questions whose contexts were trained on.
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
    include_trained: bool | None = False,
    doc_stride: int | None = None,
    metric: str = "squad",
    own_metric: Function | None = None,
) -> Held:
    """The evaluation set of some paragraphs, `limit` questions of those that were not trained on.

    trained_on: contexts, as `Checkpoint.trained_on`; include_trained: they stay, and are counted;
    None: they do not, and the script has no such flag.
    source: what messages call the data. doc_stride, metric, own_metric: as in `held_out_questions`.
    UserError if nothing is left.
    """
    has_flag = include_trained is not None
    unseen, seen = split_by_training(paragraphs, trained_on)
    left_out = 0 if include_trained else count_questions(seen)
    if not unseen and seen and not include_trained:
        remedy = "eval_dpo.py --include_trained evaluates on them and marks the metrics"
        if has_flag:
            remedy = "name other data with --dataset, or add --include_trained to evaluate on "
            remedy += "them and mark the metrics as trained on"
        raise UserError(
            f"{source} given, but nothing of it is held out: all {len(seen)} contexts were trained "
            f"on, expected some that were not: {remedy}"
        )
    if left_out:
        say(
            f"{source}: {left_out} of {count_questions(paragraphs)} questions are left out, their "
            f"contexts were trained on{' (--include_trained keeps them)' if has_flag else ''}"
        )
    chosen = choose_questions(paragraphs if include_trained else unseen, limit, seed)
    encoded = encode_paragraphs(chosen, tokenizer)
    questions = held_out_questions(
        chosen, encoded, block_size, max_answer_tokens, doc_stride, metric, own_metric
    )
    if include_trained:
        known = set(contexts_of(seen).tolist())
        read = (e.context or e.question for e in questions.examples)
        questions = questions._replace(seen=sum(context_hash(text) in known for text in read))
    return Held(chosen, encoded, questions, left_out)


class PolicyResult(NamedTuple):
    """answers, ids: greedy texts and tokens; em, f1: points (Q,); nats, tokens: of the first gold
    and its EOS (Q,), 0 if that gold is longer than max_answer_tokens. trees: the answers below the
    windows that they were read from. own: what the function of --metric gives, by name.
    """

    answers: list[str]
    ids: list[list[int]]
    em: list[float]
    f1: list[float]
    nats: list[float]
    tokens: list[int]
    trees: list[Tree]
    own: dict[str, list[float]] = {}

    def figures(self, groups: Sequence[int]) -> Figures:
        """EM and F1 in percent, the answer loss in nats a token, and the user's own metric."""
        percent, ones = [0.01] * len(self.em), [1.0] * len(self.em)
        own = {
            name if name == "metric" else f"metric_{name}": (values, ones, groups)
            for name, values in self.own.items()
        }
        return {
            "em": (self.em, percent, groups),
            "f1": (self.f1, percent, groups),
            "answer_loss_nats": (self.nats, self.tokens, groups),
            **own,
        }


def evaluate_policy(
    model: nn.Module, tokenizer: Tokenizer, held_out: EvaluationSet
) -> PolicyResult:
    """Greedy answers with their EM and F1, and the loss of the golds, on all held-out questions.

    If a question has several windows, the answer with the highest log-probability is taken. The
    loss of its gold is that below the first window, because nothing here looks at where golds are.
    """
    eos_id = tokenizer.eos_id

    def answer(prompts: Sequence[PromptTree]) -> list[list[int]]:
        longest = held_out.max_answer_tokens
        return generate_all(model, prompts, eos_id, max_new_tokens=longest)

    ids = [row for part in map_over_ranks(model, held_out.prompts, answer) for row in part]
    read = with_answers(held_out.prompts, ids)
    if held_out.later:
        more = [row for part in map_over_ranks(model, held_out.later, answer) for row in part]
        ids, read = best_of_windows(model, held_out, ids, more, eos_id)
    answers = [tokenizer.decode(answer).strip() for answer in ids]
    em, f1 = em_and_f1(answers, held_out.examples, held_out.metric)
    tokens = held_out.gold_tokens()
    golds = [gold if n else [] for gold, n in zip(held_out.golds, tokens, strict=True)]
    trees = with_answers(held_out.prompts, golds)
    logp = torch.cat(map_over_ranks(model, trees, lambda t: completion_logps(model, t, eos_id)))
    nats = torch.where(torch.tensor(tokens) > 0, -logp, 0.0)
    own = {}
    if held_out.own_metric is not None:
        own = call_function(held_out.own_metric, answers, held_out.examples, "metric")
    return PolicyResult(answers, ids, em, f1, nats.tolist(), tokens, read, own)


def best_of_windows(
    model: nn.Module,
    held_out: EvaluationSet,
    ids: list[list[int]],
    later_ids: list[list[int]],
    eos_id: int,
) -> tuple[list[list[int]], list[Tree]]:
    """The answer to each question with the highest log-probability, over its first and later
    windows, and a tree for each question: that window with that answer.
    """
    prompts = [*held_out.prompts, *held_out.later]
    asked = ((context, question) for context, qs in prompts for question in qs)
    answers = [*ids, *later_ids]
    trees = [(c, [(q, [answer])]) for (c, q), answer in zip(asked, answers, strict=True)]
    parts = map_over_ranks(model, trees, lambda t: completion_logps(model, t, eos_id))
    logp = torch.cat(parts).tolist()
    best = list(range(len(ids)))
    for n, question in enumerate(held_out.later_of, len(ids)):
        if logp[n] > logp[best[question]]:
            best[question] = n
    return [answers[n] for n in best], [trees[n] for n in best]


def baselines_of(
    held_out: EvaluationSet, tokenizer: Tokenizer, train: Sequence[Paragraph]
) -> Baselines:
    """The baselines' answers to the same questions, from the text that the policies see."""
    def visible(prompts: Sequence[PromptTree]) -> list[str]:
        """Without "Context:", which would be the first name in each text."""
        texts = (tokenizer.decode(context) for context, qs in prompts for _ in qs)
        return [text.removeprefix(CONTEXT_HEAD).strip() for text in texts]

    seen = visible(held_out.prompts)
    for question, text in zip(held_out.later_of, visible(held_out.later), strict=True):
        seen[question] += f"\n{text}"
    for number, example in enumerate(held_out.examples):
        if example.question and not example.context:  # a custom prompt is all question
            seen[number] = example.question
    train_answers = [q.answers[0] for p in train for q in p.questions]
    golds = [example.golds for example in held_out.examples]
    found = baseline_predictions(seen, golds, train_answers)
    # No policy may write a longer answer, so neither may the copier.
    longest = held_out.max_answer_tokens
    short = [[a for a in g if len(tokenizer.encode(answer_text(a))) < longest] for g in golds]
    copies = [next((a for a in g if a in t), "") for g, t in zip(short, seen, strict=True)]
    return found._replace(perfect_copy=copies)


def evenly_spaced(total: int, number: int = 3) -> list[int]:
    """A few indices, evenly spaced over `total`, the same every time.

    >>> evenly_spaced(10), evenly_spaced(2)
    ([0, 3, 6], [0, 1])
    """
    return list(range(0, total, max(1, total // number)))[:number]


def sample_lines(
    held_out: EvaluationSet, answers: Sequence[str], before: Sequence[str] = ()
) -> list[str]:
    """Lines with a few fixed questions: gold, answer and, if given, the answer before training.

    before: one answer for each of the questions that are printed.
    """
    lines = []
    for number, index in enumerate(evenly_spaced(len(answers))):
        example, old = held_out.examples[index], before[number : number + 1]
        question = one_line(example.question)
        line = f"  Q: {question}  gold: {example.golds[0]!r}  answer: {answers[index]!r}"
        lines.append(line + (f"  before: {old[0]!r}" if old else ""))
    return lines
