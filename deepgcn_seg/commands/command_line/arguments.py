"""Paths and names on the command line, as they are: quoted for Hydra's grammar before Hydra sees them.

The rule, for the keys below. A value is taken character by character: spaces, brackets, commas, quotes, ``=``, ``#``,
``$``, backslashes and names that look like numbers stand for themselves, and a leading ``~`` is the home folder.
Three forms have a meaning:

* ``null`` is "not set" (``./null`` is a file of that name);
* a value that is one whole quoted text of Hydra's, as ``"input='a b.ply'"``, is what stands between the quotes;
* with ``-m``, Hydra's ``choice(...)``, ``range(...)`` and ``glob(...)`` sweep, and so do quoted texts with commas
  between them, ``"input='a.ply','b.ply'"``. A comma alone sweeps ``data.fold``, never a path.

Templates (:data:`TEMPLATES`) are the same, but for ``${...}``, which Hydra fills in. In paths it is plain text.
"""

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from ...errors import UserError

PATHS = (
    "input", "output", "checkpoint", "weights", "view", "picture", "source", "data.root", "resume", "runs", "export",
)  # fmt: skip
# Folders that Hydra makes, whose names may have ${now:...} in them.
TEMPLATES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
FOLD = "data.fold"
# Settings that reach an object's constructor by way of Hydra, or Hydra itself, which fill in ${...} a second time.
_FILLED_IN_TWICE = ("data.root", "resume")

# An interpolation with the backslashes before it.
_ESCAPED = re.compile(r"(\\*)\$\{")
_WHOLE_NUMBER = re.compile(r"0|[1-9]\d*")
_WHOLE_NUMBERS = re.compile(r"\d+(,\d+)+")


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the values of paths and names quoted for Hydra.

    Raises:
        UserError: a path that Hydra would change.
    """
    sweeping = bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))
    return [_quoted(argument, sweeping) for argument in arguments]


def given(arguments: Sequence[str], key: str) -> str | None:
    """Return the last value that the arguments give to a path or name, as plain text, or None."""
    values = [value for argument in arguments for name, value in [_parts(argument)] if name == key]
    return _plain(values[-1]) if values and values[-1] not in (None, "null") else None


def assigned(key: str, text: str) -> str:
    """Return the argument that gives a key exactly this text, whatever its characters."""
    return f"{key}={_text(_no_interpolation(text))}"


def _parts(argument: str) -> tuple[str, str | None]:
    """Key without Hydra's ``+`` and ``++``, and value of an argument."""
    name, equals, value = argument.partition("=")
    return name.lstrip("+"), value if equals else None


def _quoted(argument: str, sweeping: bool) -> str:
    key, value = _parts(argument)
    if value in (None, "", "null") or key not in (*PATHS, *TEMPLATES, FOLD):
        return argument
    assert value is not None
    before = argument[: len(argument) - len(value)]
    if sweeping and _is_sweep(value):
        return argument
    if key == FOLD:
        return before + _fold(value, sweeping)
    if key in TEMPLATES:
        return argument if _hydra_text(value) is not None else before + _text(os.path.expanduser(value))
    text = _plain(value)
    if "${" in text and key in _FILLED_IN_TWICE:
        raise UserError(f"{key}={text}: the name of this folder must not have ${{ in it; rename it, or link to it")
    # These three alone mean "must still be set" to OmegaConf; with ./ before them they are the same file's name.
    return before + _text(_no_interpolation("./???" if text == "???" else text))


def _fold(value: str, sweeping: bool) -> str:
    """An area: a whole number stays one; all else is its name."""
    if _WHOLE_NUMBERS.fullmatch(value):
        # A sweep, be it -m or an experiment that says so; else Hydra says what to do.
        return value
    names = value.split(",") if sweeping and _hydra_text(value) is None else [value]
    return ",".join(
        name if _WHOLE_NUMBER.fullmatch(name) or name == "null" else _text(_no_interpolation(_unquoted(name)))
        for name in names
    )


def _is_sweep(value: str) -> bool:
    """Whether a value is a sweep in Hydra's own words: ``choice(...)`` and the like, or quoted texts with commas."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    if not parsed.is_sweep_override():
        return False
    # Without a function's name these are texts with a comma, which may be a name.
    choices = getattr(parsed.value(), "list", None)
    named = getattr(parsed.value(), "simple_form", False) is False
    return named or all(isinstance(choice, (QuotedString, int)) for choice in choices or [])


def _plain(value: str) -> str:
    quoted = _hydra_text(value)
    return os.path.expanduser(value) if quoted is None else quoted


def _unquoted(value: str) -> str:
    quoted = _hydra_text(value)
    return value if quoted is None else quoted


def _hydra_text(value: str) -> str | None:
    """What a value says that is one whole quoted text in Hydra's grammar; None for any other."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return None
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return None
    if not isinstance(parsed, str):
        return None
    # What was quoted here before, as the command in run.json, is not escaped twice.
    return _ESCAPED.sub(lambda match: match[1][: len(match[1]) // 2] + "${", parsed)


def _text(text: str) -> str:
    """Quote a text for Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def _no_interpolation(text: str) -> str:
    """Escape what OmegaConf would fill in."""
    return _ESCAPED.sub(lambda match: match[1] * 2 + r"\${", text)
