"""The commands of an installed package: ``deepgcn-seg train ...``, or ``python -m deepgcn_seg train ...``.

They are those of ``tools/`` in a checkout, with the settings that come with the package.
"""

import importlib
import sys

from deepgcn_seg.version import __version__

# Command -> what it does, as the list of commands shows it. Each is a function of its name, in a module of its name.
COMMANDS = {
    "train": "train a network and score it on the held-out area",
    "evaluate": "score a trained network",
    "predict": "label scans",
    "prepare": "make a room store of S3DIS, ScanNet or labelled scans",
    "report": "tables and figures of many runs",
    "info": "show what a checkpoint is: classes, data, training, scores, limits",
    "convert": "convert a checkpoint of the official PyTorch code",
    "export": "write a trained network as ONNX",
    "benchmark": "measure time and memory beside the official formulation",
}


def main() -> None:
    """Run the command that the first argument names, or list the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("Usage: deepgcn-seg COMMAND [KEY=VALUE ...]\n")
        print("\n".join(f"  {command:<10} {what}" for command, what in COMMANDS.items()))
        print("\ndeepgcn-seg COMMAND --help lists the settings of a command; --config-dir=DIR adds your own groups.")
        return
    if name == "--version":
        print(__version__)
        return
    if set(sys.argv[1:]) & {"-sc", "--shell-completion"}:
        from deepgcn_seg.commands.command_line.completion import complete

        complete(COMMANDS, sys.argv[1:])
        return
    if name not in COMMANDS:
        sys.exit(f"error: {name}: no such command; there are {', '.join(COMMANDS)}")
    # Imported when a command is run: PyTorch takes seconds.
    task = getattr(importlib.import_module(f"deepgcn_seg.commands.{name}"), name)
    # What the command sees is its own name, as if it were a script.
    sys.argv[:2] = [f"deepgcn-seg {name}"]
    if name == "info":
        # It takes files, not settings.
        sys.exit(task(sys.argv[0], sys.argv[1:]))
    from deepgcn_seg.commands.command_line.main import command
    from deepgcn_seg.commands.command_line.settings_folder import settings_folder

    command(task, settings_folder(), name, ["-m", "deepgcn_seg", name])


if __name__ == "__main__":
    main()
