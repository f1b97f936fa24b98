"""Compare policies on one evaluation set: the table that eval_dpo.py prints."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from src.data.tokenizers.tokenizer import Tokenizer
from src.evaluation.baselines import Baselines
from src.evaluation.evaluation_set import (
    MAX_ANSWER_TOKENS,
    EvaluationSet,
    PolicyResult,
    evaluate_policy,
)
from src.evaluation.intervals import Interval, bootstrap_interval, caution, intervals, win_rate
from src.evaluation.kl import kl_of_samples
from src.evaluation.squad_metrics import em_and_f1
from src.model.heads import RewardModel
from src.preference.pairs import PairSet, accuracy, policy_scores
from src.rl.rewards import model_rewards
from src.training.run import say
from src.utils.checkpoint_utils import (
    Checkpoint,
    load_checkpoint,
    load_parent,
    require_same_tokenizer,
    stage_folder,
    trained_anew,
)
from src.utils.constants import REWARD, SFT
from src.utils.errors import UserError


def sft_ancestor(policy: Checkpoint, known: Sequence[Checkpoint] = ()) -> Checkpoint:
    """The SFT checkpoint of a policy's lineage, checked to be the very one; the policy if it is
    SFT. known: checkpoints that are loaded already.
    """
    if policy.stage == SFT:
        return policy
    entry = next((a for a in policy.lineage if a["stage"] == SFT), None)
    if entry is None:
        raise UserError(
            f"{policy.path} names no {SFT} checkpoint in its lineage, expected the one that it "
            "started from: give a checkpoint that the scripts wrote"
        )
    for checkpoint in known:
        if checkpoint.sha256 == entry["sha256"]:
            return checkpoint
    found = load_checkpoint(entry["path"], f"restore it: {policy.path} started from it")
    if found.sha256 != entry["sha256"]:
        raise UserError(
            f"{entry['path']} is not the file that {policy.path} started from, expected sha256 "
            f"{entry['sha256'][:12]}, retrain the later stages or restore it"
        )
    return found


def check_parents(
    policies: Sequence[Checkpoint], parent: Checkpoint, reward: Checkpoint | None
) -> None:
    """UserError for a policy whose SFT model was trained anew since, which KL and wins would be
    measured from; says where a policy came from another SFT or reward model than is compared with.
    """
    for policy in policies:
        if trained_anew(policy, parent):
            raise UserError(
                f"{policy.path} started from an earlier {parent.path} than is there now (sha256 "
                f"{parent.sha256[:12]}), expected one from this: run {policy.stage}.py again with "
                "--overwrite, or leave it out"
            )
        starts = [entry for entry in policy.lineage if entry["stage"] == SFT]
        if starts and starts[0]["sha256"] != parent.sha256:
            say(
                f"{policy.path} started from {starts[0]['path']}: its KL and wins here are against "
                f"{parent.path}"
            )
        if reward is not None and trained_anew(policy, reward):
            say(
                f"{policy.path} was trained with an earlier {reward.path} than is there now: "
                "rewards here are of the new one"
            )
    if reward is not None and trained_anew(reward, parent):
        say(f"{reward.path} started from an earlier {parent.path} than is there now")


def load_reward(args: argparse.Namespace, policy: Checkpoint) -> Checkpoint | None:
    """The reward checkpoint, or None where none was named and the default does not exist."""
    default = stage_folder(args.model_type, REWARD) / "final.pt"
    if args.reward_checkpoint is None and not default.exists():
        say(f"no reward checkpoint at {default}: reward and win rate are left out")
        return None
    found = load_parent(args.reward_checkpoint, args.model_type, (REWARD,), REWARD)
    require_same_tokenizer(policy, found)
    return found


class Comparison(NamedTuple):
    """What all policies are measured on. parent: the SFT model; parent_result, parent_rewards: its
    answers and their rewards, None without a reward model.
    """

    held_out: EvaluationSet
    pairs: PairSet
    tokenizer: Tokenizer
    parent: nn.Module
    reward: RewardModel | None
    parent_result: PolicyResult | None
    parent_rewards: np.ndarray | None
    device: torch.device


def comparison(
    held_out: EvaluationSet,
    pairs: PairSet,
    tokenizer: Tokenizer,
    parent: nn.Module,
    reward: RewardModel | None,
    device: torch.device,
) -> Comparison:
    """Put the models where they compute, and score the parent's own answers once."""
    parent.to(device)
    result = rewards = None
    if reward is not None:
        reward.to(device)
        result = evaluate_policy(parent, tokenizer, held_out, device)
        rewards = model_rewards(reward, result.trees, tokenizer.eos_id, device).numpy()
    return Comparison(held_out, pairs, tokenizer, parent, reward, result, rewards, device)


def measure_policy(c: Comparison, model: nn.Module) -> tuple[PolicyResult, dict[str, Interval]]:
    """A policy's greedy answers, and every metric with its 95% interval."""
    model.to(c.device)
    eos_id, groups = c.tokenizer.eos_id, c.held_out.groups
    result = c.parent_result if model is c.parent else None
    result = result or evaluate_policy(model, c.tokenizer, c.held_out, c.device)
    metrics = intervals(result.figures(groups))
    if c.pairs.trees.trees:  # a small file may give none
        scores = policy_scores(model, c.pairs.trees.trees, eos_id, c.device)
        metrics["preference_accuracy"] = accuracy(scores, c.pairs)
    if c.reward is not None:
        rewards = model_rewards(c.reward, result.trees, eos_id, c.device).numpy()
        # The same answer scored beside others differs in its last digits: a tie all the same.
        same = [a == b for a, b in zip(result.ids, c.parent_result.ids, strict=True)]
        rewards = np.where(same, c.parent_rewards, rewards)
        metrics["reward"] = bootstrap_interval(rewards, np.ones(len(rewards)), groups)
        rate = win_rate(rewards, c.parent_rewards, groups)
        percent = {end: 100 * getattr(rate, end) for end in ("value", "low", "high")}
        metrics["win_rate"] = rate._replace(**percent)
    kl = kl_of_samples(
        model,
        c.parent,
        c.held_out.prompts,
        eos_id,
        max_new_tokens=MAX_ANSWER_TOKENS,
        device=c.device,
    )
    metrics["kl_nats"] = bootstrap_interval(kl, np.ones(len(kl)), groups)
    return result, metrics


def rule_rows(baselines: Baselines, held_out: EvaluationSet) -> dict[str, dict[str, Interval]]:
    """EM and F1 of the baselines, the upper bound of perfect copying included."""
    rows = {}
    for name, answers in baselines._asdict().items():
        em, f1 = em_and_f1(answers, held_out.asked, held_out.metric)
        percent, groups = [0.01] * len(em), held_out.groups
        figures = {"em": (em, percent, groups), "f1": (f1, percent, groups)}
        rows[f"rule: {name.replace('_', ' ')}"] = intervals(figures)
    return rows


def print_table(rows: dict[str, dict[str, Interval]], units: dict[str, str]) -> None:
    """A row a policy or rule, a column a metric: value [low, high], 95% bootstrap by context."""
    columns = [name for name in units if any(name in metrics for metrics in rows.values())]
    width = max(len(name) for name in rows)
    print("\n" + " ".join([" " * width, *(f"{f'{c} ({units[c]})':>26}" for c in columns)]))
    for name, metrics in rows.items():
        cells = []
        for column in columns:
            value = metrics.get(column)
            cells.append(f"{value.in_words() if value else '-':>26}")
        print(" ".join([f"{name:<{width}}", *cells]))
    if warning := caution(value for metrics in rows.values() for value in metrics.values()):
        print(f"caution: {warning}")
