"""What a user did or has that cannot work, told in one line."""


class UserError(Exception):
    """Bad input, setting or data. The message names it, says what is wrong and what to do.

    Command lines print it without a traceback and exit with status 2.
    """
