"""Sampling: many prompts, many samples each, one prefill of the prefixes that they share.

C contexts, Q questions, N = Q * samples answers, A answer positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.data.windows import Tree
from src.inference.logprobs import batches_by_length, pad
from src.losses import token_logp
from src.model.linear import prepacked
from src.model.prefix_sharing import Level

# Answers sampled at once, where questions have few: 1.5 times as many a second as with 64.
ROWS_AT_ONCE = 256

# (context ids, [question ids, ...])
PromptTree = tuple[Sequence[int], Sequence[Sequence[int]]]


def with_answers(
    prompts: Sequence[PromptTree], answers: Sequence[Sequence[int]], samples: int = 1
) -> list[Tree]:
    """Prompts with their answers as trees. answers: ids without EOS, question after question, the
    `samples` of a question next to each other.
    """
    following = iter(answers)
    return [
        (context, [(q, [next(following) for _ in range(samples)]) for q in questions])
        for context, questions in prompts
    ]


class Sampling(NamedTuple):
    """temperature: 0 takes the most probable token; top_k: 0 and top_p: 1 filter nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


GREEDY = Sampling(temperature=0.0)


class Answers(NamedTuple):
    """Sampled answers, question after question, with the samples of a question next to each other.

    tokens: (N, A) int64, EOS included if it was sampled; lengths: (N,) sampled tokens.
    logp: (N, A) nats of each sampled token under the distribution it was drawn from before top-k
        and top-p (greedy: at temperature 1), 0 beyond the length; stopped: (N,) bool, True where
        EOS was sampled.
    """

    tokens: Tensor
    lengths: Tensor
    logp: Tensor
    stopped: Tensor

    def texts(self) -> list[list[int]]:
        """The answers as lists of ids without EOS."""
        counts = (self.lengths - self.stopped.long()).tolist()
        return [row[:n] for row, n in zip(self.tokens.tolist(), counts, strict=True)]


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (R, V) with -inf outside the top k tokens and outside the smallest set of probability
    top_p.

    The set is the shortest run of the most probable tokens that reaches top_p (Holtzman et al.
    2020, 1904.09751); the most probable token always stays. Tokens that tie with the k-th stay too;
    at the edge of the set, ties go to the lower id.
    """
    if 0 < sampling.top_k < logits.shape[-1]:
        lowest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        outside = torch.zeros_like(logits, dtype=torch.bool)
        outside.scatter_(1, order, before >= sampling.top_p)
        outside.scatter_(1, order[:, :1], False)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token a row (R,) by inversion: the first whose cumulated probability exceeds uniform (R,)
    in [0, 1).

    One number for each row makes a sample independent of which other rows are still sampled.
    """
    if logits.device.type == "mps":  # which has no float64
        return draw(logits.cpu(), uniform.cpu()).to(logits.device)
    cumulated = logits.double().softmax(-1).cumsum(-1)
    point = uniform.double()[:, None] * cumulated[:, -1:]
    token = torch.searchsorted(cumulated, point, right=True).squeeze(1)
    # Non-finite logits have no such token. Return a valid id, so that the error reported later is
    # the non-finite loss.
    last = (cumulated < cumulated[:, -1:]).sum(-1)
    return torch.minimum(token, last)


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[PromptTree],
    eos_id: int,
    *,
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    max_new_tokens: int = 16,
    seed: Sequence[int] | int = 0,
    first_row: int = 0,
    uniform: Tensor | None = None,
) -> Answers:
    """Sample `num_samples` answers to each question, of at most `max_new_tokens` tokens, EOS
    included. first_row: rows of the seed's stream that other calls draw, before these; uniform:
    (N, max_new_tokens) in [0, 1) to draw with, instead of the seed's numbers.

    Contexts and questions are encoded once. Finished rows leave the batch. A sample depends on the
    weights, its prompt, the seed and its row in the seed's stream, and on no other row.
    """
    count = num_samples * sum(len(questions) for _, questions in prompts)
    if uniform is None:
        uniform = _uniforms(seed, first_row + count, max_new_tokens)[first_row:]
    device = model.embedding.weight.device
    uniform = uniform.to(device)
    tokens = torch.zeros(count, max_new_tokens, dtype=torch.long, device=device)
    logp = torch.zeros(count, max_new_tokens, device=device)
    lengths = torch.zeros(count, dtype=torch.long, device=device)
    stopped = torch.zeros(count, dtype=torch.bool, device=device)
    alive = torch.arange(count if max_new_tokens > 0 else 0, device=device)
    with prepacked(model, count):
        if len(alive):
            hidden, state = _prefill(model, prompts)
            row = torch.arange(len(hidden), device=device).repeat_interleave(num_samples)
            hidden, state = hidden.index_select(0, row), state.select(row)
        for step in range(max_new_tokens):
            if not len(alive):
                break
            logits = model.logits(hidden).float()
            if sampling.temperature == 0:
                token = logits.max(-1).indices  # argmax, four times as fast on a CPU
            else:
                logits = logits / sampling.temperature
                token = draw(filter_logits(logits, sampling), uniform[alive, step])
            tokens[alive, step] = token
            logp[alive, step] = token_logp(logits, token)
            lengths[alive] = step + 1
            ended = token == eos_id
            stopped[alive] = ended
            if ended.any():
                staying = (~ended).nonzero().squeeze(1)
                alive, token, state = alive[staying], token[staying], state.select(staying)
            if len(alive) and step + 1 < max_new_tokens:
                hidden, state = model(token[:, None], torch.ones_like(token), state)
                hidden = hidden[:, 0]
    # Cloned outside inference mode, so that autograd accepts them later.
    with torch.inference_mode(False):
        return Answers(*(x.clone() for x in (tokens, lengths, logp, stopped)))


def _prefill(model: nn.Module, prompts: Sequence[PromptTree]) -> tuple[Tensor, Any]:
    """Hidden states (Q, D) at the last token of every prompt, and the model's state after it."""
    questions = [list(question) for _, children in prompts for question in children]
    parents = [i for i, (_, children) in enumerate(prompts) for _ in children]
    roots = torch.zeros(len(prompts), dtype=torch.long)
    contexts = Level(*pad([c for c, _ in prompts]), roots)
    return model.prefill((contexts, Level(*pad(questions), torch.tensor(parents))))


def _uniforms(seed: Sequence[int] | int, rows: int, steps: int) -> Tensor:
    """(rows, steps) numbers in [0, 1), equal on every device; row i does not depend on `rows`."""
    words = [seed] if isinstance(seed, int) else list(seed)
    mixed = 0
    for word in words:
        mixed = (mixed * 0x9E3779B1 + word + 1) % 2**62
    generator = torch.Generator().manual_seed(mixed)
    return torch.rand(rows, steps, generator=generator)


def generate_all(
    model: nn.Module, prompts: Sequence[PromptTree], eos_id: int, **options
) -> list[list[int]]:
    """Answers' ids without EOS for any number of prompts, question after question.

    options: as for `generate`. Prompts of similar length are batched; batching changes no sample.
    """
    seed, first_row = options.pop("seed", 0), options.pop("first_row", 0)
    samples, steps = options.get("num_samples", 1), options.setdefault("max_new_tokens", 16)
    rows = [samples * len(questions) for _, questions in prompts]
    of_tree = _uniforms(seed, first_row + sum(rows), steps)[first_row:].split(rows)
    answers: list[list[list[int]]] = [[] for _ in prompts]
    with prepacked(model, sum(rows)):
        for batch in batches_by_length(prompts, max(64, ROWS_AT_ONCE // samples)):
            chosen = [prompts[i] for i in batch]
            uniform = torch.cat([of_tree[i] for i in batch])
            found = generate(model, chosen, eos_id, uniform=uniform, **options)
            texts = iter(found.texts())
            for i in batch:
                answers[i] = [next(texts) for _ in range(len(prompts[i][1]) * samples)]
    return [text for texts in answers for text in texts]
