"""From a composed config to a trainer: the model, its optimiser, the blocks to train on, and how they are validated."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from ..data.blocks import BlockGrid, advise, share_held
from ..data.classes import ClassList, no_label
from ..data.dataset import Split, area_name, block_dataset
from ..data.official_hdf5 import OfficialBlocks
from ..data.room import RoomEntry
from ..data.store import RoomStore, Store
from ..distributed import World
from ..evaluation.protocols import Protocol, Result
from ..model import DeepGCN
from ..model.description import Description, describe_network
from ..model.freezing import freeze, outermost, require_taken
from ..model.layers import sync_norms, unsynced_norms
from ..model.summary import summarize
from ..model.transfer import Source, take_weights
from ..provenance import git_state
from ..settings import counted, shown, some_of
from .class_weights import class_weights
from .guards import Batch
from .loop import Trainer, TrainingSettings
from .losses import Objective, build_loss, require_loss
from .resuming import Resumed, rooms_of
from .schedules import HalveBySamples
from .tensorboard import RunLog

log = logging.getLogger(__name__)

# If less than this share of the training points lies in blocks with enough points, a warning says so.
FEW = 0.5
# Fewer rooms than these choose a checkpoint by chance (docs/protocols.md, "Selection of a checkpoint").
ROOMS_TO_CHOOSE_BY = 5


@dataclass(frozen=True)
class TrainingData:
    """The data to train on: rooms, how they are split, and how they are cut into blocks of points."""

    store: Store
    split: Split
    grid: BlockGrid


def build_trainer(
    config: DictConfig,
    folder: Path,
    data: TrainingData,
    device: torch.device,
    world: World,
    run_log: RunLog,
    source: Source | Resumed | None = None,
) -> Trainer:
    """Return the trainer of a config, whose model has the channels and classes of the data.

    Args:
        folder: the run directory. source: weights to begin with, as far as they fit, or the run that goes on; None for
            a run that begins with random weights.

    Raises:
        UserError: nothing of the source fits, a part to be frozen is not there or begins anew, or the run cannot go on
            with these settings and data.
    """
    store, split, grid = data.store, data.split, data.grid
    channels = {"variant": config.data.variant, "features": tuple(config.data.features)}
    augment = [instantiate(part) for part in config.recipe.augmentation]
    blocks = block_dataset(store, split.train, config.points, grid, seed=config.seed, augment=augment, **channels)
    description = checkpoint_description(config, store, len(split.train))
    description["rooms"] = rooms_of(split, store)
    # Whatever does not fit is refused before the network is built.
    if isinstance(source, Resumed):
        _go_on(source, description, store.classes, config, len(blocks))
    objective = _objective(config.recipe, data, device, world)
    first = source if isinstance(source, Source) else None
    model = _build_model(config, device, world, description, store.classes, first)
    # The official blocks of points cannot be cut again.
    name = "blocks" if isinstance(store, OfficialBlocks) else "recut"
    cut: dict[str, Any] = {"side": grid.side, "min_points": grid.min_points}
    protocol = Protocol(name, points=config.points, batch_size=config.batch_size, **cut, **channels)
    rooms = split.test if config.select == "test" else split.validation

    def validate(model: nn.Module) -> Result:
        return protocol.run(model, store, rooms, device, world)

    return Trainer(
        model,
        instantiate(config.recipe.optimizer)(model.parameters()),
        blocks,
        validate if rooms else None,
        _settings(config, device, objective),
        folder / "checkpoints",
        {**description, "classes": store.classes},
        run_log,
        world,
        _blocks_to_show(data, split.validation or split.test, config, channels),
    )


def _go_on(resumed: Resumed, description: dict[str, Any], classes: ClassList, config: DictConfig, blocks: int) -> None:
    """Refuse to go on with settings or data that do not fit the run, and write what has changed into its card."""
    own = {**description, "classes": classes, "steps_per_epoch": blocks // min(config.batch_size, blocks)}
    recipe = config.recipe
    schedules = [instantiate(part) for part in (recipe.schedule, recipe.norm_momentum) if part is not None]
    resumed.require_same(own, config.epochs, config.max_steps, schedules)
    if resumed.changes:
        description["card"]["training"]["changes"] = list(map(str, resumed.changes))


def _build_model(
    config: DictConfig,
    device: torch.device,
    world: World,
    description: dict[str, Any],
    classes: ClassList,
    source: Source | None,
) -> nn.Module:
    """Return the model with its first weights and its frozen parts, and print a summary of it."""
    torch.manual_seed(config.seed)
    model: nn.Module = instantiate(config.model)
    frozen = list(config.freeze)
    freeze(model, frozen)
    if source is not None:
        fit = take_weights(model, _described(description, classes), source)
        require_taken(frozen, fit.newly_initialised)
    model = model.to(device)
    # All processes begin with the same weights, but draw dropout and stochastic dilation differently.
    torch.manual_seed(config.seed + world.rank)
    if config.sync_norms and world.size > 1:
        sync_norms(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if frozen:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if not config.weights:
            log.warning("freeze=%s without weights: these parts keep their random first weights", shown(frozen))
        log.info(
            "Frozen: %s; %s of %s parameters are trained",
            ", ".join(outermost(frozen)),
            f"{trained:,}",
            f"{parameters:,}",
        )
    log.info(
        "Model: %s-%d, %d channels, k %d, %s parameters, %s",
        config.backbone.name,
        config.depth,
        config.channels,
        config.k,
        f"{parameters:,}",
        device,
    )
    if isinstance(model, DeepGCN) and world.first:
        Console(stderr=True).print(summarize(model, config.points).table())
    return model


def _objective(recipe: DictConfig, data: TrainingData, device: torch.device, world: World) -> Objective:
    """Return the loss of a recipe, with the class weights of the rooms to train on."""
    loss = build_loss(recipe.loss, recipe.label_smoothing, recipe.focal_gamma)
    weights = class_weights(recipe.class_weights, data.store, data.split.train, recipe.effective_beta, world)
    of_classes = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    require_loss(loss, len(data.store.classes), of_classes, device)
    return Objective(loss, of_classes, int(no_label(data.store.classes)))


def _settings(config: DictConfig, device: torch.device, objective: Objective) -> TrainingSettings:
    recipe = config.recipe
    same = ("epochs", "batch_size", "accumulate", "max_steps", "seed", "precision", "workers", "points")
    return TrainingSettings(
        **{key: config[key] for key in (*same, "validate_every", "save_every")},
        freeze=list(config.freeze),
        keep_best=config.select != "last",
        validated="test" if config.select == "test" else "validation",
        device=device,
        objective=objective,
        ema=recipe.ema,
        schedule=instantiate(recipe.schedule),
        norm_momentum=instantiate(recipe.norm_momentum),
    )


def checkpoint_description(config: DictConfig, opened: Store, rooms: int) -> dict[str, Any]:
    """Return what a run's checkpoints say about network, data and training, as ``save_checkpoint`` takes it.

    Args:
        opened: the data. rooms: number of rooms to train on.

    Raises:
        UserError: a checkpoint cannot describe a setting. This is found before the training, and not after it.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    data, store = plain["data"], plain["data"]["store"]
    source = str(store["_target_"]).removeprefix("deepgcn_seg.data.sources.")
    known = source in ("synthetic", "s3dis", "s3dis_hdf5", "scannet", "folder")
    trained_on = {
        "features": data["features"],
        "variant": data["variant"],
        **{key: data["grid"][key] for key in ("side", "stride", "min_points")},
        **{key: plain[key] for key in ("points", "batch_size", "seed")},
        "source": source if known else None,
        "label_numbers": None if opened.label_numbers is None else opened.label_numbers.plain(),
        **{key: data[key] for key in ("name", "fold", "validation")},
    }
    if source == "synthetic":
        trained_on["synthetic"] = {key: store[key] for key in ("rooms_per_area", "density", "seed")}
    network = describe_network(plain["model"])
    # The full config is written for people to read. No program reads it.
    description = {"network": network, "trained_on": trained_on, "config": plain, "card": _card(plain, opened, rooms)}
    _described(description, opened.classes)
    return description


def _card(config: dict[str, Any], opened: Store, rooms: int) -> dict[str, Any]:
    """Return what a checkpoint's card says before the network is scored."""
    recipe, git = config["recipe"], git_state() or {}
    name_of = lambda part: str(part["_target_"]).rpartition(".")[2]
    return {
        "training": {
            "recipe": recipe["name"],
            "optimizer": name_of(recipe["optimizer"]),
            "learning_rate": recipe["optimizer"].get("lr"),
            **{key: shown(recipe[key]) for key in ("loss", "class_weights")},
            "augmentation": [name_of(part) for part in recipe["augmentation"]],
            "ema": recipe["ema"],
            **{key: config[key] for key in ("epochs", "batch_size", "seed")},
            "rooms": rooms,
            "data": opened.source,
            "weights": None if config["weights"] is None else str(config["weights"]),
            **git,
        }
    }


def _described(description: dict[str, Any], classes: ClassList) -> Description:
    """Return what :func:`checkpoint_description` returned, with the classes, as a reader of the checkpoint sees it."""
    fields = {"model_config": description["network"], "trained_on": description["trained_on"]}
    return Description.of({**fields, "classes": classes.names, "palette": classes.palette}, "settings")


def _blocks_to_show(
    data: TrainingData, rooms: Sequence[RoomEntry], config: DictConfig, channels: dict[str, Any]
) -> Batch | None:
    """Return two held-out blocks of points, the same at every validation; None if the input lacks block positions."""
    if channels["features"][0] != "block":
        return None
    blocks = block_dataset(data.store, rooms, config.points, data.grid, seed=config.seed, **channels)
    points, labels = zip(*(blocks[i] for i in sorted({len(blocks) // 3, 2 * len(blocks) // 3})))
    return torch.stack(points), torch.stack(labels)


def _loss_as_typed(recipe: DictConfig) -> str:
    """Return the loss of a recipe as it is typed, with the settings that it uses."""
    loss: Any = OmegaConf.to_container(recipe, resolve=True)["loss"]  # type: ignore[call-overload,index]
    used = [f"label_smoothing {recipe.label_smoothing:g}"] * ("cross_entropy" in loss and recipe.label_smoothing > 0)
    used += [f"focal_gamma {recipe.focal_gamma:g}"] * ("focal" in loss)
    return ", ".join([shown(loss), *used])


def announce(config: DictConfig, trainer: Trainer, data: TrainingData) -> None:
    """Log the data, the loss and the size of a step, and warn of data that will make training worse."""
    _announce_data(config, trainer, data)
    _announce_steps(config, trainer)


def _announce_data(config: DictConfig, trainer: Trainer, data: TrainingData) -> None:
    store, split = data.store, data.split
    log.info(
        "Training on %s of %s for %s; validation on %s, test on %d of %s",
        counted(len(trainer.blocks), "block"),
        counted(len(split.train), "room"),
        counted(trainer.total_steps, "step"),
        counted(len(split.test), "test room") if config.select == "test" else counted(len(split.validation), "room"),
        len(split.test),
        area_name(store, config.data.fold),
    )
    log.info("Loss: %s", _loss_as_typed(config.recipe))
    if not split.validation and config.select == "validation":
        log.warning(
            "No room is left for validation (data.validation=%g, %s to train on), so that nothing chooses a "
            "best checkpoint: the last one is scored, and used by predict",
            config.data.validation,
            counted(len(split.train), "room"),
        )
    elif config.select == "validation" and len(split.validation) < ROOMS_TO_CHOOSE_BY:
        log.warning(
            "The best checkpoint is chosen by %s: by so few it is a matter of chance. On real rooms the last weights "
            "were better (select=last)",
            counted(len(split.validation), "room"),
        )
    if isinstance(store, RoomStore) and (share := share_held(store, split.train, data.grid)) < FEW:
        log.warning(
            "Only %.0f %% of the points to train on lie in blocks of at least %d: %s",
            100 * share,
            data.grid.min_points,
            advise(store, split.train, data.grid),
        )


def _announce_steps(config: DictConfig, trainer: Trainer) -> None:
    log.info(
        "A step is %s: %s x %s of %d; learning rate %s",
        counted(trainer.batch_size, "block"),
        counted(trainer.world.size, "process"),
        counted(config.accumulate, "pass"),
        trainer.sampler.part,
        ", ".join(f"{rate:g}" for rate in trainer.base_rates),
    )
    schedule = trainer.settings.schedule
    if isinstance(schedule, HalveBySamples) and trainer.batch_size != schedule.made_for:
        steps = -(-schedule.samples // schedule.samples_per_step)
        log.info(
            "batch_size=%d: the schedule is made for %d. It counts %d blocks a step, whatever batch_size is, and "
            "halves the rate every %s (%.3g epochs); recipe.schedule.samples_per_step says how many it counts",
            trainer.batch_size,
            schedule.made_for,
            schedule.samples_per_step,
            counted(steps, "step"),
            steps / trainer.steps_per_epoch,
        )
    if trainer.sampler.part < trainer.batch_size:
        if not (config.sync_norms and config.accumulate == 1):
            log.info("Batch norm sees %d blocks at a time, not the whole batch", trainer.sampler.part)
        elif alone := unsynced_norms(trainer.state.model):
            log.warning(
                "%s: batch norms of torch.nn see %d blocks at a time, not the whole batch; sync_norms is for those of "
                "deepgcn_seg.model.layers",
                some_of(alone, 2),
                trainer.sampler.part,
            )
        if "lovasz" in str(config.recipe.loss):
            log.info(
                "Lovasz-softmax sees %d blocks at a time, not the whole batch: other numbers of processes and passes "
                "take other steps",
                trainer.sampler.part,
            )
