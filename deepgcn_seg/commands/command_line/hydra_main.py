"""Hydra's entry point, on every version of Python."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig


def hydra_main(task: Callable[[DictConfig], Any], conf: Path, config_name: str) -> None:
    """Run a task as ``hydra.main`` does, with the config that the command line asks for.

    Args:
        conf: the folder of the settings. config_name: the file in it, without its ending.
    """
    with _lazy_help_allowed():
        hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name=config_name)(task)()


@contextmanager
def _lazy_help_allowed() -> Iterator[None]:
    """Let an argument's help be no string, as one is in Hydra 1.3. Since Python 3.14, argparse refuses that."""
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None:
        yield
        return

    def check_strings(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    setattr(argparse.ArgumentParser, "_check_help", check_strings)  # noqa: B010 - mypy knows no such method
    try:
        yield
    finally:
        delattr(argparse.ArgumentParser, "_check_help")
