"""Checks of configuration values that the three architectures share."""

from src.utils.errors import UserError


def require_positive_int(config: object, *fields: str) -> None:
    """Raise UserError unless each named field of `config` is an int of at least 1."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{field} {value!r:.60} given, expected a whole number of at least 1")


def require_bool(config: object, *fields: str) -> None:
    """Raise UserError unless each named field of `config` is True or False."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, bool):
            raise UserError(f"{field} {value!r:.60} given, expected True or False")
