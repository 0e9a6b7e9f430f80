"""Settings that had another name before: run directories, checkpoints and command lines of that time still have it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def _name_of_graph(dynamic: Any) -> Any:
    """Return the name of the graph that ``dynamic`` stood for, as a value or as its text."""
    if not isinstance(dynamic, (bool, str)):
        return dynamic
    return {"true": "dynamic", "false": "fixed"}.get(str(dynamic).lower(), dynamic)


@dataclass(frozen=True)
class Present:
    """The present name of a setting, and the function that returns its present value for a value of before."""

    name: str
    value: Callable[[Any], Any] = lambda value: value


# What each setting is now, by its old name. One that refers to another stands before it: Hydra can remove it from a
# config only as long as that other is there.
RENAMED = {
    "model.checkpoint": Present("model.recompute"),
    "protocol.groups": Present("protocol.features"),
    "model.dynamic": Present("model.graph", _name_of_graph),
    "graph.dynamic": Present("graph.name", _name_of_graph),
}
# Settings that runs had not from the beginning, with the values of runs before.
ADDED: dict[str, Any] = {
    "recipe.loss": "cross_entropy",
    "recipe.focal_gamma": 2.0,
    "recipe.class_weights": "none",
    "recipe.effective_beta": None,
    "weights": None,
    "freeze": [],
    "pages": True,
}
# The same, of settings of a part that is chosen by its _target_. They are not added to an old run's config, because a
# class of a user's own need not take them.
ADDED_TO_PARTS = {"protocol.min_points": 100}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def present_value(old: str, value: Any) -> Any:
    """Return the value that a setting of an old name has under its present one.

    Args:
        old: a key of :data:`RENAMED`. value: its value; in the text of a config it may refer to another setting.
    """
    reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference and reference[1] in RENAMED:
        return f"${{{RENAMED[reference[1]].name}}}"
    return RENAMED[old].value(value)


def renamed(settings: Mapping[Any, Any], inside: str = "") -> dict[Any, Any]:
    """Return settings under their present names. An old name stays if the present one is there too.

    Args:
        settings: by their dotted keys; a file from elsewhere may have keys that are no text, which stay.
        inside: the group that they are of, if the keys are without it: ``model``.
    """
    before = f"{inside}." if inside else ""
    present = {}
    for key, value in settings.items():
        old = f"{before}{key}"
        name = RENAMED[old].name.removeprefix(before) if old in RENAMED else key
        if name == key or name in settings:
            present[key] = value
        else:
            present[name] = present_value(old, value)
    return present


def renamed_argument(argument: str) -> str:
    """Return an argument ``KEY=VALUE`` of a command line under its present name; ``VALUE`` may be several, for a sweep.

    An argument that adds a setting (``+KEY=VALUE``) stays as it is.
    """
    key, _, values = argument.partition("=")
    if key not in RENAMED:
        return argument
    return f"{RENAMED[key].name}={','.join(str(present_value(key, value)) for value in values.split(','))}"
