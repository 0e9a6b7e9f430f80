"""``measure=data``: blocks a second that the loader gives and that training consumes, points a second of scoring."""

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from ..data.blocks import BlockGrid
from ..data.dataset import EpochSampler, block_dataset, make_loader, split_by_area
from ..data.store import RoomStore
from ..device import device as device_of
from ..evaluation import Protocol
from .build import build, described, network_settings
from .output import machine, publish, spread
from .timing import batch, run, seconds


def measure_data(config: DictConfig) -> None:
    """Measure the loader and scoring on the configured data, and training steps on random blocks, in turn."""
    settings, device = network_settings(config), device_of(config.device)
    store: RoomStore = instantiate(config.data.store)
    split = split_by_area(store, config.data.fold, config.data.validation)
    grid: BlockGrid = instantiate(config.data.grid)
    blocks = block_dataset(store, split.train, config.points, grid, variant=config.data.variant)
    size = config.batch_sizes[0]
    sampler = EpochSampler(len(blocks), 0, size)
    loader = make_loader(blocks, size, sampler, config.workers)
    model = build("ours", settings, device)
    data = batch(size, config.points, device)
    protocol = Protocol(points=config.points, batch_size=size, variant=config.data.variant)
    speeds: dict[str, list[float]] = {"loader": [], "training": [], "scoring": []}
    run(model, "step", *data)
    for _ in range(config.repeats):
        loaded = min(len(loader), config.batches)
        speeds["loader"].append(loaded * size / seconds(_load, loader, loaded))
        speeds["training"].append(size / seconds(run, model, "step", *data))
        result = protocol.run(model, store, split.test[:1], device)
        speeds["scoring"].append(result.points / result.seconds)
    ratios = [loader / training for loader, training in zip(speeds["loader"], speeds["training"])]
    report: dict[str, Any] = {"settings": settings, "points": config.points, "workers": config.workers, **speeds}
    publish(
        "data",
        f"{store.source}; {described(settings)}, {config.points} points, batch {size}",
        ["what", "a second"],
        [
            [f"blocks loaded, {config.workers} workers", spread(speeds["loader"], 1)],
            ["blocks trained on", spread(speeds["training"], 1)],
            ["times what training consumes", spread(ratios, 1)],
            [f"points scored ({protocol.describe()})", spread(speeds["scoring"], 0)],
        ],
        f"{machine(device)}; medians of {config.repeats}, (lowest to highest)",
        report,
    )


def _load(loader: torch.utils.data.DataLoader, batches: int) -> None:
    for _, _ in zip(range(batches), loader):
        pass
