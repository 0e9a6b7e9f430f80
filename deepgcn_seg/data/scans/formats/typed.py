"""Columns of numbers, in the types that every format can be written with."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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
    limits = np.iinfo(wanted)
    whole = values.dtype.kind == "i" or np.array_equal(values, np.rint(values))
    if not whole or (len(values) and not limits.min <= values.min() <= values.max() <= limits.max):
        raise UserError(f"{path}: field {name} is {wanted} in the header, but has other numbers")
    return values.astype(wanted)


def structured(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return fields (N,) or (N, count) as one structured array, rows without gaps between the fields."""
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in fields.items()]
    rows = np.empty(len(next(iter(fields.values()))), kinds)
    for name, values in fields.items():
        rows[name] = values
    return rows
