"""Sort points by the cells of a floor plan, so that the points of any column lie in a few ranges of rows."""

from collections.abc import Sequence

import numpy as np

from ..errors import UserError

# Side of a cell in metres. It is the stride of the official blocks, which is half their side.
CELL = 0.5
# Most cells of a room; they cover 4 km2. One stray point far away can make more cells than there are points.
MAX_CELLS = 1 << 24

# A range of rows: the first row, and the row after the last.
RowRange = tuple[int, int]


def count_cells(size: np.ndarray) -> np.ndarray:
    """Return the number of cells along x and y (2,) that cover a room of the given extent (3,) in metres."""
    return np.maximum(np.ceil(size[:2] / CELL), 1).astype(np.int64)


class FloorCells:
    """The rows of each cell, for points that are sorted by cell.

    Attributes:
        starts: (cells + 1,) the first row of each cell, and the number of points.
        grid: (2,) number of cells along x and y.
    """

    def __init__(self, starts: np.ndarray, grid: np.ndarray):
        self.starts, self.grid = starts, grid

    @classmethod
    def sort(cls, xyz: np.ndarray, where: str) -> tuple[np.ndarray, "FloorCells"]:
        """Return the order (N,) that sorts points by cell, and the cells.

        Args:
            xyz: (N, 3) metres from their minimum. where: what the message of an error begins with.

        Raises:
            UserError: the points lie too far apart.
        """
        size = xyz.max(0)
        if np.prod(np.ceil(size[:2] / CELL), dtype=np.float64) > MAX_CELLS or size.max() > MAX_CELLS * CELL:
            raise UserError(
                f"{where}: the points extend over {size[0]:g} x {size[1]:g} x {size[2]:g} m; remove stray points, or "
                "set the scale"
            )
        grid = count_cells(size)
        cell = cls._cell_of(xyz, grid)
        order = np.argsort(cell, kind="stable")
        return order, cls(np.searchsorted(cell[order], np.arange(grid.prod() + 1)), grid)

    @staticmethod
    def _cell_of(xyz: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Return the cell (N,) of each point."""
        return np.minimum((xyz[:, :2] / CELL).astype(np.int64), grid - 1) @ np.array([grid[1], 1])

    def fit(self, xyz: np.ndarray) -> bool:
        """Return whether each point (N, 3) lies in the cell that its row belongs to."""
        cell = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return np.array_equal(cell, self._cell_of(xyz, self.grid))

    def occupied(self) -> np.ndarray:
        """Return the cells that have points, (n, 2) along x and y, row by row."""
        return np.stack(np.divmod(np.flatnonzero(np.diff(self.starts)), self.grid[1]), 1)

    def ranges(self, low: Sequence[float], high: Sequence[float]) -> tuple[list[RowRange], bool]:
        """Return the rows of the cells that a column touches, and whether the column is made of whole cells.

        Args:
            low: x and y of the column's lower corner. high: those of its upper corner, infinite where the room ends.
        """
        first, last = np.asarray(low, np.float64) / CELL, np.asarray(high, np.float64) / CELL
        whole = (first == np.floor(first)).all() and ((last == np.floor(last)) | np.isinf(last)).all()
        begin = np.floor(first).clip(0, self.grid).astype(int)
        end = np.ceil(last).clip(0, self.grid).astype(int)
        ranges = []
        for row in range(begin[0], end[0]):
            start, stop = self.starts[row * self.grid[1] + np.array([begin[1], end[1]])]
            if stop > start:
                ranges.append((int(start), int(stop)))
        return ranges, bool(whole)

    def count_points(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the number of points (n,) in the cells that some columns touch. The columns have at most as many.

        Args:
            low, high: (n, 2) corners of the columns, as :meth:`ranges` takes them.
        """
        begin = np.floor(low / CELL).clip(0, self.grid).astype(int)
        end = np.ceil(high / CELL).clip(0, self.grid).astype(int)
        counts = np.zeros(len(low), np.int64)
        for step in range((end - begin)[:, 0].max(initial=0)):
            inside = begin[:, 0] + step < end[:, 0]
            row = (begin[inside, 0] + step) * self.grid[1]
            counts[inside] += self.starts[row + end[inside, 1]] - self.starts[row + begin[inside, 1]]
        return counts
