"""Write the points of an E57 file to standard output: a script that :mod:`.e57` runs as a process of its own.

    python -P e57_decoder.py FILE PIECE < SCANS

SCANS is JSON: for each scan its index, its number of points, and for each field the name and the NumPy type of its
buffer. The output has, for each scan and each piece of points, the values of one field after the other.

The library is written in C++ and reads whatever a file says, which may end the process that decodes. This script
imports nothing of this package, so that it starts quickly.
"""

import json
import os
import resource
import sys
from contextlib import suppress
from typing import Any, BinaryIO

# Memory that this process may take, in bytes.
_MEMORY = 4 << 30


def decode(path: str, piece: int, scans: list[Any], output: BinaryIO) -> None:
    """Decode the points of scans and write them.

    Args:
        piece: points to decode at a time. scans: for each its index, number of points, and (name, type) of each field.
    """
    import numpy as np
    from pye57 import libe57

    image = libe57.ImageFile(os.fsencode(path), "r")
    scan_nodes = image.root()["data3D"]
    for index, count, fields in scans:
        # The library has no reader for a scan without points.
        if not count:
            continue
        buffers, arrays = libe57.VectorSourceDestBuffer(), []
        size = min(piece, count)
        for name, kind in fields:
            arrays.append(np.empty(size, kind))
            # The last two arguments: convert numbers to the buffer's type, and scale them.
            buffers.append(libe57.SourceDestBuffer(image, name, arrays[-1], size, True, True))
        reader = scan_nodes[index]["points"].reader(buffers)
        for first in range(0, count, piece):
            wanted = min(piece, count - first)
            if (found := reader.read()) != wanted:
                sys.exit(f"scan {index} has {first + found:,} points, fewer than it claims")
            for array in arrays:
                output.write(array[:wanted].data)
        reader.close()
    output.flush()


if __name__ == "__main__":
    # macOS refuses this limit, and so does Linux if a lower one holds already.
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # The library prints messages to standard output, which has the points.
    points = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        decode(sys.argv[1], int(sys.argv[2]), json.load(sys.stdin), points)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
