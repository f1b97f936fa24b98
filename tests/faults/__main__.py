"""The fault runs in full: `python -m tests.faults --kills 200 --squad 2000 --checkpoints 1000`.

A case that fails prints its number; the same --seed with `--squad 1 --case NUMBER` (or --kills 1,
or --checkpoints 1) repeats it alone.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.faults import checkpoints, kills, squad
from tests.faults.process import forked

CPU_SECONDS, WALL_SECONDS, MOST_MB = 10, 300, 1000


def run_cases(kind: str, case: Callable, numbers: Iterable[int], seed: int, folder: Path) -> int:
    """Each case in a process of its own; prints figures and what failed, returns the faults."""
    counts, peak, slowest, started = Counter(), 0.0, 0.0, time.monotonic()
    for number in numbers:
        place = folder / f"{kind}{number}"
        place.mkdir()
        os.chdir(place)
        work, judge = case(seed, number, place)
        ended = forked(work, WALL_SECONDS, cpu_limit=CPU_SECONDS)
        how, text = ended.how, ended.text
        if ended.peak_mb > MOST_MB:
            how, text = "over the memory", f"{ended.peak_mb:.0f} MB"
        elif how == "returned":
            text = judge(ended.value)
            how = "bad outcomes" if text else next(iter(ended.value))
        if text or how not in ("refused", "used"):
            print(f"{kind}: seed {seed} case {number}: {how}: {text}", flush=True)
            counts["faults"] += 1
        counts[how] += 1
        peak, slowest = max(peak, ended.peak_mb), max(slowest, ended.seconds)
        shutil.rmtree(place)
        if (number + 1) % 100 == 0:
            print(f"{kind}: {number + 1} cases so far, {counts['faults']} faults", file=sys.stderr)
    figures = ", ".join(f"{count} {how}" for how, count in sorted(counts.items()))
    print(
        f"{kind}: {sum(counts.values()) - counts['faults']} cases: {figures or 'none'}; "
        f"peak {peak:.0f} MB, slowest {slowest:.1f} s, {time.monotonic() - started:.0f} s in all",
        flush=True,
    )
    return counts["faults"]


def main(argv: list[str] | None = None) -> int:
    """Run the kinds of fault that the flags ask for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=0, help="kill -9 at random instants, then resumed")
    add("--squad", type=int, default=0, help="mutated SQuAD files")
    add("--checkpoints", type=int, default=0, help="mutated checkpoints")
    add("--real_share", type=float, default=0.05, help="of kills, of a process of its own")
    add("--seed", type=int, default=0, help="decides every mutation and instant")
    add("--case", type=int, help="only the case of this number")
    args = parser.parse_args(argv)
    if args.case is not None and not (args.kills or args.squad or args.checkpoints):
        parser.error("--case alone given, expected --kills 1, --squad 1 or --checkpoints 1 with it")
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, case, number in (
            ("squad", squad.case, args.squad),
            ("checkpoints", checkpoints.case, args.checkpoints),
        ):
            numbers = range(number) if args.case is None or not number else [args.case]
            faults += run_cases(kind, case, numbers, args.seed, folder) if number else 0
        if args.kills:
            faults += kills.run(args.kills, args.seed, args.case, args.real_share, folder)
        os.chdir("/")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
