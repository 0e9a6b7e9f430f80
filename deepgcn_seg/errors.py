"""Errors that are told in one line: what a user did or has that cannot work."""

from types import FunctionType
from typing import Self


class UserError(Exception):
    """A bad input, setting or file. The message names it, says what is wrong and what to do.

    Command lines print it without a traceback and exit with status 2.
    """


class OccupiedError(UserError):
    """A directory is another run's: nothing may be written there, not even that this run failed."""


class PartError(UserError, ValueError):
    """A part of a user's own, such as a convolution, returned something else than it must. The message names its class.

    It is a ValueError, too, which networks raise for arguments that do not fit.
    """

    @classmethod
    def of(cls, setting: str, part: object, returned: str, must: str) -> Self:
        """Return the error of a part, an object or what builds it, that was given for a setting."""
        name = part.__name__ if isinstance(part, (type, FunctionType)) else type(part).__name__
        return cls(f"{setting}: {name} returned {returned}; must return {must}")


class Finding(UserError):
    """What a check found wrong with data, as it was asked to: command lines print it as it is, not as an error."""


class Interrupted(BaseException):
    """Training was asked to stop, and has saved where it is."""


def first_line(error: BaseException, most: int = 150) -> str:
    """Return the first line of another library's error, cut after ``most`` characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]
