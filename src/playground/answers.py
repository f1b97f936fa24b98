"""Compute what the page shows of a policy's answers: tokens with their alternatives,
log-probability, KL from the parent and reward. Pure functions, independent of Gradio.

N samples, M = answer tokens of all samples together, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.data.encoding import encode_prompt
from src.data.tokenizers.tokenizer import Tokenizer
from src.data.windows import evaluation_trees
from src.evaluation.evaluation_set import ANSWER_BUDGET
from src.evaluation.squad_metrics import QAExample, f1_score
from src.inference.logprobs import TreeBatch, build_tree_batch, completion_hidden, pick
from src.inference.sampling import Sampling, generate
from src.losses import kl_divergence, token_logp
from src.model.prefix_sharing import to_device
from src.playground.checkpoints import LoadedRewardModel, Policy
from src.rl.rewards import model_rewards
from src.utils.errors import UserError

# A longer text would be encoded in full and then cut to the block.
MAX_CHARACTERS = 1_000_000
ALTERNATIVES = 5


class AnswerSettings(NamedTuple):
    """sampling: how tokens are drawn (temperature 0: one greedy answer); samples: answers."""

    sampling: Sampling
    samples: int = 1
    seed: int = 0


class Prompt(NamedTuple):
    """context: ids, cut to what the model can read; dropped: context tokens that were cut off."""

    context: list[int]
    question: list[int]
    dropped: int


class Alternative(NamedTuple):
    """A token that was possible at a position. text: None for EOS; chosen: it was sampled."""

    text: str | None
    probability: float
    chosen: bool


class Token(NamedTuple):
    """text: what the token adds, '' while a character is not complete, None for EOS.

    alternatives: the most probable tokens in order, then the chosen one if it is not among them.
    Probabilities are the model's own, before temperature, top-k and top-p.
    kl_nats: exact, over the vocabulary; None without a parent.
    """

    text: str | None
    probability: float
    kl_nats: float | None
    alternatives: list[Alternative]


class Sample(NamedTuple):
    """logp_nats, kl_nats: sums over the tokens. reward: normalised; f1: 0 to 1, best of the golds.

    stopped: whether EOS was sampled; it is then the last of the tokens.
    """

    text: str
    tokens: list[Token]
    logp_nats: float
    kl_nats: float | None
    reward: float | None
    f1: float | None
    stopped: bool


class PolicyAnswers(NamedTuple):
    """A policy's samples; refusal: one line that says why there are none."""

    name: str
    samples: list[Sample]
    parent_name: str = ""
    context_tokens: int = 0
    dropped_tokens: int = 0
    refusal: str = ""


def check_example(example: QAExample) -> None:
    """UserError for an empty question or a text that is too long."""
    if not example.question.strip():
        raise UserError("an empty question given, expected some text: type or pick one")
    longest = max(len(example.context), len(example.question))
    if longest > MAX_CHARACTERS:
        raise UserError(
            f"a text of {longest:,} characters given, expected at most {MAX_CHARACTERS:,}, "
            "paste less of it"
        )


def answers(
    policies: Sequence[Policy],
    reward_model: LoadedRewardModel | None,
    example: QAExample,
    settings: AnswerSettings,
) -> Iterator[PolicyAnswers]:
    """Yield each policy's answers in turn; a policy that fails yields its reason.

    Raises UserError at once if the question itself is invalid.
    """
    check_example(example)
    for policy in policies:
        try:
            yield answer(policy, reward_model, example, settings)
        except UserError as error:
            yield PolicyAnswers(policy.name, [], refusal=" ".join(str(error).split()))


def cut_prompt(
    tokenizer: Tokenizer,
    example: QAExample,
    block_size: int,
    template: bool = True,
    answer_budget: int = ANSWER_BUDGET,
) -> Prompt:
    """The ids of a prompt, its context cut as at evaluation: only the first tokens, where not all
    fit beside the question and an answer. UserError where the question alone is too long.
    """
    if template:
        context, question = encode_prompt(tokenizer, example.context, example.question)
    elif example.context.strip():
        raise UserError("a context given to a model of prompts of your own, expected it empty: "
                        "write the whole prompt as the question")
    else:
        context, question = [], tokenizer.encode(example.question)
    trees = evaluation_trees(
        [context], [[question]], block_size=block_size, answer_budget=answer_budget
    ).trees
    if not trees:
        raise UserError(
            f"a question of {len(question)} tokens given, expected fewer than "
            f"{block_size - answer_budget}, ask a shorter one"
        )
    kept = trees[0][0]
    return Prompt(list(kept), question, len(context) - len(kept))


@torch.inference_mode()
def answer(
    policy: Policy,
    reward_model: LoadedRewardModel | None,
    example: QAExample,
    settings: AnswerSettings,
) -> PolicyAnswers:
    """One policy's samples with their metrics.

    A sample that was cut off has no EOS in its log-probability and KL; its reward is read as if EOS
    followed. Raises UserError if the question is too long or the weights are not finite.
    """
    tokenizer = policy.tokenizer
    budget = policy.max_answer_tokens + 1
    block = policy.model.config.block_size
    prompt = cut_prompt(tokenizer, example, block, policy.template, budget)
    found = generate(
        policy.model,
        [(prompt.context, [prompt.question])],
        tokenizer.eos_id,
        sampling=settings.sampling,
        num_samples=settings.samples if settings.sampling.temperature else 1,
        max_new_tokens=policy.max_answer_tokens,
        seed=[settings.seed, 0],  # as generate_from_checkpoint.py has it for a lone prompt
    )
    ids, stopped = found.texts(), found.stopped.tolist()
    tree = (prompt.context, [(prompt.question, ids)])
    tree_batch = build_tree_batch([tree], tokenizer.eos_id)
    tokens = _tokens(policy, tree_batch, ids, stopped)
    rewards = _rewards(reward_model, tokenizer, example, ids, budget)
    samples = []
    for row, reward, (row_tokens, logp), done in zip(ids, rewards, tokens, stopped, strict=True):
        text = tokenizer.decode(row).strip()
        kl = None if policy.parent is None else sum(t.kl_nats for t in row_tokens)
        f1 = f1_score(text, example.golds, policy.metric) if example.golds else None
        samples.append(Sample(text, row_tokens, logp, kl, reward, f1, done))
    return PolicyAnswers(
        policy.name, samples, policy.parent_name, len(prompt.context), prompt.dropped
    )


def _answer_logits(model: nn.Module, tree_batch: TreeBatch) -> Tensor:
    """Logits (M, V) that predict each answer token and EOS, sample after sample."""
    return model.logits(pick(completion_hidden(model, tree_batch), tree_batch.mask))


def _tokens(
    policy: Policy, tree_batch: TreeBatch, ids: Sequence[Sequence[int]], stopped: Sequence[bool]
) -> list[tuple[list[Token], float]]:
    """The tokens of each sample and their summed log-probability in nats."""
    logits = _answer_logits(policy.model, tree_batch)
    targets = to_device(tree_batch.targets[tree_batch.mask], logits.device)
    logp = token_logp(logits, targets)  # (M,)
    if not logp.isfinite().all():
        raise UserError(
            f"{policy.name} gives log-probabilities that are not finite, expected a checkpoint "
            "of sound weights, train it again"
        )
    best = logits.float().log_softmax(-1).topk(min(ALTERNATIVES, logits.shape[-1]))  # (M, 5)
    kl = None
    if policy.parent is not None:
        kl = kl_divergence(logits, _answer_logits(policy.parent, tree_batch)).tolist()
    rows, start = [], 0
    for row, done in zip(ids, stopped, strict=True):
        tokens = []
        texts = [*pieces(policy.tokenizer, row), *([None] if done else [])]
        for i, text in enumerate(texts, start):
            probability = logp[i].exp().item()
            others = dict(zip(best.indices[i].tolist(), best.values[i].exp().tolist(), strict=True))
            others.setdefault(targets[i].item(), probability)
            alternatives = [
                Alternative(_text_of(policy.tokenizer, t), p, t == targets[i].item())
                for t, p in others.items()
            ]
            tokens.append(Token(text, probability, kl[i] if kl else None, alternatives))
        rows.append((tokens, logp[start : start + len(tokens)].sum().item()))
        start += len(row) + 1  # the tree batch has EOS after every sample
    return rows


def _text_of(tokenizer: Tokenizer, token: int) -> str | None:
    return None if token == tokenizer.eos_id else tokenizer.decode([token])


def _rewards(
    reward_model: LoadedRewardModel | None,
    tokenizer: Tokenizer,
    example: QAExample,
    ids: list[list[int]],
    answer_budget: int,
) -> list[float | None]:
    """The normalised reward of each sample; None without a reward model of the same tokenizer."""
    if reward_model is None or reward_model.tokenizer.identity() != tokenizer.identity():
        return [None] * len(ids)
    block = reward_model.model.backbone.config.block_size
    prompt = cut_prompt(tokenizer, example, block, reward_model.template, answer_budget)
    tree = (prompt.context, [(prompt.question, ids)])
    return model_rewards(reward_model.model, [tree], tokenizer.eos_id).tolist()


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; joined, they are decode(ids).

    A token that ends inside a character adds nothing; the one that completes it adds all of it.
    """
    texts, done = [], 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        whole = text if end == len(ids) else text.rstrip("\ufffd")  # U+FFFD: perhaps incomplete
        texts.append(whole[done:])
        done = max(done, len(whole))
    return texts
