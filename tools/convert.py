"""Convert an official checkpoint into one of ours: see --help."""

if __name__ == "__main__":
    # Imported here alone: each process that this one starts runs the rest of the file again.
    from pathlib import Path

    from deepgcn_seg.commands.command_line.main import command
    from deepgcn_seg.commands.convert import convert

    command(convert, Path(__file__).parent.parent / "conf", "convert")
