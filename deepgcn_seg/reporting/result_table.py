"""A table of results, written for a terminal, in Markdown, LaTeX or CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

from rich.table import Table
from rich.text import Text

from ..escaping import csv_cell, latex, markdown, terminal


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of several values; the deviation of one value is None."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Return the spread of the values that are not None, or None if there are none."""
        found = [value for value in values if value is not None]
        return cls(mean(found), stdev(found) if len(found) > 1 else None) if found else None


@dataclass(frozen=True)
class Interval:
    """Both ends of an interval."""

    low: float
    high: float


Cell = str | int | float | Spread | Interval | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: the heading. unit: of its numbers, which stands behind the name.
        form: of its numbers as text, a format specification of Python, such as ``.2f``, or a function.
        best: whether LaTeX prints the highest value in bold.
        deviations: whether they stand behind means; in CSV they always do.
    """

    name: str
    unit: str = ""
    form: str | Callable[[float], str] = ""
    best: bool = False
    deviations: bool = True

    @property
    def heading(self) -> str:
        """The name with the unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, cell: Cell) -> str:
        """Return a cell as text; numbers are rounded."""
        if isinstance(cell, Spread):
            shown = self.deviations and cell.deviation is not None
            return self.text(cell.mean) + (f" +- {self.text(cell.deviation)}" if shown else "")
        if isinstance(cell, Interval):
            return f"{self.text(cell.low)} to {self.text(cell.high)}"
        if cell is None or isinstance(cell, str):
            return "-" if cell is None else cell
        return self.form(cell) if callable(self.form) else format(cell, self.form)


def percent(share: float | None) -> float | None:
    """Return a share of 0..1 in percent; None for None and NaN."""
    return None if share is None or share != share else 100 * share


def percent_interval(ends: tuple[float, float] | None) -> Interval | None:
    """Return an interval of shares of 0..1 in percent; None for None."""
    return None if ends is None else Interval(100 * ends[0], 100 * ends[1])


PERCENT = "%", ".2f"


@dataclass(frozen=True)
class ResultTable:
    """A table of results that were measured alike.

    Attributes:
        cells: rows of values as they are; they are rounded where they are printed, and have all digits in CSV.
        file: the name of its CSV file after ``report-``; empty for a number.
    """

    title: str
    columns: Sequence[Column]
    cells: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
    file: str = ""

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    @property
    def headings(self) -> list[str]:
        """The names of the columns with their units."""
        return [column.heading for column in self.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as text."""
        return [[column.text(cell) for column, cell in zip(self.columns, row)] for row in self.cells]

    def terminal(self) -> Table:
        """Return the table as rich prints it."""
        notes = (terminal(note, "table.caption") for note in self.notes)
        table = Table(title=terminal(self.title, "table.title"), caption=Text("\n").join(notes))
        for name, cells in zip(self.headings, self._by_column()):
            # In a narrow window, names are wrapped first, but not into single letters.
            longest = max([len(cell) for cell in cells if isinstance(cell, str)], default=0)
            table.add_column(terminal(name), overflow="fold", min_width=min(longest, 20))
        for row in self.rows:
            table.add_row(*map(terminal, row))
        return table

    def markdown(self) -> str:
        """Return a section in Markdown."""
        header, *rows = ([markdown(cell) for cell in row] for row in (self.headings, *self.rows))
        table = "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
        return f"## {markdown(self.title)}\n\n{table}\n\n" + "".join(f"{markdown(note)}\n\n" for note in self.notes)

    def latex(self) -> str:
        """Return a tabular in LaTeX with the rules of booktabs, units in its head, and the best values in bold."""
        sides = ["l" if any(isinstance(cell, str) for cell in column) else "r" for column in self._by_column()]
        body = zip(*(self._latex_column(i) for i in range(len(self.columns))))
        head, *rows = (" & ".join(line) + r" \\" for line in body)
        notes = "".join(f"% {latex(note)}\n" for note in (self.title, *self.notes))
        lines = [f"\\begin{{tabular}}{{{''.join(sides)}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
        return notes + "\n".join(lines) + "\n\\end{tabular}\n"

    def _by_column(self) -> list[list[Cell]]:
        return [[row[i] for row in self.cells] for i in range(len(self.columns))]

    def _latex_column(self, i: int) -> list[str]:
        """Return the heading and the cells of a column in LaTeX."""
        column, cells = self.columns[i], self._by_column()[i]
        best = _best(column, cells)
        lines = [latex(column.heading)]
        for cell in cells:
            text = latex(column.text(cell)).replace(" +- ", r" $\pm$ ")
            lines.append(f"\\textbf{{{text}}}" if best and column.text(cell).split(" +- ")[0] == best else text)
        return lines

    def csv(self) -> str:
        """Return comma-separated values: numbers with all their digits and units in the headings.

        A spread has two columns, mean and deviation, and an interval low and high. What is not known is empty.
        """
        out = io.StringIO()
        columns = [part for i, cells in enumerate(self._by_column()) for part in _plain(self.columns[i], cells)]
        csv.writer(out, lineterminator="\n").writerows(zip(*columns))
        return out.getvalue()


def _best(column: Column, cells: Sequence[Cell]) -> str | None:
    """Return the highest value of a column as it is printed; None if none is to be bold, or all are the same."""
    values = [cell.mean if isinstance(cell, Spread) else cell for cell in cells]
    numbers = [value for value in values if isinstance(value, (int, float))]
    if not column.best or len(set(map(column.text, numbers))) < 2:
        return None
    return column.text(max(numbers))


def _plain(column: Column, cells: Sequence[Cell]) -> list[list[str]]:
    """Return the columns of a CSV file that a column has, each with its heading."""
    parts: tuple[str, ...] = ("",)
    for kind, names in ((Spread, ("mean", "deviation")), (Interval, ("low", "high"))):
        if any(isinstance(cell, kind) for cell in cells):
            parts = names
    unit = [f"({column.unit})"] if column.unit else []
    return [
        [csv_cell(" ".join([column.name, *[part] * bool(part), *unit])), *(_number(cell, part) for cell in cells)]
        for part in parts
    ]


def _number(cell: Cell, part: str) -> str:
    """Return a cell of a CSV file; ``repr`` of a float has all its digits."""
    value = getattr(cell, part) if part and isinstance(cell, (Spread, Interval)) else cell
    if value is None:
        return ""
    return repr(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else csv_cell(value)
