"""PTS of several scans: each has the number of its points on a line of its own, and then a line for each point."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ....errors import UserError
from .bounds import Bounds
from .rows import read_rows
from .setups import MAX_SCANS, joined

# A line that has nothing but a whole number, behind the end of the line before. Rows have three numbers at least. The
# expression begins with a single character, for which Python searches quickly.
_COUNT = re.compile(rb"\n[ \t]*([0-9]{1,15})[ \t]*\r?(?=\n|\Z)")


def read_counted_rows(
    bounds: Bounds,
    pieces: Iterable[bytes],
    counts: Sequence[int],
    columns: int,
    delimiter: str,
    line: int,
    names: Sequence[str | None],
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Read rows as :func:`~.rows.read_rows` does, and the counts between them.

    A single scan may have more or fewer rows than its count; the caller decides what to make of that.

    Args:
        counts: above the first row. All but the last are 0, of scans without points.

    Returns:
        The columns, and the number of each row's scan (N,) uint16, or None if there is one scan.

    Raises:
        UserError: one of several scans has another number of points than the line above it says.
    """
    blocks, points = _Blocks(pieces, counts[-1], line), 0
    parts = [{str(number): np.empty(0, np.int64) for number in range(columns)} for _ in counts[:-1][:MAX_SCANS]]
    while blocks.claimed is not None:
        if len(parts) == MAX_SCANS:
            raise UserError(f"{bounds.path}: more than {MAX_SCANS:,} scans")
        claimed, first = blocks.claimed, blocks.line
        values = read_rows(bounds, blocks.rows(), columns, delimiter, first, names)
        points = bounds.check_points(points + len(values[0]))
        if len(values[0]) != claimed and (parts or blocks.claimed is not None):
            raise UserError(
                f"{bounds.path}: line {first - 1:,} says that {claimed:,} points follow, but {len(values[0]):,} do"
            )
        parts.append({str(number): column for number, column in enumerate(values)})
    fields = joined(bounds.path, parts)
    return [fields[str(number)] for number in range(columns)], fields.get("scan")


class _Blocks:
    """The rows of a text up to the next count, and so on.

    Attributes:
        claimed: the count above the rows that come next, or None at the end. line: number of the first of these rows.
    """

    def __init__(self, pieces: Iterable[bytes], claimed: int, line: int):
        self.claimed: int | None = claimed
        self.line = line
        self._parts = self._split(pieces)

    def rows(self) -> Iterator[bytes]:
        """Yield the rows of one scan in pieces of whole lines."""
        self.claimed = None
        for part in self._parts:
            if isinstance(part, int):
                self.claimed = part
                self.line += 1
                return
            self.line += part.count(b"\n")
            yield part

    @staticmethod
    def _split(pieces: Iterable[bytes]) -> Iterator[bytes | int]:
        for piece in pieces:
            text, start = b"\n" + piece, 1
            for found in _COUNT.finditer(text):
                end = found.start() + 1
                if end > start:
                    yield text[start:end]
                yield int(found[1])
                start = found.end() + 1
            if start < len(text):
                yield text[start:]
