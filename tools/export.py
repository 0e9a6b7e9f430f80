"""Write a trained network as ONNX or as a PyTorch program: see --help."""

from pathlib import Path

from deepgcn_seg.commands.command_line.main import command
from deepgcn_seg.commands.export import export

if __name__ == "__main__":
    command(export, Path(__file__).parent.parent / "conf", "export")
