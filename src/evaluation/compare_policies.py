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
    EvaluationSet,
    PolicyResult,
    evaluate_policy,
)
from src.evaluation.intervals import (
    Figures,
    Interval,
    caution,
    intervals,
    paired_gains,
    points_in_order,
)
from src.evaluation.kl import sample_figures
from src.evaluation.squad_metrics import em_and_f1
from src.model.heads import RewardModel
from src.preference.pairs import PairSet, pair_points, policy_scores
from src.rl.rewards import model_rewards
from src.utils.checkpoint_utils import (
    Checkpoint,
    load_checkpoint,
    load_reward_checkpoint,
    stage_folder,
    trained_anew,
)
from src.utils.constants import REWARD, SFT
from src.utils.errors import UserError
from src.utils.progress_bar import say

# What `gains_over` compares.
GAINED = ("em", "f1", "metric", "answer_loss_nats", "preference_accuracy", "reward")


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
    return load_reward_checkpoint(args.reward_checkpoint, policy)


class CommonGround(NamedTuple):
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


def common_ground(
    held_out: EvaluationSet,
    pairs: PairSet,
    tokenizer: Tokenizer,
    parent: nn.Module,
    reward: RewardModel | None,
    device: torch.device,
) -> CommonGround:
    """Put the models where they compute, and score the parent's own answers once."""
    parent.to(device)
    result = rewards = None
    if reward is not None:
        reward.to(device)
        result = evaluate_policy(parent, tokenizer, held_out)
        rewards = model_rewards(reward, result.trees, tokenizer.eos_id).numpy()
    return CommonGround(held_out, pairs, tokenizer, parent, reward, result, rewards, device)


def measure_policy(c: CommonGround, model: nn.Module) -> tuple[PolicyResult, dict[str, Interval]]:
    """A policy's greedy answers, and every metric with its 95% interval."""
    result, figures = policy_figures(c, model)
    return result, intervals(figures)


def policy_figures(c: CommonGround, model: nn.Module) -> tuple[PolicyResult, Figures]:
    """A policy's greedy answers, and what every metric is of, question by question."""
    model.to(c.device)
    eos_id, groups = c.tokenizer.eos_id, c.held_out.groups
    ones = [1.0] * len(groups)
    result = c.parent_result if model is c.parent else None
    result = result or evaluate_policy(model, c.tokenizer, c.held_out)
    figures = result.figures(groups)
    if c.pairs.trees.trees:  # a small file may give none
        scores = policy_scores(model, c.pairs.trees.trees, eos_id)
        figures["preference_accuracy"] = pair_points(scores, c.pairs)
    if c.reward is not None:
        rewards = model_rewards(c.reward, result.trees, eos_id).numpy()
        # The same answer scored beside others differs in its last digits: a tie all the same.
        same = [a == b for a, b in zip(result.ids, c.parent_result.ids, strict=True)]
        rewards = np.where(same, c.parent_rewards, rewards)
        figures["reward"] = (rewards.tolist(), ones, groups)
        wins = 100 * points_in_order(rewards, c.parent_rewards)
        figures["win_rate"] = (wins.tolist(), ones, groups)
    samples = sample_figures(
        model, c.parent, c.held_out.prompts, eos_id, max_new_tokens=c.held_out.max_answer_tokens
    )
    tokens = samples.tokens.tolist()
    figures["kl_nats"] = (samples.kl_nats.tolist(), ones, groups)
    figures["entropy_nats"] = (samples.entropy_nats.tolist(), tokens, groups)  # a token
    figures["sample_tokens"] = (tokens, ones, groups)
    return result, figures


def rule_rows(baselines: Baselines, held_out: EvaluationSet) -> dict[str, dict[str, Interval]]:
    """EM and F1 of the baselines, the upper bound included: copying perfectly what is visible and
    no longer than an answer may be.
    """
    rows, reach = {}, {"perfect_copy": f" within {held_out.max_answer_tokens} tokens"}
    for name, answers in baselines._asdict().items():
        em, f1 = em_and_f1(answers, held_out.examples, held_out.metric)
        percent, groups = [0.01] * len(em), held_out.groups
        figures = {"em": (em, percent, groups), "f1": (f1, percent, groups)}
        rows[f"rule: {name.replace('_', ' ')}{reach.get(name, '')}"] = intervals(figures)
    return rows


def gains_over(base: Figures, figures: Figures) -> dict[str, Interval]:
    """What a policy gained over another on the same questions and pairs, paired one by one."""
    both = [name for name in GAINED if name in base and name in figures]
    return paired_gains({n: base[n] for n in both}, {n: figures[n] for n in both})


def print_table(
    rows: dict[str, dict[str, Interval]], units: dict[str, str], kind: str = "held out",
    title: str | None = None, sign: str = "",
) -> None:
    """A row a policy or rule, a column a metric: value [low, high], 95% bootstrap by context.

    kind: what the metrics are of, as `EvaluationSet.kind`; every row says so where it is not
    `held out`. title: of the first column, by default the kind; sign: "+" for differences.
    """
    if kind != "held out":
        rows = {f"{name} ({kind})": metrics for name, metrics in rows.items()}
    columns = [name for name in units if any(name in metrics for metrics in rows.values())]
    title = title or kind
    width = max(map(len, [title, *rows]))
    print("\n" + " ".join([f"{title:<{width}}", *(f"{f'{c} ({units[c]})':>26}" for c in columns)]))
    for name, metrics in rows.items():
        cells = []
        for column in columns:
            value = metrics.get(column)
            cells.append(f"{value.in_words(sign=sign) if value else '-':>26}")
        print(" ".join([f"{name:<{width}}", *cells]))
    if warning := caution(value for metrics in rows.values() for value in metrics.values()):
        print(f"caution: {warning}")
