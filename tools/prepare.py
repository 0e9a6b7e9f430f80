"""Read raw rooms into a room store: see --help."""

if __name__ == "__main__":
    # Imported here alone: each process that this one starts runs the rest of the file again.
    from pathlib import Path

    from deepgcn_seg.commands.command_line.main import command
    from deepgcn_seg.commands.prepare import prepare

    command(prepare, Path(__file__).parent.parent / "conf", "prepare")
