"""A process that reads files for the tests that damage them: with little memory, and started again when one ends it."""

import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limited_memory import limit_memory

from deepgcn_seg.errors import UserError

# Memory that reading may take beyond what the child has when it starts, and seconds for one file.
MOST_MEMORY, SECONDS = 2 << 30, 20


def _serve(connection: Any, readers: dict[str, Callable[[Path], Any]]) -> None:
    warnings.simplefilter("error")
    limit_memory(MOST_MEMORY)
    while True:
        kind, path = connection.recv()
        try:
            connection.send(("read", readers[kind](path)))
        except UserError as error:
            connection.send(("refused", str(error)))
        except BaseException as error:
            connection.send(("failed", repr(error)))


class Child:
    """Reads files with ``readers``, functions of a test module by name."""

    def __init__(self, readers: dict[str, Callable[[Path], Any]]):
        self._readers, self._process = readers, None

    def read(self, kind: str, path: Path) -> tuple[str, Any]:
        """What became of a file: ``read`` and what the reader returned, ``refused`` and the error, or ``failed``."""
        if self._process is None:
            self._connection, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(target=_serve, args=(theirs, self._readers), daemon=True)
            self._process.start()
            theirs.close()
            # Its start, with all imports, is not the file's time.
            self._connection.send((kind, path.parent / "absent" / "absent"))
            assert self._connection.recv()[0] == "refused"
        try:
            self._connection.send((kind, path))
            if self._connection.poll(SECONDS):
                return self._connection.recv()
            what = "hangs"
        except (EOFError, OSError):
            what = "crashed"
        self.end()
        return "failed", what

    def end(self) -> None:
        """Stop the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
