"""``tools/evaluate.py``: score a checkpoint."""

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from ..data import sources
from ..data.dataset import split_by_area
from ..data.store import RoomStore
from ..device import device as device_of
from ..errors import UserError
from ..evaluation.evaluate import evaluate_rooms
from ..evaluation.model_card import selection_of
from ..evaluation.protocols import Protocol
from ..files import write_json
from ..model.description import TrainedOn
from ..model.trained import Trained, read_trained
from ..schema import read_json
from ..training.run_directory import claim, sole_writer
from .command_line.checks import is_typed, protocol_as_trained

log = logging.getLogger(__name__)

PARTS = ("test", "validation", "train")
# The folder of the rooms of conf/data/synthetic.yaml.
SYNTHETIC_ROOT = "data/synthetic"
# A checkpoint may ask for synthetic rooms to be made if its rooms per area times its density are no more than this, ten
# times the defaults. More are made only if the command line asks for them.
MOST_ROOMS = 60_000


def evaluate(config: DictConfig) -> float | None:
    """Score the checkpoint of a config, or the average of several: print a table and write ``metrics.json``.

    Channels and blocks of points are those of the checkpoint's training, whatever data it is scored on.

    Returns:
        mIoU.

    Raises:
        UserError: a setting, the checkpoint or the data cannot be used, or they do not fit one another; or the output
            directory holds a training or other scores.
    """
    if OmegaConf.is_missing(config, "checkpoint"):
        raise UserError("checkpoint is not set: give checkpoint=FILE")
    if config.part not in PARTS:
        raise UserError(f"part={config.part}: must be one of {', '.join(PARTS)}")
    folder = Path(HydraConfig.get().runtime.output_dir)
    with sole_writer(folder):
        claim(config, folder)
        return _evaluate(config, folder)


def _evaluate(config: DictConfig, folder: Path) -> float | None:
    networks = read_trained(config.checkpoint if isinstance(config.checkpoint, str) else list(config.checkpoint))
    trained = networks.trained_on
    _require_same_data(config, networks)
    device = device_of(config.device)
    protocol = _protocol(config, trained, networks.min_points)
    model = networks.build(config.trusted)
    store = instantiate(config.data.store) if config.data.name else _trained_store(config, networks)
    _require_same_ends(networks, trained, store)
    own = config.data if config.data.name else trained
    fold = _fold(config, networks)
    split = split_by_area(store, fold, own.validation, trained.seed)
    entry = evaluate_rooms(
        model.to(device),
        protocol,
        store,
        getattr(split, config.part),
        device,
        folder,
        title=f"{networks.name}, {config.part} rooms of fold {fold} of {store.source}",
        dataset=own.name,
        areas=[fold],
        part=config.part,
        palette=config.palette,
        pages=config.pages,
        **networks.facts(),
        **_selection(networks),
    )
    write_json(folder / "metrics.json", {config.part: entry})
    return entry["mIoU"]


def _selection(networks: Trained) -> dict[str, Any]:
    """Return what ``metrics.json`` says of how the checkpoints were chosen, if all say it, and warn of test rooms."""
    found = [selection_of(member.card, member.path) for member in networks.members]
    for member, selection in zip(networks.members, found):
        if selection is not None and "test" in selection:
            log.warning(
                "checkpoint %s: was chosen by the test rooms of its training; scores on these rooms are too good",
                member.path,
            )
    known = [selection for selection in found if selection is not None]
    return {"selection": ", ".join(sorted(set(known)))} if len(known) == len(found) else {}


def _require_same_data(config: DictConfig, networks: Trained) -> None:
    """Refuse to average networks on rooms that some of them were trained on, unless these rooms are asked for."""
    every = [member.trained_on for member in networks.members]
    if config.data.name is None:
        data = [{"name": each.name, "source": each.source, "synthetic": each.synthetic} for each in every]
        networks.require_same("trained on", data, "give data=NAME data.root=DIR to score them on")
    if not is_typed("data.fold"):
        networks.require_same("data.fold", [each.fold for each in every], "give data.fold=AREA to score them on")
    if config.part != "test":
        splits = [{"validation": each.validation, "seed": each.seed} for each in every]
        networks.require_same("rooms held out by", splits, f"they have no {config.part} rooms in common; use part=test")


def _fold(config: DictConfig, networks: Trained) -> int | str | None:
    """Return the area to score: the one asked for, or the one that was held out of training on the same data."""
    trained = networks.trained_on
    same = config.data.name in (None, trained.name)
    if config.data.fold is None or (same and not is_typed("data.fold")):
        return next((each.trained_on.fold for each in networks.members if each.trained_on.fold is not None), None)
    for member in networks.members:
        if same and config.data.fold != member.trained_on.fold:
            which = "the network" if len(networks.members) == 1 else str(member.path)
            log.warning(
                "data.fold=%s: %s was trained with fold %s held out", config.data.fold, which, member.trained_on.fold
            )
    return config.data.fold


def _protocol(config: DictConfig, trained: TrainedOn, least: int) -> Protocol:
    """Return the protocol asked for, with the channels and blocks of points that the network was trained on.

    Raises:
        UserError: the command line asks for others.
    """
    grid = {"side": trained.side, "stride": trained.stride, "min_points": trained.min_points}
    fixed: dict[str, Any] = {"data.features": list(trained.features), "data.variant": trained.variant}
    fixed |= {f"data.grid.{key}": value for key, value in grid.items()}
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+~").split("=", 1)[0]
        value = OmegaConf.select(config, key) if key in fixed else None
        if value is not None and value != fixed[key]:
            raise UserError(f"{override}: the network was trained with {fixed[key]}, and is scored with the same")
    with open_dict(config):
        config.data.features, config.data.variant, config.data.grid = list(trained.features), trained.variant, grid
        for key in ("points", "batch_size"):
            if config[key] is None:
                config[key] = getattr(trained, key)
    return protocol_as_trained(config, config.protocol, trained.variant, trained.features, trained.side, least)


def _trained_store(config: DictConfig, networks: Trained) -> RoomStore:
    """Open the data of the training, at the place that the command line or the run directory names.

    A checkpoint may come from anywhere, and names no place that is opened.
    """
    trained, path = networks.trained_on, networks.members[0].path
    if trained.source is None:
        raise UserError(f"checkpoint {path}: was trained on data of another source; give data=NAME data.root=DIR")
    recorded = _recorded_root(path)
    root = config.data.root or recorded
    if trained.source == "synthetic":
        assert trained.synthetic is not None
        rooms = trained.synthetic
        if recorded is None and rooms.rooms_per_area * rooms.density > MOST_ROOMS:
            raise UserError(
                f"checkpoint {path}: was trained on {rooms.rooms_per_area} synthetic rooms an area of density "
                f"{rooms.density:g}; to have so many made, give data=synthetic data.root=DIR "
                f"data.store.rooms_per_area={rooms.rooms_per_area} data.store.density={rooms.density:g}"
            )
        return sources.synthetic(root or SYNTHETIC_ROOT, **rooms.plain())
    if root is None:
        raise UserError(
            f"checkpoint {path}: was trained on {trained.source}, and lies in no run directory that says where that "
            "is; give data.root=DIR"
        )
    return getattr(sources, trained.source)(root)


def _recorded_root(path: Path) -> str | None:
    """Return ``data.root`` as the run directory of a checkpoint records it; None if there is no such record."""
    try:
        root = read_json(path.parent.parent / "run.json")["settings"]["data.root"]
    except (UserError, KeyError, TypeError):
        return None
    return root if isinstance(root, str) else None


def _require_same_ends(networks: Trained, trained: TrainedOn, store: RoomStore) -> None:
    """Refuse data whose classes or channels are not those of the network."""
    path, classes = networks.members[0].path, networks.class_list.names
    if store.classes.names != classes:
        raise UserError(
            f"checkpoint {path} knows {len(classes)} classes ({', '.join(classes)}), "
            f"but {store.root} has {len(store.classes)} ({', '.join(store.classes)})"
        )
    if "color" in trained.features and not store.colored:
        raise UserError(f"checkpoint {path} was trained with colours, but {store.root} has none")
