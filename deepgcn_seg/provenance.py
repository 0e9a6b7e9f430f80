"""Where a result came from: commit, versions, command, hardware."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .version import __version__


def provenance(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a run directory keeps to be repeated: ``run.json``."""
    hardware = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "processes": processes,
    }
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return {"command": command(), "git": git_state(), "versions": versions(), "hardware": hardware}


def command() -> str:
    """The command line, as it can be pasted."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def git_state() -> dict[str, Any] | None:
    """Commit of the code and whether it was changed since; None outside a checkout."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of what computed a result."""
    return {
        "deepgcn_seg": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
