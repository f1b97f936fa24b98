"""The fault runs in full: `python -m tests.faults --kills 200 --squad 2000 --checkpoints 1000`.

A case that fails prints its number; with the same --seed, `--only kills --case NUMBER` repeats it.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.faults import kills


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
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        if args.kills:
            faults += kills.run(args.kills, args.seed, args.case, args.real_share, Path(folder))
        os.chdir("/")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
