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
from ..evaluation.protocols import Protocol
from ..evaluation.scores import write_json
from ..model.checkpoint import build_model, describe, find_checkpoint, read_checkpoint
from ..model.description import Network, OwnPart, TrainedOn
from ..schema import read_json
from .command_line.checks import protocol_as_trained

log = logging.getLogger(__name__)

PARTS = ("test", "validation", "train")
# Where conf/data/synthetic.yaml has its rooms, and up to how many rooms an area times density a checkpoint may ask for:
# ten times the defaults. More are made only if the command line asks for them.
SYNTHETIC_ROOT, MOST_ROOMS = "data/synthetic", 60_000


def evaluate(config: DictConfig) -> float | None:
    """Score the checkpoint of a config: print a table and write ``metrics.json``.

    Channels and blocks of points are those of the checkpoint's training, whatever data it is scored on.

    Returns:
        mIoU.

    Raises:
        UserError: a setting, the checkpoint or the data cannot be used, or they do not fit one another.
    """
    if OmegaConf.is_missing(config, "checkpoint"):
        raise UserError("checkpoint is not set: give checkpoint=FILE")
    if config.part not in PARTS:
        raise UserError(f"part={config.part}: must be one of {', '.join(PARTS)}")
    path = find_checkpoint(config.checkpoint)
    content = read_checkpoint(path)
    described = describe(content, path)
    trained = described.trained_on
    if trained is None:
        raise UserError(f"checkpoint {path}: does not say what it was trained on")
    device = device_of(config.device)
    protocol = _protocol(config, trained, described.network)
    model = build_model(content, path, config.trusted, described)
    store = instantiate(config.data.store) if config.data.name else _trained_store(config, trained, path)
    _require_same_ends(path, described.class_list.names, trained, store)
    own = config.data if config.data.name else trained
    fold = _fold(config, trained)
    split = split_by_area(store, fold, own.validation, trained.seed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    entry = evaluate_rooms(
        model.to(device),
        protocol,
        store,
        getattr(split, config.part),
        device,
        folder,
        title=f"{path}, {config.part} rooms of fold {fold} of {store.source}",
        dataset=own.name,
        areas=[fold],
        part=config.part,
        checkpoint=str(path),
        checkpoint_step=content.get("step"),
    )
    write_json(folder / "metrics.json", {config.part: entry})
    return entry["mIoU"]


def _fold(config: DictConfig, trained: TrainedOn) -> int | str | None:
    """Return the area to score: the one asked for, or the one that was held out of training on the same data."""
    same = config.data.name in (None, trained.name)
    asked = any(override.lstrip("+").startswith("data.fold=") for override in HydraConfig.get().overrides.task)
    if config.data.fold is None or (same and not asked):
        return trained.fold
    if same and config.data.fold != trained.fold:
        log.warning("data.fold=%s: the network was trained with fold %s held out", config.data.fold, trained.fold)
    return config.data.fold


def _protocol(config: DictConfig, trained: TrainedOn, network: Network | OwnPart) -> Protocol:
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
    least = network.min_points if isinstance(network, Network) else 1
    return protocol_as_trained(config, config.protocol, trained.variant, trained.features, trained.side, least)


def _trained_store(config: DictConfig, trained: TrainedOn, path: Path) -> RoomStore:
    """Open the data of the training, at the place that the command line or the run directory names.

    A checkpoint may come from anywhere, and names no place that is opened.
    """
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
    """Return the folder of the data, as the run directory has it in which a checkpoint lies; else None."""
    try:
        root = read_json(path.parent.parent / "run.json")["settings"]["data.root"]
    except (UserError, KeyError, TypeError):
        return None
    return root if isinstance(root, str) else None


def _require_same_ends(path: Path, classes: tuple[str, ...], trained: TrainedOn, store: RoomStore) -> None:
    """Refuse data whose classes or channels are not those of the network."""
    if store.classes.names != classes:
        raise UserError(
            f"checkpoint {path} knows {len(classes)} classes ({', '.join(classes)}), "
            f"but {store.root} has {len(store.classes)} ({', '.join(store.classes)})"
        )
    if "color" in trained.features and not store.colored:
        raise UserError(f"checkpoint {path} was trained with colours, but {store.root} has none")
