"""The training loop."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from ..data.classes import ClassList
from ..data.dataset import BlockDataset, EpochSampler, make_loader
from ..distributed import World
from ..errors import Interrupted, UserError, first_line
from ..evaluation.metrics import Scores
from ..files import replacing
from ..memory import is_out_of_memory, peak_memory_mb
from ..model.checkpoint import load_weights, read_checkpoint, save_checkpoint
from ..progress import Meter
from ..schema import Schema
from ..settings import integer, number
from .inspection import gradient_norms, neighbor_distances
from .schedules import Clock
from .tensorboard import RunLog

log = logging.getLogger(__name__)

# Steps in a row whose loss or gradients may be NaN or infinite before training gives up.
MAX_BAD_STEPS = 10
# Steps between looks at each layer's gradients.
LAYERS_EVERY = 20


@dataclass
class Settings:
    """How to train; names as on the command line.

    batch_size: blocks of one optimiser step, over all processes and passes. accumulate: passes a step.
    ema: decay of the averaged weights, None for none.
    """

    epochs: int
    batch_size: int
    accumulate: int = 1
    max_steps: int | None = None
    seed: int = 0
    device: torch.device = torch.device("cpu")
    precision: str = "fp32"
    workers: int = 0
    points: int = 4096
    validate_every: int = 1
    save_every: int = 500
    label_smoothing: float = 0.0
    ema: float | None = None
    schedule: Callable[[Clock], float] = field(default=lambda clock: 1.0)
    norm_momentum: Callable[[Clock], float] | None = None


class Counts(Schema):
    """Where a training is, as its checkpoints say: names of :class:`Trainer`'s attributes."""

    step: Annotated[int, integer(0, 2**62)]
    best: Annotated[float, number(-1, 1)]
    seconds: Annotated[float, number(0)]
    skipped: Annotated[int, integer(0)]
    validated_step: Annotated[int, integer(0, 2**62)] = 0
    bad_steps: Annotated[int, integer(0)] = 0


class Trainer:
    """Trains a model on blocks and keeps ``last.ckpt`` and ``best.ckpt``.

    Args:
        model: (B, N, 9) -> logits (B, N, C). optimizer: over its parameters.
        blocks: to train on. validate: gives the confusion matrix of a model, or None.
        folder: of the checkpoints. kept, classes: what they hold beside weights and state.
        run_log: TensorBoard. world: the processes that train together.
        watched: a few held-out blocks, points (B, N, channels) and labels (B, N), to show at each validation.

    Raises:
        UserError: the batch cannot be shared out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        blocks: BlockDataset,
        validate: Callable[[nn.Module], torch.Tensor] | None,
        settings: Settings,
        folder: Path,
        kept: dict[str, Any],
        classes: ClassList,
        run_log: RunLog,
        world: World = World(),
        watched: tuple[torch.Tensor, torch.Tensor] | None = None,
    ):
        self.model, self.optimizer, self.blocks, self.validate = model, optimizer, blocks, validate
        self.settings, self.folder, self.run_log = settings, folder, run_log
        self.kept, self.classes = kept, classes
        self.world, self.watched = world, watched
        self.batch_size = min(settings.batch_size, len(blocks))
        parts = world.size * settings.accumulate
        if self.batch_size % parts:
            raise UserError(
                f"batch_size={self.batch_size}: must be a multiple of {parts} "
                f"({world.size} processes x accumulate={settings.accumulate})"
            )
        self.sampler = EpochSampler(
            len(blocks), settings.seed, self.batch_size, self.batch_size // parts, world.rank, world.size
        )
        self.steps_per_epoch = len(blocks) // self.batch_size
        self.total_steps = self.steps_per_epoch * settings.epochs
        if settings.max_steps is not None:
            self.total_steps = min(self.total_steps, settings.max_steps)
        self.averaged = None if settings.ema is None else average_of(model, settings.ema)
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.step, self.validated_step, self.best = 0, 0, -1.0
        self.bad_steps, self.skipped, self.seconds = 0, 0, 0.0

    @property
    def result(self) -> nn.Module:
        """What validation scores and a checkpoint's ``model`` holds: the averaged weights if there are some."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.steps_per_epoch

    @property
    def validation_due(self) -> bool:
        """Whether the model is to be validated at the step that is reached, and has not been."""
        at_end_of_epoch = self.step % self.steps_per_epoch == 0 and self.epoch % self.settings.validate_every == 0
        return self.validated_step < self.step and (at_end_of_epoch or self.step >= self.total_steps)

    def fit(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: SIGINT or SIGTERM came; ``last.ckpt`` holds the state.
            UserError: the loss stays NaN or infinite.
        """
        with _stop_requested() as stop, Meter("Training", self.total_steps, self.step) as meter:
            if self.validation_due:
                # The run was stopped in the last step before a validation.
                self._validate()
                self.save("last.ckpt")
            while self.step < self.total_steps:
                self._epoch(meter, stop)
            self.run_log.flush()

    def _epoch(self, meter: Meter, stop: Callable[[], bool]) -> None:
        self.model.train()
        batches = self._batches()
        for _ in range(self.step % self.steps_per_epoch, self.steps_per_epoch):
            started = time.perf_counter()
            # Waiting for data counts: a loader that cannot keep up must show.
            parts = [next(batches) for _ in range(self.settings.accumulate)]
            loss, stopping = self._train_step(parts, stop)
            self.step += 1
            seconds = time.perf_counter() - started
            self.seconds += seconds
            speed = self.batch_size * parts[0][1].shape[1] / seconds
            self.run_log.step(self.step, loss, self.optimizer.param_groups[0]["lr"], speed)
            meter.advance(f"epoch {self.epoch + 1}, loss {loss:.3f}, {speed:,.0f} points/s")
            if stopping:
                self.save("last.ckpt")
                raise Interrupted(f"stopped at step {self.step} of {self.total_steps}; resume={self.folder.parent}")
            if self.step >= self.total_steps:
                break
            if self.step % self.settings.save_every == 0 and self.step % self.steps_per_epoch:
                self.save("last.ckpt")
        if self.validation_due:
            self._validate()
        self.save("last.ckpt")

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.sampler.epoch = self.epoch
        self.sampler.start = self.step % self.steps_per_epoch
        return iter(
            make_loader(
                self.blocks,
                self.sampler.part,
                self.sampler,
                self.settings.workers,
                pin_memory=self.settings.device.type == "cuda",
            )
        )

    def _train_step(
        self, parts: list[tuple[torch.Tensor, torch.Tensor]], stop: Callable[[], bool]
    ) -> tuple[float, bool]:
        """One optimiser step. Returns the loss over all processes, and whether one was asked to stop."""
        settings, clock = self.settings, Clock(self.step, self.steps_per_epoch, self.total_steps)
        factor = settings.schedule(clock)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates):
            group["lr"] = rate * factor
        if settings.norm_momentum is not None:
            set_norm_momentum(self.model, settings.norm_momentum(clock))
        self.optimizer.zero_grad(set_to_none=True)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        try:
            losses = [self._backward(points, labels) for points, labels in parts]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(self._out_of_memory(error)) from None
        # One sum for both: every process must learn at the same step that one is to stop.
        summed = self.world.sum(torch.tensor([sum(losses), float(stop())], dtype=torch.float64, device=settings.device))
        loss = float(summed[0]) / (self.world.size * len(parts))
        self.world.average_gradients(self.model)
        norm = torch.nn.utils.get_total_norm(p.grad for p in self.model.parameters() if p.grad is not None)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            # The forward pass has put what is not finite into running statistics.
            for buffer, before in zip(self.model.buffers(), statistics):
                buffer.copy_(before)
            self._skip(loss, float(norm), parts)
            return loss, bool(summed[1] > 0)
        self.bad_steps = 0
        self.run_log.gradient_norm(self.step + 1, float(norm))
        if self.world.first and self.step % LAYERS_EVERY == 0:
            self.run_log.layers(self.step + 1, "gradient_norm", gradient_norms(self.model))
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return loss, bool(summed[1] > 0)

    def _backward(self, points: torch.Tensor, labels: torch.Tensor) -> float:
        """Add a part's gradients; returns its loss."""
        settings = self.settings
        points = points.to(settings.device, non_blocking=True)
        labels = labels.to(settings.device, non_blocking=True)
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = self.model(points)
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), label_smoothing=settings.label_smoothing)
        (loss / settings.accumulate).backward()
        return loss.item()

    def _skip(self, loss: float, norm: float, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Count a step that is not finite and keep its first batch.

        Raises:
            UserError: too many in a row.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.bad_steps, self.skipped = self.bad_steps + 1, self.skipped + 1
        step, path = self.step + 1, self.folder.parent / "bad_batch.pt"
        blocks = [self.blocks.describe(int(i)) for i in self.sampler.steps()[self.step % self.steps_per_epoch]]
        if self.bad_steps == 1 and self.world.first:
            content = {"step": step, "blocks": blocks, "points": [p for p, _ in parts], "labels": [y for _, y in parts]}
            try:
                with replacing(path) as temporary:
                    torch.save(content, temporary)
            except (OSError, RuntimeError) as error:
                log.warning("the batch could not be saved (%s)", error)
        what = f"step {step}: loss {loss:g}, gradient norm {norm:g}; blocks {'; '.join(blocks[:4])}, all in {path}"
        if self.bad_steps > MAX_BAD_STEPS:
            raise UserError(f"{what}. {self.bad_steps} such steps in a row: lower the rate (recipe.optimizer.lr)")
        log.warning("%s. Step skipped, %d so far", what, self.skipped)

    def _out_of_memory(self, error: BaseException) -> str:
        """What would help, and by about how much."""
        part, points = self.sampler.part, self.settings.points
        kept = activation_bytes(self.model, points) * part / 2**30
        advice = [f"accumulate={2 * self.settings.accumulate} (halves about {kept:.1f} GB of activations)"]
        if part == 1:
            advice = [f"points={points // 2} (halves about {kept:.1f} GB of activations)"]
        advice.append("model.checkpoint=true (recomputes convolutions: about a third of that, a third more time)")
        advice.append("backbone=revgcn (hardly grows with depth)")
        return (
            f"out of memory at step {self.step + 1}, {part} blocks of {points} points a pass ({first_line(error)}). "
            f"Try {'; or '.join(advice)}"
        )

    def _validate(self) -> None:
        self.validated_step = self.step
        if self.validate is None:
            return
        confusion = self.validate(self.result)
        self.run_log.scores(self.step, "validation", confusion, self.classes)
        self.run_log.memory(self.step, peak_memory_mb(self.settings.device))
        if self.watched is not None and self.world.first:
            self._show(*self.watched)
        miou = Scores.of(confusion).miou
        better = miou > self.best
        log.info(
            "Epoch %d, step %d: validation mIoU %.4f%s",
            -(-self.step // self.steps_per_epoch),
            self.step,
            miou,
            " (best so far)" if better else "",
        )
        if better:
            self.best = miou
            self.save("best.ckpt")

    def _show(self, points: torch.Tensor, labels: torch.Tensor) -> None:
        """The watched blocks, as the network sees them now, and how far its neighbours lie apart."""
        points, training = points.to(self.settings.device), self.result.training
        self.result.eval()
        with torch.inference_mode():
            predicted = self.result(points).argmax(-1)
        # Channels 0-2 are the position in the block, in every set of channels but those without it.
        xyz = points[..., :3]
        self.run_log.blocks(self.step, xyz, {"truth": labels, "prediction": predicted}, self.classes)
        self.run_log.layers(self.step, "neighbor_distance", neighbor_distances(self.result, points, xyz))
        self.result.train(training)

    def save(self, name: str) -> None:
        """Write a checkpoint that :meth:`resume` can go on from.

        Raises:
            UserError: it cannot be written; the one before is intact.
        """
        # What a run that goes on from here does not log again must be on disk.
        self.run_log.flush()
        own = {"torch": torch.get_rng_state()}
        if self.settings.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.settings.device)
        random = self.world.collect(own)
        if not self.world.first:
            return
        training = None
        if self.averaged is not None:
            training = {"model": self.model.state_dict(), "steps_averaged": int(self.averaged.n_averaged)}
        try:
            save_checkpoint(
                self.folder / name,
                self.result,
                classes=self.classes,
                **self.kept,
                optimizer=self.optimizer.state_dict(),
                random=random,
                training=training,
                step=self.step,
                validated_step=self.validated_step,
                best=self.best,
                seconds=self.seconds,
                bad_steps=self.bad_steps,
                skipped=self.skipped,
            )
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {self.folder / name} ({error}); the previous checkpoint is intact") from None

    def resume(self) -> None:
        """Go on from ``last.ckpt``.

        Raises:
            UserError: missing, damaged, or of another model.
        """
        path = self.folder / "last.ckpt"
        content, where = read_checkpoint(path), f"checkpoint {path}"
        counts = Counts.of({name: content[name] for name in Counts.model_fields if name in content}, where)
        load_weights(self.result, content["model"], where)
        try:
            if self.averaged is not None:
                self.averaged.n_averaged.fill_(content["training"]["steps_averaged"])
                load_weights(self.model, content["training"]["model"], where)
            load_optimizer(self.optimizer, content["optimizer"])
            if self.world.rank < len(content["random"]):
                random = content["random"][self.world.rank]
                torch.set_rng_state(random["torch"])
                if self.settings.device.type == "cuda" and "cuda" in random:
                    torch.cuda.set_rng_state(random["cuda"], self.settings.device)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{where}: not the state of this training ({first_line(error)})") from None
        for name, count in counts:
            setattr(self, name, count)
        if self.step >= self.total_steps:
            log.info("%s: all %d steps are done, nothing is left to train (more epochs go on)", path, self.total_steps)
        else:
            log.info("Going on from %s at step %d of %d", path, self.step, self.total_steps)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser its state of a checkpoint; its settings stay those of the config.

    Raises:
        ValueError: not the state of this optimiser, or values that are not finite.
    """
    # But for the rate, which every step sets.
    settings = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings):
        group.update(own)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of a parameter {tuple(parameter.shape)} is {tuple(value.shape)}")
            if not torch.isfinite(torch.as_tensor(value)).all():
                raise ValueError(f"{name} of the optimiser is not finite")


def activation_bytes(model: nn.Module, points: int) -> int:
    """Roughly what a training pass keeps for backward, for one block: the output of every linear map
    of the model, three times over (itself, normalised, and the features it was made from)."""
    widths = sum(module.out_features for module in model.modules() if isinstance(module, nn.Linear))
    return 3 * 4 * points * widths


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a model's weights and statistics; the first steps, far from
    where the weights will be, are forgotten faster. Integers, as counts of batches, are those of the model."""

    def average(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        if not averaged.is_floating_point():
            return current
        return averaged + (1 - min(decay, float((1 + count) / (10 + count)))) * (current - averaged)

    return AveragedModel(model, avg_fn=average, use_buffers=True)


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm but the prediction head's (constant there, as official)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith("head."):
            module.momentum = momentum


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came, while inside; a second one stops at once."""
    asked = False

    def ask(number, frame):
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.info("Stopping after this step (again: at once)")

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Not the main thread (a launcher's): signals are not ours to take.
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
