"""A formula that is broken on purpose must make its test fail (tests/mutations.py lists how).

A test that cannot fail proves nothing; this one keeps every formula's tests honest.
"""

import importlib.util
import inspect
from types import ModuleType

import pytest

from src import losses
from src.data import answer_text
from src.evaluation import baselines, best_of_n, intervals, kl, overoptimisation, squad_metrics
from src.inference import logprobs
from src.model import heads
from src.preference import pairs
from src.rl import algorithms, metrics, rollout
from src.sweep import crossed
from src.training import optimizer, run_data
from tests import (
    mutations,
    test_algorithms,
    test_best_of_n,
    test_logprobs,
    test_longest_answer,
    test_loss_family,
    test_losses,
    test_metrics,
    test_overoptimisation,
    test_planning,
    test_ppo,
    test_preference_pairs,
    test_run,
    test_stages,
    test_sweep,
    test_train_ppo,
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
        (kl, test_metrics, mutations.KL),
        (best_of_n, test_best_of_n, mutations.BEST_OF_N),
        (crossed, test_sweep, mutations.CROSSED),
        (logprobs, test_logprobs, mutations.LOGPROBS),
        (heads, test_stages, mutations.HEADS),
        (pairs, test_stages, mutations.PAIRS),
        (pairs, test_preference_pairs, mutations.LENGTH_RULE),
        (rollout, test_ppo, mutations.ROLLOUT),
        (metrics, test_ppo, mutations.RL_METRICS),
        (metrics, test_train_ppo, mutations.EXPLAINED_VARIANCE),
        (metrics, test_planning, mutations.KL_HORIZON),
        (optimizer, test_run, mutations.LEARNING_RATE),
        (run_data, test_longest_answer, mutations.LONGEST_ANSWER),
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
    known = {"monkeypatch": monkeypatch, "name": "kgram"}
    arguments = {parameter: known[parameter] for parameter in inspect.signature(test).parameters}
    test(**arguments)
    name = next(name for name, value in vars(tests).items() if value is source)
    monkeypatch.setattr(tests, name, broken_copy(source, mutation))
    with pytest.raises(AssertionError):
        test(**arguments)


@pytest.mark.parametrize("source", [losses, overoptimisation, kl, crossed])
def test_every_formula_has_a_mutation(source):
    """Of modules that hold nothing else."""
    formulas = {
        name for name, value in vars(source).items()
        if inspect.isfunction(inspect.unwrap(value)) and value.__module__ == source.__name__
    }
    assert formulas and formulas <= {m.function for of, _, m in CASES if of is source}
