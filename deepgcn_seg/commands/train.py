"""``tools/train.py``: train a network, and score it on the held-out area."""

import logging
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ..data.blocks import NINE, count_channels, place_of_channels
from ..data.dataset import split_by_area
from ..data.store import Store
from ..device import device as device_of
from ..distributed import World, join
from ..errors import OccupiedError, UserError
from ..files import write_json
from ..memory import reset_peak
from ..model.checkpoint import read_checkpoint
from ..model.description import describe_network
from ..model.transfer import Source, read_source
from ..provenance import provenance
from ..settings import counted
from ..training.build import TrainingData, announce, build_trainer
from ..training.final_score import score_run
from ..training.loop import Trainer
from ..training.resuming import Resumed, require_same_data, rooms_of
from ..training.run_directory import (
    complete,
    finished_miou,
    keep_config,
    record_changes,
    require_free,
    run_settings,
    set_scores_aside,
    sole_writer,
)
from ..training.tensorboard import RunLog
from .command_line.checks import is_typed, protocol_as_trained

log = logging.getLogger(__name__)

# If steps wait for their blocks in more than this share of their time, more processes to load are advised.
WAITING = 0.1


def train(config: DictConfig) -> float:
    """Train the configured model, and score its last checkpoint (or its best, by ``select``) on the held-out area.

    In a sweep, a job whose directory already holds this very run is resumed, or left as it is if it has finished: the
    same command again, also with further values, runs what is missing
    (:func:`~deepgcn_seg.training.run_directory.job_directory`).

    Returns:
        mIoU on the test area under the configured protocol.

    Raises:
        UserError: a setting or the data cannot be used.
        Interrupted: the training was asked to stop, and can be resumed.
    """
    device, world = _join_processes(config)
    folder = Path(world.share(HydraConfig.get().runtime.output_dir))
    with sole_writer(folder, world):
        return _train(config, folder, device, world)


def _train(config: DictConfig, folder: Path, device: torch.device, world: World) -> float:
    complete(config)
    resuming = bool(config.resume)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        if (finished := _finished_job(config, folder, world)) is not None:
            return finished
        resuming = (folder / "checkpoints" / "last.ckpt").is_file()
    settings = run_settings(config)
    resumed = Resumed(folder, settings) if resuming else None
    if resumed is None:
        require_free(folder)
    source = None if resuming else _read_weights(config)
    # Record the settings as they were given, before opening the data changes those that depend on the data. They are
    # written once nothing can refuse them any more: a resumed run that is refused stays as it was.
    given = deepcopy(config)
    facts = {**provenance(device, world.size), "settings": settings}
    if source is not None:
        facts["weights"] = source.record()

    reset_peak(device)
    data = _open_data(config, world)
    run_log = RunLog(folder if world.first else None, 0 if resumed is None else resumed.step + 1)
    trainer = build_trainer(config, folder, data, device, world, run_log, source or resumed)
    if resumed is not None:
        trainer.resume(resumed.content, resumed.changes_loss)
    else:
        run_log.config(OmegaConf.to_yaml(config, resolve=True))
    if world.first:
        keep_config(given, folder)
        weights = _named_weights(trainer, data)
        if resumed is None:
            write_json(folder / "run.json", facts if weights is None else {**facts, "class_weights": weights})
        else:
            record_changes(folder, settings, weights, resumed.changed, resumed.changes)
            if trainer.state.step < trainer.total_steps:
                set_scores_aside(folder, trainer.state.step)
        announce(config, trainer, data)
    trainer.fit()
    _log_waiting(trainer)
    world.barrier()

    cost = {
        "seconds": round(trainer.state.seconds, 2),
        "waited_seconds": round(trainer.state.waited, 2),
        "steps": trainer.state.step,
        "skipped_steps": trainer.state.skipped,
        "peak_memory_mb": None if math.isnan(peak := trainer.update_peak_memory()) else peak,
    }
    miou = score_run(config, folder, data, device, run_log, cost, world)
    # Wait for every process before the process group is closed: another may still be writing.
    world.barrier()
    return miou


def _finished_job(config: DictConfig, folder: Path, world: World) -> float | None:
    """Return the mIoU of a job of a sweep if its directory holds the finished run, else None.

    Raises:
        OccupiedError: the directory holds another run, or this one of other rooms.
    """
    finished = finished_miou(config, folder)
    if finished is not None:
        _require_rooms_of(folder, config, world)
        log.info("%s: finished before, mIoU %.4f", folder, finished)
    return finished


def _require_rooms_of(folder: Path, config: DictConfig, world: World) -> None:
    """Refuse a finished run of a sweep whose rooms are not those of the data as they are now.

    Raises:
        OccupiedError: names the difference.
    """
    path, data = folder / "checkpoints" / "last.ckpt", _open_data(config, world)
    try:
        own = {"classes": data.store.classes, "rooms": rooms_of(data.split, data.store)}
        require_same_data(read_checkpoint(path), own, f"checkpoint {path}")
    except UserError as error:
        difference = str(error).partition(";")[0]
        raise OccupiedError(f"{difference}; to train on other rooms, choose another hydra.sweep.dir") from None


def _log_waiting(trainer: Trainer) -> None:
    """Log which share of the steps' time was spent waiting for blocks, and what to do if that is much."""
    state = trainer.state
    if state.seconds > 0:
        share = state.waited / state.seconds
        workers = trainer.settings.workers
        advice = f"; raise workers={workers}, so that more processes load them" if share > WAITING else ""
        log.info("Steps took %.0f s, %.0f %% of it waiting for blocks%s", state.seconds, 100 * share, advice)


def _named_weights(trainer: Trainer, data: TrainingData) -> dict[str, float] | None:
    """Return the weight of each class by its name, or None if classes have none."""
    weights = trainer.settings.objective.class_weights
    return None if weights is None else {n: round(w, 6) for n, w in zip(data.store.classes, weights.tolist())}


def _join_processes(config: DictConfig) -> tuple[torch.device, World]:
    """Return this process's device and the processes that it trains with."""
    device = device_of(config.device)
    if device.type == "cuda" and config.devices > (gpus := torch.cuda.device_count()):
        found = counted(gpus, "GPU")
        raise UserError(f"devices={config.devices}: PyTorch finds {found} here, and each process needs one of its own")
    world = join(device)
    if config.devices > world.size:
        raise UserError(f"devices={config.devices}: give it on the command line, which starts that many processes")
    if device.type == "cuda" and world.size > 1:
        # The processes talk through the current one.
        torch.cuda.set_device(device)
    return device, world


def _read_weights(config: DictConfig) -> Source | None:
    """Return the weights to begin with, read before any work; None if the run begins with random ones.

    A resumed run does not come here: its checkpoint has all weights, and the file may be gone.
    """
    if config.weights is None:
        return None
    model: Any = OmegaConf.to_container(config.model, resolve=True)
    return read_source(config.weights, describe_network(model))


def _open_data(config: DictConfig, world: World) -> TrainingData:
    """Return the data of a config, and set the settings that depend on the data (:func:`fit_to_data`).

    The first process opens the data before the others: it makes the synthetic rooms, for instance.
    """
    if not world.first:
        world.barrier()
    store: Store = instantiate(config.data.store)
    if world.first:
        world.barrier()
    fit_to_data(config, store)
    # Checked before any work too, but the channels may be left to the data.
    protocol = protocol_as_trained(config, config.protocol, config.data.variant, config.data.features, None)
    protocol.require_rooms(store)
    split = split_by_area(store, config.data.fold, config.data.validation, config.seed)
    return TrainingData(store, split, instantiate(config.data.grid))


def fit_to_data(config: DictConfig, store: Store) -> None:
    """Set the channels that the model reads and the classes that it tells apart to those of the data.

    Raises:
        UserError: the data lack a channel that is asked for.
    """
    if config.data.features is None:
        config.data.features = [feature for feature in NINE if feature != "color" or store.colored]
    if "color" in config.data.features and not store.colored:
        raise UserError(f"data.features={list(config.data.features)}: {store.root} has no colours; leave color out")
    fitting = {"in_channels": count_channels(config.data.features), "num_classes": len(store.classes)}
    for key, value in fitting.items():
        if is_typed(f"model.{key}") and config.model[key] != value:
            raise UserError(f"model.{key}={config.model[key]}: the data set it, here to {value}; leave it out")
        config.model[key] = value
    try:
        config.model.positions = place_of_channels(config.model.positions, config.data.features)
    except ValueError as error:
        raise UserError(f"data.features={list(config.data.features)}: {error}") from None
