"""A compiled parser of text rows ``x y z r g b``, ten times as fast as ``numpy.loadtxt``."""

import numpy as np

from ..kernel_cache import kernel

# A number of up to 15 digits is an integer divided by a power of ten. Both are exact in float64, so that their quotient
# is the nearest float64.
_DIGITS = 15
_POWERS = 10.0 ** np.arange(_DIGITS + 1)


@kernel()
def parse_rows(text: np.ndarray, powers: np.ndarray, rows: np.ndarray, odd: np.ndarray) -> tuple[int, int]:
    """Parse rows of three finite numbers and three in 0..255, separated by spaces or tabs.

    Args:
        text: (bytes,) uint8. powers: powers of ten.
        rows: (lines, 6) float64, filled with one row for each line that is not blank.
        odd: (lines, 4) int64, filled with the lines that are not such a row: row, first byte, end, line number.

    Returns:
        The number of rows and the number of odd lines.
    """
    size, position, row, count, line = text.size, 0, 0, 0, 0
    while position < size:
        start, column, good, line = position, 0, True, line + 1
        while position < size and text[position] != 10:
            byte = text[position]
            if byte == 32 or byte == 9 or (byte == 13 and (position + 1 == size or text[position + 1] == 10)):
                position += 1
                continue
            negative = byte == 45
            if negative or byte == 43:
                position += 1
            mantissa, digits, decimals, point = np.int64(0), 0, 0, False
            while position < size:
                byte = text[position]
                if 48 <= byte <= 57 and digits < _DIGITS:
                    mantissa = mantissa * 10 + (np.int64(byte) - 48)
                    digits += 1
                    decimals += point
                elif byte == 46 and not point:
                    point = True
                else:
                    break
                position += 1
            ended = position == size or byte == 32 or byte == 9 or byte == 10 or byte == 13
            value = mantissa / powers[decimals]
            if negative:
                value = -value
            if digits == 0 or not ended or column > 5 or (column > 2 and not 0 <= value <= 255):
                good = False
                break
            rows[row, column] = value
            column += 1
        while position < size and text[position] != 10:
            position += 1
        if not good or 0 < column < 6:
            odd[count] = row, start, position, line
            count += 1
            row += 1
        elif column == 6:
            row += 1
        position += 1
    return row, count


def parse_text(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (N, 6) float64, and other lines (K, 4): the row to fill, first byte, end, line number."""
    lines = content.count(b"\n") + 1
    rows, odd = np.empty((lines, 6)), np.empty((lines, 4), np.int64)
    found, count = parse_rows(np.frombuffer(content, np.uint8), _POWERS, rows, odd)
    # Rows were also allocated for blank lines. If these are many, a copy frees their memory.
    return (rows[:found] if 2 * found > lines else rows[:found].copy()), odd[:count].copy()
