"""The first half of a step: sample answers, score them, compute rewards and advantages.

C contexts, Q questions, N = Q * samples answers (episodes), A answer positions. An episode's
actions are its sampled tokens, the EOS token included when the policy chose it. Numbered comments
give the source of a detail: IGPT = Ouyang et al. 2022 (2203.02155), N = Huang et al., "The N
Implementation Details of RLHF with PPO", whose lists are "general" and "policy training". The
second half is src/rl/update.py.
"""

import argparse
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.squad_dataset import Batch
from src.data.squad_types import Paragraph
from src.data.windows import Place
from src.evaluation.squad_metrics import QAExample, qa_example
from src.inference.logprobs import (
    Tree,
    TreeBatch,
    build_tree_batch,
    completion_hidden,
    for_all_completions,
    logp_of_hidden,
)
from src.inference.sampling import PromptTree, Sampling, generate, with_answers
from src.losses import kl_penalised_rewards, sequence_sum
from src.rl.algorithm_table import Algorithm, Selection
from src.rl.algorithms import advantages_of, chosen_answers, kl_coefs
from src.rl.models import Models
from src.rl.rewards import RewardOf
from src.training.distributed import gather, rank, rank_partition, unsharded
from src.utils.constants import MICRO_BATCH_TOKENS
from src.utils.errors import RankError, UserError


class Settings(NamedTuple):
    """What the flags say; units as in train_ppo.py --help."""

    algorithm: Algorithm | Selection
    eos_id: int
    num_samples: int
    max_new_tokens: int
    temperature: float
    gamma: float
    lam: float
    value_clip_range: float
    value_coef: float
    beta: float | None
    missing_eos_penalty: float
    epochs: int
    minibatches: int
    micro_contexts: int
    seed: int
    device: torch.device
    micro_tokens: int = MICRO_BATCH_TOKENS


def settings_of(
    args: argparse.Namespace, row: Algorithm | Selection, eos_id: int, device: torch.device
) -> Settings:
    """The settings of train_ppo.py's flags, of which the row is read already."""
    if isinstance(row, Algorithm) and row.length is None:
        row = row._replace(length=args.max_new_tokens)  # by default of the data: known only now
    return Settings(
        algorithm=row, eos_id=eos_id, num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens, temperature=args.temperature, gamma=args.gamma,
        lam=args.lam, value_clip_range=args.value_clip_range, value_coef=args.value_coef,
        beta=args.beta, missing_eos_penalty=args.missing_eos_penalty,
        epochs=args.ppo_epochs, minibatches=args.minibatches,
        micro_contexts=args.micro_batch_size or args.batch_size, seed=args.seed, device=device,
        micro_tokens=args.micro_batch_tokens,
    )


class Rollout(NamedTuple):
    """A batch of episodes. Tensors are (N, A) unless stated; mask is True at actions, bool.

    rows: which of the N episodes each tree has. logp, reference_logp: of each action, in nats,
    under the policy that drew it and under the frozen one. score, stopped: (N,), the reward and
    whether the EOS token came. score_parts: name -> (N,), of what the reward is made. rewards: KL
    penalty and score, token by token. values: the critic's predictions at sampling time (0 without
    a critic); returns: their targets. advantages: of the whole batch, as the algorithm has them
    (PPO: whitened). kl_coef: of this step, in the reward or in the loss.
    """

    trees: list[Tree]
    rows: list[slice]
    mask: Tensor
    logp: Tensor
    reference_logp: Tensor
    score: Tensor
    score_parts: dict[str, Tensor]
    stopped: Tensor
    rewards: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kl_coef: float


class Prompts(NamedTuple):
    """This rank's share of a batch of questions. trees: what the policy reads, without golds.
    examples, excused: of each question, its text and golds, and whether answers to it may lack EOS.
    """

    trees: list[PromptTree]
    examples: list[QAExample]
    excused: list[bool]


def rollout_prompts(
    batch: Batch, paragraphs: Sequence[Paragraph], too_long: Collection[Place]
) -> Prompts:
    """Excused are the questions whose golds are `too_long` to be sampled."""
    mine = rank_partition(batch.trees)
    trees = [batch.trees[i] for i in mine]
    without_golds = [(context, [tokens for tokens, _ in asked]) for context, asked in trees]
    places = [place for i in mine for place in batch.index[i]]
    examples = [qa_example(paragraphs[p], paragraphs[p].questions[q]) for p, q in places]
    return Prompts(without_golds, examples, [place in too_long for place in places])


def sample_rollout(
    models: Models,
    prompts: Prompts,
    reward_of: RewardOf,
    kl_coef: float,
    step: int,
    s: Settings,
) -> Rollout:
    """Sample answers to the prompts with the policy as it is, score them, compute advantages.

    prompts: this rank's. kl_coef: of the KL, in the reward or in the loss as the algorithm has it.
    The rollout is that of all ranks, whitened as one, the same on each.
    """
    # 1. Plain temperature sampling: a filter would make old and new log-probs disagree (N, general
    # detail 4).
    # Each rank draws its own rows of one stream: how many ranks there are changes no answer.
    episodes = s.num_samples * len(prompts.excused)
    first_row = sum(gather(episodes)[: rank()])
    with unsharded(models.policy):
        answers = generate(
            models.policy, prompts.trees, s.eos_id, sampling=Sampling(s.temperature),
            num_samples=s.num_samples, max_new_tokens=s.max_new_tokens, seed=[s.seed, step],
            first_row=first_row,
        )
    trees = with_answers(prompts.trees, answers.texts(), s.num_samples)
    # 2. An answer that was cut off is scored as if it had stopped, less a fixed penalty. (N, policy
    # training, detail 5, replaces the score by a fixed one.)
    try:
        score, parts = reward_of(trees, prompts.examples)
    except UserError as error:  # of this rank's answers, which no other rank scores
        raise RankError(str(error)) from error
    excused = torch.tensor(prompts.excused, dtype=torch.bool).repeat_interleave(s.num_samples)
    # 3. The frozen policy's log-probs and the critic's values in one pass each.
    reference_logp, values = _reference_and_values(models, trees, s)
    mine = score, excused, answers.stopped, answers.lengths, answers.logp, reference_logp, values
    # From here on, the episodes of all ranks.
    of_ranks = gather((trees, parts, [x.cpu() for x in mine]))
    trees = [tree for its, _, _ in of_ranks for tree in its]
    names = dict.fromkeys(name for _, its, _ in of_ranks for name in its)
    parts = {n: torch.cat([its[n] for _, its, _ in of_ranks if n in its]) for n in names}
    score, excused, stopped, lengths, logp, reference_logp, values = (
        torch.cat(its).to(s.device) for its in zip(*(x for _, _, x in of_ranks), strict=True)
    )
    # As wide as scores are: they have the EOS of every answer. Where it was not drawn, the mask
    # leaves it out.
    logp = F.pad(logp, (0, 1))
    mask = torch.arange(logp.shape[1], device=s.device) < lengths[:, None]
    # 4. KL penalty on every action, the score once, on the last one (IGPT section 3.5; N, policy
    # training, detail 8).
    rewards = kl_penalised_rewards(
        score, logp, reference_logp, mask, kl_coefs(s.algorithm, kl_coef).reward, stopped | excused,
        s.missing_eos_penalty, s.algorithm.kl_estimator,
    )
    # 5. What the answers are compared with: values, the question's other answers, the batch.
    advantages, returns = advantages_of(
        s.algorithm, rewards, values, mask, s.num_samples, s.gamma, s.lam
    )
    return Rollout(
        trees, rows_of(trees), mask, logp, reference_logp, score, parts, stopped,
        rewards, values, advantages, returns, kl_coef,
    )


def _reference_and_values(
    models: Models, trees: Sequence[Tree], s: Settings
) -> tuple[Tensor, Tensor]:
    """Log-probs under the frozen policy and values, (N, most new tokens + the EOS token)."""

    width = s.max_new_tokens + 1

    def of_batch(batch: Sequence[Tree]) -> Tensor:  # (completions, 2, A)
        tree_batch = build_tree_batch(batch, s.eos_id)
        hidden = completion_hidden(models.reference, tree_batch)
        logp = action_logp(models.reference, tree_batch, hidden, s)
        values = torch.zeros_like(logp)
        if (critic := models.critic) is not None:
            values = critic.values(completion_hidden(critic.backbone, tree_batch))
        return F.pad(torch.stack((logp, values), 1), (0, width - logp.shape[1]))

    with torch.no_grad(), unsharded(models.critic):
        return for_all_completions(trees, of_batch).view(-1, 2, width).unbind(1)


def rows_of(trees: Sequence[Tree]) -> list[slice]:
    """Each tree's rows among the episodes."""
    counts = [sum(len(answers) for _, answers in questions) for _, questions in trees]
    return [slice(b - n, b) for b, n in zip(accumulate(counts), counts, strict=True)]


def action_logp(model: nn.Module, tree_batch: TreeBatch, hidden: Tensor, s: Settings) -> Tensor:
    """Log-probs (N, A) of the actions at the sampling temperature (N, policy training, detail 1).
    """
    return logp_of_hidden(model, hidden, tree_batch.targets, tree_batch.mask, s.temperature).logp


def select_answers(rollout: Rollout, s: Settings) -> Rollout:
    """What the algorithm learns from: all episodes, or those that a `Selection` chooses by reward,
    [best] or [best, worst] of each question. Trees without a chosen answer are left out.
    """
    if not isinstance(s.algorithm, Selection):
        return rollout
    rewards = sequence_sum(rollout.rewards, rollout.mask).view(-1, s.num_samples)  # (Q, N)
    chosen = iter(chosen_answers(s.algorithm, rewards))
    trees: list[Tree] = []
    rows: list[int] = []
    first = 0  # the episode that the question at hand begins with
    for context, questions in rollout.trees:
        kept = []
        for question, answers in questions:
            if picked := next(chosen):
                kept.append((question, [answers[i] for i in picked]))
                rows += [first + i for i in picked]
            first += len(answers)
        if kept:
            trees.append((context, kept))
    at = torch.tensor(rows, dtype=torch.long, device=rollout.mask.device)
    tensors = {name: x[at] for name, x in rollout._asdict().items() if isinstance(x, Tensor)}
    return rollout._replace(trees=trees, rows=rows_of(trees), **tensors)
