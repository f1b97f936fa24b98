"""The forest runner: contexts -> questions -> answers, each read once, whatever is wanted at the
end.

R rows of a level, T tokens, N leaves (answers), A answer positions, D width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.data.windows import tree_tokens
from src.losses import sequence_sum, token_logp
from src.model.prefix_sharing.levels import Level
from src.utils.constants import MICRO_BATCH_TOKENS

# (context ids, [(question ids, [answer ids, ...]), ...]); answers come without their stop token.
Tree = tuple[Sequence[int], Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]]


class TreeBatch(NamedTuple):
    """Three levels, and what the leaves should say.

    contexts, questions: each question without its last token, which the leaves read first, so that
        their hidden states line up with answer tokens.
    leaves: the last prompt token, the answer and, if `reads_eos`, the stop token.
    targets: (N, A) answer tokens and the stop token; mask: (N, A) bool, True where they are real.
    """

    contexts: Level
    questions: Level
    completions: Level
    targets: Tensor
    mask: Tensor
    reads_eos: bool

    def levels(self) -> tuple[Level, Level, Level]:
        """Contexts, questions and leaves."""
        return self.contexts, self.questions, self.completions


class CompletionLogps(NamedTuple):
    """logp: (N, A) nats of each answer token and the stop token, 0 where mask is False; mask: (N,
    A) bool.
    """

    logp: Tensor
    mask: Tensor


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Right-pad lists of ids to (R, T), T >= 1, with lengths (R,). The padding is id 0 and is never
    looked at.
    """
    lengths = [len(row) for row in rows]
    width = max(1, max(lengths, default=1))
    flat = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long)
    counts = torch.tensor(lengths, dtype=torch.long)
    return to_device(flat.view(len(rows), width), device), to_device(counts, device)


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """x on the device; to a GPU from pinned memory, so that the copy waits for no kernel."""
    if torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def build_tree_batch(
    trees: Sequence[Tree],
    eos_id: int,
    device: torch.device | str = "cpu",
    reads_eos: bool = False,
) -> TreeBatch:
    """Lay out trees as three padded levels. Every question has at least one token (the last prompt
    token).

    No trees (a rank without a share) make one row of padding a level, which is read, and no leaf:
    every loss of it is 0 and reaches all weights with gradient 0.
    """
    contexts, questions, completions, targets = [], [], [], []
    question_parent, leaf_parent = [], []
    for context, children in trees:
        for question, answers in children:
            for answer in answers:
                completions.append([question[-1], *answer, *([eos_id] if reads_eos else [])])
                targets.append([*answer, eos_id])
                leaf_parent.append(len(questions))
            questions.append(question[:-1])
            question_parent.append(len(contexts))
        contexts.append(context)

    def level(rows: list, parents: list[int]) -> Level:
        parent_rows = torch.tensor(parents or [0], dtype=torch.long)
        return Level(*pad(rows or [[]], device), to_device(parent_rows, device))

    target, lengths = pad(targets, device)
    mask = torch.arange(target.shape[1], device=device) < lengths[:, None]
    return TreeBatch(
        level(contexts, [0] * len(contexts)),
        level(questions, question_parent),
        level(completions, leaf_parent),
        target,
        mask,
        reads_eos,
    )


def completion_hidden(model: nn.Module, tree_batch: TreeBatch) -> Tensor:
    """Hidden states (N, A (+ 1 with the stop token), D) of the leaves."""
    return model.read_completions(tree_batch.levels())[: len(tree_batch.targets)]


def last_hidden(model: nn.Module, tree_batch: TreeBatch) -> Tensor:
    """Each leaf's last hidden state (N, D): the one at the stop token, where a reward is read."""
    if not tree_batch.reads_eos:
        raise ValueError(
            "a forest built with reads_eos=False given, its leaves end before the stop token"
        )
    return model.read_last(tree_batch.levels())[: len(tree_batch.targets)]


def pick(x: Tensor, mask: Tensor) -> Tensor:
    """Rows of x (..., T, D) where mask (..., T) is True, (M, D). index_select: its gradient is
    reproducible.
    """
    return x.flatten(0, -2).index_select(0, mask.flatten().nonzero().squeeze(1))


def logp_of_hidden(
    model: nn.Module, hidden: Tensor, targets: Tensor, mask: Tensor, temperature: float = 1.0
) -> CompletionLogps:
    """Log-probabilities of targets (N, A) from the hidden states (N, >= A, D) before them; logits
    at real positions only.
    """
    logits = model.logits(pick(hidden[:, : targets.shape[1]], mask))
    if temperature != 1:  # a pass over all logits, and another backward
        logits = logits / temperature
    flat = token_logp(logits, targets[mask])
    logp = flat.new_zeros(mask.numel()).index_copy(0, mask.flatten().nonzero().squeeze(1), flat)
    return CompletionLogps(logp.view(mask.shape), mask)


def score_completions(
    model: nn.Module, tree_batch: TreeBatch, temperature: float = 1.0
) -> CompletionLogps:
    """Log-probabilities of every answer's tokens and its stop token."""
    return logp_of_hidden(
        model,
        completion_hidden(model, tree_batch),
        tree_batch.targets,
        tree_batch.mask,
        temperature,
    )


def batches_by_length(
    trees: Sequence, questions_a_batch: int = 64, tokens_a_batch: int = MICRO_BATCH_TOKENS
) -> Iterator[list[int]]:
    """Indices of trees (context first) in batches of similar length, to avoid padding."""
    order = sorted(range(len(trees)), key=lambda i: len(trees[i][0]))
    batch, questions, tokens = [], 0, 0
    for index in order:
        read = tree_tokens(trees[index])
        if batch and (questions >= questions_a_batch or tokens + read > tokens_a_batch):
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
    """Apply `of_batch` (trees -> (leaves, ...)) to batches of like length; rows in the trees'
    order.
    """
    rows: dict[int, Tensor] = {}
    for batch in batches_by_length(trees):
        counts = [sum(len(answers) for _, answers in trees[i][1]) for i in batch]
        result = of_batch([trees[i] for i in batch]).cpu()
        rows.update(zip(batch, result.split(counts), strict=True))
    # Joined outside inference mode: what is made inside may not enter a graph, copies included.
    with torch.inference_mode(False):
        return torch.cat([rows[i] for i in range(len(trees))]) if trees else torch.zeros(0)


def completion_logps(
    model: nn.Module,
    trees: Sequence[Tree],
    eos_id: int,
    device: torch.device | str = "cpu",
    temperature: float = 1.0,
    first: int | None = None,
) -> Tensor:
    """Log-probability (N,) in nats of every answer with its stop token, without gradients; `first`:
    of its first so many tokens, the stop token among them if it comes as early.
    """

    def of_batch(batch: Sequence[Tree]) -> Tensor:
        scores = score_completions(model, build_tree_batch(batch, eos_id, device), temperature)
        return sequence_sum(scores.logp[:, :first], scores.mask[:, :first])

    with torch.inference_mode():
        return for_all_completions(trees, of_batch)


class TextScores(NamedTuple):
    """answers: as CompletionLogps; text_logp: (M,) nats of each context and question token that a
    language model predicts.
    """

    answers: CompletionLogps
    text_logp: Tensor


def score_text(model: nn.Module, tree_batch: TreeBatch) -> TextScores:
    """Answers' log-probabilities, and those of the text before them, each context token counted
    once.

    A context's first token has nothing before it. A question's first token is the same word every
    time and follows the context's last, which has many questions after it: neither is predicted.
    The last token of a question without answers stands in no leaf and is not predicted either.
    """
    contexts, questions, completions = tree_batch.levels()
    context_hidden, question_hidden, hidden = model.read_levels(tree_batch.levels())
    hidden = hidden[: len(tree_batch.targets)]
    answers = logp_of_hidden(model, hidden, tree_batch.targets, tree_batch.mask)
    # The last token of a question's prompt stands in its leaves, the same in all of them.
    last_token = torch.full_like(questions.lengths, -1)
    count = len(tree_batch.targets)
    last_token[completions.parents[:count]] = completions.tokens[:count, 0]
    flat_hidden, targets = [], []
    for level, level_hidden in ((contexts, context_hidden), (questions, question_hidden)):
        following = torch.roll(level.tokens, -1, 1)
        count = level.lengths - 1
        if level is questions:
            rows = torch.arange(len(count), device=count.device)
            end = (level.lengths - 1).clamp_min(0)
            following[rows, end] = last_token
            count = level.lengths - (last_token < 0).long()
        mask = torch.arange(following.shape[1], device=count.device) < count[:, None]
        flat_hidden.append(pick(level_hidden, mask))
        targets.append(following[mask])
    logits = model.logits(torch.cat(flat_hidden))
    return TextScores(answers, token_logp(logits, torch.cat(targets)))
