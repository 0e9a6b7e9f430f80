"""Errors as one line."""

from pathlib import Path

from hydra.errors import InstantiationException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError

from ...errors import UserError
from ...escaping import one_line
from . import help
from .checks import refusal, why_unresolved

# Characters of an error that are shown: lists of classes are long, and names from files may be endless.
MAX_MESSAGE = 4000
# Exit status of a user's error.
USER_ERROR = 2


def error_line(error: BaseException, conf: Path, config_name: str) -> str:
    """Return the error as one line without control characters, which names from files may contain."""
    return one_line(_reason(error, conf, config_name), MAX_MESSAGE)


def _reason(error: BaseException, conf: Path, config_name: str) -> str:
    """Return what an error says; for an unknown choice or key also what is allowed or similar."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            # A worker process that loads data sends its traceback along.
            return str(cause).rstrip().rsplit("UserError: ", 1)[-1]
        if isinstance(cause, OSError) and cause.filename is not None:
            return f"{cause.filename}: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, InstantiationException):
        key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "settings")
        return refusal(error, key) or " ".join(lines[:2])
    if isinstance(error, InterpolationResolutionError):
        return why_unresolved(error)
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, OverrideParseException) and error.override not in text:
        return f"{error.override}: cannot be read ({text.partition(' See https:')[0]})"
    if text.startswith("In '") and len(lines) > 1 and lines[1].startswith("Available options"):
        missing = text.split("'")[3] if text.count("'") >= 4 else text
        group, _, choice = missing.rpartition("/")
        options = [line for line in lines[2:] if not line.startswith((".", "Config search", "provider"))]
        return f"{group}={choice}: must be one of {', '.join(options)}"
    if text.startswith("Could not override '"):
        key = text.split("'")[1]
        return f"{key}: no such setting; {help.suggestion(key, help.settings(conf, config_name))}"
    return " ".join(lines[:2])
