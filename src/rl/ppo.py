"""One PPO step in two halves: collect a batch of answers, then learn from it.

C contexts, Q questions, N = Q * samples answers (episodes), A answer positions. An episode's
actions are its sampled tokens, the stop token included when the policy chose it. Numbered comments
give the source of a detail: IGPT = Ouyang et al. 2022 (2203.02155), N = Huang et al., "The N
Implementation Details of RLHF with PPO", N+ = Huang et al. 2024 (2403.17031).
"""

import argparse
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.random_streams import Stream, stream
from src.data.squad_dataset import Batch
from src.data.squad_types import Paragraph
from src.data.windows import Place, tree_tokens
from src.evaluation.squad_metrics import QAExample, qa_example
from src.inference.logprobs import (
    Tree,
    TreeBatch,
    build_tree_batch,
    completion_hidden,
    logp_of_hidden,
)
from src.inference.sampling import Answers, PromptTree, Sampling, generate
from src.losses import (
    gae,
    kl_penalised_rewards,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_loss,
    rloo_advantages,
    sequence_sum,
    whiten,
)
from src.rl.models import Models
from src.training.distributed import (
    all_sum,
    gather,
    micro_batches,
    rank,
    rank_partition,
    unsharded,
    within,
)
from src.utils.constants import MICRO_BATCH_TOKENS

# trees with sampled answers -> reward (N,) on the CPU, question after question
RewardOf = Callable[[Sequence[Tree]], Tensor]


class Settings(NamedTuple):
    """What the flags say; units as in train_ppo.py --help."""

    algorithm: str
    eos_id: int
    num_samples: int
    max_new_tokens: int
    temperature: float
    gamma: float
    lam: float
    clip_range: float
    value_clip_range: float
    value_coef: float
    missing_eos_penalty: float
    epochs: int
    minibatches: int
    micro_contexts: int
    seed: int
    device: torch.device
    micro_tokens: int = MICRO_BATCH_TOKENS


def settings_of(args: argparse.Namespace, eos_id: int, device: torch.device) -> Settings:
    """The settings of train_ppo.py's flags."""
    return Settings(
        algorithm=args.algorithm, eos_id=eos_id, num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens, temperature=args.temperature, gamma=args.gamma,
        lam=args.lam, clip_range=args.clip_range, value_clip_range=args.value_clip_range,
        value_coef=args.value_coef, missing_eos_penalty=args.missing_eos_penalty,
        epochs=args.ppo_epochs, minibatches=args.minibatches,
        micro_contexts=args.micro_batch_size or args.batch_size, seed=args.seed, device=device,
        micro_tokens=args.micro_batch_tokens,
    )  # fmt: skip


class Rollout(NamedTuple):
    """A batch of episodes. Tensors (N, A) but where said; mask is True at actions, bool.

    rows: which of the N episodes each tree has. logp, reference_logp: of each action, in nats,
    under the policy that drew it and under the frozen one. score, stopped: (N,), the reward and
    whether the stop token came. rewards: KL penalty and score, token by token. values: the critic's
    when the action was drawn; returns: what they should have been. advantages: whitened over the
    whole batch (PPO).
    """

    trees: list[Tree]
    rows: list[slice]
    mask: Tensor
    logp: Tensor
    reference_logp: Tensor
    score: Tensor
    stopped: Tensor
    rewards: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def collect(
    models: Models,
    prompts: Sequence[PromptTree],
    reward_of: RewardOf,
    kl_coef: float,
    step: int,
    s: Settings,
    excused: Sequence[bool] | None = None,
) -> Rollout:
    """Sample answers to the prompts with the policy as it is, score them, work out advantages.

    prompts: this rank's; excused: those of their questions whose answers need not stop (default:
    none). The rollout is that of all ranks, whitened as one, the same on each.
    """
    # 1. Plain temperature sampling: a filter would make old and new log-probs disagree (N, 4).
    # Each rank draws its own rows of one stream: how many ranks there are changes no answer.
    episodes = s.num_samples * sum(len(questions) for _, questions in prompts)
    first_row = sum(gather(episodes)[: rank()])
    with unsharded(models.policy):
        answers = generate(
            models.policy, prompts, s.eos_id, sampling=Sampling(s.temperature),
            num_samples=s.num_samples, max_new_tokens=s.max_new_tokens, seed=[s.seed, step],
            first_row=first_row, device=s.device,
        )  # fmt: skip
    trees = _attach(prompts, answers, s.num_samples)
    # 2. An answer that was cut off is scored as if it had stopped, less a fixed penalty (N, 6).
    score = reward_of(trees)
    questions = sum(len(asked) for _, asked in prompts)
    free = torch.tensor(excused or [False] * questions, dtype=torch.bool)
    free = free.repeat_interleave(s.num_samples)
    # 3. The frozen policy's log-probs and the critic's values in one pass each.
    reference_logp, values = _score(models, trees, s)
    mine = score, free, answers.stopped, answers.lengths, answers.logp, reference_logp, values
    found = gather((trees, [x.cpu() for x in mine]))
    trees = [tree for part, _ in found for tree in part]
    score, free, stopped, lengths, logp, reference_logp, values = (
        torch.cat(parts).to(s.device) for parts in zip(*(x for _, x in found), strict=True)
    )
    # One column more, as scores have, masked: the stop token after a cut answer was not drawn.
    logp = F.pad(logp, (0, 1))
    mask = torch.arange(logp.shape[1], device=s.device) < lengths[:, None]
    # 4. KL penalty on every action, the score once, on the last one (IGPT section 3.5; N, 5).
    rewards = kl_penalised_rewards(
        score, logp, reference_logp, mask, kl_coef, stopped | free, s.missing_eos_penalty
    )
    advantages, returns = _advantages(rewards, values, mask, s)
    return Rollout(
        trees, _rows(trees), mask, logp, reference_logp, score, stopped,
        rewards, values, advantages, returns,
    )  # fmt: skip


def _score(models: Models, trees: Sequence[Tree], s: Settings) -> tuple[Tensor, Tensor]:
    """Log-probs under the frozen policy and values, (N, most new tokens + the stop token)."""
    rows = _rows(trees)
    shape = (rows[-1].stop if rows else 0, s.max_new_tokens + 1)
    reference_logp, values = torch.zeros(2, *shape, device=s.device)
    with torch.no_grad(), unsharded(models.critic):
        for part in within(list(map(tree_tokens, trees)), s.micro_contexts, s.micro_tokens):
            tree_batch = build_tree_batch([trees[i] for i in part], s.eos_id, s.device)
            here = slice(rows[part[0]].start, rows[part[-1]].stop)
            columns = tree_batch.targets.shape[1]
            hidden = completion_hidden(models.reference, tree_batch)
            reference_logp[here, :columns] = _logp(models.reference, tree_batch, hidden, s)
            if (critic := models.critic) is not None:
                critic_hidden = completion_hidden(critic.backbone, tree_batch)
                values[here, :columns] = critic.values(critic_hidden)
    return reference_logp, values


def _attach(prompts: Sequence[PromptTree], answers: Answers, samples: int) -> list[Tree]:
    """Prompts with their answers as trees."""
    texts = iter(answers.texts())
    return [
        (context, [(q, [next(texts) for _ in range(samples)]) for q in questions])
        for context, questions in prompts
    ]


def _rows(trees: Sequence[Tree]) -> list[slice]:
    """Each tree's rows among the episodes."""
    counts = [sum(len(answers) for _, answers in questions) for _, questions in trees]
    return [slice(b - n, b) for b, n in zip(accumulate(counts), counts, strict=True)]


def _logp(model: nn.Module, tree_batch: TreeBatch, hidden: Tensor, s: Settings) -> Tensor:
    return logp_of_hidden(model, hidden, tree_batch.targets, tree_batch.mask, s.temperature).logp


def _advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, s: Settings
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets (N, A) of the algorithm; without a critic the targets are 0."""
    episode = sequence_sum(rewards, mask)
    if s.algorithm == "ppo":
        advantages, returns = gae(rewards, values, mask, s.gamma, s.lam)
        return whiten(advantages, mask), returns
    if s.algorithm == "rloo":
        episode = rloo_advantages(episode.view(-1, s.num_samples)).flatten()
    else:  # reinforce: the batch's mean return is the baseline
        episode = episode - episode.mean()
    return episode[:, None].expand_as(mask), torch.zeros_like(rewards)


def learn(
    models: Models,
    rollout: Rollout,
    step: int,
    s: Settings,
    update: Callable[[float], dict[str, float]],
) -> dict[str, float]:
    """Several epochs over the batch in minibatches of whole contexts; returns means over actions.

    update: called with each minibatch's loss when its gradient is complete; returns what to log.
    """
    def tokens_of(i: int) -> int:
        return tree_tokens(rollout.trees[i])

    sums: dict[str, float] = {}
    weight, first_kl = 0, None
    for epoch in range(s.epochs):
        rng = stream(Stream.MINIBATCHES, s.seed, step, epoch)
        order = rng.permutation(len(rollout.trees))
        for batch in np.array_split(order, min(s.minibatches, len(order))):
            figures: dict[str, float] = {}
            batch = batch.tolist()
            actions = sum(int(rollout.mask[rollout.rows[i]].sum()) for i in batch)
            episodes = sum(len(rollout.mask[rollout.rows[i]]) for i in batch)
            # Long and short contexts apart: what is in memory together should be of like length.
            batch = sorted(batch, key=lambda i: len(rollout.trees[i][0]))
            for part in micro_batches(batch, s.micro_contexts, tokens_of, s.micro_tokens):
                for name, value in _backward(models, rollout, part, actions, episodes, s).items():
                    figures[name] = figures.get(name, 0.0) + value
            figures = all_sum(figures)
            first_kl = figures["approx_kl_nats"] if first_kl is None else first_kl
            figures |= update(figures["loss"])
            # Means over actions, so that minibatches weigh as many as they have.
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + actions * value
            weight += actions
    return {**{k: v / weight for k, v in sums.items()}, "first_approx_kl_nats": first_kl}


def _backward(
    models: Models, rollout: Rollout, part: Sequence[int], actions: int, episodes: int, s: Settings
) -> dict[str, Tensor]:
    """Add the gradient of some contexts' share of a minibatch with so many actions and episodes."""
    tree_batch = build_tree_batch([rollout.trees[i] for i in part], s.eos_id, s.device)
    rows = [row for i in part for row in range(rollout.rows[i].start, rollout.rows[i].stop)]
    rows = torch.tensor(rows, dtype=torch.long, device=s.device)
    columns = tree_batch.targets.shape[1]

    def here(x: Tensor) -> Tensor:
        return x.index_select(0, rows)[:, :columns]

    mask, old_logp, advantages = here(rollout.mask), here(rollout.logp), here(rollout.advantages)
    logp = _logp(models.policy, tree_batch, completion_hidden(models.policy, tree_batch), s)
    policy = ppo_policy_loss(logp, old_logp, advantages, mask, s.clip_range, count=actions)
    loss = policy.loss
    if s.algorithm == "reinforce":
        loss = reinforce_loss(logp, advantages[:, 0], mask, baseline=0.0, count=episodes)
    loss.backward()
    figures = {"loss": loss, "policy_loss": loss}
    figures |= {"clip_fraction": policy.clip_share, "approx_kl_nats": policy.approx_kl}
    if models.critic is not None:
        # After the policy's gradient, so that only one model's activations are in memory.
        values = models.critic.values(completion_hidden(models.critic.backbone, tree_batch))
        value_loss = ppo_value_loss(
            values, here(rollout.values), here(rollout.returns), mask, s.value_clip_range,
            count=actions,
        ).loss  # fmt: skip
        (s.value_coef * value_loss).backward()
        figures |= {"value_loss": value_loss, "loss": loss + s.value_coef * value_loss}
    return {name: value.detach() for name, value in figures.items()}


def ask(
    batch: Batch, paragraphs: Sequence[Paragraph], too_long: Collection[Place]
) -> tuple[list[PromptTree], list[QAExample], list[bool]]:
    """This rank's share of a batch: prompts without golds, the same questions as people read them,
    and which of them are among those whose golds are `too_long` to be sampled.
    """
    mine = rank_partition(batch.trees)
    trees = [batch.trees[i] for i in mine]
    prompts = [(context, [tokens for tokens, _ in questions]) for context, questions in trees]
    places = [place for i in mine for place in batch.index[i]]
    asked = [qa_example(paragraphs[p], paragraphs[p].questions[q]) for p, q in places]
    return prompts, asked, [place in too_long for place in places]
