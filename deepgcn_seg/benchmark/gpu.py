"""``measure=gpu``: what is to be known of this code on a GPU, in the order of its worth.

It is made for a GPU that is there for a quarter of an hour: each line is printed and written to ``gpu.json`` as soon as
it is known. Each part has a process of its own and a time limit, because after an error of a kernel a process can use
the GPU no more: a part that fails is named, and the next one goes on. Times are by the GPU's own clock, around calls
that end by waiting for it. Memory is the peak of what a call allocates above what was held before. Both formulations
run in turn in one process.

========  ==========================================================================================================
kernels   errors of the compiled kernels against PyTorch in float64, at real sizes (:mod:`.kernels`)
network   a training step (without its optimiser) and an inference beside the official formulation
passes    what each kind of kernel takes of a pass, and the least that it could take
search    the neighbour search alone, by kernel, beside PyTorch's product and ``topk`` (and ``flashlib``)
others    bfloat16, DenseGCN, MRConv, a deep ResGCN, and single large clouds
training  a training on ``data`` of so many minutes: speed, waiting for data, score
========  ==========================================================================================================
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from .. import ops
from ..data.dataset import split_by_area
from ..device import device as device_of
from ..errors import UserError
from ..model.checkpoint import read_checkpoint
from ..model.connection import CONNECTIONS
from ..processes import end_with_parent
from ..provenance import provenance
from .build import build, network_settings
from .kernels import check_kernels
from .lines import Lines
from .parts import peak_bandwidth, peak_flops, work
from .profiling import seconds_by_kind, seconds_by_part
from .reference import knn
from .timing import TASKS, batch, interleaved, passes, seconds

Part = Callable[[Lines, DictConfig, torch.device], None]

# Times faster than the official formulation, and times less memory, that this package aims at.
GOALS = {"step": (6, 9), "inference": (10, 6)}
# Milliseconds of a search of 16 blocks of 4096 points with 64 channels at dilation 16.
SEARCH_GOAL = 0.7
# A training is stopped after this many times its minutes, and so many seconds: its steps are planned without optimiser
# and loader, and it has to begin and to be scored.
MOST_TRAINING = 1.5, 120


def measure_gpu(config: DictConfig) -> None:
    """Measure the parts ``config.gpu.parts``, each line as soon as it is known.

    Raises:
        UserError: a part is unknown, the directory has another measurement, or the data of the training cannot be used;
            or a part has failed, while the others are measured.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    parts: dict[str, Part] = {
        "kernels": _kernels,
        "network": _network,
        "passes": _passes,
        "search": _search,
        "others": _others,
        "training": partial(_training, folder=folder / "training", data=_data_arguments()),
    }
    if unknown := [name for name in config.gpu.parts if name not in parts]:
        raise UserError(f"gpu.parts: {', '.join(unknown)} is none of {', '.join(parts)}")
    if (folder / "gpu.json").exists() or (folder / "training").exists():
        raise UserError(f"{folder} has another measurement: give another hydra.run.dir")
    settings, device = network_settings(config), device_of(config.device)
    if "training" in config.gpu.parts:
        # What is wrong with the data is to be known before the other parts have taken minutes.
        split_by_area(instantiate(config.data.store), config.data.fold, 0, 0)
    facts = {"settings": settings, "points": config.points, "blocks": config.gpu.blocks, "repeats": config.repeats}
    facts |= provenance(device)
    lines = Lines(folder / "gpu.json", _head(device), facts)
    if device.type == "cuda":
        # Without them, PyTorch's operations would be measured.
        _require_kernels()
    share, more = MOST_TRAINING
    for name in config.gpu.parts:
        lines.part = name
        limit = config.gpu.limit + (60 * share * config.gpu.minutes + more if name == "training" else 0)
        process = get_context("spawn").Process(target=_measure, args=(parts[name], lines, config, device), daemon=True)
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            lines.fail(UserError(f"stopped after {limit:g} s; gpu.limit= gives the parts more time"))
        elif process.exitcode:
            lines.fail(UserError(f"its process ended with exit code {process.exitcode}"))
    if lines.failed:
        raise UserError(f"failed: {', '.join(lines.failed)}; the lines above and gpu.json have the others")


def _measure(part: Part, lines: Lines, config: DictConfig, device: torch.device) -> None:
    """Measure a part, in a process of its own. Whatever goes wrong, the next one is measured."""
    end_with_parent()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        part(lines, config, device)
    except Exception as error:
        lines.fail(error)
    except KeyboardInterrupt:
        os._exit(130)


def _data_arguments() -> list[str]:
    """Return the arguments of the command line that choose data, for a training on the same."""
    hydra = HydraConfig.get()
    given = [text for text in hydra.overrides.task if text.lstrip("+~").startswith("data")]
    return [f"data={hydra.runtime.choices['data']}", *given]


def _require_kernels() -> None:
    """Raise a UserError if the GPU kernels cannot run; the log says why."""
    try:
        with ops.backend("triton"):
            pass
    except ValueError as error:
        raise UserError(str(error)) from None


def _head(device: torch.device) -> str:
    """Return card, driver and versions in one line."""
    about = [str(device)]
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
        except (OSError, subprocess.TimeoutExpired):
            driver = "not known"
        about = [torch.cuda.get_device_name(device), f"driver {driver}", f"CUDA {torch.version.cuda}"]
    try:
        import triton

        about.append(f"triton {triton.__version__}")
    except ImportError:
        about.append("no triton")
    return ", ".join([*about, f"torch {torch.__version__}", time.strftime("%Y-%m-%d")])


def _kernels(lines: Lines, config: DictConfig, device: torch.device) -> None:
    worst = 0.0
    for count in config.gpu.sizes:
        dilations = [d for d in range(1, config.depth) if d * config.k <= count]
        if not dilations:
            raise UserError(f"gpu.sizes: {count} points are fewer than k={config.k}")
        for check in check_kernels(device, count, config.channels, config.k, dilations):
            worst = max(worst, check.error / check.allowed)
            error = check.error if math.isfinite(check.error) else str(check.error)
            lines.add(check.what, error, "", f"{'allowed' if check.passed else 'ABOVE'} {check.allowed:g}")
    lines.add("largest error, as a share of what is allowed", worst)
    if not worst <= 1:
        raise UserError("a kernel's error is above what is allowed")


def _network(lines: Lines, config: DictConfig, device: torch.device) -> None:
    settings = network_settings(config)
    models = {name: build(name, settings, device) for name in ("reference", "ours")}
    data = batch(config.gpu.blocks, config.points, device)
    for task in TASKS:
        times, memory = _in_turn(passes(models, task, data), config, device)
        for name in models:
            lines.add(f"{task}, {name}", statistics.median(times[name]), "s", _range(times[name]))
        faster, less = GOALS[task]
        ratio = statistics.median(times["reference"]) / statistics.median(times["ours"])
        lines.add(f"{task}, times faster", ratio, "", f"goal {faster}")
        for name, peak in memory.items():
            lines.add(f"{task}, {name}", peak, "MB")
        if memory:
            lines.add(f"{task}, times less memory", memory["reference"] / memory["ours"], "", f"goal {less}")


def _passes(lines: Lines, config: DictConfig, device: torch.device) -> None:
    settings = network_settings(config)
    model, data = build("ours", settings, device), batch(config.gpu.blocks, config.points, device)
    # Large ones on a GPU, where calling them and waiting takes some ten microseconds.
    size, megabytes = (8192, 2048) if device.type == "cuda" else (2048, 256)
    peak, bandwidth = peak_flops(device, size), peak_bandwidth(device, megabytes)
    lines.add(f"float32 product of {size} x {size}", peak / 1e12, "TF/s")
    lines.add(f"copy of {megabytes} MB", bandwidth / 1e9, "GB/s")
    # The search of a GPU multiplies all pairs of points three times in float16, where a CPU's takes half of the pairs.
    search, search_peak, share = "half of all pairs, in float32", peak, 1
    if device.type == "cuda":
        search, search_peak, share = "three float16 products of all pairs", peak_flops(device, size, torch.float16), 6
        lines.add(f"float16 product of {size} x {size}", search_peak / 1e12, "TF/s")
    for task in TASKS:
        with lines.case(task):
            action = passes({"ours": model}, task, data)
            times, _ = _in_turn(action, config, device)
            whole = statistics.median(times["ours"])
            lines.add(f"{task}: whole pass", 1e3 * whole, "ms", _range(times["ours"]))
            spent = seconds_by_kind(action["ours"], device)
            least = work(settings, task, config.gpu.blocks, config.points)
            flops, moved = least.pop("neighbour search")
            searching = 1e3 * max(share * flops / search_peak, moved / bandwidth)
            bounds = {part: 1e3 * max(flops / peak, moved / bandwidth) for part, (flops, moved) in least.items()}
            for kind, value in spent.items():
                note = f"least {bounds[kind]:.3g} ms" if kind in bounds else ""
                lines.add(f"{task}: {kind}", 1e3 * value, "ms", note)
            searches = seconds_by_part(spent)["neighbour search"]
            lines.add(f"{task}: all searches", 1e3 * searches, "ms", f"least for {search}: {searching:.3g} ms")
            if device.type == "cuda":
                lines.add(f"{task}: gaps between kernels", 1e3 * (whole - sum(spent.values())), "ms")


def _search(lines: Lines, config: DictConfig, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(config.gpu.blocks, config.points, config.channels, generator=generator).to(device)
    largest = config.depth - 1
    for d in sorted({1, min(16, largest), largest}):
        ranks = torch.arange(config.k) * d
        actions: dict[str, Callable[[], Any]] = {
            "ours": partial(ops.nearest_ranks, points, ranks),
            # PyTorch's way: the whole matrix of distances, its largest k x d entries, every d-th of these.
            "product and topk": partial(knn, points.transpose(1, 2).unsqueeze(-1), config.k, d),
        }
        size = f"{config.gpu.blocks} x {config.points} x {config.channels}, d {d}"
        with lines.case(f"d {d}"):
            times, memory = _in_turn(actions, config, device)
            for name in actions:
                lines.add(f"{size}: {name}", 1e3 * statistics.median(times[name]), "ms", _megabytes(memory, name))
            kinds = seconds_by_kind(actions["ours"], device)
            for kind, value in kinds.items():
                lines.add(f"{size}: {kind}", 1e3 * value, "ms")
            note = f"goal {SEARCH_GOAL:g} ms for 16 x 4096 x 64" if d == 16 else ""
            lines.add(f"{size}: ours, sum of the kernels", 1e3 * sum(kinds.values()), "ms", note)
    if (flash := _flash_knn()) is not None:
        with lines.case("flashlib"):
            # Its products of float32 are in TF32, to three digits, so that it finds other neighbours now and then.
            search = partial(flash, points, points, config.k, return_distances=False)
            times, memory = _in_turn({"flashlib": search}, config, device)
            note = _megabytes(memory, "flashlib")
            lines.add("the same, d 1: flashlib (TF32)", 1e3 * statistics.median(times["flashlib"]), "ms", note)
            exact = ops.nearest_ranks(points, torch.arange(config.k))
            same = (search()[..., None] == exact[..., None, :]).any(-1).double().mean()
            lines.add("share of its neighbours that are right", float(same))


def _flash_knn() -> Callable[..., Any] | None:
    """Return the search of flashlib, the fastest public kernel for undilated neighbours; None if not installed."""
    try:
        from flashlib import flash_knn
    except ImportError:
        return None
    return flash_knn


def _others(lines: Lines, config: DictConfig, device: torch.device) -> None:
    settings, blocks = network_settings(config), config.gpu.blocks
    cases: list[tuple[str, dict[str, Any], int, int]] = [
        ("DenseGCN, half the width", {"connection": "dense", "channels": config.channels // 2}, blocks, config.points),
        ("MRConv", {"conv": "mr"}, blocks, config.points),
        (f"{config.gpu.depth} layers", {"depth": config.gpu.depth}, blocks, config.points),
        *((f"one cloud of {count} points", {}, 1, count) for count in config.gpu.clouds),
        ("bf16", {"precision": "bf16"}, blocks, config.points),
    ]
    for name, changed, size, points in cases:
        with lines.case(name):
            model, data = build("ours", settings | changed, device), batch(size, points, device)
            for task in TASKS:
                times, memory = _in_turn(passes({"ours": model}, task, data), config, device)
                goal = ", goal 24 GB" if changed.get("depth") == 112 and task == "step" else ""
                note = _megabytes(memory, "ours") + goal
                lines.add(f"{name}: {task}", statistics.median(times["ours"]), "s", note)


def _training(lines: Lines, config: DictConfig, device: torch.device, folder: Path, data: list[str]) -> None:
    """Train on the data of these arguments of the command line, with the run in ``folder``."""
    steps = _steps_within(60 * config.gpu.minutes, config, device)
    # The training is another process, which needs the memory that this one's allocator keeps.
    torch.cuda.empty_cache()
    lines.add("steps planned", str(steps), "", f"for {config.gpu.minutes:g} minutes")
    settings = network_settings(config)
    network = [f"backbone={CONNECTIONS[settings['connection']].network.lower()}", f"conv={settings['conv']}"]
    network += [f"{key}={config[key]}" for key in ("depth", "channels", "k", "points", "precision")]
    command = [sys.executable, "-m", "deepgcn_seg", "train", *network, "recipe=modern", "protocol=recut"]
    command += [f"batch_size={config.gpu.blocks}", f"device={device}", f"workers={config.workers}", "pages=false"]
    command += ["epochs=100000", f"max_steps={steps}", "validate_every=100000", "data.validation=0", *data]
    share, more = MOST_TRAINING
    started = time.perf_counter()
    with subprocess.Popen([*command, f"hydra.run.dir={folder}"]) as training:
        try:
            code = training.wait(60 * share * config.gpu.minutes + more)
        except subprocess.TimeoutExpired:
            # It saves a checkpoint, and ends.
            training.send_signal(signal.SIGINT)
            try:
                code = training.wait(60)
            except subprocess.TimeoutExpired:
                training.kill()
                code = training.wait()
    if (last := folder / "checkpoints" / "last.ckpt").is_file():
        content = read_checkpoint(last)
        done, spent = content["step"], max(content["seconds"], 1e-9)
        lines.add("step", spent / max(done, 1), "s", f"{done} steps")
        lines.add(
            "epoch", content["steps_per_epoch"] * spent / max(done, 1), "s", f"{content['steps_per_epoch']} steps"
        )
        lines.add("points a second", done * config.gpu.blocks * config.points / spent)
        lines.add("share of the time that steps wait for data", content["waited"] / spent)
    if code:
        after = time.perf_counter() - started
        raise UserError(f"the training ended with exit code {code} after {after:.0f} s; what it said is above")
    lines.add("training, from start to scores", time.perf_counter() - started, "s")
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    lines.add("peak memory", float(metrics["training"]["peak_memory_mb"]), "MB")
    lines.add("mIoU", 100 * metrics["test"]["mIoU"], "%", metrics["test"]["protocol"])


def _steps_within(limit: float, config: DictConfig, device: torch.device) -> int:
    """Return how many steps take so many seconds, with a fifth for optimiser and loader; at least one."""
    model, data = build("ours", network_settings(config), device), batch(config.gpu.blocks, config.points, device)
    times, _ = _in_turn(passes({"ours": model}, "step", data), config, device)
    return max(int(limit / (1.2 * statistics.median(times["ours"]))), 1)


def _in_turn(
    actions: dict[str, Callable[[], Any]], config: DictConfig, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each action's calls (:func:`.timing.interleaved`), and its peak memory on a GPU in MiB.

    The memory is what a call allocates above what was held before; it is not counted on a CPU.
    """
    times = interleaved(actions, config.repeats, clock=partial(_device_seconds, device))
    return times, {name: _peak_mb(action) for name, action in actions.items() if device.type == "cuda"}


def _peak_mb(action: Callable[[], Any]) -> float:
    """Return the most that a call of an action allocates on a GPU, in MiB above what was held."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _device_seconds(device: torch.device, action: Callable[[], Any]) -> float:
    """Return the seconds of a call: on a GPU by its own clock."""
    if device.type != "cuda":
        return seconds(action)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def _megabytes(memory: dict[str, float], name: str) -> str:
    return f"{memory[name]:.0f} MB" if memory else ""


def _range(times: list[float]) -> str:
    return f"{min(times):.4g} to {max(times):.4g}"
