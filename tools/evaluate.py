"""Score a checkpoint on rooms: see --help."""

from pathlib import Path

from deepgcn_seg.cli import command
from deepgcn_seg.evaluation.run import evaluate

if __name__ == "__main__":
    command(evaluate, Path(__file__).parent.parent / "conf", "evaluate")
