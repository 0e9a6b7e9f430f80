"""Escaping of text from elsewhere, such as names from files, so that no output format takes it for markup or commands.

There is a function for each format. Text in HTML is escaped by jinja2 (``autoescape``).
"""

import json
import re
import unicodedata
from typing import Any

from rich.text import Text

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]#|~$!"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    # At the beginning of a row, LaTeX would take these for arguments of the \\ before.
    | {"[": "{[}", "*": "{*}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
)
_NUMBER = re.compile(r"-?[\d,.]+(e[+-]?\d+)?")


def one_line(value: object, most: int | None = None) -> str:
    """Return a value as printable text of one line: no control characters, cut after ``most``."""
    try:
        text = str(value)
    # Python refuses to write integers of more than some thousand digits.
    except ValueError:
        text = "?"
    text = f"{text[:most]}..." if most and len(text) > most else text
    return "".join(" " if c.isspace() else c if c.isprintable() else "?" for c in text)


def visible(text: str) -> str:
    """Return text of several lines in which control characters are written out, such as ``\\x1b``.

    A terminal would obey them. Marks of direction and other characters without a width are written out, too.
    """
    hidden = lambda c: c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")
    return "".join(ascii(c)[1:-1] if hidden(c) else c for c in text)


def ascii_escaped(text: str) -> str:
    """Return text for a header in ASCII: each other character is written as ``\\uXXXX``, or ``\\UXXXXXXXX`` beyond."""
    codes = ((character, ord(character)) for character in text)
    return "".join(c if n < 0x80 else f"\\u{n:04x}" if n <= 0xFFFF else f"\\U{n:08x}" for c, n in codes)


def terminal(value: object, style: str = "") -> Text:
    """Return text for rich, in which brackets are no markup."""
    return Text(one_line(value), style)


def markdown(value: object) -> str:
    """Return text for Markdown, table cells included."""
    return one_line(value).translate(_MARKDOWN)


def latex(value: object) -> str:
    """Return text for LaTeX, table cells included."""
    return one_line(value).translate(_LATEX)


def csv_cell(value: object) -> str:
    """Return text for a cell of a CSV file, which no spreadsheet takes for a formula."""
    text = one_line(value)
    # Full-width signs begin a formula too.
    first = unicodedata.normalize("NFKC", text[:1])
    formula = first in tuple("=+-@") and text != "-" and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def script_json(content: Any) -> str:
    """Return JSON that can stand in an HTML page's script element, whatever its strings hold.

    Every character that HTML or JavaScript could take for its own is written as ``\\uXXXX``: with no ``<`` no tag or
    comment begins or ends, and the result is ASCII. ``JSON.parse`` gives the same values.
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def figure(value: object, most: int = 100) -> str:
    """Return text for matplotlib: a dollar begins no formula, and an underscore does not hide a legend's label."""
    text = one_line(value, most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
