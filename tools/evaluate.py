"""Score a checkpoint on rooms: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.evaluate import evaluate

if __name__ == "__main__":
    command(evaluate, Path(__file__).parent.parent / "conf", "evaluate")
