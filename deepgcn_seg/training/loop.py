"""The training loop: :meth:`Trainer.fit` runs epochs, and an epoch runs steps.

The module :mod:`.state` has what a checkpoint restores, and :mod:`.guards` handles what may stop or skip a step.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.dataset import BlockDataset, EpochSampler, Loader, blocks_per_pass, make_loader
from ..data.official_hdf5 import OfficialBlockDataset
from ..distributed import World
from ..errors import Interrupted, UserError
from ..evaluation.history import Epoch
from ..evaluation.metrics import Scores
from ..evaluation.model_card import how_selected
from ..evaluation.protocols import Result
from ..memory import peak_memory_mb
from ..model.checkpoint import read_checkpoint
from ..model.freezing import set_training_mode
from ..progress import Meter
from .guards import Batch, RunningStatistics, advice_on_memory, save_bad_batch, stop_requested
from .inspection import gradient_norms, neighbor_distances, predicted_labels
from .losses import Objective
from .resuming import total_steps
from .schedules import Clock, set_norm_momentum, value_of
from .state import TrainingState
from .tensorboard import RunLog

log = logging.getLogger(__name__)

# Number of steps between two logs of each layer's gradient norm. A log copies a number per parameter from the GPU. In
# ResGCN-28 it takes 1.5 ms on a CPU, where a step takes 0.8 s; on a GPU it has not been measured.
LAYERS_EVERY = 20
# Number of steps between two checkpoints in an epoch; conf/train.yaml has the same. A killed run loses at most these,
# a minute on an H100 with 16 blocks a step, seven on two CPU cores with one block. A checkpoint of ResGCN-28 with its
# optimiser has 44 MB, and took a second on a busy disk.
SAVE_EVERY = 500


@dataclass
class TrainingSettings:
    """The settings of a training, named as on the command line.

    Attributes:
        epochs, max_steps: the training ends with whichever comes first; None for no limit of steps.
        batch_size: blocks of one optimiser step, over all processes and passes. accumulate: passes per step.
        seed: of the order of blocks. points: points of a block.
        device: runs the model. precision: ``fp32``, or ``bf16`` for autocast to bfloat16.
        workers: processes that load blocks; 0 for the trainer's own.
        validate_every: epochs between two validations.
        save_every: steps between two checkpoints within an epoch; its end always has one.
        objective: the loss. ema: decay of the averaged weights; None for no average.
        schedule: returns the factor of the learning rate. norm_momentum: returns batch norms' momentum; None keeps it.
        max_bad_steps: number of successive steps that may be skipped because their loss or gradients are not finite.
        keep_best: whether the checkpoint with the highest validation mIoU is kept as ``best.ckpt``.
        validated: the rooms that validations are on, validation or test, for the log.
        freeze: modules that stay in eval mode (:func:`~deepgcn_seg.model.freezing.set_training_mode`).
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
    save_every: int = SAVE_EVERY
    objective: Objective = field(default_factory=Objective)
    ema: float | None = None
    schedule: Callable[[Clock], float] = field(default=lambda clock: 1.0)
    norm_momentum: Callable[[Clock], float] | None = None
    max_bad_steps: int = 10
    keep_best: bool = True
    validated: str = "validation"
    freeze: Sequence[str] = ()


class Trainer:
    """The trainer of a model on blocks of points, which writes ``last.ckpt`` and ``best.ckpt``.

    Args:
        model: maps points (B, N, channels) to logits (B, N, C). optimizer: updates its parameters.
        blocks: blocks to train on. validate: scores a model; None for no validation.
        folder: where checkpoints go. description: what they say about classes, network and data
            (:func:`~deepgcn_seg.model.checkpoint.save_checkpoint`).
        run_log: TensorBoard events and history. world: the processes that train together.
        shown_blocks: held-out blocks that TensorBoard shows at each validation: points (B, N, channels), labels (B, N).

    Raises:
        UserError: the processes and passes cannot share the batch equally.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        blocks: BlockDataset | OfficialBlockDataset,
        validate: Callable[[nn.Module], Result] | None,
        settings: TrainingSettings,
        folder: Path,
        description: dict[str, Any],
        run_log: RunLog,
        world: World = World(),
        shown_blocks: Batch | None = None,
    ):
        self.blocks, self.validate, self.settings, self.folder = blocks, validate, settings, folder
        self.run_log, self.world, self.shown_blocks = run_log, world, shown_blocks
        self.state = TrainingState(model, optimizer, settings.ema)
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.batch_size = min(settings.batch_size, len(blocks))
        part = blocks_per_pass(self.batch_size, world.size, settings.accumulate)
        self.sampler = EpochSampler(len(blocks), settings.seed, self.batch_size, part, world.rank, world.size)
        self.steps_per_epoch = len(blocks) // self.batch_size
        self.description = {**description, "steps_per_epoch": self.steps_per_epoch}
        # Whether the log has a line on a validation without labels, and on a step without: one of each is enough.
        self._logged_no_score = self._logged_no_label = False
        self.total_steps = total_steps(self.steps_per_epoch, settings.epochs, settings.max_steps)

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return self.state.step // self.steps_per_epoch

    @property
    def present_epoch(self) -> int:
        """Number of the epoch that the last step belongs to; the first is 1."""
        return -(-self.state.step // self.steps_per_epoch)

    @property
    def validation_due(self) -> bool:
        """Whether the present step needs a validation that has not been done yet."""
        step = self.state.step
        its_turn = self._at_end_of_epoch and self.epoch % self.settings.validate_every == 0
        return self.state.validated_step < step and (its_turn or step >= self.total_steps)

    @property
    def _at_end_of_epoch(self) -> bool:
        return self.state.step % self.steps_per_epoch == 0 or self.state.step >= self.total_steps

    def update_peak_memory(self) -> float:
        """Measure the highest memory of this training in MiB, before a resume too, and keep it for the checkpoint.

        Returns:
            It, or NaN if it cannot be measured.
        """
        peak = peak_memory_mb(self.settings.device)
        if math.isnan(peak):
            return peak
        self.state.peak_memory_mb = max(self.state.peak_memory_mb, peak)
        return self.state.peak_memory_mb

    def fit(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: SIGINT or SIGTERM was received; ``last.ckpt`` holds the state.
            UserError: the loss stays NaN or infinite.
        """
        # One loader for all epochs: its processes would otherwise be started again for each of them.
        loader = make_loader(
            self.blocks,
            self.sampler.part,
            self.sampler,
            self.settings.workers,
            pin_memory=self.settings.device.type == "cuda",
        )
        with (
            closing(loader),
            stop_requested() as stop,
            Meter("Training", self.total_steps, self.state.step) as meter,
        ):
            if self.validation_due or (self._at_end_of_epoch and self.state.losses):
                # The run was stopped in the last step of an epoch.
                self._end_epoch()
            while self.state.step < self.total_steps:
                self._epoch(loader, meter, stop)
            self.run_log.flush()

    def _epoch(self, loader: Loader, meter: Meter, stop: Callable[[], bool]) -> None:
        """Train to the end of the epoch, or of all steps, and validate if a validation is due."""
        state, settings = self.state, self.settings
        set_training_mode(state.model, settings.freeze)
        done = state.step % self.steps_per_epoch
        self.sampler.epoch, self.sampler.start = self.epoch, done
        batches = iter(loader)
        for _ in range(done, self.steps_per_epoch):
            started = time.perf_counter()
            # The time includes waiting for data, so that the speed shows if a loader cannot keep up.
            passes = [next(batches) for _ in range(settings.accumulate)]
            state.waited += time.perf_counter() - started
            loss, stopping = self._train_step(passes, stop)
            state.step += 1
            seconds = time.perf_counter() - started
            state.seconds += seconds
            speed = self.batch_size * passes[0][1].shape[1] / seconds
            self.run_log.step(state.step, loss, state.optimizer.param_groups[0]["lr"], speed)
            shown = "no labelled point" if loss is None else f"loss {loss:.3f}"
            meter.advance(f"epoch {self.present_epoch}, {shown}, {speed:,.0f} points/s")
            if stopping:
                self.save("last.ckpt")
                raise Interrupted(f"stopped at step {state.step} of {self.total_steps}; resume={self.folder.parent}")
            if state.step >= self.total_steps:
                break
            if state.step % settings.save_every == 0 and state.step % self.steps_per_epoch:
                self.save("last.ckpt")
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Validate if it is time, add a row to the history, and save."""
        self._add_row(self._validate() if self.validation_due else None)
        self.save("last.ckpt")

    def _add_row(self, result: Result | None) -> None:
        """Add a row to the history of the steps since the row before.

        Args:
            result: of the validation of the last step; None if there was none.
        """
        state = self.state
        # An epoch whose steps were all left out, or had no labelled point, has no loss, and no row.
        if state.losses:
            epoch = Epoch(
                state.step,
                self.present_epoch,
                state.optimizer.param_groups[0]["lr"],
                state.loss_sum / state.losses,
                None if result is None else result.loss,
                None if result is None else Scores.of(result.confusion),
                state.seconds,
                self.update_peak_memory(),
            )
            self.run_log.epoch(epoch, self.description["classes"])
            state.loss_sum, state.losses = 0.0, 0

    def _train_step(self, passes: Sequence[Batch], stop: Callable[[], bool]) -> tuple[float | None, bool]:
        """Do one optimiser step on the mean loss of the passes that have a labelled point.

        If none has one, the step changes nothing: the optimiser's momentum and weight decay would move weights that
        no label asked to move.

        Returns:
            The mean loss over all processes, None if there is none, and whether a process was asked to stop.
        """
        state, settings = self.state, self.settings
        model, optimizer = state.model, state.optimizer
        self._follow_schedules()
        optimizer.zero_grad(set_to_none=True)
        statistics = RunningStatistics(model)
        with advice_on_memory(model, state.step + 1, self.sampler.part, settings.points, settings.accumulate):
            losses = [loss for points, labels in passes if (loss := self._backward(points, labels)) is not None]

        # One sum over processes serves all. All must know in the same step that one of them was asked to stop.
        own = [sum(losses), float(len(losses)), float(stop())]
        sums = self.world.sum(torch.tensor(own, dtype=torch.float64, device=settings.device))
        total, labelled, asked = sums.tolist()
        stopping = asked > 0
        if not labelled:
            statistics.restore()
            self._skip_unlabelled()
            return None, stopping
        loss = total / labelled
        self.world.average_gradients(model)
        # The gradients are now sums divided by the number of all passes, those without a labelled point included, which
        # added 0. The step is on the mean of the others.
        if (all_passes := self.world.size * len(passes)) > labelled:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= all_passes / labelled
        norm = float(nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None))

        if not (math.isfinite(loss) and math.isfinite(norm)):
            statistics.restore()
            self._skip_not_finite(loss, norm, passes)
            return loss, stopping
        state.bad_steps = 0
        optimizer.step()
        if state.averaged is not None:
            state.averaged.update_parameters(model)
        state.loss_sum, state.losses = state.loss_sum + loss, state.losses + 1
        # Logged only after the step, so that a training that fails in its first step writes no events.
        self.run_log.gradient_norm(state.step + 1, norm)
        if self.world.first and state.step % LAYERS_EVERY == 0:
            self.run_log.layers(state.step + 1, "gradient_norm", gradient_norms(model))
        return loss, stopping

    def _follow_schedules(self) -> None:
        """Set the learning rates and the batch norms' momentum of this step."""
        clock = Clock(self.state.step, self.steps_per_epoch, self.total_steps)
        factor = value_of(self.settings.schedule, clock, "recipe.schedule")
        for group, rate in zip(self.state.optimizer.param_groups, self.base_rates):
            group["lr"] = rate * factor
        if self.settings.norm_momentum is not None:
            momentum = value_of(self.settings.norm_momentum, clock, "recipe.norm_momentum")
            set_norm_momentum(self.state.model, momentum)

    def _backward(self, points: torch.Tensor, labels: torch.Tensor) -> float | None:
        """Add the gradients of one pass to the parameters; return its loss, or None without a labelled point."""
        settings = self.settings
        points = points.to(settings.device, non_blocking=True)
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = self.state.model(points)
        loss = settings.objective(logits, labels)
        # The backward pass is also run without a labelled point, when all gradients are 0: with sync_norms it sums over
        # processes, and the others would wait for this one.
        (loss / settings.accumulate).backward()
        return loss.item() if settings.objective.counts(labels) else None

    def _skip_unlabelled(self) -> None:
        """Leave out a step without a labelled point. The first such step is logged."""
        self.state.optimizer.zero_grad(set_to_none=True)
        if not self._logged_no_label:
            log.warning("step %d: no block of it has a labelled point; such steps change nothing", self.state.step + 1)
        self._logged_no_label = True

    def _skip_not_finite(self, loss: float, norm: float, passes: Sequence[Batch]) -> None:
        """Skip a step whose loss or gradients are not finite. Of several in a row, save the first one's batch.

        Raises:
            UserError: there are too many in a row.
        """
        state, path = self.state, self.folder.parent / "bad_batch.pt"
        state.optimizer.zero_grad(set_to_none=True)
        state.bad_steps, state.skipped = state.bad_steps + 1, state.skipped + 1
        blocks = [self.blocks.describe(int(i)) for i in self.sampler.steps()[state.step % self.steps_per_epoch]]
        if state.bad_steps == 1 and self.world.first:
            save_bad_batch(path, state.step + 1, blocks, passes)
        what = (
            f"step {state.step + 1}: loss {loss:g}, gradient norm {norm:g}; blocks {'; '.join(blocks[:4])}; "
            f"the first such batch is in {path}"
        )
        if state.bad_steps > self.settings.max_bad_steps:
            raise UserError(f"{what}. {state.bad_steps} such steps in a row: lower the rate (recipe.optimizer.lr)")
        log.warning("%s. Step skipped, %d so far", what, state.skipped)

    def _validate(self) -> Result | None:
        """Score the model on held-out rooms, and save it as ``best.ckpt`` if that is kept and it is the best so far."""
        state = self.state
        state.validated_step = state.step
        if self.validate is None:
            return None
        # What is scored is what is saved.
        self.world.share_buffers(state.network_to_use)
        result = self.validate(state.network_to_use)
        self.run_log.scores(state.step, "validation", result.confusion, self.description["classes"])
        self.run_log.memory(state.step, self.update_peak_memory())
        if self.shown_blocks is not None and self.world.first:
            self._show(*self.shown_blocks)
        miou = Scores.of(result.confusion).miou
        better = miou > state.best
        log.info(
            "Epoch %d, step %d: %s mIoU %.4f%s%s",
            self.present_epoch,
            state.step,
            self.settings.validated,
            miou,
            over_rooms(result),
            " (best so far)" if better and self.settings.keep_best else "",
        )
        if math.isnan(miou) and not self._logged_no_score:
            self._logged_no_score = True
            best = self.settings.keep_best and state.best >= 0
            log.warning(
                "No point to validate on has a label, so that this validation has no score. %s checkpoint is scored at "
                "the end, and used by predict",
                "The best" if best else "The last",
            )
        if better:
            state.best = miou
            if self.settings.keep_best:
                self.save("best.ckpt")
        return result

    def _show(self, points: torch.Tensor, labels: torch.Tensor) -> None:
        """Write to TensorBoard how the network labels some blocks, and how far away each layer's neighbours are."""
        points, network = points.to(self.settings.device), self.state.network_to_use
        # Channels 0-2 are the position in the block. If the input lacks them, there are no blocks to show.
        xyz = points[..., :3]
        clouds = {"truth": labels, "prediction": predicted_labels(network, points)}
        self.run_log.blocks(self.state.step, xyz, clouds, self.description["classes"])
        self.run_log.layers(self.state.step, "neighbor_distance", neighbor_distances(network, points, xyz))

    def save(self, name: str) -> None:
        """Write a checkpoint that :meth:`resume` can continue from.

        Raises:
            UserError: it cannot be written; the previous one is intact.
        """
        # A resumed run does not log these steps again, so their events must be on disk first.
        self.run_log.flush()
        self.update_peak_memory()
        description = self.description
        if "card" in description:
            selection = how_selected(self.settings.validated if name == "best.ckpt" else None)
            description = {**description, "card": {**description["card"], "selection": selection}}
        self.state.save(self.folder / name, description, self.settings.device, self.world)

    def resume(self, content: Mapping[str, Any] | None = None, other_loss: bool = False) -> None:
        """Restore the state of ``last.ckpt``. Whether the run may go on is checked before (:mod:`.resuming`).

        Args:
            content: of the checkpoint, if it has been read.
            other_loss: whether the steps from now on have another loss. Those until now then get a row of the history,
                at the end of an epoch with its validation.

        Raises:
            UserError: the file is missing, damaged, or of another model.
        """
        path, total = self.folder / "last.ckpt", self.total_steps
        self.state.load(path, content or read_checkpoint(path), self.settings.device, self.world)
        if self.state.step >= total:
            of_epochs = self.steps_per_epoch * self.settings.epochs
            limit = f"epochs={self.settings.epochs}" if total == of_epochs else f"max_steps={self.settings.max_steps}"
            log.info("%s: all %d steps of %s are done; set a larger value to continue", path, total, limit)
            return
        before = self.state.optimizer.param_groups[0]["lr"]
        clock = Clock(self.state.step, self.steps_per_epoch, total)
        rate = self.base_rates[0] * value_of(self.settings.schedule, clock, "recipe.schedule")
        where = (path, self.state.step, total)
        log.info("Going on from %s at step %d of %d; learning rate %.3g, before %.3g", *where, rate, before)
        if other_loss and self.state.losses and not self._at_end_of_epoch:
            self._add_row(None)
            self.save("last.ckpt")


def over_rooms(result: Result) -> str:
    """Return how far the mIoU of a validation would move with other rooms, for the log; nothing if it has one room."""
    if (interval := result.interval) is None:
        return ""
    low, high = interval
    scored = int(result.by_room.flatten(1).any(1).sum())
    return f", 95 % over {scored} rooms {low:.4f} to {high:.4f}"
