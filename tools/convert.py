"""Convert an official checkpoint into one of ours: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.convert import convert

if __name__ == "__main__":
    command(convert, Path(__file__).parent.parent / "conf", "convert")
