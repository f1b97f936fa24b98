"""What a run remembers from step to step beside its weights. last.pt keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.data.windows import Tree
from src.evaluation.intervals import Figures, Interval, paired_gains


def tokens_read(trees: Sequence[Tree]) -> int:
    """Tokens of contexts, questions, answers and EOS; shared prefixes are counted once.

    >>> tokens_read([([1, 2, 3], [([4, 5], [[6], [7, 8]])])])
    10
    """
    return sum(
        len(context) + sum(len(q) + sum(len(a) + 1 for a in answers) for q, answers in questions)
        for context, questions in trees
    )


@dataclass
class Progress:
    """kl_coef: PPO's coefficient for the next step. before: the held-out figures from before
    training; sample_answers, sample_scores: what the model then said to the questions and pairs
    that every evaluation prints. processed_tokens, sampled_tokens: so far.
    """

    kl_coef: float = 0.0
    before: Figures = field(default_factory=dict)
    sample_answers: list[str] = field(default_factory=list)
    sample_scores: list[list[float]] = field(default_factory=list)
    processed_tokens: float = 0.0
    sampled_tokens: int = 0

    def restore(self, stored: dict) -> None:
        """Take what last.pt holds. Raises TypeError for anything that a run does not save."""
        for name, value in stored.items():
            if name not in vars(self) or type(value) is not type(getattr(self, name)):
                raise TypeError(f"progress has {str(name)[:40]} {str(value)[:40]}")
            setattr(self, name, value)

    def count(self, trees: Sequence[Tree], gradient: float = 0, forward: float = 0) -> None:
        """Count what a run processes: so many passes with gradients over the trees, and so many
        forward only, which cost a third. Evaluations are not counted.
        """
        self.processed_tokens += (gradient + forward / 3) * tokens_read(trees)

    def metrics(self) -> dict[str, int]:
        """What a run has processed, for its metrics."""
        return {"processed_tokens": round(self.processed_tokens)}

    def gains(self, figures: Figures) -> dict[str, Interval]:
        """What these figures gained since before training; nothing in the first evaluation."""
        return paired_gains(self.before, figures) if self.before else {}
