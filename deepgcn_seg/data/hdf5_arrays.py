"""Arrays of HDF5 files from elsewhere, read without HDF5 in this process.

HDF5 follows what a file says into other files and plugins, and a damaged file can end the process that reads it. So
a process of its own looks where a file's arrays lie, and how they are packed. What it says is compared with the file's
size, and the values are read from there.
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

# A chunk of the official files has less than 1 MB. This much memory is taken to unpack one.
MAX_CHUNK = 256 << 20
# Of an array. The official files have two or three thousand.
MAX_CHUNKS = 100_000
# In the process that looks: memory, and seconds a file.
_MEMORY, _SECONDS = 2 << 30, 30

_LOOK = f"""
import json, resource, sys
import h5py

resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, resource.getrlimit(resource.RLIMIT_AS)[1]))

def look(file, name):
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{{name}} is missing, or lies in another file")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        raise ValueError(f"{{name}} is not an array")
    made = array.id.get_create_plist()
    if made.get_external_count() or made.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise ValueError(f"{{name}} does not lie in the file itself")
    chunks = []
    def add(chunk):
        chunks.append((chunk.chunk_offset, chunk.filter_mask, chunk.byte_offset, chunk.size))
        return len(chunks) > {MAX_CHUNKS} or None

    if array.chunks:
        array.id.chunk_iter(add)
        if len(chunks) > {MAX_CHUNKS}:
            raise ValueError(f"{{name}} has more than {MAX_CHUNKS} chunks")
    elif array.id.get_offset() is not None:
        chunks = [([0] * array.ndim, 0, array.id.get_offset(), array.id.get_storage_size())]
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    return {{
        "dtype": array.dtype.str,
        "shape": array.shape,
        "chunk": array.chunks or array.shape,
        "filters": filters,
        "chunks": chunks,
    }}

for path in sys.argv[2:]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            print(json.dumps({{name: look(file, name) for name in sys.argv[1].split(",")}}), flush=True)
    except Exception as error:
        print(json.dumps(str(error)[:200]), flush=True)
"""

Count = Annotated[int, Field(ge=0, lt=2**62)]
Side = Annotated[int, Field(ge=1, lt=2**31)]
# Where the chunk is in the array, which filters were left out, where it begins in the file, and its bytes there.
Chunk = tuple[tuple[Count, ...], Literal[0], Count, Count]


class StoredArray(Schema):
    """Where an array lies in a file, and how it is packed."""

    dtype: Literal["<f4", ">f4", "<f8", ">f8", "|u1", "|i1", "<u2", "<i2", "<i4", "<u4", "<i8", "<u8"]
    shape: Annotated[tuple[Side, ...], Field(min_length=1, max_length=8)]
    chunk: tuple[Side, ...]
    filters: tuple[Literal[1, 2], ...]
    chunks: tuple[Chunk, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.chunk) != len(self.shape):
            raise ValueError("chunks of another rank")
        if any(len(corner) != len(self.chunk) for corner, *_ in self.chunks):
            raise ValueError("chunks of another rank")
        # As many chunks as the grid has cells, each at a cell's corner, no two at one: then every cell has its chunk.
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
        """Number of the chunk along each axis -> where it begins in the file, and its bytes."""
        return {
            tuple(at // step for at, step in zip(corner, self.chunk)): (begin, size)
            for corner, _, begin, size in self.chunks
        }

    def row(self, path: Path, i: int) -> np.ndarray:
        """Return ``array[i]``.

        Raises:
            UserError: the file cannot be read, or its chunks not be unpacked.
        """
        row = np.empty(self.shape[1:], self.dtype)
        first, inside = divmod(i, self.chunk[0])
        with open_file(path) as (file, _):
            for number in np.ndindex(*(-(-side // step) for side, step in zip(self.shape[1:], self.chunk[1:]))):
                part = self._row_of_chunk(path, file, (first, *number), inside)
                target = row[tuple(slice(n * s, n * s + s) for n, s in zip(number, self.chunk[1:]))]
                # The last chunk along an axis goes on beyond the array.
                target[...] = part[tuple(slice(side) for side in target.shape)]
        return row

    def _row_of_chunk(self, path: Path, file: BinaryIO, number: tuple[int, ...], inside: int) -> np.ndarray:
        """One row of a chunk. A packed chunk is unpacked as a whole; of others that row alone is read."""
        begin, packed_size = self._places[number]
        row_bytes = self._chunk_bytes // self.chunk[0]
        if not self.filters:
            file.seek(begin + inside * row_bytes)
            return self._values(path, file.read(row_bytes), self.chunk[1:])
        file.seek(begin)
        content = file.read(packed_size)
        for kind in reversed(self.filters):
            content = _FILTERS[kind](path, content, self._chunk_bytes, np.dtype(self.dtype).itemsize)
        return self._values(path, content, self.chunk)[inside]

    def _values(self, path: Path, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
        if len(content) != np.dtype(self.dtype).itemsize * math.prod(shape):
            raise UserError(f"{path}: damaged, a chunk has too few values")
        return np.frombuffer(content, self.dtype).reshape(shape)


def _inflate(path: Path, content: bytes, expected: int, _: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, expected)
    except zlib.error as error:
        raise UserError(f"{path}: damaged ({error})") from None


def _unshuffle(_: Path, content: bytes, expected: int, size: int) -> bytes:
    """First bytes of all values, then all second ones, and so on -> values."""
    return np.frombuffer(content, np.uint8).reshape(size, -1).T.tobytes() if len(content) == expected else content


# By HDF5's numbers.
_FILTERS = {1: _inflate, 2: _unshuffle}


def find_arrays(paths: Sequence[Path], names: Sequence[str]) -> list[dict[str, StoredArray]]:
    """Say where the arrays of some names lie, for each of some HDF5 files.

    Raises:
        UserError: a file is damaged, or its arrays lie in other files or are packed in another way than gzip.
    """
    for path in paths:
        with open_file(path):
            pass
    # Without the current folder among the places for modules (-P), and without plugins of HDF5.
    command = [sys.executable, "-P", "-c", _LOOK, ",".join(names), *map(str, paths)]
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=_SECONDS * (len(paths) + 1))
        lines = done.stdout.splitlines()
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").splitlines()
    found = []
    for number, path in enumerate(paths):
        said = json.loads(lines[number]) if number < len(lines) else "HDF5 ended on it"
        if isinstance(said, str):
            raise UserError(f"{path}: not a readable HDF5 file of blocks ({said})")
        found.append({name: StoredArray.of(said[name], f"{path}: {name}") for name in names})
        size = path.stat().st_size
        if any(begin + bytes_ > size for array in found[-1].values() for *_, begin, bytes_ in array.chunks):
            raise UserError(f"{path}: arrays lie outside of the file")
    return found
