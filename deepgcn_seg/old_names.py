"""Settings that had another name before: run directories and checkpoints of that time still have it."""

from collections.abc import Mapping
from typing import Any

# The present name of each setting, by its old one.
RENAMED = {"model.checkpoint": "model.recompute", "protocol.groups": "protocol.features"}


def renamed(settings: Mapping[Any, Any], inside: str = "") -> dict[Any, Any]:
    """Return settings under their present names. An old name stays if the present one is there too.

    Args:
        settings: by their dotted keys; a file from elsewhere may have keys that are no text, which stay.
        inside: the group that they are of, if the keys are without it: ``model``.
    """
    before = f"{inside}." if inside else ""
    present = {key: RENAMED.get(f"{before}{key}", "").removeprefix(before) or key for key in settings}
    return {key if present[key] in settings else present[key]: value for key, value in settings.items()}


# Settings that runs had not from the beginning, with the values of runs before.
ADDED: dict[str, Any] = {
    "recipe.loss": "cross_entropy",
    "recipe.focal_gamma": 2.0,
    "recipe.class_weights": "none",
    "recipe.effective_beta": None,
    "weights": None,
    "freeze": [],
}
