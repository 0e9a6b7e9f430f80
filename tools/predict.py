"""Label a scan: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.predict import predict

if __name__ == "__main__":
    command(predict, Path(__file__).parent.parent / "conf", "predict")
