"""Time and memory beside the official formulation: see --help."""

from pathlib import Path

from deepgcn_seg.commands.benchmark import benchmark
from deepgcn_seg.commands.command_line.main import command

if __name__ == "__main__":
    command(benchmark, Path(__file__).parent.parent / "conf", "benchmark")
