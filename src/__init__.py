"""The package behind the scripts. Importing any part of it sets how OpenMP's threads wait.

Threads that are done spin while they wait for the others. Where another program has the core of the
one they wait for, they spin for nothing: training falls to a tenth of its speed. GOMP_SPINCOUNT is
how often they look before they sleep, read by libgomp (Linux) when torch loads it. A setting of the
user's wins. macOS and Windows builds of torch have other OpenMP libraries, which do not read it.
"""

import os

SPIN_COUNT = "1000"  # measured: dev/LOG.md, "A busy machine"

# Every script imports `src` before torch, so this comes in time.
IN_FORCE = (
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if "OMP_WAIT_POLICY" not in os.environ
    else None
)
