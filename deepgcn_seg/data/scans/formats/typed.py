"""Columns of numbers, in the types that every format can be written with."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import UserError


class LazyFields(Mapping[str, np.ndarray]):
    """Fields whose values are computed each time they are asked for.

    Args:
        count: number of points. makers: name -> function that returns the (N,) values.
    """

    def __init__(self, count: int, makers: Mapping[str, Callable[[], np.ndarray]]):
        self.count, self.makers = count, makers

    def __getitem__(self, name: str) -> np.ndarray:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def number_column(path: Path, name: str, values: np.ndarray, count: int | None = None) -> np.ndarray:
    """Return a field as (N,) integers or floats of at most 64 bits in this machine's byte order.

    Args:
        path, name: for messages. values: truth values become 0 and 1, floats of 16 bits become floats of 32,
            and longer ones floats of 64.
        count: N, if known.

    Raises:
        UserError: the values are not one number for each point.
    """
    values = np.asarray(values)
    kind = values.dtype
    if values.ndim != 1 or kind.kind not in "fiub":
        raise UserError(f"{path}: field {name} is not one number for each point, but {kind} of shape {values.shape}")
    if count is not None and len(values) != count:
        raise UserError(f"{path}: fields of different lengths: {name} has {len(values):,}, others {count:,}")
    if kind.kind == "b":
        return values.view(np.uint8)
    if kind == np.float16:
        return values.astype(np.float32)
    if kind.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(kind.newbyteorder("="), copy=False)


def exactly(values: np.ndarray, kind: Any) -> np.ndarray | None:
    """Return numbers in another type, or None if the type does not hold each of them exactly.

    A float beyond the range of an integer type must not be converted, because the result depends on the processor: ARM
    takes the nearest integer, and x86 the lowest.
    """
    wanted = np.dtype(kind)
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            cast = values.astype(wanted)
        back = cast if values.dtype.kind == "f" else exactly(cast, values.dtype)
        same = back is not None and np.array_equal(back, values, equal_nan=values.dtype.kind == "f")
        return cast if same else None
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        return None
    limits = np.iinfo(wanted)
    # Python compares a float with an integer exactly; NumPy would round the largest int64 up to 2^63.
    fits = not values.size or limits.min <= values.min().item() <= values.max().item() <= limits.max
    return values.astype(wanted) if fits else None


def in_first_that_holds(values: np.ndarray, *kinds: Any) -> np.ndarray:
    """Return numbers in the first of some types that holds each of them exactly, or else in the last."""
    *others, last = kinds
    found = next((cast for kind in others if (cast := exactly(values, kind)) is not None), None)
    return values.astype(last) if found is None else found


def as_declared(path: Path, name: str, values: np.ndarray, kind: str) -> np.ndarray:
    """Return numbers of text in the type that the header declares.

    Raises:
        UserError: an integer type cannot hold the numbers.
    """
    wanted = np.dtype(kind)
    if wanted.kind == "f":
        # Numbers beyond float32 become infinite, which coordinates and colours refuse.
        with np.errstate(over="ignore"):
            return values.astype(wanted)
    if (found := exactly(values, wanted)) is None:
        raise UserError(f"{path}: field {name} is {wanted} in the header, but has other numbers")
    return found


def structured(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return fields (N,) or (N, count) as one structured array, rows without gaps between the fields."""
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in fields.items()]
    rows = np.empty(len(next(iter(fields.values()))), kinds)
    for name, values in fields.items():
        rows[name] = values
    return rows
