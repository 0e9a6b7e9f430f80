"""Names of networks as a paper has them: "ResGCN-28, k 8"."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from ..model.connection import BACKBONES, CONNECTIONS
from ..model.description import Network, OwnPart
from ..old_names import ADDED
from .differences import is_typed, varied
from .run import REPEATS, Run

# Settings that the name of a network stands for.
_NAMED = ("depth", "model.depth", "model.connection", "model._target_", "backbone.name", "backbone.connection")
# Settings whose key says little by itself.
_TITLES = {
    "recipe.optimizer.lr": "learning rate",
    "data.fold": "fold",
    "conv._target_": "convolution",
    "graph.name._target_": "graph",
}
# The arguments of a part, as in "Turn step:90, Mirror chance:0.5".
_ARGUMENTS = re.compile(r"(?<=[A-Za-z])( \w+:(-?[\d.]+(e-?\d+)?|none))+(?=, |$)")
# Characters of a value in a label.
MAX_VALUE = 60


def kind_of(run: Run) -> str:
    """Return the name of a run's kind of network, such as ResGCN; the class's name for a user's own."""
    if isinstance(run.network, OwnPart):
        return run.network.target.rpartition(".")[2]
    if isinstance(run.network, Network):
        return CONNECTIONS[run.network.connection].network
    name = str(run.settings.get("backbone.name", "network"))
    return BACKBONES[name].network if name in BACKBONES else name


def network_name(run: Run) -> str:
    """Return the kind and depth of a run's network, such as ResGCN-28."""
    depth = run.network.depth if isinstance(run.network, Network) else run.settings.get("depth")
    return kind_of(run) if depth is None else f"{kind_of(run)}-{depth}"


def title_of(key: str) -> str:
    """Return a setting's key as words: ``recipe.class_weights`` is "class weights", ``recipe.name`` is "recipe"."""
    group, _, name = key.rpartition(".")
    return _TITLES.get(key) or (group if name in ("name", "_target_") and group else name).replace("_", " ")


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its network's, and the settings in which it differs from the others.

    Runs that differ in fold and seed alone have the same name; all others have different ones. A name leaves out what
    all networks of a kind have, what most runs of a recipe or data set have, and the value of a setting in runs from
    before it existed. It has a typed setting that follows the kind, recipe or data set, because it need not do so.
    """
    stands_for = lambda key, of: _follows(runs, key, of) and not is_typed(runs, key)
    keys = [key for key in varied(runs) if key not in (*REPEATS, *_NAMED) and not stands_for(key, kind_of)]
    usual = {key: _usual(runs, key) for key in keys}
    short = {key: _shortened(runs, key) for key in keys}
    named = []
    for run in runs:
        parts = [network_name(run)]
        for key in keys:
            value = run.settings.get(key)
            group = run.settings.get(_group_of(key))
            if value is not None and value != usual[key].get(group) and value != ADDED.get(key):
                parts.append(f"{title_of(key)} {short[key][str(value)]}")
        named.append(", ".join(parts))
    return _told_apart(runs, named)


def _group_of(key: str) -> str:
    """Return the key that names the choice of a setting's group: ``recipe.name`` of ``recipe.ema``."""
    return f"{key.partition('.')[0]}.name" if "." in key else ""


def _follows(runs: Sequence[Run], key: str, of: Any) -> bool:
    """Return whether a setting is the same in all runs of the same ``of(run)``."""
    values: dict[Any, set[str]] = defaultdict(set)
    for run in runs:
        values[of(run)].add(str(run.settings.get(key)))
    return len(values) > 1 and all(len(each) == 1 for each in values.values())


def _usual(runs: Sequence[Run], key: str) -> dict[Any, Any]:
    """Return the value that more than half of the runs of each choice of the setting's group have."""
    group = _group_of(key)
    by_group = lambda run: run.settings.get(group)
    if not group or group == key or (is_typed(runs, key) and _follows(runs, key, by_group)):
        return {}
    counts: dict[Any, Counter] = defaultdict(Counter)
    for run in runs:
        if group in run.settings:
            counts[run.settings[group]][run.settings.get(key)] += 1
    most = {choice: count.most_common(1)[0] for choice, count in counts.items()}
    return {choice: value for choice, (value, n) in most.items() if 2 * n > counts[choice].total()}


def _shortened(runs: Sequence[Run], key: str) -> dict[str, str]:
    """Return each value of a setting as a label has it: of parts only their names, if these tell the runs apart."""
    texts = {str(run.settings.get(key)) for run in runs}
    names = {text: _ARGUMENTS.sub("", text) for text in texts}
    if key.endswith("_target_"):
        names = {text: text.rpartition(".")[2] for text in texts}
    if len(set(names.values())) < len(texts):
        names = {text: text for text in texts}
    # A comma separates the parts of the label.
    short = {text: {"True": "yes", "False": "no"}.get(name, name).replace(", ", "+") for text, name in names.items()}
    return {text: name if len(name) <= MAX_VALUE else f"{name[:MAX_VALUE]}..." for text, name in short.items()}


def _told_apart(runs: Sequence[Run], named: Sequence[str]) -> list[str]:
    """Return names with a number behind those that different experiments share, because a value was cut."""
    experiments: dict[str, list[tuple]] = defaultdict(list)
    for run, name in zip(runs, named):
        if run.experiment not in experiments[name]:
            experiments[name].append(run.experiment)
    return [
        f"{name} #{experiments[name].index(run.experiment) + 1}" if len(experiments[name]) > 1 else name
        for run, name in zip(runs, named)
    ]
