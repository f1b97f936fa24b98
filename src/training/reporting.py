"""What a stage logs and prints: each step, each evaluation, and what training has changed."""

import time
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from src.data.tokenizers.tokenizer import Tokenizer
from src.data.windows import Tree
from src.evaluation.evaluation_set import (
    EvaluationSet,
    PolicyResult,
    evaluate_policy,
    evenly_spaced,
    sample_lines,
)
from src.evaluation.intervals import (
    Figures,
    Interval,
    bootstrap_interval,
    caution,
    intervals,
    paired_gains,
)
from src.losses import DpoLoss
from src.preference.pairs import PairSet, accuracy, length_rule, pair_points
from src.training.progress import Progress, tokens_read
from src.training.run import Run
from src.utils.constants import STARTED
from src.utils.progress_bar import one_line, say

# Metrics for which higher (1) or lower (-1) is better; others, such as KL, are neither.
GOOD = {
    "em": 1, "f1": 1, "answer_loss_nats": -1, "preference_accuracy": 1, "accuracy": 1, "reward": 1,
    "metric": 1,
}
# What `Interval.verdict`, times GOOD, is called.
VERDICTS = {1: "better", -1: "worse", 0: "not clearly different", None: "no verdict"}


def log_step(
    run: Run,
    step: int,
    started: float,
    examples: int,
    trees: Sequence[Tree],
    record: dict[str, Any],
    **displayed: float,
) -> None:
    """Log one finished step on these trees, with speeds, and display its main metrics."""
    seconds = time.perf_counter() - started
    tokens_per_second = tokens_read(trees) / seconds
    if (step + 1) % run.args.log_every == 0 or step + 1 == run.args.max_steps:
        run.log.append(
            {
                "step": step + 1,
                **record,
                "examples_per_second": examples / seconds,
                "tokens_per_second": tokens_per_second,
                "seconds": seconds,
            }
        )
    if step == run.steps_done:
        say(f"{run.stage}: first step done {time.perf_counter() - STARTED:.1f} s after the start")
    run.log.show(step + 1, run.args.max_steps, **displayed, tokens_per_s=tokens_per_second)


def log_intervals(
    run: Run,
    step: int,
    table: dict[str, Interval],
    held_out: EvaluationSet | PairSet,
    gains: dict[str, Interval],
) -> None:
    """Log and print held-out metrics with their 95% intervals. The line says what they are of
    (`kind`).

    gains: of `Progress.gains`, only logged. Each is a difference of paired questions, and its
    interval is narrower than those of the two figures.
    """
    contexts = max((interval.groups or 0 for interval in table.values()), default=0)
    record: dict[str, Any] = {"step": step, "event": "evaluation", "eval_contexts": contexts}
    if held_out.seen:
        record["eval_trained_on"] = held_out.seen
    for name, interval in (table | {f"{name}_gain": g for name, g in gains.items()}).items():
        record[f"eval_{name}"] = interval.value
        record[f"eval_{name}_low"], record[f"eval_{name}_high"] = interval.low, interval.high
    run.log.append(record)
    words = ", ".join(f"{name} {interval.in_words()}" for name, interval in table.items())
    warning = caution(table.values())
    kind = held_out.kind
    say(f"{run.stage} {kind}, after step {step}: {words}{warning and f'; {warning}'}")


def evaluate_and_log(
    run: Run,
    step: int,
    model: nn.Module,
    tokenizer: Tokenizer,
    held_out: EvaluationSet | None,
    progress: Progress,
    more: Callable[[PolicyResult], Figures] = lambda result: {},
) -> Figures:
    """Log and print EM, F1, answer loss and `more` on the held-out questions, with three answers.

    held_out: None where there are no golds to compare with: no figures.
    """
    if held_out is None:
        return {}
    result = evaluate_policy(model, tokenizer, held_out)
    figures = result.figures(held_out.groups) | more(result)
    log_intervals(run, step, intervals(figures), held_out, progress.gains(figures))
    for line in sample_lines(held_out, result.answers, progress.sample_answers):
        say(line)
    progress.sample_answers = progress.sample_answers or [
        result.answers[i] for i in evenly_spaced(len(result.answers))
    ]
    return figures


def log_pair_figures(
    run: Run,
    step: int,
    scores: Tensor,
    found: DpoLoss,
    pair_set: PairSet,
    held_out: EvaluationSet | None,
    progress: Progress,
) -> Figures:
    """Log the held-out metrics of DPO: accuracies, rewards, margin and log-probabilities.

    scores: (P, 2) log-probs in nats; found: what the loss makes of them.
    Returns the accuracy pair by pair, to be compared with the model's before training.
    """
    rewards = torch.stack([found.chosen_reward, found.rejected_reward], 1)
    table = {
        "preference_accuracy": accuracy(scores, pair_set),
        "reward_accuracy": accuracy(rewards, pair_set),
    }
    groups = pair_set.groups()
    ones = [1.0] * len(groups)
    for name, values in (
        ("chosen_reward", rewards[:, 0]),
        ("rejected_reward", rewards[:, 1]),
        ("reward_margin", rewards[:, 0] - rewards[:, 1]),
        ("chosen_logp_nats", scores[:, 0]),
        ("rejected_logp_nats", scores[:, 1]),
    ):
        table[name] = bootstrap_interval(values.numpy(), ones, groups)
    table["length_rule"] = length_rule(pair_set)
    figures = {"preference_accuracy": pair_points(scores, pair_set)}
    measured = pair_set if held_out is None or pair_set.given else held_out
    log_intervals(run, step, table, measured, progress.gains(figures))
    return figures


def say_pairs(progress: Progress, scores: Tensor, pair_set: PairSet) -> None:
    """Print the scores (P, 2), in nats, of a few fixed pairs, beside those from before training."""
    printed = evenly_spaced(len(scores))
    progress.sample_scores = before = progress.sample_scores or scores[printed].tolist()
    pairs = pair_set.in_order()
    for index, was in zip(printed, before, strict=True):
        pair, now = pairs[index], scores[index].tolist()
        question = one_line(pair_set.paragraphs[pair.paragraph].questions[pair.question].text)
        say(
            f"  Q: {question}  chosen: {pair.chosen!r} {now[0]:.2f} (before {was[0]:.2f})"
            f"  {pair.kind}: {pair.rejected!r} {now[1]:.2f} (before {was[1]:.2f})"
        )


def compare(
    stage: str, before: Figures, after: Figures, held_out: EvaluationSet | PairSet | None = None
) -> dict[str, float | None]:
    """Print whether each metric is above the parent's, by the interval of the paired difference. A
    last line says where the stage is better or worse than the model that it started from.

    Returns the metrics after training, and the gains with their 95% intervals (None for a single
    context) and the number of contexts. Too few contexts give no verdict. held_out: what the
    metrics are measured on, marked if some of it was trained on.
    """
    metrics: dict[str, float | None] = {}
    verdicts: dict[str, list[str]] = {word: [] for word in VERDICTS.values()}
    gains = paired_gains(before, after)
    for name, (values, denominators, _) in after.items():
        if name not in gains:
            say(f"{name}: no held-out question to measure it on")
            continue
        gain = gains[name]
        sign = gain.verdict()
        words = {1: "above", -1: "below", 0: "not different from", None: "no verdict against"}[sign]
        metrics[name] = sum(values) / sum(denominators)
        ends = {"": gain.value, "_low": gain.low, "_high": gain.high}
        metrics |= {f"{name}_gain{e}": v if isfinite(v) else None for e, v in ends.items()}
        metrics[f"{name}_gain_contexts"] = gain.groups
        say(
            f"{name} {metrics[name]:.2f}: {words} the figure before training, by "
            f"{gain.in_words(sign='+')}"
        )
        if name in GOOD:
            verdict = VERDICTS[None if sign is None else GOOD[name] * sign]
            verdicts[verdict].append(f"{name} ({gain.value:+.2f})")
    parts = [f"{verdict} in {', '.join(names)}" for verdict, names in verdicts.items() if names]
    warning, marked = caution(gains.values()), ""
    if held_out is not None and held_out.seen:
        metrics["trained_on_questions"] = held_out.seen
        marked = f" ({held_out.kind})"
    say(
        f"{stage}, against the model it started from{marked}: {'; '.join(parts)}"
        f"{warning and f' ({warning})'}"
    )
    return metrics
