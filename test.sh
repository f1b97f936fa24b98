#!/usr/bin/env bash
# Sets up what is missing and runs all tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"

if [[ ! -f .venv/installed-dev ]] || ! cat requirements.txt requirements-dev.txt | cmp -s - .venv/installed-dev; then
    echo "setting up .venv"
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
    cp requirements.txt .venv/installed
    cat requirements.txt requirements-dev.txt >.venv/installed-dev
fi

.venv/bin/ruff check --quiet .
# Two workers of one thread each: the tests are many and small.
OMP_NUM_THREADS=1 exec .venv/bin/python -m pytest -n 2 "$@"
