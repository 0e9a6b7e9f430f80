"""Scripts in processes of their own, forked from one that has imported the package: importing PyTorch takes seconds."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path

import pytest


class Forked:
    """``python script arguments``, with what it prints kept: as much of ``subprocess.Popen`` as tests need.

    It ends without what the interpreter does at exit.
    """

    def __init__(self, command, cwd, environment):
        self._command = command
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self._process = _server().Process(
            target=_run, args=(self._command, str(cwd), [str(path) for path in self._printed], dict(environment))
        )
        self._process.start()

    def wait(self, timeout=None):
        """Its exit status, negative the signal that killed it.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._command, timeout)
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def completed(self, timeout=None):
        """What ``subprocess.run`` returns; killed if it takes longer."""
        try:
            status = self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.join()
            raise
        return subprocess.CompletedProcess(self._command, status, *(path.read_text() for path in self._printed))


@lru_cache(maxsize=1)
def _server():
    """The process is forked before it runs anything, so that no thread exists in it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    # It finds no module but by its environment, and does without those it does not find.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    return context


def _run(command, cwd, printed, environment):
    for stream, path in zip((1, 2), printed):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    sys.path[:0] = [str(Path(command[0]).parent), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    runpy.run_path(command[0], run_name="__main__")
