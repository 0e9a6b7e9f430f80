"""Write the decoded points of a LAZ file to standard output: a script that :mod:`.las` runs as a process of its own.

    python -P laz_decoder.py FILE START WIDTH COUNT PIECE DESCRIPTION

The decoder believes the sizes in a file, and a wrong one ends the process that decodes. This script imports nothing of
this package, so that it starts quickly.
"""

import os
import resource
import sys
from contextlib import suppress
from typing import BinaryIO

# Memory that this process may take, in bytes, and the most threads.
_MEMORY, _THREADS = 4 << 30, 16


def decode(path: str, start: int, width: int, count: int, piece: int, description: bytes, output: BinaryIO) -> None:
    """Decode ``count`` points of ``width`` bytes from byte ``start`` of a file, and write them.

    Args:
        piece: bytes to decode at a time. description: the record of the header that says how points are compressed.
    """
    # Rayon, the decoder's thread pool, reads its setting when the module is loaded.
    os.environ["RAYON_NUM_THREADS"] = str(min(os.cpu_count() or 1, _THREADS))
    import lazrs

    settings = lazrs.LazVlr(description)
    if settings.item_size() != width:
        sys.exit(f"its points have {width} bytes in one place, {settings.item_size()} in another")
    # Small chunks of points are decoded in parallel. Larger ones are decoded one point after the other, which takes
    # little memory whatever their size.
    small = settings.chunk_size() * width <= 4 * piece
    decompressor = lazrs.ParLasZipDecompressor if small else lazrs.LasZipDecompressor
    with open(path, "rb") as file:
        file.seek(start)
        decoder = decompressor(file, description)
        for first in range(0, count, max(piece // width, 1)):
            points = bytearray(min(max(piece // width, 1), count - first) * width)
            decoder.decompress_many(points)
            output.write(points)


if __name__ == "__main__":
    # macOS refuses this limit, and so does Linux if a lower one holds already.
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    first_byte, point_bytes, points_in_file, piece_bytes = map(int, sys.argv[2:6])
    record = bytes.fromhex(sys.argv[6])
    decode(sys.argv[1], first_byte, point_bytes, points_in_file, piece_bytes, record, sys.stdout.buffer)
