"""Text from elsewhere (names of classes and files) on its way into a page, a picture or a header."""

import json
from typing import Any

# Characters of a name that are shown; a longer one is cut.
_LONGEST = 120


def script_json(content: Any) -> str:
    """Return JSON that can stand in an HTML page's script element, whatever its strings hold.

    Every character that HTML or JavaScript could take for its own is written as ``\\uXXXX``: with no ``<`` no tag or
    comment begins or ends, and the result is ASCII. ``JSON.parse`` gives the same values.
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def one_line(text: str) -> str:
    """Return text without line ends, control characters and halves of characters, cut where it is long."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
