"""Shell completion of ``deepgcn-seg``: Hydra's, with the name of a command before its settings.

Hydra completes the settings of a program with one config. Its shell functions call the program with ``-sc query=SHELL``
at each Tab, with the line so far in the variable COMP_LINE. Here the line's second word names the command whose config
is meant, and is taken out of the line that Hydra reads. Nothing else of a command is imported, because PyTorch would
take seconds at each Tab.
"""

import os
import sys
import warnings
from collections.abc import Collection, Sequence

from .hydra_main import hydra_main
from .settings_folder import settings_folder


def complete(commands: Collection[str], arguments: Sequence[str]) -> None:
    """Do what ``-sc`` asks for: ``install=SHELL``, ``uninstall=SHELL``, or ``query=SHELL`` for the words that fit.

    Args:
        commands: the commands of ``deepgcn-seg``. arguments: its arguments, of which a command is ignored: one
            installation serves all commands.
    """
    # A warning would be printed into the line that is typed.
    warnings.simplefilter("ignore")
    command, asked = "train", [argument for argument in arguments if argument not in commands]
    if any(argument.startswith("query=") for argument in asked):
        line = os.environ.get("COMP_LINE") or "deepgcn-seg "
        program, command, settings = [*line.split(maxsplit=2), "", ""][:3]
        if not settings and not (command and line.endswith(" ")):
            print("\n".join(name for name in commands if name.startswith(command)))
            return
        os.environ["COMP_LINE"] = f"{program} {settings}"
    if not (settings_folder() / f"{command}.yaml").is_file():
        # A command without settings, whose arguments are files: the shell completes these.
        return
    sys.argv = ["deepgcn-seg", *asked]
    hydra_main(print, settings_folder(), command)
