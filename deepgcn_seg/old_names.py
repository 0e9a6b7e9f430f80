"""Settings that had another name before: run directories and checkpoints of that time still have it."""

from collections.abc import Mapping
from typing import Any

# The present name of each setting, by its old one.
RENAMED = {"model.checkpoint": "model.recompute", "protocol.groups": "protocol.features"}


def renamed(settings: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Return settings under their present names.

    Args:
        settings: by their dotted keys. inside: the group that they are of, if the keys are without it: ``model``.
    """
    before = f"{inside}." if inside else ""
    return {RENAMED.get(before + key, before + key).removeprefix(before): value for key, value in settings.items()}
