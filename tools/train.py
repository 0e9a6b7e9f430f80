"""Train a model and score it on the held-out area: see --help."""

if __name__ == "__main__":
    # Imported here alone: each process that this one starts runs the rest of the file again.
    from pathlib import Path

    from deepgcn_seg.commands.command_line.main import command
    from deepgcn_seg.commands.train import train

    command(train, Path(__file__).parent.parent / "conf", "train")
