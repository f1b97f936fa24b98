"""Long and large: memory and file handles over 2,000 steps, and a run of SQuAD's size.

    python -m tests.faults.memory --steps 2000 --questions 87599

Every stage runs in a process of its own. Ends with exit code 1 where memory or handles grow, or the
large run exceeds its bound.
"""

import argparse
import importlib
import os
import sys
import tempfile

from src.training import reporting
from src.utils.constants import MODEL_TYPES, STAGES
from tests.conftest import SHAPES, outcome
from tests.faults.process import forked, open_files, rss_mb

EARLY = 200
# Between two steps the allocator's leftovers differ by some MB; a leak of 30 kB a step shows.
MAX_GROWTH_MB = 50
MAX_LARGE_MB = 4096
SMALL = ["--dataset", "pico", "--num_examples", "300"]
LONG_OF = {
    "main_squad": SMALL,
    "train_ppo": ["--max_new_tokens", "6", "--ppo_epochs", "1", "--kl_limit", "1e9"],
}


def watched(stage: str, argv: list[str], at: tuple[int, ...]) -> dict:
    """Run a stage; returns its exit code, last line, and (MB, handles) after the steps `at`."""
    seen, log_step = {}, reporting.log_step

    def watching(run, step, *args, **shown):
        log_step(run, step, *args, **shown)
        if step + 1 in at:
            seen[step + 1] = (rss_mb(), open_files())

    reporting.log_step = watching
    ended = outcome(stage, argv)
    return {"code": ended.code, "line": ended.err[-1] if ended.err else "", "seen": seen}


def long_runs(model_type: str, steps: int) -> int:
    """Each stage for `steps` steps on a tiny model; returns how many grew."""
    grown = 0
    for stage in STAGES:
        shape = SHAPES[model_type] if stage == STAGES[0] else []
        argv = ["--model_type", model_type, "--batch_size", "4", "--max_steps", str(steps),
                "--eval_limit", "20", *shape, *LONG_OF.get(stage, [])]
        ended = forked(lambda s=stage, a=argv: watched(s, a, (EARLY, steps)), 36000)
        if ended.how != "returned" or ended.value["code"]:
            print(f"{stage} {model_type}: {ended.how} {ended.value} {ended.text}", flush=True)
            grown += 1
            continue
        (early, handles), (late, more) = ended.value["seen"].values()
        bad = late - early > MAX_GROWTH_MB or more > handles
        grown += bad
        print(
            f"{stage} {model_type}: {early:.0f} MB, {handles} handles after step {EARLY}; "
            f"{late:.0f} MB, {more} handles after step {steps}; {ended.seconds:.0f} s"
            f"{': GROWS' if bad else ''}",
            flush=True,
        )
    return grown


def large_runs(model_type: str, questions: int) -> int:
    """Each stage at its defaults on so many questions, ten steps; returns how many failed."""
    bad = 0
    for stage in STAGES:
        data = ["--dataset", "pico", "--num_examples", str(questions)] * (stage == STAGES[0])
        argv = ["--model_type", model_type, "--max_steps", "10", *data]
        ended = forked(lambda s=stage, a=argv: watched(s, a, (10,)), 36000)
        fine = ended.how == "returned" and not ended.value["code"]
        fine = fine and ended.peak_mb < MAX_LARGE_MB
        bad += not fine
        print(
            f"{stage} {model_type}, {questions} questions: peak {ended.peak_mb:.0f} MB, "
            f"{ended.seconds:.0f} s{'' if fine else f': {ended.how} {ended.value} {ended.text}'}",
            flush=True,
        )
    return bad


def main(argv: list[str] | None = None) -> int:
    """Run what the flags say in a temporary folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.memory", description=__doc__)
    parser.add_argument("--model_type", nargs="+", choices=MODEL_TYPES, default=["transformer"])
    parser.add_argument("--steps", type=int, default=2000, help="of the long runs; 0: none")
    parser.add_argument("--questions", type=int, default=87_599, help="of the large; 0: none")
    args = parser.parse_args(argv)
    for stage in STAGES:  # imported once, before the forks
        importlib.import_module(stage)
    faults = 0
    for model_type in args.model_type:
        for runs, size in ((long_runs, args.steps), (large_runs, args.questions)):
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                faults += runs(model_type, size) if size else 0
                os.chdir("/")
    print(f"memory: {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
