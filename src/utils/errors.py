"""The errors that users' mistakes raise. Imports nothing."""


class UserError(Exception):
    """A user's mistake, reported in one line: value given, what was expected, what to do.

    Scripts print the line on stderr and end with exit code 2.
    """


class RankError(UserError):
    """A mistake that other ranks may not meet, so the rank that meets it prints it."""
