"""The second half of a step: epochs of minibatches over a rollout, and the gradient of each.

Notation as in src/rl/rollout.py. The row of src/rl/algorithm_table.py decides which loss is used.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from src.data.random_streams import Stream, stream
from src.data.windows import batching_length, tree_tokens
from src.inference.logprobs import build_tree_batch, completion_hidden
from src.losses import ppo_value_loss
from src.rl.algorithms import AlgorithmLoss, kl_coefs, loss_of
from src.rl.models import Models
from src.rl.rollout import Rollout, Settings, action_logp
from src.training.distributed import all_sum, micro_batches
from src.training.optimizer import backward


def update_policy(
    models: Models,
    rollout: Rollout,
    step: int,
    s: Settings,
    take_step: Callable[[float], dict[str, float]],
) -> dict[str, float]:
    """Several epochs over the batch in minibatches of whole contexts; returns means over actions.

    take_step: called with each minibatch's loss when its gradient is complete; returns what to log.
    Without a tree (every question a tie) nothing is updated and the loss is 0.
    """
    if not rollout.trees:
        return {"loss": 0.0, "policy_loss": 0.0}
    sums: dict[str, float] = {}
    weight, first_kl = 0, None
    of_episode = rollout.mask.sum(1).tolist()  # in one transfer: every read from a GPU synchronises
    actions_of = [sum(of_episode[rows]) for rows in rollout.rows]
    for epoch in range(s.epochs):
        rng = stream(Stream.MINIBATCHES, s.seed, step, epoch)
        order = rng.permutation(len(rollout.trees))
        for batch in np.array_split(order, min(s.minibatches, len(order))):
            contexts = batch.tolist()
            actions = sum(actions_of[i] for i in contexts)
            metrics = _minibatch_gradient(models, rollout, contexts, actions, s)
            first_kl = metrics["approx_kl_nats"] if first_kl is None else first_kl
            metrics |= take_step(metrics["loss"])
            # Means over actions: a minibatch weighs as much as it has actions.
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + actions * value
            weight += actions
    return {**{k: v / weight for k, v in sums.items()}, "first_approx_kl_nats": first_kl}


def _minibatch_gradient(
    models: Models, rollout: Rollout, contexts: Sequence[int], actions: int, s: Settings
) -> dict[str, float]:
    """Accumulate one minibatch's gradient over micro-batches. actions: its sampled tokens. Returns
    its metrics.
    """
    episodes = sum(len(rollout.mask[rollout.rows[i]]) for i in contexts)
    metrics: dict[str, float] = {}
    # Long and short contexts apart: those in memory together should be of similar length.
    by_length = sorted(contexts, key=lambda i: batching_length(rollout.trees[i]))
    parts = micro_batches(
        by_length, s.micro_contexts, lambda i: tree_tokens(rollout.trees[i]), s.micro_tokens
    )
    for part in parts:
        found = _backward(models, rollout, part, actions, episodes, s)
        for name, value in found.items():
            metrics[name] = metrics.get(name, 0.0) + value
    return all_sum(metrics)


def _backward(
    models: Models, rollout: Rollout, part: Sequence[int], actions: int, episodes: int,
    s: Settings,
) -> dict[str, Tensor]:
    """Add the gradient of some contexts' share of a minibatch with so many actions and episodes."""
    tree_batch = build_tree_batch([rollout.trees[i] for i in part], s.eos_id)
    rows = [row for i in part for row in range(rollout.rows[i].start, rollout.rows[i].stop)]
    rows = torch.tensor(rows, dtype=torch.long, device=s.device)
    # A rollout is as wide as --max_new_tokens and EOS, this part as its own longest answer.
    columns = tree_batch.targets.shape[1]

    def here(x: Tensor) -> Tensor:
        return x.index_select(0, rows)[:, :columns]

    mask, old_logp, reference_logp = map(
        here, (rollout.mask, rollout.logp, rollout.reference_logp)
    )
    hidden = completion_hidden(models.policy, tree_batch)
    logp = action_logp(models.policy, tree_batch, hidden, s)
    policy = loss_of(
        s.algorithm, logp, old_logp, here(rollout.advantages), mask, reference_logp=reference_logp,
        kl_coef=rollout.kl_coef, beta=s.beta, tokens=actions, answers=episodes,
    )
    backward(policy.loss)
    metrics = _metrics(policy, s, rollout.kl_coef)
    if models.critic is not None:
        # After the policy's gradient, so that only one model's activations are in memory.
        values = models.critic.values(completion_hidden(models.critic.backbone, tree_batch))
        value_loss = ppo_value_loss(
            values, here(rollout.values), here(rollout.returns), mask, s.value_clip_range,
            count=actions,
        ).loss
        backward(s.value_coef * value_loss)
        metrics |= {"value_loss": value_loss, "loss": policy.loss + s.value_coef * value_loss}
    return {name: value.detach() for name, value in metrics.items()}


def _metrics(policy: AlgorithmLoss, s: Settings, kl_coef: float) -> dict[str, Tensor]:
    """What is logged of a policy's loss, with the KL if it is a term of the loss."""
    metrics = {"loss": policy.loss, "policy_loss": policy.policy_loss}
    if kl_coefs(s.algorithm, kl_coef).loss:
        metrics["kl_loss_nats"] = policy.kl
    return metrics | {"clip_fraction": policy.clip_share, "approx_kl_nats": policy.approx_kl}
