"""Which settings change a run's result, and those that were changed while it was trained.

``run.json``, ``metrics.json`` and the model card record these. The settings of ``run.json`` are those of the last step.
For a run with changes they are not the whole truth, so that each change is kept with the step at which it was made.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from .escaping import one_line
from .schema import Schema
from .settings import integer, shown

# Settings that change where and how a training is done, and not its result.
HOW_IT_IS_DONE = ("device", "devices", "workers", "pages", "save_every", "model.recompute")
# Those that say where its rooms are. What the rooms hold is compared, wherever they are.
WHERE_ROOMS_ARE = ("data.root", "data.store.root")
# Characters of a value that a message shows, and of a change; a line of a card has at most 500.
_SHOWN, _LINE = 60, 450
# What Python's text of a value is on a command line.
_TYPED = {"None": "null", "True": "true", "False": "false"}

# A setting's values before and after, as text; None for a setting that is not there.
Values = tuple[str | None, str | None]


class Change(Schema):
    """Settings that were changed at a step.

    Attributes:
        step: number of steps that were done with the values before. settings: both values, by dotted name.
    """

    step: Annotated[int, integer(0, 2**62)]
    settings: Annotated[dict[str, Values], Field(max_length=1000)]

    def __str__(self) -> str:
        """Return the change in one line: ``from step 12 on: recipe.loss lovasz instead of cross_entropy``."""
        changed = [f"{one_line(key, 100)} {typed(new)} instead of {typed(old)}" for key, (old, new) in self._sorted]
        return one_line(f"from step {self.step} on: {', '.join(changed)}", _LINE)

    @property
    def _sorted(self) -> list[tuple[str, Values]]:
        return sorted(self.settings.items())


Changes = Annotated[tuple[Change, ...], Field(max_length=1000)]


class _Record(Schema):
    changes: Changes


def changes_of(facts: Any, where: str) -> list[Change]:
    """Return the changes that the content of a ``run.json`` records; none if it is not what a training writes.

    Raises:
        UserError: a change is damaged.
    """
    if not isinstance(facts, Mapping) or "changes" not in facts:
        return []
    return list(_Record.of({"changes": facts["changes"]}, where).changes)


def add_change(changes: Sequence[Change], step: int, settings: Mapping[str, Values]) -> list[Change]:
    """Return the changes with a further one. It is put together with one of the same step: no step was done between."""
    merged = dict(settings)
    for change in changes:
        if change.step == step:
            for key, (old, new) in change.settings.items():
                merged[key] = (old, merged.get(key, (old, new))[1])
    merged = {key: values for key, values in merged.items() if values[0] != values[1]}
    kept = [change for change in changes if change.step != step]
    return [*kept, Change(step=step, settings=merged)] if merged else kept


def values_in_time(changes: Sequence[Change]) -> dict[str, str]:
    """Return the values that each changed setting had, by its name: ``cross_entropy, from step 12 on lovasz``."""
    told: dict[str, str] = {}
    for change in changes:
        for key, (old, new) in change.settings.items():
            told[key] = f"{told.get(key, typed(old))}, from step {change.step} on {typed(new)}"
    return told


def typed(text: str | None) -> str:
    """Return the text of a setting's value as it is typed on a command line, cut if it is long."""
    if text is None:
        return "not set"
    return _TYPED.get(text) or one_line(_typed_list(text), _SHOWN)


def _typed_list(text: str) -> str:
    """Return Python's text of a list, such as ``['backbone']``, as it is typed; other text as it is."""
    if not text.startswith("[") or len(text) > 1000:
        return text
    try:
        return shown(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
