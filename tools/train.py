"""Train a model and score it on the held-out area: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.train import train

if __name__ == "__main__":
    command(train, Path(__file__).parent.parent / "conf", "train")
