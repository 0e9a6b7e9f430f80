"""The lines of ``measure=gpu``, printed and written to a file one by one, whichever process adds them."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json


class Lines:
    """The lines of a measurement.

    Args:
        path: the JSON file that they are written to. head: the first line. facts: what else the file says.

    Attributes:
        part: the part of the measurement that lines are of from now on.
    """

    def __init__(self, path: Path, head: str, facts: dict[str, Any]):
        self._path = path
        self._started = time.time()
        self.part = ""
        write_json(path, {"measured": head, **facts, "lines": [], "failed": {}})
        print(head, flush=True)

    def add(self, what: str, value: float | str, unit: str = "", note: str = "") -> None:
        """Add a line: what was measured, its value with its unit, and what it is to be compared with."""
        self._add(self._read(), what, value, unit, note)

    def fail(self, error: BaseException, what: str = "") -> None:
        """Note that the present part, or a case of it, has failed."""
        said = str(error).strip().splitlines() or [""]
        # A compiler says where in the first line, and what in the last.
        reason = f"{what}{type(error).__name__}: {' ... '.join(dict.fromkeys((said[0], said[-1])))}"
        content = self._read()
        content["failed"].setdefault(self.part, reason)
        self._add(content, "FAILED", reason)
        if not isinstance(error, UserError):
            traceback.print_exception(error)

    @contextmanager
    def case(self, what: str) -> Iterator[None]:
        """Go on after the context if something fails in it, as memory that does not suffice; the part has failed."""
        try:
            yield
        except Exception as error:
            self.fail(error, f"{what}: ")

    @property
    def failed(self) -> list[str]:
        """The parts that have failed."""
        return list(self._read()["failed"])

    def _read(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        return content

    def _add(self, content: dict[str, Any], what: str, value: float | str, unit: str = "", note: str = "") -> None:
        """Write the content of the file with a further line, and print the line."""
        at = round(time.time() - self._started, 1)
        content["lines"].append(
            {"part": self.part, "what": what, "value": value, "unit": unit, "note": note, "at_seconds": at}
        )
        write_json(self._path, content)
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{at:6.1f} s  {self.part:8}  {what:58}  {shown:>10} {unit:4}  {note}".rstrip(), flush=True)
