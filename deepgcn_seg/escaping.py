"""Text from elsewhere in what we write: names and settings are shown as they are, and never read as instructions.

One function for each form of output; HTML's text escapes itself (jinja2's ``autoescape``).
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
    # A row that begins with one of these would give it to the \\ before.
    | {"[": "{[}", "*": "{*}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
)
_NUMBER = re.compile(r"-?[\d,.]+(e[+-]?\d+)?")


def one_line(value: object, most: int | None = None) -> str:
    """Return a value as printable text of one line: no control characters, cut after ``most``."""
    try:
        text = str(value)
    # Whole numbers of thousands of digits, which Python does not write.
    except ValueError:
        text = "?"
    text = f"{text[:most]}..." if most and len(text) > most else text
    return "".join(" " if c.isspace() else c if c.isprintable() else "?" for c in text)


def terminal(value: object, style: str = "") -> Text:
    """For rich: brackets are not markup."""
    return Text(one_line(value), style)


def markdown(value: object) -> str:
    """For Markdown, table cells included."""
    return one_line(value).translate(_MARKDOWN)


def latex(value: object) -> str:
    """For LaTeX's text, table cells included."""
    return one_line(value).translate(_LATEX)


def csv_cell(value: object) -> str:
    """For a cell of a CSV file: a spreadsheet must not take text for a formula."""
    text = one_line(value)
    # Full-width signs begin formulas too.
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
    """For matplotlib: dollars are not formulas, and a legend's label does not begin with an underscore."""
    text = one_line(value, most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
