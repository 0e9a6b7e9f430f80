"""A compiled loop that splits lines of text into words, which :mod:`.text` converts to numbers."""

import numpy as np

from ....kernel_cache import kernel


@kernel()
def _begins_comment(text: np.ndarray, position: int) -> bool:
    return text[position] == 35 or (text[position] == 47 and position + 1 < text.size and text[position + 1] == 47)


@kernel()
def _is_blank(byte: int) -> bool:
    return byte == 32 or byte == 9 or byte == 13


@kernel()
def _after_blanks(text: np.ndarray, position: int) -> int:
    while position < text.size and _is_blank(text[position]):
        position += 1
    return position


@kernel()
def _end_of_line(text: np.ndarray, position: int) -> int:
    while position < text.size and text[position] != 10:
        position += 1
    return position


@kernel()
def _closing_quote(text: np.ndarray, position: int, delimiter: int) -> int:
    """Return where the quote at ``position`` is closed if the word ends there, else -1."""
    end = position + 1
    while end < text.size and text[end] != 34 and text[end] != 10:
        end += 1
    if end == text.size or text[end] == 10:
        return -1
    after = _after_blanks(text, end + 1)
    ends = after == text.size or text[after] == 10 or text[after] == delimiter or (delimiter == 32 and after > end + 1)
    return end if ends else -1


@kernel()
def _copy_word(
    text: np.ndarray, position: int, delimiter: int, is_last: bool, words: np.ndarray, copied: int
) -> tuple[int, int, int]:
    """Copy the word at ``position``, without quotes around it and blanks at its end.

    Args:
        is_last: whether it is in the last column, behind which a comment may follow. words, copied: the bytes of the
            words before it, to which it is added, and their number.

    Returns:
        The position behind the word; the number of copied bytes; and the number of digits, or -1 if it is no integer.
    """
    quote = _closing_quote(text, position, delimiter) if position < text.size and text[position] == 34 else -1
    if quote >= 0:
        position = _after_blanks(text, position + 1)
    # Arrow refuses a plus sign in front of a number.
    if position + 1 < text.size and text[position] == 43 and text[position + 1] != 45:
        position += 1
    start, digits, whole = copied, 0, True
    while position < text.size and position != quote:
        byte = text[position]
        if quote < 0:
            if byte == 10 or byte == delimiter or (delimiter == 32 and (byte == 9 or byte == 13)):
                break
            if is_last and copied > start and _is_blank(words[copied - 1]) and _begins_comment(text, position):
                break
        words[copied] = byte
        copied += 1
        position += 1
        if 48 <= byte <= 57:
            digits += 1
        elif not (byte == 45 and copied == start + 1) and not _is_blank(byte):
            whole = False
    if quote >= 0:
        position = _after_blanks(text, position + 1)
    while copied > start and _is_blank(words[copied - 1]):
        copied -= 1
    if not whole or digits == 0 or digits + (words[start] == 45) != copied - start:
        digits = -1
    return position, copied, digits


@kernel()
def split_lines(
    text: np.ndarray,
    delimiter: int,
    columns: int,
    words: np.ndarray,
    ends: np.ndarray,
    digits: np.ndarray,
    more: bool = False,
) -> tuple[int, int, int]:
    """Copy the words of all lines one after the other, without blank lines, comments (``#``, ``//``) and quotes.

    A comment is a line of its own or follows the last word of a line after a blank.

    Args:
        text: (bytes,) uint8. delimiter: the character between words. A space stands for any number of spaces and tabs.
            Around another character, spaces and tabs are skipped, and it may be repeated at the end of a line.
        columns: number of words to copy from each line.
        words: (bytes,) uint8, filled with the words. ends: (words + 1,) int32, filled with 0 and where each word ends.
        digits: (columns,) int64, updated with the most digits of a word in the column, or -1 if one is no integer.
        more: whether lines may have further words, which are skipped.

    Returns:
        The number of lines; the number, from 1, of the first line with another number of words, or 0; and the number
        of its words.
    """
    size, position, copied, count, lines, number = text.size, 0, 0, 0, 0, 0
    ends[0] = 0
    while position < size:
        number += 1
        column, after_delimiter = 0, False
        while True:
            position = _after_blanks(text, position)
            ended = position == size or text[position] == 10
            if ended and (not after_delimiter or column == columns):
                break
            outside = column == columns or (column == 0 and not after_delimiter)
            if (outside and not ended and _begins_comment(text, position)) or (more and column == columns):
                position = _end_of_line(text, position)
                break
            if column == columns:
                if delimiter != 32 and text[position] == delimiter:
                    position += 1
                    continue
                return lines, number, column + 1
            position, copied, found = _copy_word(text, position, delimiter, column == columns - 1, words, copied)
            digits[column] = -1 if found < 0 or digits[column] < 0 else max(digits[column], found)
            count += 1
            ends[count] = copied
            column += 1
            after_delimiter = delimiter != 32 and position < size and text[position] == delimiter
            if after_delimiter:
                position += 1
        position += 1
        if column == columns:
            lines += 1
        elif column:
            return lines, number, column
    return lines, 0, 0
