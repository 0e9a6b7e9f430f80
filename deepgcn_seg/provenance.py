"""The origin of a result: commit, versions, command line and hardware."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .version import __version__


def provenance(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return what is needed to repeat a run, for its ``run.json``."""
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


# The call of Python code that runs a command at present.
_call: ContextVar[str | None] = ContextVar("call", default=None)


@contextmanager
def called_as(call: str) -> Iterator[None]:
    """Have :func:`command` return a call of Python code in the place of the process's command line."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def command() -> str:
    """Return the command line, quoted so that a shell takes it, or the call of Python code that does the work."""
    if (call := _call.get()) is not None:
        return call
    if _is_installed():
        return " ".join([sys.argv[0], shlex.join(sys.argv[1:])])
    return shlex.join([Path(sys.executable).name, *sys.argv])


def as_called(text: str) -> str:
    """Return a text with the scripts of ``tools/`` named as this process's commands are called.

    In an installed package, ``python tools/train.py`` is ``deepgcn-seg train``.
    """
    return re.sub(r"(?:python )?tools/(\w+)\.py", r"deepgcn-seg \1", text) if _is_installed() else text


def _is_installed() -> bool:
    """Return whether the command was started by its installed name instead of a script of a checkout."""
    return sys.argv[0].startswith("deepgcn-seg ")


def git_state() -> dict[str, Any] | None:
    """Return the commit of the code and whether files have changed since, or None outside a Git checkout."""
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
    """Return the versions of the software that computed a result."""
    return {
        "deepgcn_seg": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
