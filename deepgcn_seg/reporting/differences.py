"""Which settings differ among runs, and which of these a report shows."""

from collections import defaultdict
from collections.abc import Sequence

from .run import REPEATS, Run


def varied(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that tell runs apart, each with the settings that change together with it and are not shown.

    Two settings change together if one of them has different values in just those runs in which the other one has. Of
    such settings, names of choices (``recipe.name``), which stand for the settings of their groups, and those that were
    typed are shown; if there are none of these, the first is shown. Fold and seed are always shown.
    """
    # Names of choices come before what they set, typed settings before what follows from them, and outer groups before
    # inner ones; fold and seed, which repeat an experiment, are last.
    order = lambda key: (key in REPEATS, not key.endswith(".name"), not is_typed(runs, key), key.count("."), key)
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in sorted({key for run in runs for key in run.settings}, key=order):
        values = [str(run.settings.get(key, "-")) for run in runs]
        if len(set(values)) > 1:
            together[tuple(values.index(value) for value in values)].append(key)
    found: dict[str, list[str]] = {}
    for keys in together.values():
        first, *others = keys
        shown = [first, *(key for key in others if key in REPEATS or key.endswith(".name") or is_typed(runs, key))]
        groups = tuple(f"{key.rpartition('.')[0]}." for key in shown if key.endswith((".name", "._target_")))
        found |= {key: [] for key in shown}
        found[first] = [key for key in keys if key not in shown and not key.startswith(groups)]
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def is_typed(runs: Sequence[Run], key: str) -> bool:
    """Return whether this setting, a mapping that it is in, or the choice that it names was typed in one of the runs.

    ``conv.operator={a: 1}`` sets ``conv.operator.a``, and ``recipe=modern`` the name ``recipe.name``.
    """
    parts = key.split(".")
    names = {".".join(parts[:count]) for count in range(2, len(parts))}
    names |= {key, key.removesuffix(".name").removesuffix("._target_")}
    return any(names & run.typed for run in runs)
