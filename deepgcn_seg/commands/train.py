"""A training run from config to metrics."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from ..data.blocks import NINE, BlockGrid, advise, count_channels, place_of_channels, share_held
from ..data.classes import ClassList
from ..data.dataset import Split, area_name, block_dataset, split_by_area
from ..data.official_hdf5 import OfficialBlocks
from ..data.room import RoomEntry
from ..data.store import RoomStore
from ..device import device
from ..distributed import World, join
from ..errors import OccupiedError, UserError
from ..evaluation.evaluate import evaluate_rooms
from ..evaluation.metrics import Scores
from ..evaluation.protocols import Protocol
from ..evaluation.scores import write_json
from ..memory import peak_memory_mb
from ..model import DeepGCN
from ..model.checkpoint import load_weights, read_checkpoint
from ..model.description import Description, describe_network
from ..model.layers import sync_norms
from ..model.summary import summarize
from ..provenance import provenance, versions
from ..schema import read_json
from ..training.directory import keep_config, sole_training
from ..training.loop import Settings, Trainer
from ..training.tensorboard import RunLog
from .config import protocol_as_trained

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train the configured model, score its best checkpoint on the held-out area.

    In a sweep, a job whose directory already holds this very run is gone on with, or is left as it
    is if it finished: the same command again runs what is missing.

    Returns:
        mIoU on the test area under the configured protocol.
    """
    chosen, world = _processes(config)
    folder = Path(world.share(HydraConfig.get().runtime.output_dir))
    with sole_training(folder, world):
        return _train(config, folder, chosen, world)


def _train(config: DictConfig, folder: Path, chosen: torch.device, world: World) -> float:
    resuming = bool(config.resume)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        finished = finished_miou(config, folder)
        if finished is not None:
            log.info("%s: finished before, mIoU %.4f", folder, finished)
            return finished
        resuming = (folder / "checkpoints" / "last.ckpt").is_file()
    step = _resumed_step(folder, resuming)
    if world.first:
        keep_config(config, folder)
    facts = {**provenance(chosen, world.size), "settings": asked(config)}
    store, split, grid = _open_data(config, world)
    run_log = RunLog(folder if world.first else None, step)
    trainer = _trainer(config, folder, store, split, grid, chosen, world, run_log)
    if resuming:
        trainer.resume()
    else:
        run_log.config(OmegaConf.to_yaml(config, resolve=True))
        if world.first:
            write_json(folder / "run.json", facts)
    _announce(config, trainer, store, split, grid)
    trainer.fit()
    world.barrier()
    cost = {
        "seconds": round(trainer.seconds, 2),
        "steps": trainer.step,
        "skipped_steps": trainer.skipped,
        "peak_memory_mb": peak_memory_mb(chosen),
    }
    miou = finish(config, folder, store, split, chosen, run_log, cost, world)
    # Nobody takes the connections down while another still writes.
    world.barrier()
    return miou


def _processes(config: DictConfig) -> tuple[torch.device, World]:
    """This process's device, and the others it trains with."""
    chosen = device(config.device)
    world = join(chosen)
    if config.devices > world.size:
        raise UserError(f"devices={config.devices}: give it on the command line, which starts that many processes")
    if chosen.type == "cuda" and world.size > 1:
        chosen = torch.device("cuda", world.local % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    return chosen, world


def _trainer(
    config: DictConfig,
    folder: Path,
    store: RoomStore,
    split: Split,
    grid: BlockGrid,
    chosen: torch.device,
    world: World,
    run_log: RunLog,
) -> Trainer:
    """Model, optimiser and blocks of a config that fits its data."""
    torch.manual_seed(config.seed)
    model: nn.Module = instantiate(config.model).to(chosen)
    # Processes agree on the weights, and differ in dropout and stochastic dilation.
    torch.manual_seed(config.seed + world.rank)
    if config.sync_norms and world.size > 1:
        sync_norms(model)
    log.info("Model: %s, %s", describe(model, config), chosen)
    if isinstance(model, DeepGCN) and world.first:
        Console(stderr=True).print(summarize(model, config.points).table())
    channels = {"variant": config.data.variant, "groups": tuple(config.data.features)}
    augment = [instantiate(part) for part in config.recipe.augmentation]
    # Official blocks cannot be cut again.
    name = "blocks" if isinstance(store, OfficialBlocks) else "recut"
    validation = Protocol(name, config.points, batch_size=config.batch_size, side=grid.side, **channels)
    selecting = split.test if config.select == "test" else split.validation

    def validate(model: nn.Module) -> torch.Tensor:
        return validation.run(model, store, selecting, chosen, world).confusion

    return Trainer(
        model,
        instantiate(config.recipe.optimizer)(model.parameters()),
        block_dataset(store, split.train, config.points, grid, seed=config.seed, augment=augment, **channels),
        validate if selecting else None,
        _settings(config, chosen),
        folder / "checkpoints",
        kept_with_weights(config, store.classes),
        store.classes,
        run_log,
        world,
        _watched(store, split.validation or split.test, grid, config, channels),
    )


def _settings(config: DictConfig, chosen: torch.device) -> Settings:
    recipe = config.recipe
    same = ("epochs", "batch_size", "accumulate", "max_steps", "seed", "precision", "workers", "points")
    return Settings(
        **{key: config[key] for key in (*same, "validate_every", "save_every")},
        device=chosen,
        label_smoothing=recipe.label_smoothing,
        ema=recipe.ema,
        schedule=instantiate(recipe.schedule),
        norm_momentum=instantiate(recipe.norm_momentum),
    )


def kept_with_weights(config: DictConfig, classes: ClassList) -> dict[str, Any]:
    """Return what a run's checkpoints hold beside weights and state, as ``save_checkpoint`` takes it.

    Raises:
        UserError: a setting that a checkpoint cannot describe; better now than after the training.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    data, store = plain["data"], plain["data"]["store"]
    source = str(store["_target_"]).removeprefix("deepgcn_seg.data.sources.")
    known = source in ("synthetic", "s3dis", "s3dis_hdf5", "folder")
    trained_on = {
        "features": data["features"],
        "variant": data["variant"],
        **{key: data["grid"][key] for key in ("side", "stride", "min_points")},
        **{key: plain[key] for key in ("points", "batch_size", "seed")},
        "source": source if known else None,
        **{key: data[key] for key in ("name", "fold", "validation")},
    }
    if source == "synthetic":
        trained_on["synthetic"] = {key: store[key] for key in ("rooms_per_area", "density", "seed")}
    network = describe_network(plain["model"])
    described = {"model_config": network, "classes": classes.names, "palette": classes.palette}
    Description.of({**described, "trained_on": trained_on}, "settings")
    # The composed config goes along for people; nothing reads it.
    return {"network": network, "trained_on": trained_on, "config": plain}


# Share of the points to train on below which blocks are too small.
FEW = 0.5


def _announce(config: DictConfig, trainer: Trainer, store: RoomStore, split: Split, grid: BlockGrid) -> None:
    """Say what is about to be trained on, and what a step is."""
    log.info(
        "Training on %d blocks of %d rooms for %d steps; validation on %d rooms, test on %d of %s",
        len(trainer.blocks),
        len(split.train),
        trainer.total_steps,
        len(split.validation),
        len(split.test),
        area_name(store, config.data.fold),
    )
    if not split.validation and config.select == "validation":
        log.warning(
            "No room is left for validation (data.validation=%g, %d rooms to train on), so that nothing chooses a "
            "best checkpoint: the last one is scored, and used by predict",
            config.data.validation,
            len(split.train),
        )
    if isinstance(store, RoomStore) and (share := share_held(store, split.train, grid)) < FEW:
        log.warning(
            "Only %.0f %% of the points to train on lie in blocks of at least %d: %s",
            100 * share,
            grid.min_points,
            advise(store, split.train, grid),
        )
    log.info(
        "A step is %d blocks: %d processes x %d passes of %d; learning rate %s",
        trainer.batch_size,
        trainer.world.size,
        config.accumulate,
        trainer.sampler.part,
        ", ".join(f"{rate:g}" for rate in trainer.base_rates),
    )
    if trainer.sampler.part < trainer.batch_size and not (config.sync_norms and config.accumulate == 1):
        log.info("Batch norm sees %d blocks at a time, not the whole batch", trainer.sampler.part)


def _watched(
    store: RoomStore, rooms: Sequence[RoomEntry], grid: BlockGrid, config: DictConfig, channels: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Two held-out blocks, the same at every validation; None without positions in the block."""
    if channels["groups"][0] != "block":
        return None
    blocks = block_dataset(store, rooms, config.points, grid, seed=config.seed, **channels)
    points, labels = zip(*(blocks[i] for i in sorted({len(blocks) // 3, 2 * len(blocks) // 3})))
    return torch.stack(points), torch.stack(labels)


def _open_data(config: DictConfig, world: World) -> tuple[RoomStore, Split, BlockGrid]:
    """The store, its split and grid; what has to be prepared first is prepared by one process.

    Sets what of the config depends on the data (:func:`adapt`).
    """
    if not world.first:
        world.barrier()
    store: RoomStore = instantiate(config.data.store)
    if world.first:
        world.barrier()
    adapt(config, store)
    # Once more: channels may be left to the data.
    protocol = protocol_as_trained(config, config.protocol, config.data.variant, config.data.features, None)
    protocol.require_rooms(store)
    split = split_by_area(store, config.data.fold, config.data.validation, config.seed)
    return store, split, instantiate(config.data.grid)


def finished_miou(config: DictConfig, folder: Path) -> float | None:
    """What this very run scored, if ``folder`` holds it finished.

    Raises:
        OccupiedError: it holds a run of other settings.
    """
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return None
    try:
        before, now = dict(read_json(folder / "run.json")["settings"]), asked(config)
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{folder / 'run.json'}: says nothing of the run's settings") from None
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise OccupiedError(
            f"{folder} holds a run of other settings ({', '.join(changed[:5])}); choose another hydra.sweep.dir"
        )
    try:
        miou = read_json(folder / "metrics.json")["test"]["mIoU"]
    except (UserError, TypeError, KeyError, IndexError):
        return None
    return miou if isinstance(miou, (int, float)) else None


def asked(config: DictConfig) -> dict[str, str]:
    """The settings as they were asked for, flat, without those that say where or how far."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), part)
        elif prefix not in ("resume", "device", "devices", "workers"):
            flat[prefix] = str(value)

    walk("", OmegaConf.to_container(config, resolve=True))
    return flat


def adapt(config: DictConfig, store: RoomStore) -> None:
    """Set what the model's ends depend on: channels and classes of the data.

    Raises:
        UserError: the data lack a channel that is asked for.
    """
    if config.data.features is None:
        config.data.features = [group for group in NINE if group != "color" or store.colored]
    if "color" in config.data.features and not store.colored:
        raise UserError(f"data.features={list(config.data.features)}: {store.root} has no colours; leave color out")
    ends = {"in_channels": count_channels(config.data.features), "num_classes": len(store.classes)}
    for key, value in ends.items():
        if _is_typed(f"model.{key}") and config.model[key] != value:
            raise UserError(f"model.{key}={config.model[key]}: the data set it, here to {value}; leave it out")
        config.model[key] = value
    try:
        config.model.positions = place_of_channels(config.model.positions, config.data.features)
    except ValueError as error:
        raise UserError(f"data.features={list(config.data.features)}: {error}") from None


def _is_typed(key: str) -> bool:
    return any(override.lstrip("+").startswith(f"{key}=") for override in HydraConfig.get().overrides.task)


def describe(model: nn.Module, config: DictConfig) -> str:
    """Name, size and depth of a model in one line."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{config.backbone.name}-{config.depth}, {config.channels} channels, k {config.k}, {parameters:,} parameters"


def finish(
    config: DictConfig,
    folder: Path,
    store: RoomStore,
    split,
    chosen: torch.device,
    run_log: RunLog,
    cost: dict[str, float],
    world: World = World(),
) -> float:
    """Score the best checkpoint on the test rooms: table, ``metrics.json``, picture, TensorBoard."""
    best = folder / "checkpoints" / "best.ckpt"
    path = best if config.select != "last" and best.is_file() else folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    # Built from the command line's own config: the checkpoint gives the weights alone.
    model: nn.Module = instantiate(config.model)
    load_weights(model, content["model"], f"checkpoint {path}")
    model.eval()
    protocol: Protocol = instantiate(config.protocol)
    entry = evaluate_rooms(
        model.to(chosen),
        protocol,
        store,
        split.test,
        chosen,
        folder,
        title=f"{config.backbone.name}-{config.depth} on {area_name(store, config.data.fold)} of {store.source}",
        world=world,
        dataset=config.data.name,
        areas=[config.data.fold],
        checkpoint=str(path),
        checkpoint_step=content["step"],
        selection=f"best on {config.select} rooms" if path == best else "last",
    )
    if not world.first:
        return entry["mIoU"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    metrics = {"test": entry, "parameters": parameters, "training": cost, "versions": versions()}
    write_json(folder / "metrics.json", metrics)
    confusion = torch.tensor(entry["confusion"])
    # After the last step: a run that is killed while it scores, and scores again, replaces what it wrote.
    after = int(cost["steps"]) + 1
    run_log.scores(after, "test", confusion, store.classes)
    if (folder / "room.png").is_file():
        run_log.image("test/room", folder / "room.png", after)
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


def _resumed_step(folder: Path, resuming: bool) -> int:
    """Step a resumed run goes on from, 0 for a new run.

    Raises:
        OccupiedError: a new run, but the folder holds one.
    """
    path = folder / "checkpoints" / "last.ckpt"
    if resuming:
        return read_checkpoint(path)["step"] + 1
    if path.is_file():
        raise OccupiedError(
            f"{folder} already holds a run: resume={folder} goes on with it, or choose another directory"
        )
    return 0
