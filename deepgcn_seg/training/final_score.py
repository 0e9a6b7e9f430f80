"""Score a finished training on its test rooms: a table, ``metrics.json``, pictures and TensorBoard's entry."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..changes import values_in_time
from ..data.dataset import area_name
from ..distributed import World
from ..evaluation.evaluate import evaluate_rooms
from ..evaluation.metrics import Scores
from ..evaluation.model_card import how_selected, score_of, write_card
from ..evaluation.protocols import Protocol
from ..files import write_json
from ..model.checkpoint import add_to_checkpoint, load_weights, read_checkpoint
from ..provenance import versions
from ..settings import shown
from .build import TrainingData
from .run_directory import recorded_changes, recorded_weights
from .tensorboard import RunLog

log = logging.getLogger(__name__)


def score_run(
    config: DictConfig,
    folder: Path,
    data: TrainingData,
    device: torch.device,
    run_log: RunLog,
    cost: dict[str, Any],
    world: World = World(),
) -> float:
    """Score a run directory on the test rooms, and write the result into it.

    The last checkpoint is scored, or the best one, if there is one, with ``select=validation`` or ``select=test``.

    Args:
        cost: time, steps and memory that training took, for ``metrics.json``.

    Returns:
        mIoU.
    """
    store, best = data.store, folder / "checkpoints" / "best.ckpt"
    path = best if config.select != "last" and best.is_file() else folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    # The config of the command line builds the network. The checkpoint only gives its weights.
    model: nn.Module = instantiate(config.model)
    load_weights(model, content["model"], f"checkpoint {path}")
    protocol: Protocol = instantiate(config.protocol)
    entry = evaluate_rooms(
        model.to(device),
        protocol,
        store,
        data.split.test,
        device,
        folder,
        title=f"{config.backbone.name}-{config.depth} on {area_name(store, config.data.fold)} of {store.source}",
        world=world,
        pages=config.pages,
        dataset=config.data.name,
        areas=[config.data.fold],
        checkpoint=str(path),
        checkpoint_step=content["step"],
        selection=how_selected(config.select if path == best else None),
    )
    if not world.first:
        return entry["mIoU"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    metrics = {"test": entry, "parameters": parameters, "training": cost, "versions": versions()}
    if (weights := recorded_weights(folder)) is not None:
        metrics["weights"] = weights
    if changes := recorded_changes(folder):
        metrics["changes"] = [change.plain() for change in changes]
    if isinstance(card := content.get("card"), dict):
        write_card(folder, add_to_checkpoint(path, card={**card, "score": score_of(entry).plain()}))
    write_json(folder / "metrics.json", metrics)
    confusion = torch.tensor(entry["confusion"])
    # These events belong to the step after the last. If a run is killed while it scores, the resumed run replaces them.
    after = int(cost["steps"]) + 1
    run_log.scores(after, "test", confusion, store.classes)
    if (folder / "room.png").is_file():
        run_log.image("4_test/room", folder / "room.png", after)
    scores = Scores.of(confusion)
    results = {"hparam/mIoU": scores.miou, "hparam/mAcc": scores.macc, "hparam/OA": scores.oa}
    run_log.hparams(settings_to_compare(config, protocol, values_in_time(changes)), results)
    run_log.close()
    log.info("Run directory: %s", folder)
    return scores.miou


def settings_to_compare(config: DictConfig, protocol: Protocol, changed: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that TensorBoard's table of runs shows.

    Args:
        changed: all values of settings that were changed on the way, by name.
    """
    plain: Any = OmegaConf.to_container(config.recipe)
    graph = config.model.graph
    return {
        "backbone": config.backbone.name,
        # An operator of torch_geometric is told by its own name.
        "conv": str(config.conv.get("operator", config.conv)._target_).rsplit(".", 1)[-1],
        "recipe": config.recipe.name,
        **{key: changed.get(f"recipe.{key}", shown(plain[key])) for key in ("loss", "class_weights")},
        **{key: config[key] for key in ("depth", "channels", "k", "points", "batch_size", "seed")},
        **{key: changed.get(key, config[key]) for key in ("epochs", "accumulate", "precision")},
        **{
            key.rpartition(".")[2]: changed.get(key, OmegaConf.select(config, key))
            for key in ("recipe.optimizer.lr", "recipe.optimizer.weight_decay", "recipe.label_smoothing", "recipe.ema")
        },
        "dilation": str(config.model.dilation),
        "stochastic": config.model.stochastic,
        "graph": graph if isinstance(graph, str) else str(graph._target_).rsplit(".", 1)[-1],
        "fold": config.data.fold,
        "data": config.data.name,
        "protocol": protocol.name,
    }
