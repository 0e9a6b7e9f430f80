"""Tables and a figure of the runs below a folder: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.report import report

if __name__ == "__main__":
    command(report, Path(__file__).parent.parent / "conf", "report")
