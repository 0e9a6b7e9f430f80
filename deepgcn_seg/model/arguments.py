"""Checks of a constructor's arguments: a ValueError names the argument, its value and what is allowed."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def require_integer(name: str, value: Any, least: int = 1) -> None:
    """Require an integer of at least ``least``; a bool is none."""
    if not _is_integer(value) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_probability(name: str, value: Any) -> None:
    """Require a number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


def require_positive(name: str, value: Any) -> None:
    """Require a finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def require_bool(name: str, value: Any) -> None:
    """Require True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def require_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Require one of some names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(allowed)}")


def require_integers(name: str, values: Any, least: int = 1) -> None:
    """Require a sequence of one or more integers of at least ``least``."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
        raise ValueError(f"{name} must be a list of one or more integers, got {values!r}")
    for value in values:
        if not _is_integer(value) or value < least:
            raise ValueError(f"{name} must be integers of at least {least}, got {list(values)}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
