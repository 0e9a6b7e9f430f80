"""Types and ranges of settings, for constructors and the composed config.

A setting is annotated with its type and one of the validators below, ``Annotated[float, number(0, 1)]``. A message
names the setting as it is typed, its value and what is allowed: ``stride=0: must be a number above 0``.
"""

import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, PlainValidator, ValidationError, create_model

from .escaping import one_line
from .schema import Schema, problem

# Characters of a wrong value that a message shows.
_SHOWN = 60
# Every generator takes such a seed, even with the number of a process added to it.
MAX_SEED = 2**32 - 1
# Most blocks that may overlap along each axis: in two axes, a point has up to four hundred votes.
MAX_OVERLAP = 20


class Settings(Schema):
    """Base of a group of settings. Unknown keys are ignored: a command refuses those that nothing reads."""

    model_config = ConfigDict(extra="ignore")


class SettingError(ValueError):
    """A setting that does not fit. The message begins with its name and value."""


def rule(allowed: str, fits: Callable[[Any], bool], null: bool = False) -> PlainValidator:
    """Return a validator of values for which ``fits`` is true; ``allowed`` describes them in messages."""

    def check(value: Any) -> Any:
        if (null and value is None) or fits(value):
            return value
        raise ValueError(f"must be {'null or ' if null else ''}{allowed}")

    return PlainValidator(check)


def integer(least: int, most: int | None = None, null: bool = False) -> PlainValidator:
    """Return a validator of integers in a range; with ``null``, None is allowed too."""
    allowed = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"

    def fits(value: Any) -> bool:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return whole and least <= value and (most is None or value <= most)

    return rule(allowed, fits, null)


def number(
    least: float, most: float = math.inf, *, above: bool = False, below: bool = False, null: bool = False
) -> PlainValidator:
    """Return a validator of finite numbers in a range; ``above`` and ``below`` leave out its lower and upper end."""
    allowed = f"a number {'above' if above else 'of at least'} {least:g}"
    if math.isfinite(most):
        allowed += f" and {'below' if below else 'at most'} {most:g}"

    def fits(value: Any) -> bool:
        return (
            is_number(value)
            and (least < value if above else least <= value)
            and (value < most if below else value <= most)
        )

    return rule(allowed, fits, null)


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold and that is finite."""
    # NaN fails the comparison. math.isfinite raises OverflowError for an integer beyond floats.
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return bool(real and abs(value) <= sys.float_info.max)


def choice(*names: str, null: bool = False) -> PlainValidator:
    """Return a validator of some names."""
    return rule(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names, null)


def key_of(table: Mapping[str, Any]) -> PlainValidator:
    """Return a validator of the names in a table, as they are when a value is validated: the table may grow."""
    return PlainValidator(lambda value: choice(*table).func(value))  # type: ignore[call-arg]


def listed(item: PlainValidator, least: int = 0, most: int = 1000, null: bool = False) -> PlainValidator:
    """Return a validator of lists of ``least`` to ``most`` items, each of which ``item`` allows."""

    def check(values: Any) -> Any:
        if null and values is None:
            return values
        if isinstance(values, str) or not isinstance(values, Sequence) or not least <= len(values) <= most:
            raise ValueError(f"must be {'null or ' if null else ''}a list of {least} to {most}")
        for value in values:
            try:
                item.func(value)  # type: ignore[call-arg]
            except ValueError as error:
                raise ValueError(f"{shown(value)} {error}") from None
        return values

    return PlainValidator(check)


def text(allowed: str = "text", null: bool = False) -> PlainValidator:
    """Return a validator of text that is not empty; ``allowed`` describes it in messages."""
    plain = rule(allowed, lambda value: isinstance(value, str) and bool(value), null)

    def check(value: Any) -> Any:
        if isinstance(value, numbers.Number):
            raise ValueError(f"""must be {allowed}; digits become text in two pairs of quotes, "'{value}'\"""")
        return plain.func(value)  # type: ignore[call-arg]

    return PlainValidator(check)


def require(name: str, value: Any, validator: PlainValidator) -> None:
    """Require that a validator of this module allows an argument's value.

    Raises:
        SettingError: names the argument, its value and what is allowed.
    """
    try:
        validator.func(value)  # type: ignore[call-arg]
    except ValueError as error:
        raise SettingError(f"{name}={shown(value)}: {error}") from None


def are_modules(value: Any) -> bool:
    """Return whether a value is a list of names of modules, or one such name."""
    names = [value] if isinstance(value, str) else value
    dotted = lambda name: isinstance(name, str) and all(part.isidentifier() for part in name.rstrip(".").split("."))
    return isinstance(names, Sequence) and all(map(dotted, names))


# Modules of a user's own; one name stands for a list of one.
Modules = Annotated[Sequence[str], rule("a list of names of modules, as [mine]", are_modules)]
FLAG = rule("true or false", lambda value: isinstance(value, bool))
Flag = Annotated[bool, FLAG]
Count = Annotated[int, integer(1, 1_000_000)]
Seed = Annotated[int, integer(0, MAX_SEED)]
Share = Annotated[float, number(0, 1)]
# A share below 1, such as a rate of dropout or the share of rooms held out.
Part = Annotated[float, number(0, 1, below=True)]
Metres = Annotated[float, number(0, 1e4, above=True)]
Text = Annotated[str, text()]


class Validated:
    """Base of a dataclass whose fields are validated by their annotations when an object of it is made.

    Raises:
        SettingError: names the first field that does not fit, its value and what is allowed.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        values = {field.name: getattr(self, field.name) for field in fields(kind)}
        try:
            _schema(kind).model_validate(values)
        except ValidationError as error:
            raise SettingError(setting_problem(error)) from None


@cache
def _schema(kind: type) -> type[Settings]:
    """Return the fields of a dataclass as a group of settings."""
    hints = get_type_hints(kind, include_extras=True)
    types: dict[str, Any] = {field.name: (hints[field.name], ...) for field in fields(kind)}
    return create_model(kind.__name__, __base__=Settings, **types)


def validate_given(kind: type, values: dict[str, Any]) -> None:
    """Validate those fields of a dataclass that are given.

    Raises:
        SettingError: as :class:`Validated`.
    """
    try:
        _schema(kind).model_validate(values)
    except ValidationError as error:
        if any(part["type"] != "missing" for part in error.errors()):
            raise SettingError(setting_problem(error, ignore="missing")) from None


def setting_problem(error: ValidationError, ignore: str | None = None) -> str:
    """Return in one line what is wrong first: the key as it is typed, its value and what is allowed."""
    absent = {None: " is not set", "": " is empty"}
    return problem(error, lambda value: absent[value] if value in (None, "") else f"={shown(value)}", ignore)


def three_digits(value: float) -> str:
    """Return a number with three significant digits, but at most six decimals; all digits of a larger whole part."""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


def shown(value: Any) -> str:
    """Return a value as it is typed on a command line, cut if it is long."""
    if value is None or isinstance(value, bool):
        typed = "null" if value is None else str(value).lower()
    elif isinstance(value, (list, tuple)):
        typed = f"[{','.join(shown(part) for part in value[:_SHOWN])}]"
    elif isinstance(value, dict):
        typed = f"{{{','.join(f'{shown(key)}:{shown(value[key])}' for key in list(value)[:_SHOWN])}}}"
    else:
        typed = " ".join(one_line(value).split())
    return typed if len(typed) <= _SHOWN else f"{typed[:_SHOWN]}..."


def some_of(texts: Sequence[str], most: int) -> str:
    """Return the first texts in one line, and the number of the others: ``a, b and 3 more``."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1: ``1 room``, ``2 passes``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
