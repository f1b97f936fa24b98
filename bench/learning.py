"""Time to a held-out loss: speed must not be bought with worse learning."""

import statistics
from typing import NamedTuple

from bench.pipes import Worker


class Mark(NamedTuple):
    """A side's state after some steps; loss: nats an answer token on the held-out questions."""

    questions: int
    seconds: float
    loss: float


class Learner:
    """A worker that trains from the same weights as the others, and what it has spent on it."""

    def __init__(self, worker: Worker, batches: str) -> None:
        self.worker, self.batches = worker, batches
        self.seconds: list[float] = []
        self.questions = 0
        self.marks: list[Mark] = []

    def step(self) -> None:
        """One step on its next batch."""
        number = len(self.seconds)
        found = self.worker.ask(do="step", batches=self.batches, number=number)
        self.seconds.append(found["seconds"])
        self.questions += found["examples"]

    def mark(self) -> float:
        """Evaluate, not on the clock. The first step, which sets things up, counts as the median
        of the others."""
        others = self.seconds[1:] or self.seconds
        spent = sum(others) + statistics.median(others)
        loss = self.worker.ask(do="held_out")["loss"]
        self.marks.append(Mark(self.questions, spent, loss))
        return loss


def race(ours: Worker, peer: Worker, steps: int) -> dict:
    """Both train in turns. The peer takes `steps` steps in random order. Ours, grouped by context,
    goes on until its held-out loss is no higher, for at most twice as many steps.
    """
    mine, theirs = Learner(ours, "grouped"), Learner(peer, "shuffled")
    every = max(1, steps // 10)
    before, of_peer = (worker.ask(do="held_out")["loss"] for worker in (ours, peer))
    if not abs(before - of_peer) <= 1e-3:
        raise SystemExit(f"held-out loss before training: ours {before}, peer {of_peer}, not equal")
    reached = None
    for step in range(1, 2 * steps + 1):
        sides = (mine, theirs) if step <= steps else (mine,)
        for side in sides:
            side.step()
            if step % every == 0 or step == steps:
                side.mark()
        if step >= steps:
            target = theirs.marks[-1].loss
            reached = next((mark for mark in mine.marks if mark.loss <= target), None)
            if reached is not None:
                break
    return {
        "loss_before": before,
        "target": theirs.marks[-1]._asdict(),
        "ours_at_target": reached._asdict() if reached else None,
        "ours": [mark._asdict() for mark in mine.marks],
        "peer": [mark._asdict() for mark in theirs.marks],
    }


def describe(found: dict) -> str:
    """The outcome in a sentence."""
    target, reached = found["target"], found["ours_at_target"]
    theirs = (
        f"held-out loss {target['loss']:.3f} nats a token (before: {found['loss_before']:.3f}): "
        f"SFTTrainer after {target['questions']} questions and {target['seconds']:.1f} s"
    )
    if reached is None:
        last = found["ours"][-1]
        return f"{theirs}; ours not within {last['questions']} questions ({last['loss']:.3f})"
    return (
        f"{theirs}; ours after {reached['questions']} questions and {reached['seconds']:.1f} s, "
        f"{target['seconds'] / reached['seconds']:.1f} times sooner"
    )
