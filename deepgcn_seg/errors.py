"""What a user did or has that cannot work, told in one line."""


class UserError(Exception):
    """Bad input, setting or data. The message names it, says what is wrong and what to do.

    Command lines print it without a traceback and exit with status 2.
    """


class OccupiedError(UserError):
    """The directory is another run's; nothing may be written there, not even that this one failed."""


class Interrupted(BaseException):
    """Training was asked to stop, and has saved where it is."""


def first_line(error: BaseException, most: int = 150) -> str:
    """What another library's error says, in one line of at most ``most`` characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]
