"""Time and memory beside the official formulation: see --help."""

from pathlib import Path

from deepgcn_seg.benchmark.run import benchmark
from deepgcn_seg.cli import command

if __name__ == "__main__":
    command(benchmark, Path(__file__).parent.parent / "conf", "benchmark")
