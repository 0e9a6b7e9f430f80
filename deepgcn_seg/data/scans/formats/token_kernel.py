"""Lines of text into words, compiled: what :mod:`.text` turns into numbers."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _begins_comment(text: np.ndarray, position: int) -> bool:
    return text[position] == 35 or (text[position] == 47 and position + 1 < text.size and text[position + 1] == 47)


@njit(cache=True, nogil=True)
def split_lines(
    text: np.ndarray, delimiter: int, columns: int, words: np.ndarray, ends: np.ndarray, digits: np.ndarray
) -> tuple[int, int, int]:
    """Copy the words of lines one after the other; blank lines and comments (``#``, ``//``) are left out.

    Args:
        text: (bytes,) uint8. delimiter: a space stands for any number of spaces and tabs; around another
            character these are left out, and any number of it may stand at the end of a line.
        columns: words of each line.
        words: (bytes,) uint8 to fill. ends: (words + 1,) int32 to fill, where each word ends, after a first 0.
        digits: (columns,) int64 to change: most digits of a word in the column, or -1 after a word that is no integer.

    Returns:
        How many lines; the number of the first line, from 1, that has another number of words, or 0; and its words.
    """
    size, position, copied, count, lines, number = text.size, 0, 0, 0, 0, 0
    blanks = delimiter == 32
    ends[0] = 0
    while position < size:
        number += 1
        column, after_delimiter = 0, False
        while True:
            while position < size and (text[position] == 32 or text[position] == 9 or text[position] == 13):
                position += 1
            ended = position == size or text[position] == 10
            if ended and (not after_delimiter or column == columns):
                break
            if column == 0 and not after_delimiter and _begins_comment(text, position):
                while position < size and text[position] != 10:
                    position += 1
                break
            if column == columns:
                if not blanks and text[position] == delimiter:
                    position += 1
                    continue
                return lines, number, column + 1
            # Arrow's conversion knows no plus sign.
            if position + 1 < size and text[position] == 43 and text[position + 1] != 45:
                position += 1
            start, most, whole = copied, 0, True
            while position < size:
                byte = text[position]
                if byte == 10 or byte == delimiter or (blanks and (byte == 9 or byte == 13)):
                    break
                words[copied] = byte
                copied += 1
                position += 1
                if 48 <= byte <= 57:
                    most += 1
                elif not (byte == 45 and copied == start + 1) and byte != 32 and byte != 9 and byte != 13:
                    whole = False
            while copied > start and (words[copied - 1] == 32 or words[copied - 1] == 9 or words[copied - 1] == 13):
                copied -= 1
            if not whole or most == 0 or most + (words[start] == 45) != copied - start:
                digits[column] = -1
            elif digits[column] >= 0:
                digits[column] = max(digits[column], most)
            count += 1
            ends[count] = copied
            column += 1
            after_delimiter = False
            if not blanks and position < size and text[position] == delimiter:
                position += 1
                after_delimiter = True
        position += 1
        if column == columns:
            lines += 1
        elif column:
            return lines, number, column
    return lines, 0, 0
