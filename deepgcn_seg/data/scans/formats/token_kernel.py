"""A compiled loop that splits lines of text into words, which :mod:`.text` converts to numbers."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _begins_comment(text: np.ndarray, position: int) -> bool:
    return text[position] == 35 or (text[position] == 47 and position + 1 < text.size and text[position + 1] == 47)


@njit(cache=True, nogil=True)
def split_lines(
    text: np.ndarray, delimiter: int, columns: int, words: np.ndarray, ends: np.ndarray, digits: np.ndarray
) -> tuple[int, int, int]:
    """Copy the words of all lines one after the other, without blank lines and comments (``#``, ``//``).

    Args:
        text: (bytes,) uint8. delimiter: the character between words. A space stands for any number of spaces and tabs.
            Around another character, spaces and tabs are skipped, and it may be repeated at the end of a line.
        columns: number of words in each line.
        words: (bytes,) uint8, filled with the words. ends: (words + 1,) int32, filled with 0 and where each word ends.
        digits: (columns,) int64, updated with the most digits of a word in the column, or -1 if one is no integer.

    Returns:
        The number of lines; the number, from 1, of the first line with another number of words, or 0; and the number
        of its words.
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
            # Arrow refuses a plus sign in front of a number.
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
