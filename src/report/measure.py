"""Measure a pipeline's checkpoints on held-out questions and pairs (the report's forward passes).
"""

from typing import NamedTuple

import numpy as np
import torch

from src.data.squad_loader import SquadData, load_from_identity
from src.data.trained_contexts import union
from src.evaluation.compare_policies import common_ground, measure_policy, rule_rows
from src.evaluation.evaluation_set import (
    EvaluationSet,
    PolicyResult,
    baselines_of,
    hold_out,
)
from src.evaluation.intervals import Interval, bootstrap_interval
from src.preference.pairs import PairSet, accuracy_by_kind, held_out_pairs, raw_scores
from src.report.pipelines import Pipeline
from src.utils.checkpoint_utils import Checkpoint, require_same_tokenizer
from src.utils.constants import REWARD, SFT
from src.utils.errors import UserError
from src.utils.progress_bar import say

# What SFT's evaluation at step 0 says: of the model before SFT, untrained or pretrained.
BASE = "base"
# Metrics that compare a policy with the SFT model it came from.
AGAINST_START = ("kl_nats", "win_rate")


class KindScores(NamedTuple):
    """Scores of the reward model, in standard deviations of gold answers, of one kind's pairs."""

    chosen: np.ndarray
    rejected: np.ndarray
    accuracy: Interval


class Measured(NamedTuple):
    """What was measured of one pipeline. table: policy or rule -> metric -> value with interval;
    answers: policy's stage -> its greedy answers; kinds: corruption -> scores, if there is a reward
    model.
    """

    held_out: EvaluationSet
    table: dict[str, dict[str, Interval]]
    answers: dict[str, PolicyResult]
    kinds: dict[str, KindScores]


def base_row(pipeline: Pipeline) -> dict[str, Interval]:
    """The figures before SFT, from its log; empty where it did not log any."""
    first = pipeline.stages[SFT].evaluations[:1] if SFT in pipeline.stages else []
    if not first or first[0]["step"] != 0:
        return {}
    names = ("em", "f1", "answer_loss_nats")
    return {n: interval_of(first[0], n) for n in names if n in first[0]}


def interval_of(record: dict, name: str) -> Interval:
    """A figure of an evaluation's record with the ends of its interval; NaN where it is not there.
    """
    ends = (record.get(name + end, np.nan) for end in ("", "_low", "_high"))
    contexts = record.get("contexts")  # which older logs have not
    return Interval(*ends, None if contexts is None else int(contexts))


def measure_pipeline(
    pipeline: Pipeline, limit: int, seed: int, device: torch.device, loaded: dict[str, SquadData]
) -> Measured | None:
    """Greedy answers and metrics of a pipeline's policies on a seeded sample of `limit` held-out
    questions, and the reward model's scores of their pairs. None if the pipeline has no policy.

    loaded: data sets by fingerprint, filled here, so that pipelines on the same data read it once.
    Notes what cannot be measured in pipeline.notes.
    """
    policies = pipeline.policies()
    if not policies:
        pipeline.notes.append("no finished policy: there are no answers to show")
        return None
    start, reward = _start(policies), pipeline.checkpoint(REWARD)
    first = start or next(iter(policies.values()))
    try:
        key = str(first.data.get("fingerprint"))
        if key not in loaded:
            loaded[key] = load_from_identity(first.data)
        for other in (*policies.values(), *([reward] if reward else [])):
            require_same_tokenizer(first, other)
    except UserError as error:
        pipeline.notes.append(f"answers were not measured: {error}")
        return None
    if start is None:
        pipeline.notes.append(
            "the SFT model it started from is not there: no KL and wins against it"
        )
    data = loaded[key]
    readers = [p.model for p in policies.values()] + ([reward.model.backbone] if reward else [])
    block = min(model.config.block_size for model in readers)
    name, metric = data.identity["dataset"], first.answer_metric
    trained_on = union(c.trained_on for c in (*policies.values(), *([reward] if reward else [])))
    try:
        chosen, encoded, held_out, left_out = hold_out(
            data.validation, trained_on, first.tokenizer, block, first.max_answer_tokens,
            source=name, limit=limit, seed=seed, include_trained=None, metric=metric,
        )
    except UserError as error:
        pipeline.notes.append(f"answers were not measured: {error}")
        return None
    if left_out:
        pipeline.notes.append(
            f"{left_out} questions of {name} are left out: their contexts were trained on"
        )
    pairs = held_out_pairs(chosen, encoded, first.tokenizer, block, name, None, metric)
    reward_model = reward.model if reward else None
    ground = common_ground(held_out, pairs, first.tokenizer, first.model, reward_model, device)
    table = {BASE: row} if (row := base_row(pipeline)) else {}
    answers = {}
    for stage, policy in policies.items():
        say(f"measuring {policy.path} on {len(held_out.examples)} questions")
        answers[stage], table[stage] = measure_policy(ground, policy.model)
        table[stage] |= _form(answers[stage], held_out)
        if start is None or not _descends(policy, start):
            table[stage] = {k: v for k, v in table[stage].items() if k not in AGAINST_START}
    rules = rule_rows(baselines_of(held_out, first.tokenizer, data.train), held_out)
    kinds = kind_scores(reward_model, pairs, first.tokenizer.eos_id)
    return Measured(held_out, table | rules, answers, kinds)


def _start(policies: dict[str, Checkpoint]) -> Checkpoint | None:
    """The SFT model that the last policy started from; None where it is not there."""
    *_, last = policies.values()
    sft = policies.get(SFT)
    return sft if sft is not None and _descends(last, sft) else None


def _descends(policy: Checkpoint, start: Checkpoint) -> bool:
    """Whether a policy started from this checkpoint, or is it."""
    return start.sha256 in {policy.sha256, *(entry["sha256"] for entry in policy.lineage)}


def _form(result: PolicyResult, held_out: EvaluationSet) -> dict[str, Interval]:
    """Length of the greedy answers in tokens, EOS included, and the share that end with EOS."""
    stopped = [len(ids) < held_out.max_answer_tokens for ids in result.ids]
    lengths = [len(ids) + end for ids, end in zip(result.ids, stopped, strict=True)]
    ones = np.ones(len(lengths))
    return {
        "answer_tokens": bootstrap_interval(lengths, ones, held_out.groups),
        "eos_rate": bootstrap_interval(stopped, 0.01 * ones, held_out.groups),
    }


def kind_scores(reward, pairs: PairSet, eos_id: int) -> dict[str, KindScores]:
    """Normalised scores of chosen and rejected answers by corruption; empty without reward model.
    """
    if reward is None or not pairs.trees.trees:
        return {}
    raw = raw_scores(reward, pairs.trees.trees, eos_id).view(-1, 2)
    scores = reward.normalise(raw).numpy()
    kinds = np.array([pair.kind for pair in pairs.in_order()])
    return {
        kind: KindScores(*scores[kinds == kind].T, interval)
        for kind, interval in accuracy_by_kind(raw, pairs).items()
    }
