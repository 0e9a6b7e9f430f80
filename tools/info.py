"""Print what a checkpoint is, as its card says it: see --help."""

import sys

from deepgcn_seg.commands.info import info

if __name__ == "__main__":
    sys.exit(info("python tools/info.py", sys.argv[1:]))
