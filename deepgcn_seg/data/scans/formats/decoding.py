"""Run a decoder of this folder in a process of its own, whose memory is limited and whose end does no harm."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ....errors import UserError
from ....escaping import one_line


@contextmanager
def decoding(path: Path, script: str, arguments: Sequence[str], given: bytes = b"") -> Iterator[BufferedReader]:
    """Start a script that decodes a file, and yield its standard output.

    Args:
        path: the file, for messages. script: path of the script. arguments: for the script. given: its standard input,
            for what is longer than arguments may be.

    Raises:
        UserError: the script failed, with the last line of what it said.
    """
    with tempfile.TemporaryFile() as messages, tempfile.TemporaryFile() as content:
        content.write(given)
        content.seek(0)
        # With -P, Python finds no modules in the current folder or beside the script.
        command = [sys.executable, "-P", script, *arguments]
        with subprocess.Popen(command, stdin=content, stdout=subprocess.PIPE, stderr=messages) as process:
            assert isinstance(process.stdout, BufferedReader)
            yield process.stdout
        messages.seek(0)
        lines = messages.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
    if process.returncode:
        last = one_line(lines[-1] if lines else "the decoder ended without a reason", 150)
        raise UserError(f"{path}: not a readable {path.suffix[1:].upper()} file ({last})")
