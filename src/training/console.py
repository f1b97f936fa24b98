"""Console output during training: a few fixed examples, better or worse than before."""

from math import isfinite

from torch import Tensor

from src.evaluation.evaluation_set import EvaluationSet, evenly_spaced
from src.evaluation.intervals import Figures, caution, paired_gains
from src.preference.pairs import PairSet
from src.training.progress import Progress
from src.training.run import say

# Metrics for which higher (1) or lower (-1) is better; others, such as KL, are neither.
GOOD = {
    "em": 1, "f1": 1, "answer_loss_nats": -1, "preference_accuracy": 1, "accuracy": 1, "reward": 1,
    "metric": 1,
}  # fmt: skip
# What `Interval.verdict`, times GOOD, is called.
VERDICTS = {1: "better", -1: "worse", 0: "not clearly different", None: "no verdict"}


def say_pairs(progress: Progress, scores: Tensor, pair_set: PairSet) -> None:
    """Print the scores (P, 2), in nats, of a few fixed pairs, beside those from before training."""
    places = evenly_spaced(len(scores))
    progress.sample_scores = before = progress.sample_scores or scores[places].tolist()
    pairs = pair_set.in_order()
    for place, was in zip(places, before, strict=True):
        pair, now = pairs[place], scores[place].tolist()
        question = pair_set.paragraphs[pair.paragraph].questions[pair.question].text
        say(
            f"  Q: {question}  chosen: {pair.chosen!r} {now[0]:.2f} (before {was[0]:.2f})"
            f"  {pair.kind}: {pair.rejected!r} {now[1]:.2f} (before {was[1]:.2f})"
        )


def compare(
    stage: str, before: Figures, after: Figures, held_out: EvaluationSet | None = None
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
        place = {1: "above", -1: "below", 0: "not different from", None: "no verdict against"}[sign]
        metrics[name] = sum(values) / sum(denominators)
        ends = {"": gain.value, "_low": gain.low, "_high": gain.high}
        metrics |= {f"{name}_gain{e}": v if isfinite(v) else None for e, v in ends.items()}
        metrics[f"{name}_gain_contexts"] = gain.groups
        say(
            f"{name} {metrics[name]:.2f}: {place} the figure before training, by "
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
