"""Functions of the user's own, `module:function`: rewards (--reward) and metrics (--metric).

A function is called with (prediction, golds, context, question) and returns a number, or a dict
with that number under "reward" (or "metric") and parts of it for the log. With the attribute
`batched = True` it is called once with lists of these four and returns a list, or a dict of lists.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src.evaluation.squad_metrics import QAExample
from src.utils.errors import UserError

Function = Callable[..., Any]


def load_function(name: str, flag: str, expected: str = "module:function") -> Function:
    """The function behind `module:function`; UserError, which names the flag, without one."""
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(f"{flag} {name} given, expected {expected}")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's own module
        raise UserError(
            f"{flag} {name} given, but {error}: expected an importable function"
        ) from error
    if not callable(function):
        raise UserError(
            f"{flag} {name} given, expected a function, found a {type(function).__name__}"
        )
    return function


def call_function(
    function: Function, predictions: Sequence[str], examples: Sequence[QAExample], what: str
) -> dict[str, list[float]]:
    """What a function gives for predictions, each with the question it answers: `what` ("reward" or
    "metric") -> the numbers (N,), and each part -> its numbers.

    Raises UserError where it fails, or gives something that is no finite number.
    """
    if not predictions:
        return {what: []}
    if getattr(function, "batched", False):
        about = zip(*((a.golds, a.context, a.question) for a in examples), strict=True)
        lists = [list(predictions), *map(list, about)]
        given = _attempt(lambda: function(*lists), f"{len(predictions)} answers", what)
        rows = _rows(given, len(predictions), what)
    else:
        rows = [
            _attempt(lambda p=p, a=a: function(p, a.golds, a.context, a.question), repr(p), what)
            for p, a in zip(predictions, examples, strict=True)
        ]
    parts = [row if isinstance(row, Mapping) else {what: row} for row in rows]
    names = list(parts[0])
    if what not in names:
        raise UserError(
            f"the {what} function gave {', '.join(map(repr, names))[:60] or 'nothing'} for "
            f"{predictions[0]!r}, expected {what!r} among the parts: the number that counts"
        )
    for prediction, row in zip(predictions, parts, strict=True):
        if row.keys() != parts[0].keys():
            raise UserError(
                f"the {what} function gave the parts {', '.join(map(str, row))[:60]} for "
                f"{prediction!r}, expected those of the other answers: "
                f"{', '.join(map(str, names))[:60]}"
            )
    return {
        str(name): [_number(row[name], p, what) for row, p in zip(parts, predictions, strict=True)]
        for name in [what, *(name for name in names if name != what)]
    }


def _attempt(call: Callable[[], Any], about: str, what: str) -> Any:
    try:
        return call()
    except Exception as error:  # the user's own code
        raise UserError(
            f"the {what} function failed for {about} with {type(error).__name__}: "
            f"{error}, expected a finite number"
        ) from error


def _rows(given: Any, count: int, what: str) -> list:
    """The rows of what a batched function gave: one for each answer."""
    columns = given if isinstance(given, Mapping) else {what: given}
    try:
        lists = {name: list(column) for name, column in columns.items()}
    except TypeError:
        raise UserError(
            f"the batched {what} function gave {given!r:.60}, expected a list of {count} numbers, "
            "one for each answer"
        ) from None
    for name, column in lists.items():
        if len(column) != count:
            raise UserError(
                f"the batched {what} function gave {len(column)} values of {name}, expected "
                f"{count}, one for each answer"
            )
    if not isinstance(given, Mapping):
        return lists[what]
    return [{name: column[i] for name, column in lists.items()} for i in range(count)]


def _number(value: Any, prediction: str, what: str) -> float:
    try:
        number = float(value)
    except Exception:  # of the user's own object: a tensor of two numbers, 10**400
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"the {what} function gave {value!r:.60} for {prediction!r}, expected a finite number"
        )
    return number
