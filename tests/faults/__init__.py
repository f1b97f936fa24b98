"""Faults on purpose: kills, broken data, hostile files, long runs; `python -m tests.faults`."""
