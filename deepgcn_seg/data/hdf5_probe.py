"""Print where arrays are in HDF5 files. :mod:`.hdf5_arrays` runs this script as a process of its own.

    python -P hdf5_probe.py NAME,NAME FILE FILE ...

A damaged file can make HDF5 read invalid memory, which crashes the process. For each file, this script prints one line
of JSON: a mapping from each name to the fields of a ``StoredArray``, or a text that says what is wrong. It imports
nothing of this package, so that it starts quickly.
"""

import json
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import h5py

# Most chunks of an array. Arrays of the official files have two or three thousand.
MAX_CHUNKS = 100_000
# Memory that this process may take, in bytes.
_MEMORY = 2 << 30
# Number of characters of HDF5's message that are printed.
_SHOWN = 200


def describe(file: h5py.File, name: str) -> dict[str, Any]:
    """Return an array's type, shape, filters, and for each chunk its corner, filter mask, first byte and size.

    Raises:
        ValueError: there is no such array in the file itself, or it has too many chunks.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing, or lies in another file")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        raise ValueError(f"{name} is not an array")
    created = array.id.get_create_plist()
    if created.get_external_count() or created.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise ValueError(f"{name} does not lie in the file itself")
    return {
        "dtype": array.dtype.str,
        "shape": array.shape,
        "chunk": array.chunks or array.shape,
        "filters": [created.get_filter(i)[0] for i in range(created.get_nfilters())],
        "chunks": _chunks(array, name),
    }


def _chunks(array: h5py.Dataset, name: str) -> list[tuple[Sequence[int], int, int, int]]:
    """Return the chunks of an array; an array without chunks counts as one chunk."""
    chunks: list[tuple[Sequence[int], int, int, int]] = []
    if not array.chunks:
        begin = array.id.get_offset()
        return [] if begin is None else [([0] * array.ndim, 0, begin, array.id.get_storage_size())]

    def add(chunk: Any) -> bool | None:
        chunks.append((chunk.chunk_offset, chunk.filter_mask, chunk.byte_offset, chunk.size))
        # Anything but None ends the iteration.
        return len(chunks) > MAX_CHUNKS or None

    array.id.chunk_iter(add)
    if len(chunks) > MAX_CHUNKS:
        raise ValueError(f"{name} has more than {MAX_CHUNKS} chunks")
    return chunks


def main(names: Sequence[str], paths: Sequence[str]) -> None:
    """Print one line of JSON for each file."""
    # macOS refuses this limit, and so does Linux if a lower one holds already.
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for path in paths:
        try:
            with h5py.File(path, "r", locking=False) as file:
                line = json.dumps({name: describe(file, name) for name in names})
        # HDF5 reports damage by many types of errors.
        except Exception as error:
            line = json.dumps(str(error)[:_SHOWN])
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
