"""Read raw rooms into a room store: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.prepare import prepare

if __name__ == "__main__":
    command(prepare, Path(__file__).parent.parent / "conf", "prepare")
