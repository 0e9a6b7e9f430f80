"""Label a scan: see --help."""

if __name__ == "__main__":
    # Imported here alone: each process that this one starts runs the rest of the file again.
    from pathlib import Path

    from deepgcn_seg.commands.command_line.main import command
    from deepgcn_seg.commands.predict import predict

    command(predict, Path(__file__).parent.parent / "conf", "predict")
