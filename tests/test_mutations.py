"""A formula that is broken on purpose must make its test fail (tests/mutations.py lists how).

A test that cannot fail proves nothing; this one keeps every formula's tests honest.
"""

import importlib.util
import inspect
from types import ModuleType

import pytest

from src import losses
from src.data import answer_text
from src.evaluation import baselines, intervals, overoptimisation, squad_metrics
from src.rl import algorithms
from tests import (
    mutations,
    test_algorithms,
    test_loss_family,
    test_losses,
    test_metrics,
    test_overoptimisation,
)
from tests.mutations import Mutation

CASES = [
    (source, tests, mutation)
    for source, tests, table in (
        (losses, test_losses, mutations.LOSSES),
        (losses, test_loss_family, mutations.LOSS_FAMILY),
        (algorithms, test_algorithms, mutations.RL_ALGORITHMS),
        (overoptimisation, test_overoptimisation, mutations.OVEROPTIMISATION),
        (answer_text, test_metrics, mutations.ANSWER_TEXT),
        (squad_metrics, test_metrics, mutations.SQUAD_METRICS),
        (intervals, test_metrics, mutations.INTERVALS),
        (baselines, test_metrics, mutations.BASELINES),
    )
    for mutation in table
]


def broken_copy(source: ModuleType, mutation: Mutation) -> ModuleType:
    """The module from its own text, with the mutation in it; the real one stays as it is."""
    function = inspect.getsource(getattr(source, mutation.function))
    assert function.count(mutation.old) == 1, f"{mutation.old!r} is not once in {mutation.function}"
    text = inspect.getsource(source)
    assert text.count(function) == 1
    text = text.replace(function, function.replace(mutation.old, mutation.new))
    copy = importlib.util.module_from_spec(source.__spec__)
    exec(compile(text, f"{source.__name__} with {mutation.new!r}", "exec"), copy.__dict__)
    return copy


@pytest.mark.parametrize(
    ("source", "tests", "mutation"), CASES,
    ids=[f"{m.function}: {m.old.strip()} -> {m.new.strip()}" for _, _, m in CASES],
)
def test_mutation_is_caught(source, tests, mutation, monkeypatch):
    test = getattr(tests, mutation.test)
    test()
    name = source.__name__.rpartition(".")[2]
    monkeypatch.setattr(tests, name, broken_copy(source, mutation))
    with pytest.raises(AssertionError):
        test()


def test_every_formula_has_a_mutation():
    formulas = {
        name for name, value in vars(losses).items()
        if inspect.isfunction(value) and value.__module__ == losses.__name__
    }
    tables = mutations.LOSSES + mutations.LOSS_FAMILY
    assert formulas == {mutation.function for mutation in tables}
