"""``tools/info.py``: what a checkpoint is, as its card says it."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown

from ..errors import UserError
from ..evaluation.model_card import card_text
from ..model.checkpoint import find_checkpoint, read_checkpoint
from .command_line.output import output_may_go_unread

USAGE = """Usage: {program} FILE [FILE ...]

Print the card of each checkpoint: classes, data, training, scores, limits. FILE is a checkpoint or a run directory."""


def info(program: str, arguments: Sequence[str]) -> int:
    """Print the card of each checkpoint, and return the exit status.

    Args:
        program: the command's name in the help. arguments: paths, also as ``checkpoint=FILE``.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE.format(program=program))
        return 0 if arguments else 2
    with output_may_go_unread():
        return max(map(_print_card, arguments))


def _print_card(argument: str) -> int:
    """Print the card of a checkpoint, or why it cannot be read, and return the exit status."""
    try:
        path = find_checkpoint(argument.removeprefix("checkpoint="))
        text = card_text(read_checkpoint(path), path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # For people as a page; for other programs as the Markdown that it is.
    Console().print(Markdown(text)) if sys.stdout.isatty() else print(text)
    return 0
