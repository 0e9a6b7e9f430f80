"""Processes that end with their parent."""

import os
import signal
import time
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread


def end_with_parent() -> None:
    """End this worker process as soon as its parent is gone, even if that was killed.

    Serves as the ``initializer`` of a process pool, whose workers would otherwise wait for work for ever.
    """
    parent = parent_process()
    if parent is not None:
        Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def stop_with_parent() -> None:
    """Ask this process to stop, as SIGTERM does, as soon as its parent is gone, even if that was killed."""
    Thread(target=_wait_and_stop, args=(os.getppid(),), daemon=True).start()


def _wait_and_stop(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_and_end(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
