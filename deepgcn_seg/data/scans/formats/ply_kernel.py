"""A compiled loop that finds where the rows of an element of a binary PLY file end, which may have lists."""

import numpy as np

from ....kernel_cache import kernel


@kernel()
def end_of_rows(
    content: np.ndarray, position: int, count: int, sizes: np.ndarray, items: np.ndarray, big_endian: bool
) -> int:
    """Return the position behind ``count`` rows that begin at ``position``, or -1 if they do not end in the file.

    Args:
        content: the bytes of the file (B,) uint8. sizes: bytes of each property (P,) int64; of a list, of its length.
        items: bytes of an item of each list (P,) int64, and 0 for other properties. big_endian: order of the bytes.
    """
    for _ in range(count):
        for number in range(sizes.size):
            start = position
            position += sizes[number]
            if position > content.size:
                return -1
            if items[number] > 0:
                length = 0
                for place in range(sizes[number]):
                    byte = content[start + place] if big_endian else content[position - 1 - place]
                    length = length * 256 + byte
                # Eight bytes may be a negative number, or one whose product is.
                if length < 0 or length > content.size:
                    return -1
                position += length * items[number]
                if position > content.size:
                    return -1
    return position
