"""Which settings a resumed run may change, what each change does, and which it must refuse.

The record of a run, its best checkpoint and its history are of one network, one split of the rooms and one way to
choose the best checkpoint. Settings that decide these are kept. Settings that each step reads anew may change: the
change is recorded with its step, and refused if no step is left that would use it.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

from ..changes import HOW_IT_IS_DONE, WHERE_ROOMS_ARE, Values, add_change, typed
from ..errors import UserError
from ..escaping import one_line
from ..model.checkpoint import read_checkpoint
from ..settings import counted, shown, some_of
from .run_directory import changed_settings, recorded_changes, recorded_settings
from .schedules import Clock


class Effect(Enum):
    """What a change of a setting does to a run that goes on."""

    # Where and how the work is done; the result is the same.
    WORK = auto()
    # The number of steps, and with it a schedule over all steps.
    LENGTH = auto()
    # How the steps from now on are done. What was done before stays.
    STEPS = auto()
    # How the test rooms are scored at the end.
    SCORE = auto()


# The settings that a resumed run may change, or groups of them; the longest name that fits decides. It keeps every
# other setting: with another network, other rooms, blocks or seed, or another choice of the best checkpoint, the best
# checkpoint and its score would be of something else than the run says.
EFFECTS: dict[str, Effect | None] = {
    # The rooms themselves are compared (_require_same_rooms), wherever they are.
    **dict.fromkeys((*WHERE_ROOMS_ARE, "data.store"), Effect.WORK),
    **{f"data.store.{name}": None for name in ("_target_", "rooms_per_area", "density", "seed")},
    **dict.fromkeys(HOW_IT_IS_DONE, Effect.WORK),
    **dict.fromkeys(("epochs", "max_steps"), Effect.LENGTH),
    **dict.fromkeys(("accumulate", "sync_norms", "precision", "validate_every", "freeze"), Effect.STEPS),
    # An optimiser's other settings decide which state it has of each parameter. The decay of averaged weights may
    # change, but not whether there are any (_require_same_average).
    **{f"recipe.optimizer.{name}": Effect.STEPS for name in ("lr", "weight_decay", "betas", "eps")},
    **{f"recipe.{name}": Effect.STEPS for name in ("schedule", "norm_momentum", "augmentation", "ema")},
    **{f"recipe.{name}": Effect.STEPS for name in ("loss", "label_smoothing", "focal_gamma")},
    **{f"recipe.{name}": Effect.STEPS for name in ("class_weights", "effective_beta")},
    "protocol": Effect.SCORE,
}
_LOSS = ("recipe.loss", "recipe.label_smoothing", "recipe.focal_gamma", "recipe.class_weights", "recipe.effective_beta")
_SCHEDULES = ("recipe.schedule", "recipe.norm_momentum")
# Field of a checkpoint's trained_on -> the setting. What the checkpoint says counts, whatever run.json does.
_TRAINED_ON = {
    **{name: name for name in ("seed", "points", "batch_size")},
    **{name: f"data.{name}" for name in ("fold", "validation")},
    **{name: f"data.grid.{name}" for name in ("side", "stride", "min_points")},
}
_OTHER_RUN = "weights= begins another run with its weights"
# Rooms that a message lists.
_LISTED = 3


def effect_of(key: str) -> Effect | None:
    """Return what a change of a setting does to a resumed run; None if the run keeps the setting."""
    parts = key.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((EFFECTS[name] for name in names if name in EFFECTS), None)


def total_steps(steps_per_epoch: int, epochs: int, max_steps: int | None) -> int:
    """Return the number of steps of a whole training."""
    steps = steps_per_epoch * epochs
    return steps if max_steps is None else min(steps, max_steps)


class Resumed:
    """A run that goes on from its last checkpoint.

    Args:
        folder: the run directory. now: the settings that it goes on with, as :func:`.run_directory.run_settings`
            returns them.

    Attributes:
        content: of the checkpoint. step: number of steps that were done.
        changed: settings that are not as before, with both values.
        changes: the recorded changes of the run; those of this resume are among them after :meth:`require_same`.

    Raises:
        UserError: there is no checkpoint of a training, or a setting has changed that a resumed run keeps.
    """

    def __init__(self, folder: Path, now: Mapping[str, str]):
        path = folder / "checkpoints" / "last.ckpt"
        self._where, self.content = f"checkpoint {path}", read_checkpoint(path)
        if type(self.content.get("step")) is not int:
            raise UserError(f"{self._where}: not the state of a training")
        self.step: int = self.content["step"]
        self._before = _settings_before(self.content, recorded_settings(folder) or now, now)
        self.changed = changed_settings(self._before, now)
        self.changes = recorded_changes(folder)
        _require_kept(self.changed)
        _require_same_average(self.content, now)

    @property
    def changes_loss(self) -> bool:
        """Whether the steps from now on have another loss than those before."""
        return any(key in _LOSS for key in self.changed)

    def require_same(
        self,
        own: Mapping[str, Any],
        epochs: int,
        max_steps: int | None,
        schedules: Sequence[Callable[[Clock], float]],
    ) -> None:
        """Refuse other data and a length that does not fit, and add the settings that have changed to ``changes``.

        Args:
            own: what a checkpoint of the run as it is now would say: ``classes``, ``trained_on``, ``rooms`` as
                :func:`rooms_of` returns them, and ``steps_per_epoch``.
            epochs, max_steps: the length now. schedules: the values that follow the steps.

        Raises:
            UserError: names what differs, or the setting.
        """
        require_same_data(self.content, own, self._where)
        total = total_steps(own["steps_per_epoch"], epochs, max_steps)
        limit = f"max_steps={max_steps}" if total == max_steps else f"epochs={epochs}"
        self._require_length(total, limit, own["steps_per_epoch"])
        recorded = {key: values for key, values in self.changed.items() if effect_of(key) == Effect.STEPS}
        if not self._same_until_now(own["steps_per_epoch"], total, schedules):
            recorded |= {key: values for key, values in self.changed.items() if effect_of(key) == Effect.LENGTH}
        self.changes = add_change(self.changes, self.step, recorded)

    def _require_length(self, total: int, limit: str, steps_per_epoch: int) -> None:
        """Refuse fewer steps than were done, and settings of steps if none is left."""
        epochs = round(self.step / steps_per_epoch, 1)
        done = f"{counted(self.step, 'step')} ({epochs:g} {'epoch' if epochs == 1 else 'epochs'})"
        if self.step > total:
            raise UserError(
                f"{limit}: stands for {counted(total, 'step')}, but the run has {done} already; a resumed run can only "
                "become longer"
            )
        for key, (_, new) in self.changed.items():
            if self.step == total and effect_of(key) == Effect.STEPS:
                raise UserError(
                    f"{key}={typed(new)}: the run has all its {done}, so that no step would use it; give more epochs, "
                    "too"
                )

    def _same_until_now(self, steps_per_epoch: int, total: int, schedules: Sequence[Callable[[Clock], float]]) -> bool:
        """Return whether the steps until now would have been the same in a run of the present length."""
        epochs, most = (self._before.get(key) for key in ("epochs", "max_steps"))
        if epochs is None or not epochs.isdigit():
            return True
        before = total_steps(steps_per_epoch, int(epochs), None if most in (None, "None") else int(most))
        if any(key.startswith(_SCHEDULES) for key in (*self.changed, *(k for c in self.changes for k in c.settings))):
            # Steps until now followed another schedule, which may be one over all steps.
            return before == total
        clocks = ((Clock(i, steps_per_epoch, before), Clock(i, steps_per_epoch, total)) for i in range(self.step))
        return before == total or all(value(a) == value(b) for a, b in clocks for value in schedules)


def _settings_before(content: Mapping[str, Any], recorded: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that a checkpoint was trained with: those that it says itself, else the recorded ones."""
    trained_on = content.get("trained_on")
    said = trained_on if isinstance(trained_on, Mapping) else {}
    own = {key: str(said[name]) for name, key in _TRAINED_ON.items() if name in said and key in now}
    return {**recorded, **own}


def _require_kept(changed: Mapping[str, Values]) -> None:
    # An argument of the network is named last: it may follow a setting that was typed.
    for key, (old, new) in sorted(changed.items(), key=lambda item: item[0].startswith("model.")):
        if effect_of(key) is None:
            raise UserError(f"{key}={typed(new)}: the run was started with {typed(old)}, and keeps it; {_OTHER_RUN}")


def _require_same_average(content: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Refuse to begin or end the averaging of weights: the optimiser's state is that of the weights it was kept for."""
    if "training" not in content or (ema := now.get("recipe.ema")) is None:
        return
    averaged = content["training"] is not None
    if averaged != (ema != "None"):
        raise UserError(
            f"recipe.ema={typed(ema)}: the run was started {'with' if averaged else 'without'} averaged weights, and "
            f"keeps this; {_OTHER_RUN}"
        )


def rooms_of(split: Any, store: Any) -> dict[str, dict[str, str]]:
    """Return what a checkpoint says about its rooms: for each part of the split, what each room holds, by its name.

    Args:
        split: a :class:`~deepgcn_seg.data.dataset.Split`. store: the store of the rooms.
    """
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {part: {room.key: store.fingerprint(room) for room in rooms} for part, rooms in parts.items()}


def require_same_data(content: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint whose classes, channels, rooms or epochs are others than those of the run that goes on.

    What an older checkpoint, or ``own``, does not say is not compared.

    Args:
        content: of the checkpoint. own: as in :meth:`Resumed.require_same`. where: what messages begin with.

    Raises:
        UserError: names both.
    """
    _require_same_classes(content.get("classes"), list(own["classes"]), where)
    before, now = content.get("trained_on"), own.get("trained_on")
    for name in ("features", "variant"):
        if isinstance(before, Mapping) and isinstance(now, Mapping) and name in before:
            there, value = (list(v) if isinstance(v, (list, tuple)) else v for v in (before[name], now[name]))
            if there != value:
                raise UserError(
                    f"data.{name}={shown(value)}: the run was started with {shown(there)}, and keeps it; {_OTHER_RUN}"
                )
    _require_same_rooms(content.get("rooms"), own.get("rooms", {}), where)
    steps, epoch = content.get("steps_per_epoch"), own.get("steps_per_epoch")
    if isinstance(steps, int) and epoch not in (None, steps):
        raise UserError(
            f"{where}: an epoch had {steps} steps, and has {epoch} now that the rooms or how they are cut into blocks "
            f"have changed; a resumed run keeps its blocks ({_OTHER_RUN})"
        )


def _require_same_classes(before: Any, now: list[str], where: str) -> None:
    if isinstance(before, (list, tuple)) and list(before) != now:
        order = " in another order" if sorted(map(str, before)) == sorted(now) else ""
        raise UserError(
            f"{where}: classes {one_line(', '.join(map(str, before)), 300)}, but those of the data are{order} "
            f"{', '.join(now)}; a resumed run keeps its classes ({_OTHER_RUN})"
        )


def _require_same_rooms(before: Any, now: Mapping[str, Mapping[str, str]], where: str) -> None:
    for part, rooms in now.items():
        there = before.get(part) if isinstance(before, Mapping) else None
        if not isinstance(there, Mapping) or there == rooms:
            continue
        differences = [
            *(f"{name} is new" for name in rooms if name not in there),
            *(f"{one_line(name, 100)} is not there" for name in there if name not in rooms),
            *(f"{name} has other points" for name in rooms if name in there and rooms[name] != there[name]),
        ]
        raise UserError(
            f"{where}: the {part} rooms are others than when the run was started ({some_of(differences, _LISTED)}); "
            f"a resumed run keeps its rooms ({_OTHER_RUN})"
        )
