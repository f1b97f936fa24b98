"""The package behind the scripts. Importing any part of it sets how OpenMP's threads wait.

A thread that is done spins while it waits for the others. If another program occupies their core,
it spins for nothing, and training can fall to a tenth of its speed. GOMP_SPINCOUNT limits the
spinning before a thread sleeps. libgomp (Linux) reads it when torch loads. The user's own setting
wins. Builds of torch for macOS and Windows use other OpenMP libraries, which do not read it.
"""

import os

SPIN_COUNT = "5000"  # measured: dev/LOG.md, "A busy machine"

# Every script imports `src` before torch, so this comes in time.
IN_FORCE = (
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if "OMP_WAIT_POLICY" not in os.environ
    else None
)
