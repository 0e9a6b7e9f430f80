"""Errors that are told in one line: what a user did or has that cannot work."""


class UserError(Exception):
    """A bad input, setting or file. The message names it, says what is wrong and what to do.

    Command lines print it without a traceback and exit with status 2.
    """


class OccupiedError(UserError):
    """A directory is another run's: nothing may be written there, not even that this run failed."""


class Finding(UserError):
    """What a check found wrong with data, as it was asked to: command lines print it as it is, not as an error."""


class Interrupted(BaseException):
    """Training was asked to stop, and has saved where it is."""


def first_line(error: BaseException, most: int = 150) -> str:
    """Return the first line of another library's error, cut after ``most`` characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]
