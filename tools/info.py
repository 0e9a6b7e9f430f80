"""Print what a checkpoint is, as its card says it: see --help."""

if __name__ == "__main__":
    # Imported here alone: each process that this one starts runs the rest of the file again.
    import sys

    from deepgcn_seg.commands.info import info

    sys.exit(info("python tools/info.py", sys.argv[1:]))
