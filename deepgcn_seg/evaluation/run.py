"""Scoring a checkpoint, from config to table and ``metrics.json``."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ..config import device
from ..data.dataset import split_by_area
from ..errors import UserError
from ..model.checkpoint import build_model, read_checkpoint, require_sources
from .evaluate import evaluate_rooms
from .report import write_json

PARTS = ("test", "validation", "train")


def evaluate(config: DictConfig) -> float | None:
    """What ``tools/evaluate.py`` does with its config.

    Returns:
        mIoU.
    """
    path = OmegaConf.select(config, "checkpoint", throw_on_missing=False)
    if path is None:
        raise UserError("checkpoint is not set: give checkpoint=FILE")
    if config.part not in PARTS:
        raise UserError(f"part={config.part}: must be one of {', '.join(PARTS)}")
    content = read_checkpoint(path)
    model = build_model(content, str(path))
    if config.data.name is None:
        require_sources(content["config"]["data"], str(path))
    settings = _merged(OmegaConf.create(content["config"]), config)
    chosen = device(config.device)
    store = instantiate(settings.data.store)
    if store.classes.names != model.classes.names:
        raise UserError(
            f"checkpoint {path} knows {len(model.classes)} classes ({', '.join(model.classes)}), "
            f"but {store.root} has {len(store.classes)} ({', '.join(store.classes)})"
        )
    split = split_by_area(store, settings.data.fold, settings.data.validation, settings.seed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    entry = evaluate_rooms(
        model.to(chosen),
        instantiate(settings.protocol),
        store,
        getattr(split, config.part),
        chosen,
        folder,
        title=f"{path}, {config.part} rooms of fold {settings.data.fold} of {store.source}",
        dataset=settings.data.name,
        areas=[settings.data.fold],
        part=config.part,
        checkpoint=str(path),
        checkpoint_step=content.get("step"),
    )
    write_json(folder / "metrics.json", {config.part: entry})
    return entry["mIoU"]


def _merged(trained: DictConfig, config: DictConfig) -> DictConfig:
    """The checkpoint's settings under those of the command line."""
    data = {key: value for key, value in config.data.items() if value is not None}
    OmegaConf.set_struct(trained, False)
    if config.data.name is None:
        # The store's own copy of the root is resolved already.
        if "root" in data:
            trained.data.store.root = data["root"]
        trained.data.update(data)
    else:
        variant = trained.data.variant
        trained.data = config.data
        trained.data.variant = variant
        trained.data.fold = config.data.fold
    for key in ("points", "batch_size"):
        if config[key] is not None:
            trained[key] = config[key]
    trained.protocol = config.protocol
    return trained
