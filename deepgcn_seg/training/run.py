"""A training run from config to metrics."""

import logging
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from ..config import check, device
from ..data.blocks import NINE, count_channels, place_of_channels
from ..data.dataset import area_name, split_by_area
from ..data.official_hdf5 import OfficialBlocks
from ..data.store import RoomStore
from ..errors import UserError
from ..evaluation.evaluate import evaluate_rooms
from ..evaluation.metrics import Scores
from ..evaluation.protocols import Protocol
from ..evaluation.report import write_json
from ..memory import peak_resident_mb
from ..model import DeepGCN
from ..model.checkpoint import build_model, read_checkpoint, targets, versions
from ..model.summary import summarize
from .loop import Settings, Trainer
from .tensorboard import RunLog

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train the configured model, score its best checkpoint on the held-out area.

    Returns:
        mIoU on the test area under the configured protocol.
    """
    check(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    chosen = device(config.device)
    torch.manual_seed(config.seed)
    store: RoomStore = instantiate(config.data.store)
    instantiate(config.protocol).require_rooms(store)
    split = split_by_area(store, config.data.fold, config.data.validation, config.seed)
    grid = instantiate(config.data.grid)
    adapt(config, store)
    channels = {"variant": config.data.variant, "groups": tuple(config.data.features)}
    augment = [instantiate(part) for part in config.recipe.augmentation]
    blocks = store.blocks(split.train, config.points, grid, seed=config.seed, augment=augment, **channels)
    model: nn.Module = instantiate(config.model).to(chosen)
    model_config = OmegaConf.to_container(config.model, resolve=True)
    log.info("Model: %s, %s", describe(model, config), chosen)
    if isinstance(model, DeepGCN):
        Console(stderr=True).print(summarize(model, config.points).table())
    run_log = RunLog(folder, _resumed_step(config, folder))
    optimizer = instantiate(config.recipe.optimizer)(model.parameters())
    # Official blocks cannot be cut again.
    name = "blocks" if isinstance(store, OfficialBlocks) else "recut"
    validation = Protocol(name, config.points, batch_size=config.batch_size, side=grid.side, **channels)
    selecting = split.test if config.select == "test" else split.validation

    def validate(model: nn.Module) -> torch.Tensor:
        return validation.run(model, store, selecting, chosen).confusion

    settings = Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_steps=config.max_steps,
        seed=config.seed,
        device=chosen,
        precision=config.precision,
        workers=config.workers,
        validate_every=config.validate_every,
        save_every=config.save_every,
        label_smoothing=config.recipe.label_smoothing,
        ema=config.recipe.ema,
        schedule=instantiate(config.recipe.schedule),
        norm_momentum=instantiate(config.recipe.norm_momentum),
    )
    trainer = Trainer(
        model,
        optimizer,
        blocks,
        validate if selecting else None,
        settings,
        folder / "checkpoints",
        model_config,
        OmegaConf.to_container(config, resolve=True),
        store.classes,
        run_log,
    )
    if config.resume:
        trainer.resume()
    else:
        run_log.config(OmegaConf.to_yaml(config, resolve=True))
    log.info(
        "Training on %d blocks of %d rooms for %d steps; validation on %d rooms, test on %d of %s",
        len(blocks),
        len(split.train),
        trainer.total_steps,
        len(split.validation),
        len(split.test),
        area_name(store, config.data.fold),
    )
    trainer.fit()
    cost = {"seconds": round(trainer.seconds, 2), "steps": trainer.step, "peak_memory_mb": peak_memory_mb(chosen)}
    return finish(config, folder, store, split, chosen, run_log, cost)


def adapt(config: DictConfig, store: RoomStore) -> None:
    """Set what the model's ends depend on: channels and classes of the data.

    Raises:
        UserError: the data lack a channel that is asked for.
    """
    if config.data.features is None:
        config.data.features = [group for group in NINE if group != "color" or store.colored]
    if "color" in config.data.features and not store.colored:
        raise UserError(f"data.features={list(config.data.features)}: {store.root} has no colours; leave color out")
    try:
        config.model.in_channels = count_channels(config.data.features)
        config.model.positions = place_of_channels(config.model.positions, config.data.features)
    except ValueError as error:
        raise UserError(f"data.features={list(config.data.features)}: {error}") from None
    config.model.num_classes = len(store.classes)


def describe(model: nn.Module, config: DictConfig) -> str:
    """Name, size and depth of a model in one line."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{config.backbone.name}-{config.depth}, {config.channels} channels, k {config.k}, {parameters:,} parameters"


def peak_memory_mb(chosen: torch.device) -> float:
    """Most memory used so far: allocated on a CUDA device, resident of the process on the CPU."""
    if chosen.type == "cuda":
        return round(torch.cuda.max_memory_allocated(chosen) / 2**20, 1)
    return round(peak_resident_mb(), 1)


def finish(
    config: DictConfig,
    folder: Path,
    store: RoomStore,
    split,
    chosen: torch.device,
    run_log: RunLog,
    cost: dict[str, float],
) -> float:
    """Score the best checkpoint on the test rooms: table, ``metrics.json``, picture, TensorBoard."""
    best = folder / "checkpoints" / "best.ckpt"
    path = best if config.select != "last" and best.is_file() else folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    # What the user's own command line asked to build is trusted in the checkpoint it made.
    own = tuple(targets(OmegaConf.to_container(config.model, resolve=True)))
    model = build_model(content, str(path), trusted=own)
    protocol: Protocol = instantiate(config.protocol)
    entry = evaluate_rooms(
        model.to(chosen),
        protocol,
        store,
        split.test,
        chosen,
        folder,
        title=f"{config.backbone.name}-{config.depth} on {area_name(store, config.data.fold)} of {store.source}",
        dataset=config.data.name,
        areas=[config.data.fold],
        checkpoint=str(path),
        checkpoint_step=content["step"],
        selection=f"best on {config.select} rooms" if path == best else "last",
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    metrics = {"test": entry, "parameters": parameters, "training": cost, "versions": versions()}
    write_json(folder / "metrics.json", metrics)
    confusion = torch.tensor(entry["confusion"])
    run_log.scores(content["step"], "test", confusion, store.classes)
    if (folder / "room.png").is_file():
        run_log.image("test/room", folder / "room.png", content["step"])
    settings = {
        "backbone": config.backbone.name,
        "conv": str(config.conv._target_).rsplit(".", 1)[-1],
        "recipe": config.recipe.name,
        **{key: config[key] for key in ("depth", "channels", "k", "points", "batch_size", "epochs", "seed")},
        "dilation": str(config.model.dilation),
        "stochastic": config.model.stochastic,
        "dynamic": config.model.dynamic,
        "fold": config.data.fold,
        "data": config.data.name,
        "protocol": protocol.name,
    }
    scores = Scores.of(confusion)
    run_log.hparams(settings, {"hparam/mIoU": scores.miou, "hparam/mAcc": scores.macc, "hparam/OA": scores.oa})
    run_log.close()
    log.info("Run directory: %s", folder)
    return scores.miou


def _resumed_step(config: DictConfig, folder: Path) -> int:
    """Step a resumed run goes on from, 0 for a new run."""
    if not config.resume:
        if (folder / "checkpoints" / "last.ckpt").is_file():
            raise UserError(
                f"{folder} already holds a run: resume={folder} goes on with it, or choose another directory"
            )
        return 0
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["step"] + 1
