"""Metrics of a batch of episodes, and the KL coefficient that follows from its KL."""

import argparse

import torch

from src.data.squad_dataset import ContextGroups
from src.losses import (
    adaptive_kl_coefficient,
    explained_variance,
    kl_estimates,
    masked_mean,
    sequence_sum,
)
from src.rl.algorithm_table import Algorithm
from src.rl.rollout import Rollout, Settings
from src.utils.progress_bar import say

# Horizons of the KL controller in a run, if --kl_horizon is left out.
HORIZONS = 10


def describe(rollout: Rollout, s: Settings) -> dict[str, float]:
    """Metrics of a batch of episodes, among them those that show a collapse."""
    mask = rollout.mask
    questions = [question for _, questions in rollout.trees for question in questions]
    texts = [(q, tuple(a)) for q, (_, answers) in enumerate(questions) for a in answers]
    k3 = sequence_sum(kl_estimates(rollout.logp, rollout.reference_logp).k3, mask)
    figures = {
        "kl_coef": rollout.kl_coef,
        "reward_mean": rollout.score.mean(),
        "reward_std": rollout.score.std(correction=0),
        "kl_nats": k3.mean(),
        # The mean of -log p of draws from p is an unbiased estimate of the entropy.
        "entropy_nats": -masked_mean(rollout.logp, mask),
        "eos_rate": rollout.stopped.float().mean(),
        "answer_tokens": mask.sum(1).float().mean(),
        "distinct_fraction": torch.tensor(len(set(texts)) / len(texts)),
    }
    figures |= {f"reward_{name}_mean": part.mean() for name, part in rollout.score_parts.items()}
    if s.algorithm.has_critic:
        explained = explained_variance(rollout.values, rollout.returns, mask)
        figures["explained_variance"] = explained  # NaN, null in the log, where returns are equal
    return {name: float(value) for name, value in figures.items()}


def reach(too_long: int, units: ContextGroups, longest: int) -> str:
    """How many questions have no gold that can be sampled, and what that does to the penalty."""
    total = sum(len(questions) for _, questions in units.groups)
    if not too_long:
        return f"all {total} training questions have a gold within --max_new_tokens {longest}"
    return (
        f"{too_long} of {total} training questions have no gold within --max_new_tokens {longest}, "
        "EOS included: answers to them are cut off without --missing_eos_penalty"
    )


def set_horizon(args: argparse.Namespace, units: ContextGroups) -> None:
    """Set --kl_horizon of a run with --kl_target, if it was not given: a tenth of the run's
    episodes. Over the run the coefficient can then grow or shrink sevenfold (e to the power of
    0.2 * 10). It is at least a step's episodes, so that a step changes it by a fifth at most.
    """
    if not args.kl_target or args.kl_horizon is not None:
        return
    questions = sum(len(asked) for _, asked in units.groups) / len(units.groups)
    episodes = min(args.batch_size, len(units.groups)) * questions * args.num_samples  # of a step
    args.kl_horizon = round(episodes * max(1.0, args.max_steps / HORIZONS))
    say(f"--kl_horizon {args.kl_horizon} episodes, of {args.max_steps * episodes:.0f} in this run")


def describe_chosen(chosen: Rollout, s: Settings) -> dict[str, float | None]:
    """How many answers a `Selection` has learnt from, and their mean reward (None if no answer)."""
    if isinstance(s.algorithm, Algorithm):
        return {}
    mean = float(chosen.score.mean()) if len(chosen.score) else None
    return {"chosen_answers": len(chosen.score), "chosen_reward_mean": mean}


def next_kl_coef(args: argparse.Namespace, kl_coef: float, kl_nats: float, episodes: int) -> float:
    """The coefficient adapted to --kl_target, if there is one (Ziegler et al. 2019, sect. 2.2)."""
    if not args.kl_target:
        return kl_coef
    return adaptive_kl_coefficient(kl_coef, kl_nats, args.kl_target, episodes, args.kl_horizon)


def collapse(kl_nats: float, limit: float) -> str:
    """The message for a step whose KL is above --kl_limit."""
    return (
        f"the KL to the reference is {kl_nats:.1f} nats an answer, above --kl_limit {limit}: "
        "a collapse, raise --kl_coef or lower --lr"
    )
