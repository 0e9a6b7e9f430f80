"""Writing of HDF5 files, so that a full disk is an error like any other."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class _Output(io.FileIO):
    """A file that keeps its first error and takes everything that is written after it.

    If HDF5 meets an error when it writes out what it holds, it cannot close the file, and may crash the process at its
    end. So it never meets one.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes, and return their number in any case."""
        left = memoryview(data).cast("B")
        count = len(left)
        try:
            while self.error is None and left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file if that is possible, and return it in any case."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def new_hdf5(path: Path, **settings: Any) -> Iterator[h5py.File]:
    """Yield a new HDF5 file.

    Args:
        settings: further arguments of ``h5py.File``.

    Raises:
        OSError: it cannot be written, such as on a full disk.
    """
    with _Output(path, "w+") as output:
        try:
            with h5py.File(output, "w", **settings) as file:
                yield file
        finally:
            # It also is the reason if the library has read what could not be written.
            if output.error is not None:
                raise output.error from None
