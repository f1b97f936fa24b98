"""Log-probabilities of completions in prefix trees: context -> questions -> answers.

Shared prefixes are encoded once: a context for all its questions, a question for all its answers.

R rows of a level, T tokens, N completions (answers), A answer positions, D width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.data.windows import Tree, batching_length, tree_tokens
from src.losses import sequence_sum, token_logp
from src.model.heads import RewardModel
from src.model.prefix_sharing import Level, to_device
from src.utils.constants import MICRO_BATCH_TOKENS


class TreeBatch(NamedTuple):
    """Prefix trees as three padded levels, with the targets of their completions; on the CPU, as
    models take it.

    contexts, questions: a question without its last token. Its completions read that token first,
        so that their hidden states line up with answer tokens.
    completions: the last prompt token, the answer and, if `reads_eos`, EOS.
    targets: (N, A) answer tokens and EOS; mask: (N, A) bool, True where they are real.
    """

    contexts: Level
    questions: Level
    completions: Level
    targets: Tensor
    mask: Tensor
    reads_eos: bool

    def levels(self) -> tuple[Level, Level, Level]:
        """Contexts, questions and completions."""
        return self.contexts, self.questions, self.completions


class CompletionLogps(NamedTuple):
    """logp: (N, A) nats of each answer token and EOS, 0 where mask is False; mask: (N, A) bool."""

    logp: Tensor
    mask: Tensor


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Right-pad lists of ids to (R, T), T >= 1, with lengths (R,). The padding is id 0; masks and
    lengths exclude it everywhere.
    """
    lengths = [len(row) for row in rows]
    width = max(1, max(lengths, default=1))
    flat = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long)
    return flat.view(len(rows), width), torch.tensor(lengths, dtype=torch.long)


def build_tree_batch(
    trees: Sequence[Tree], eos_id: int, *, reads_eos: bool = False
) -> TreeBatch:
    """Lay out trees as three padded levels. Every question has at least one token (the last prompt
    token).

    Without trees (a rank whose partition is empty) each level has one row of padding and there is
    no completion: its loss is 0, with gradient 0 for all weights.
    """
    contexts, questions, completions, targets = [], [], [], []
    question_parent, completion_parent = [], []
    for context, children in trees:
        for question, answers in children:
            for answer in answers:
                completions.append([question[-1], *answer, *([eos_id] if reads_eos else [])])
                targets.append([*answer, eos_id])
                completion_parent.append(len(questions))
            questions.append(question[:-1])
            question_parent.append(len(contexts))
        contexts.append(context)

    def level(rows: list, parents: list[int]) -> Level:
        return Level(*pad(rows or [[]]), torch.tensor(parents or [0], dtype=torch.long))

    target, lengths = pad(targets)
    mask = torch.arange(target.shape[1]) < lengths[:, None]
    return TreeBatch(
        level(contexts, [0] * len(contexts)),
        level(questions, question_parent),
        level(completions, completion_parent),
        target,
        mask,
        reads_eos,
    )


def completion_hidden(model: nn.Module, tree_batch: TreeBatch) -> Tensor:
    """Hidden states (N, A, D) of the completions; A + 1 positions if they read EOS."""
    return model.read_completions(tree_batch.levels())[: len(tree_batch.targets)]


def last_hidden(model: nn.Module, tree_batch: TreeBatch) -> Tensor:
    """The last hidden state (N, D) of each completion, at EOS: the reward model's input."""
    if not tree_batch.reads_eos:
        raise ValueError(
            "a tree batch built with reads_eos=False given, its completions end before EOS, "
            "build it with reads_eos=True"
        )
    return model.read_last(tree_batch.levels())[: len(tree_batch.targets)]


def pick(x: Tensor, mask: Tensor) -> Tensor:
    """Rows of x (..., T, D), on any device, where mask (..., T), on the CPU, is True; (M, D).

    By index_select, whose gradient is deterministic.
    """
    at = mask.flatten().nonzero().squeeze(1)
    return x.flatten(0, -2).index_select(0, to_device(at, x.device))


def logp_of_hidden(
    model: nn.Module, hidden: Tensor, targets: Tensor, mask: Tensor, temperature: float = 1.0
) -> CompletionLogps:
    """Log-probabilities of targets (N, A) from the hidden states (N, >= A, D) before them. Logits
    are computed at real positions only. targets, mask: on the CPU; the result is where the hidden
    states are.
    """
    at = mask.flatten().nonzero().squeeze(1)
    targets = to_device(targets.flatten()[at], hidden.device)
    at, mask = to_device(at, hidden.device), to_device(mask, hidden.device)
    logits = model.logits(hidden[:, : mask.shape[1]].flatten(0, 1).index_select(0, at))
    if temperature != 1:  # saves a pass over all logits, forward and backward
        # In float32, as sampling does: bfloat16 would round once more, to 0.1 nats.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    flat = token_logp(logits, targets)
    logp = flat.new_zeros(mask.numel()).index_copy(0, at, flat)
    return CompletionLogps(logp.view(mask.shape), mask)


def score_completions(model: nn.Module, tree_batch: TreeBatch) -> CompletionLogps:
    """Log-probabilities of every completion's tokens, EOS included."""
    hidden = completion_hidden(model, tree_batch)
    return logp_of_hidden(model, hidden, tree_batch.targets, tree_batch.mask)


def raw_reward(reward: RewardModel, tree_batch: TreeBatch) -> Tensor:
    """A reward model's scores (N,) in nats of completions that read EOS."""
    if reward.log_weight is None:
        return reward.raw_score(last_hidden(reward.backbone, tree_batch))
    hidden = completion_hidden(reward.backbone, tree_batch)
    answers = logp_of_hidden(reward.backbone, hidden, tree_batch.targets, tree_batch.mask)
    count, width, _ = hidden.shape
    at_eos = torch.arange(count) * width + tree_batch.mask.sum(-1)
    end = hidden.flatten(0, 1).index_select(0, to_device(at_eos, hidden.device))
    return reward.raw_score(end, sequence_sum(answers.logp, answers.mask))


def batches_by_length(trees: Sequence, questions_a_batch: int = 64) -> Iterator[list[int]]:
    """Indices of trees in batches of similar length, to avoid padding."""
    order = sorted(range(len(trees)), key=lambda i: batching_length(trees[i]))
    batch, questions, tokens = [], 0, 0
    for index in order:
        read = tree_tokens(trees[index])
        if batch and (questions >= questions_a_batch or tokens + read > MICRO_BATCH_TOKENS):
            yield batch
            batch, questions, tokens = [], 0, 0
        batch.append(index)
        questions += len(trees[index][1])
        tokens += read
    if batch:
        yield batch


def for_all_completions(
    trees: Sequence[Tree], of_batch: Callable[[Sequence[Tree]], Tensor]
) -> Tensor:
    """Apply `of_batch` (trees -> (completions, ...)) to batches of similar length; returns the rows
    in the order of the trees.
    """
    rows: dict[int, Tensor] = {}
    for batch in batches_by_length(trees):
        counts = [sum(len(answers) for _, answers in trees[i][1]) for i in batch]
        result = of_batch([trees[i] for i in batch]).cpu()
        rows.update(zip(batch, result.split(counts), strict=True))
    # Outside inference mode: autograd refuses tensors made inside it, and copies of them.
    with torch.inference_mode(False):
        return torch.cat([rows[i] for i in range(len(trees))]) if trees else torch.zeros(0)


def completion_logps(
    model: nn.Module,
    trees: Sequence[Tree],
    eos_id: int,
    first: int | None = None,
) -> Tensor:
    """Log-probability (N,) in nats of every completion, EOS included, without gradients.

    first: sum over the first so many tokens only, EOS included if it is among them.
    """

    def of_batch(batch: Sequence[Tree]) -> Tensor:
        scores = score_completions(model, build_tree_batch(batch, eos_id))
        return sequence_sum(scores.logp[:, :first], scores.mask[:, :first])

    with torch.inference_mode():
        return for_all_completions(trees, of_batch)


class TextScores(NamedTuple):
    """answers: log-probabilities of the completions. text_logp: (M,) nats of each context and
    question token that is predicted; `score_text` says which are not.
    """

    answers: CompletionLogps
    text_logp: Tensor


def score_text(model: nn.Module, tree_batch: TreeBatch) -> TextScores:
    """Log-probabilities of the answers and of the text before them, each context token once.

    Three kinds of tokens are not predicted. A context's first token has no prefix. A question's
    first token is the same word every time, and follows a context token that many questions share.
    The last token of a question without answers is in no completion.
    """
    contexts, questions, completions = tree_batch.levels()
    context_hidden, question_hidden, hidden = model.read_levels(tree_batch.levels())
    count = len(tree_batch.targets)
    answers = logp_of_hidden(model, hidden[:count], tree_batch.targets, tree_batch.mask)
    # The last prompt token of a question is the first token of each of its completions.
    last_token = torch.full_like(questions.lengths, -1)
    last_token[completions.parents[:count]] = completions.tokens[:count, 0]
    flat_hidden, targets = [], []
    for level, level_hidden in ((contexts, context_hidden), (questions, question_hidden)):
        following = torch.roll(level.tokens, -1, 1)
        followed = level.lengths - 1  # tokens of each row whose next one is known
        if level is questions:
            following[torch.arange(len(followed)), followed.clamp_min(0)] = last_token
            followed = level.lengths - (last_token < 0).long()
        mask = torch.arange(following.shape[1]) < followed[:, None]
        flat_hidden.append(pick(level_hidden, mask))
        targets.append(following[mask])
    logits = model.logits(torch.cat(flat_hidden))
    return TextScores(answers, token_logp(logits, to_device(torch.cat(targets), logits.device)))
