"""Tables and a figure of the runs below a folder: see --help."""

from pathlib import Path

from deepgcn_seg.cli import command
from deepgcn_seg.evaluation.reporting import report

if __name__ == "__main__":
    command(report, Path(__file__).parent.parent / "conf", "report")
