"""The error that a user's mistake raises. Imports nothing."""


class UserError(Exception):
    """A user's mistake, reported in one line: value given, what was expected, what to do.

    Scripts print the line on stderr and end with exit code 2.
    """
