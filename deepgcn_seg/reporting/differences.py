"""Which settings differ among runs, and which of these a report shows."""

from collections.abc import Sequence

from .run import REPEATS, Run


def varied(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that tell runs apart, each with the settings that change together with it and are not shown.

    A choice that was typed (``recipe=modern``) is shown by its name (``recipe.name``), and stands for the settings that
    are the same in all runs with the same choice. It is not said of those in its group that they change with it. Other
    settings change together if each has different values in just those runs in which the others have; the first of them
    is shown. Names of choices, typed settings, fold and seed are always shown.
    """
    # Names of choices come before what they set, typed settings before what follows from them, and outer groups before
    # inner ones; fold and seed, which repeat an experiment, are last.
    order = lambda key: (key in REPEATS, not key.endswith(".name"), not is_typed(runs, key), key.count("."), key)
    keys = sorted({key for run in runs for key in run.settings}, key=order)
    values = {key: [str(run.settings.get(key, "-")) for run in runs] for key in keys}
    values = {key: each for key, each in values.items() if len(set(each)) > 1}
    always = [key for key in values if key in REPEATS or key.endswith(".name") or is_typed(runs, key)]
    choices = [key for key in always if is_typed(runs, key) and key.endswith((".name", "._target_"))]
    first: dict[tuple[int, ...], str] = {}
    found: dict[str, list[str]] = {}
    for key in values:
        changes = tuple(values[key].index(value) for value in values[key])
        # The choice of the setting's own group is the likeliest to have set it.
        by_group = sorted(choices, key=lambda choice: not key.startswith(_group_of(choice)))
        choice = next((choice for choice in by_group if _follows(values[key], values[choice])), None)
        head = first.setdefault(changes, key) if choice is None else choice
        if key in always or head == key:
            found[key] = []
        elif not key.startswith(_group_of(head)):
            found[head].append(key)
    return found


def _group_of(choice: str) -> str:
    """Return how the settings begin that a choice stands for: ``recipe.`` for ``recipe.name``."""
    return choice.removesuffix(".name").removesuffix("._target_") + "."


def _follows(values: Sequence[str], choices: Sequence[str]) -> bool:
    """Return whether a setting is the same in all runs of the same choice."""
    return len(set(zip(choices, values))) == len(set(choices))


def is_typed(runs: Sequence[Run], key: str) -> bool:
    """Return whether this setting, a mapping that it is in, or the choice that it names was typed in one of the runs.

    ``conv.operator={a: 1}`` sets ``conv.operator.a``, and ``recipe=modern`` the name ``recipe.name``. What only tells
    Hydra how to make a part is no setting of its own.
    """
    parts = key.split(".")
    if parts[-1] in ("_partial_", "_convert_"):
        return False
    names = {".".join(parts[:count]) for count in range(2, len(parts))}
    names |= {key, key.removesuffix(".name").removesuffix("._target_")}
    return any(names & run.typed for run in runs)
