"""Time and memory beside the official formulation: see --help."""

if __name__ == "__main__":
    # Imported here alone: each process that this one starts runs the rest of the file again.
    from pathlib import Path

    from deepgcn_seg.commands.benchmark import benchmark
    from deepgcn_seg.commands.command_line.main import command

    command(benchmark, Path(__file__).parent.parent / "conf", "benchmark")
