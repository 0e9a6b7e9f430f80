"""Quoting of paths and names for Hydra's grammar, so that a user need not quote them.

This holds for the keys below. Every character of a value stands for itself: spaces, brackets, commas, quotes, ``=``,
``#``, ``$``, backslashes, and digits in a name that looks like a number. A leading ``~`` is the home folder. Four
forms have a meaning:

* ``null`` is "not set" (``./null`` is a file of that name);
* ``checkpoint=[A,B]`` is a list of paths, unless there is a file of that name; a path with a comma in it is quoted;
* a value that is one text in Hydra's quotes, as ``"input='a b.ply'"``, is the text between the quotes;
* with ``-m``, Hydra's ``choice(...)``, ``range(...)`` and ``glob(...)`` sweep, and so do quoted texts with commas
  between them, ``"input='a.ply','b.ply'"``. A comma alone sweeps ``data.fold``, never a path.

In templates (:data:`TEMPLATES`) Hydra fills in ``${...}``; in paths that is plain text. Otherwise they are the same. In
``data.root`` alone, ``${oc.env:NAME}`` is filled in, as in a file of settings.
"""

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from ...errors import UserError
from .mappings import unmerged_arguments

PATHS = (
    "input", "output", "checkpoint", "weights", "view", "picture", "source", "data.root", "resume", "runs", "export",
    "submission",
)  # fmt: skip
# Folders that Hydra creates, in whose names it fills in ${now:...}.
TEMPLATES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
FOLD = "data.fold"
# Settings in which ${...} is filled in a second time, when Hydra builds an object or its own folders from them.
_FILLED_IN_TWICE = ("data.root", "resume")
# An environment variable, with a default that is plain text. Other interpolations can build objects.
_VARIABLE = re.compile(r"\$\{oc\.env:\w+(?:,[^${}]*)?\}")

# Options of Hydra whose value is the next argument.
_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--info", "-i", "--experimental-rerun",
)  # fmt: skip
# An interpolation with the backslashes before it.
_ESCAPED = re.compile(r"(\\*)\$\{")
_WHOLE_NUMBER = re.compile(r"0|[1-9]\d*")
_LISTED = re.compile(r"""\s*(?:'[^']*'|"[^"]*"|[^,])+""")
_WHOLE_NUMBERS = re.compile(r"\d+(,\d+)+")


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the values of paths and names quoted for Hydra, and mappings that replace others.

    Raises:
        UserError: a path that Hydra would change.
    """
    sweeping = bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))
    return unmerged_arguments([_quoted(argument, sweeping) for argument in arguments])


def require_settings(arguments: Sequence[str], main: str | None) -> None:
    """Refuse an argument that is neither an option nor ``KEY=VALUE``, such as a file whose setting was forgotten.

    Args:
        main: the setting that such a file is probably meant for.

    Raises:
        UserError: says what to write.
    """
    for before, argument in zip(["", *arguments], arguments):
        if argument.lstrip("+~").startswith("="):
            raise UserError(f"{argument}: no setting stands before the =; settings are KEY=VALUE")
        if "=" in argument or argument.startswith(("-", "~")) or before in _WITH_VALUE:
            continue
        remedy = f"write {main}={argument}" if main else "settings are KEY=VALUE"
        raise UserError(f"{argument} is no setting: {remedy}")


def given(arguments: Sequence[str], key: str) -> str | None:
    """Return the last value that the arguments give to a path or name, as plain text, or None."""
    values = [value for argument in arguments for name, value in [_parts(argument)] if name == key]
    return _plain(values[-1]) if values and values[-1] not in (None, "null") else None


def assigned(key: str, text: str) -> str:
    """Return the argument that gives a key exactly this text, whatever its characters."""
    return f"{key}={quote(_no_interpolation(text))}"


def _parts(argument: str) -> tuple[str, str | None]:
    """Return an argument's key, without Hydra's ``+`` and ``++``, and its value."""
    name, equals, value = argument.partition("=")
    return name.lstrip("+"), value if equals else None


def _quoted(argument: str, sweeping: bool) -> str:
    key, value = _parts(argument)
    if key in TEMPLATES and value is not None and (value in ("", "null") or _unquoted(value) == "???"):
        raise UserError(f"{argument}: must be a folder")
    if value in (None, "", "null") or key not in (*PATHS, *TEMPLATES, FOLD):
        return argument
    assert value is not None
    before = argument[: len(argument) - len(value)]
    if sweeping and _is_sweep(value):
        return argument
    if sweeping and key in PATHS and not _is_there(value) and all(map(_is_there, parts := value.split(","))):
        sweep = f'"{key}=choice({",".join(map(quote, parts))})"'
        raise UserError(f"{argument}: is one path, and there is none of this name; a sweep is {sweep}")
    if key == FOLD:
        return before + _fold(value, sweeping)
    if key in TEMPLATES:
        return argument if _hydra_text(value) is not None else before + quote(os.path.expanduser(value))
    if key == "checkpoint" and (paths := _listed(value)) is not None:
        return f"{before}[{','.join(quote(_no_interpolation(_plain(path))) for path in paths)}]"
    text = _plain(value)
    if key == "data.root" and "${" in text and "${" not in _VARIABLE.sub("", text):
        return before + quote(text)
    if "${" in text and key in _FILLED_IN_TWICE:
        raise UserError(f"{key}={text}: the name of this folder must not have ${{ in it; rename it, or link to it")
    # These three alone mean "must still be set" to OmegaConf; with ./ before them they are the same file's name.
    return before + quote(_no_interpolation("./???" if text == "???" else text))


def _is_there(path: str) -> bool:
    return os.path.lexists(os.path.expanduser(path))


def _listed(value: str) -> list[str] | None:
    """Return the paths of ``[A,B]``, of which those with commas in them are quoted, or None for a single path."""
    if not (value.startswith("[") and value.endswith("]")) or _is_there(value):
        return None
    return [path.strip() for path in _LISTED.findall(value[1:-1]) if path.strip()]


def _fold(value: str, sweeping: bool) -> str:
    """Return an area for Hydra: an integer, or the name of the area in quotes."""
    if _WHOLE_NUMBERS.fullmatch(value):
        # A sweep, with -m or in an experiment; otherwise Hydra says that -m is missing.
        return value
    names = value.split(",") if sweeping and _hydra_text(value) is None else [value]
    return ",".join(
        name if _WHOLE_NUMBER.fullmatch(name) or name == "null" else quote(_no_interpolation(_unquoted(name)))
        for name in names
    )


def _is_sweep(value: str) -> bool:
    """Return whether a value is a sweep in Hydra's grammar: ``choice(...)`` and the like, or a list of quoted texts."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    if not parsed.is_sweep_override():
        return False
    # Without a function such as choice, texts that are not quoted may be one name with commas.
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
    """Return the text of a value that is one quoted text in Hydra's grammar, or None."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return None
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return None
    if not isinstance(parsed, str):
        return None
    # A value that was quoted here before, such as one of the command in run.json, must not be escaped twice.
    return _ESCAPED.sub(lambda match: match[1][: len(match[1]) // 2] + "${", parsed)


def quote(text: str) -> str:
    """Return a text quoted for Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def _no_interpolation(text: str) -> str:
    """Escape ``${``, so that OmegaConf does not fill it in."""
    return _ESCAPED.sub(lambda match: match[1] * 2 + r"\${", text)
