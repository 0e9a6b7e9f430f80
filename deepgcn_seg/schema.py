"""Structured content of files, validated field by field before anything else uses it.

A checkpoint's description, a store's manifest and a list of classes may come from anywhere. Each has a :class:`Schema`
with the type, range and relations of every field. If one does not fit, a :class:`~deepgcn_seg.errors.UserError` names
the file, the field, its value and what is allowed.
"""

import json
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UserError, first_line
from .escaping import one_line
from .files import why_no_file

# Bytes. Our own files are far smaller; a larger one is refused before it is read.
MAX_JSON, MAX_YAML = 64 * 2**20, 2**20
MAX_VALUES = 2_000_000


class Schema(BaseModel):
    """Base of all schemas: types are exact (no text for a number), and unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, content: Any, where: str) -> Self:
        """Validate plain values as a file gave them.

        Args:
            content: nested lists, mappings and scalars; lists serve for tuples. where: what messages begin with.

        Raises:
            UserError: names the first field that does not fit, its value and what is allowed.
        """
        try:
            return cls.model_validate(_as_tuples(content))
        except ValidationError as error:
            raise UserError(f"{where}: {problem(error)}") from None
        except RecursionError:
            raise UserError(f"{where}: nested too deeply") from None
        except OverflowError as error:
            raise UserError(f"{where}: {error}") from None

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values with lists for tuples, which :meth:`of` reads again."""
        return self.model_dump(mode="json")


def _as_tuples(content: Any) -> Any:
    """Return the values with tuples for lists: the fields of a schema cannot be changed, nor can its sequences.

    Raises:
        OverflowError: more than ``MAX_VALUES``, as lists that hold one another several times soon are.
    """
    if _count_values(content, {}) > MAX_VALUES:
        raise OverflowError(f"more than {MAX_VALUES:,} values")

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: convert(part) for key, part in value.items()}
        return tuple(map(convert, value)) if isinstance(value, (list, tuple)) else value

    return convert(content)


def _count_values(value: Any, counts: dict[int, int]) -> int:
    """Return the number of values in nested lists and mappings. One that several others hold is visited once.

    Args:
        counts: the numbers of those that were visited, by ``id``.
    """
    if not isinstance(value, (dict, list, tuple)):
        return 1
    if id(value) not in counts:
        parts = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count_values(part, counts) for part in parts)
    return counts[id(value)]


def problem(error: ValidationError, shown: Callable[[Any], str] | None = None, ignore: str | None = None) -> str:
    """Return in one line what is wrong first: the field, its value and what is allowed.

    Args:
        shown: returns what follows the field's name, with the value in it; default: ``=`` and the value as in Python.
        ignore: pydantic's name of a kind of error that is none here.
    """
    first = next(e for e in error.errors(include_url=False, include_context=False) if e["type"] != ignore)
    # Parts that stand for a choice of several types, and not for a field, are left out.
    name = one_line(".".join(str(part) for part in first["loc"] if part != "" and "[" not in str(part)), 200)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown field {name}"
    if first["type"] == "model_type":
        message = "must be a mapping of names to values"
    if not name:
        return message
    return f"{name}{(shown or _shown)(first['input'])}: {message[:1].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    # What is wrong with a mapping is said of its fields.
    if isinstance(value, dict):
        return ""
    try:
        return f"={_SHORT.repr(value)}"
    except ValueError:
        # Python writes out no integer of more than some thousand digits.
        return "=(a huge number)"


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Raises ValueError for a huge number. Since Python 3.14, reprlib would write its address instead.
        repr(x)
        return super().repr_int(x, level)


_SHORT = _Short()


class _PlainLoader(yaml.SafeLoader):
    """A YAML loader that refuses repeated keys, and aliases, with which a few lines could fill the memory."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError("a key is there twice")
        return mapping

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)


class _WordLoader(_PlainLoader):
    """Reads every word as the text that was typed: yes, no, on, off, true, null, ~ and dates too, but not numbers."""

    # PyYAML's own rules, which are those of YAML 1.1, are left out.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
for _kind, _pattern in _NUMBERS.items():
    _WordLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), list("-+.0123456789")
    )
# A key without a value.
_WordLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"\Z"), [""])


def read_yaml(path: str | Path, words_as_typed: bool = False) -> Any:
    """Return the plain values of a YAML file from anywhere; aliases and tags are not read.

    Args:
        words_as_typed: read yes, no, on, off, true, false, null, ~ and dates as text. Numbers stay numbers, and a key
            without a value stays None.

    Raises:
        UserError: cannot be read, too large, not YAML, or nested too deeply.
    """
    text = read_text(Path(path), MAX_YAML)
    try:
        return yaml.load(text, Loader=_WordLoader if words_as_typed else _PlainLoader)
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{path}: not a readable YAML file ({_yaml_problem(error)})") from None
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a readable YAML file ({first_line(error)})") from None


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    """Return the line of a mistake, and what it is."""
    where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
    problem = (error.problem or first_line(error)).splitlines()[0][:150]
    return where + ("a tab; indent with spaces" if r"'\t'" in problem else problem)


def read_json(path: str | Path) -> Any:
    """Return the plain values of a JSON file from anywhere; NaN and infinity are refused.

    Raises:
        UserError: cannot be read, too large, not JSON, or nested too deeply.
    """
    text = read_text(Path(path), MAX_JSON)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a readable JSON file ({first_line(error)})") from None


def read_text(path: Path, most: int) -> str:
    """Return the text of a file from anywhere.

    Raises:
        UserError: cannot be read, has more than ``most`` bytes, or is not UTF-8.
    """
    try:
        # A pipe or a device may never end.
        if not path.is_file():
            raise UserError(f"{path}: {why_no_file(path)}")
        with open(path, "rb") as file:
            raw = file.read(most + 1)
        if len(raw) > most:
            raise UserError(f"{path}: larger than {most >> 20} MiB, which no such file is")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
