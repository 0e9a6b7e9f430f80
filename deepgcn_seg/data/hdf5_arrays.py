"""Read arrays of HDF5 files from any source without using HDF5 in this process.

HDF5 may open other files and plugins that a file names, and a damaged file can crash the process that reads it. So
another process (:mod:`.hdf5_probe`) finds out where a file's arrays are and how they are compressed. Its answer is
compared with the size of the file, and then this module reads the values.
"""

import json
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..errors import UserError
from ..files import open_file
from ..schema import Schema
from . import hdf5_probe

# Most bytes of an unpacked chunk. A chunk of the official files has less than 1 MB.
MAX_CHUNK = 256 << 20
# The number that HDF5 gives to compression by gzip. The other filter that is read, 2, shuffles bytes.
_DEFLATE = 1
# Seconds that the probe may take for each file, and once more to start.
_SECONDS = 30

Count = Annotated[int, Field(ge=0, lt=2**62)]
Side = Annotated[int, Field(ge=1, lt=2**31)]
# A chunk: its corner in the array, the filters that were left out, its first byte in the file, and its size there.
Chunk = tuple[tuple[Count, ...], Literal[0], Count, Count]


class StoredArray(Schema):
    """Where an array is in a file, and how it is compressed."""

    dtype: Literal["<f4", ">f4", "<f8", ">f8", "|u1", "|i1", "<u2", "<i2", "<i4", "<u4", "<i8", "<u8"]
    shape: Annotated[tuple[Side, ...], Field(min_length=1, max_length=8)]
    chunk: tuple[Side, ...]
    filters: tuple[Literal[1, 2], ...]
    chunks: tuple[Chunk, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if any(len(sides) != len(self.shape) for sides in (self.chunk, *(corner for corner, *_ in self.chunks))):
            raise ValueError("chunks of another rank")
        # Every cell of the grid has its chunk if there are as many chunks as cells, each at a corner of a cell, and no
        # two at the same cell.
        cells = [-(-side // step) for side, step in zip(self.shape, self.chunk)]
        if len(self.chunks) != math.prod(cells) or len(self._places) != len(self.chunks):
            raise ValueError("some of its chunks are not in the file")
        if any(
            at % step or at >= side
            for corner, *_ in self.chunks
            for at, step, side in zip(corner, self.chunk, self.shape)
        ):
            raise ValueError("a chunk lies beside the array's grid of chunks")
        if self.filters and self._chunk_bytes > MAX_CHUNK:
            raise ValueError(f"chunks of {self._chunk_bytes >> 20} MiB, at most {MAX_CHUNK >> 20} are read")
        if not self.filters and any(size < self._chunk_bytes for *_, size in self.chunks):
            raise ValueError("its chunks are smaller in the file than they must be")
        return self

    @property
    def _chunk_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.chunk)

    @cached_property
    def _places(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """The first byte and size of each chunk, by its number along each axis."""
        return {
            tuple(at // step for at, step in zip(corner, self.chunk)): (begin, size)
            for corner, _, begin, size in self.chunks
        }

    def row(self, path: Path, i: int) -> np.ndarray:
        """Return ``array[i]``.

        Raises:
            UserError: the file cannot be read, or its chunks cannot be unpacked.
        """
        row = np.empty(self.shape[1:], self.dtype)
        first, inside = divmod(i, self.chunk[0])
        with open_file(path) as (file, _):
            for number in np.ndindex(*(-(-side // step) for side, step in zip(self.shape[1:], self.chunk[1:]))):
                part = self._row_of_chunk(path, file, (first, *number), inside)
                target = row[tuple(slice(n * s, n * s + s) for n, s in zip(number, self.chunk[1:]))]
                # The last chunk along an axis is stored whole, and may extend beyond the array.
                target[...] = part[tuple(slice(side) for side in target.shape)]
        return row

    def _row_of_chunk(self, path: Path, file: BinaryIO, number: tuple[int, ...], inside: int) -> np.ndarray:
        """Return one row of a chunk. A packed chunk is unpacked as a whole; of another, only the row is read."""
        begin, packed_size = self._places[number]
        row_bytes = self._chunk_bytes // self.chunk[0]
        if not self.filters:
            file.seek(begin + inside * row_bytes)
            return self._values(path, file.read(row_bytes), self.chunk[1:])
        file.seek(begin)
        return self._values(path, self._unpacked(path, file.read(packed_size)), self.chunk)[inside]

    def _unpacked(self, path: Path, content: bytes) -> bytes:
        """Return the bytes of a chunk's values, for which its filters are undone from the last to the first."""
        for kind in reversed(self.filters):
            if kind == _DEFLATE:
                try:
                    content = zlib.decompressobj().decompress(content, self._chunk_bytes)
                except zlib.error as error:
                    raise UserError(f"{path}: damaged ({error})") from None
            elif len(content) == self._chunk_bytes:
                # The first bytes of all values, then all second bytes, and so on.
                shuffled = np.frombuffer(content, np.uint8).reshape(np.dtype(self.dtype).itemsize, -1)
                content = shuffled.T.tobytes()
        return content

    def _values(self, path: Path, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
        if len(content) != np.dtype(self.dtype).itemsize * math.prod(shape):
            raise UserError(f"{path}: damaged, a chunk has too few values")
        return np.frombuffer(content, self.dtype).reshape(shape)


def find_arrays(paths: Sequence[Path], names: Sequence[str]) -> list[dict[str, StoredArray]]:
    """Return where arrays of the given names are, for each of some HDF5 files.

    Raises:
        UserError: a file is damaged, or its arrays are in other files or compressed in another way than with gzip.
    """
    for path in paths:
        with open_file(path):
            pass
    # With -P, Python finds no modules in the current folder or beside the script. With "::", HDF5 loads no plugins.
    command = [sys.executable, "-P", hdf5_probe.__file__, ",".join(names), *map(str, paths)]
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=_SECONDS * (len(paths) + 1))
        lines = done.stdout.splitlines()
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").splitlines()
    found = []
    for number, path in enumerate(paths):
        answer = json.loads(lines[number]) if number < len(lines) else "HDF5 ended on it"
        if isinstance(answer, str):
            raise UserError(f"{path}: not a readable HDF5 file of blocks ({answer})")
        found.append({name: StoredArray.of(answer[name], f"{path}: {name}") for name in names})
        size = path.stat().st_size
        if any(begin + bytes_ > size for array in found[-1].values() for *_, begin, bytes_ in array.chunks):
            raise UserError(f"{path}: arrays lie outside of the file")
    return found
