"""The training loop on its own: whatever stops it, and when, it ends as a run left alone does."""

import json
import math
import multiprocessing
import os
import signal
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch import nn
from torch.nn import functional as F

from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.data.dataset import make_loader
from deepgcn_seg.errors import Interrupted, OccupiedError, PartError, UserError
from deepgcn_seg.evaluation.history import Epoch, History, read_history
from deepgcn_seg.evaluation.metrics import Scores, confusion_matrix
from deepgcn_seg.evaluation.protocols import Result
from deepgcn_seg.model.layers import BatchNorm, LayerNorm
from deepgcn_seg.training import guards, loop, state, tensorboard
from deepgcn_seg.training.loop import Trainer, TrainingSettings
from deepgcn_seg.training.losses import CrossEntropy, Objective
from deepgcn_seg.training.run_directory import finished_miou
from deepgcn_seg.training.schedules import HalveByEpochs
from deepgcn_seg.training.state import average_of
from deepgcn_seg.training.tensorboard import RunLog

CLASSES = ClassList.of(["floor", "wall", "chair"], [[0, 0, 0], [90, 90, 90], [200, 0, 0]])
MEASURED = ("2_training/points_per_second", "2_training/peak_memory_mb")
TIMES = ("seconds", "peak_memory_mb")


class Small(nn.Module):
    """Six channels to three classes, with what a network has that is random or a state: dropout and batch norm."""

    def __init__(self, norm=BatchNorm, dropout=0.3):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), norm(8), nn.Linear(8, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, points):
        return self.last(self.dropout(self.norm(self.first(points)).relu()))


class Blocks(torch.utils.data.Dataset):
    """Six random blocks, other points every epoch."""

    def __len__(self):
        return 6

    def __getitem__(self, item):
        random = np.random.default_rng(item)
        points = torch.from_numpy(random.random((12, 6), dtype=np.float32))
        return points, (points[:, 3] * 3).long().clamp(0, 2)

    def describe(self, i):
        return f"block {i}"


def score(model):
    training = model.training
    points, labels = zip(*(Blocks()[0, i] for i in range(6)))
    with torch.no_grad():
        logits = model.eval()(torch.stack(points))
    model.train(training)
    loss = float(F.cross_entropy(logits.flatten(0, 1), torch.stack(labels).flatten()))
    return Result(confusion_matrix(torch.stack(labels), logits.argmax(-1), 3)[None], {}, 0.0, loss=loss)


class Killed(Exception):
    """What stands for SIGKILL."""


@pytest.fixture(autouse=True)
def plain_files(monkeypatch, set_threads):
    set_threads(1)

    def save(path, model, classes, **state):
        torch.save({"model": model.state_dict(), **state}, path)

    monkeypatch.setattr(state, "save_checkpoint", save)
    monkeypatch.setattr(loop, "read_checkpoint", lambda path: torch.load(path, weights_only=True))
    monkeypatch.setattr(tensorboard, "confusion_image", lambda *_: np.zeros((1, 1, 3), np.uint8))
    # Files of one second are read in the order of this number as text, in which 10 comes before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10_000))


def trainer(folder, **settings):
    """A run as it is started, or gone on with if it left a checkpoint."""
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    model = Small()
    found = Trainer(
        model,
        torch.optim.Adam(model.parameters(), 0.05),
        Blocks(),
        score,
        TrainingSettings(
            **{"schedule": HalveByEpochs(1), "epochs": 3, "batch_size": 2, "save_every": 2, "ema": 0.5, **settings}
        ),
        last.parent,
        {"classes": CLASSES},
        RunLog(folder, torch.load(last)["step"] + 1 if last.exists() else 0),
    )
    if last.exists():
        found.resume()
    return found


class Failing(Blocks):
    def __getitem__(self, item):
        raise PartError("a\n.h5: damaged")


def test_a_training_that_fails_leaves_no_process_that_loads_data(tmp_path):
    run = trainer(tmp_path, workers=2)
    run.blocks = Failing()
    with pytest.raises(UserError, match=r"^a\n\.h5: damaged$"):
        run.fit()
    # At the end of the program, Python would wait for them for ever: they ignore SIGTERM.
    assert multiprocessing.active_children() == []


class Writing(Blocks):
    """Blocks that note which processes loaded them."""

    def __init__(self, path):
        self.path = path

    def __getitem__(self, item):
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {item[0]}\n")
        return super().__getitem__(item)


def test_the_same_process_loads_every_epoch(tmp_path):
    plain = trainer(tmp_path / "plain")
    plain.fit()
    run = trainer(tmp_path / "run", workers=1)
    run.blocks = Writing(tmp_path / "loaded")
    run.fit()
    processes, epochs = zip(*(line.split() for line in (tmp_path / "loaded").read_text().splitlines()))
    assert set(epochs) == {"0", "1", "2"} and len(set(processes)) == 1 and str(os.getpid()) not in processes
    assert_same(left_by(tmp_path / "run"), left_by(tmp_path / "plain"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_for_all_processes_stops_the_training_and_not_what_loads_its_data(number, tmp_path):
    path, steps = tmp_path / "loaded", 40
    with guards.stop_requested() as stop:
        batches = iter(make_loader(Writing(path), 1, [(0, 0)] * steps, workers=1))
        next(batches)
        process = int(path.read_text().split()[0])
        for _ in range(2):
            os.kill(process, number)
        assert len(list(batches)) == steps - 1 and not stop()
        os.kill(os.getpid(), number)
        assert stop()


def stopping_after(monkeypatch, steps):
    """Let SIGTERM come in each of these steps, once."""
    left = set(steps)

    @contextmanager
    def requested():
        # Asked for within a step, whose number is not counted up yet.
        yield lambda: running.trainer.state.step + 1 in left and not left.discard(running.trainer.state.step + 1)

    running = SimpleNamespace(trainer=None)
    monkeypatch.setattr(loop, "stop_requested", requested)
    return running


def left_by(folder):
    """All a run leaves that does not depend on time."""
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    curves = {n: [(e.step, e.value) for e in events.Scalars(n)] for n in events.Tags()["scalars"] if n not in MEASURED}
    kept = {}
    for name in ("last", "best"):
        kept[name] = torch.load(folder / "checkpoints" / f"{name}.ckpt")
        for measured in ("seconds", "waited", "peak_memory_mb"):
            del kept[name][measured]
    rows = read_history(folder / "history.csv")
    history = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
    return curves, kept, history


def assert_same(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("settings", "validations"),
    [({}, [3, 6, 9]), ({"validate_every": 2}, [6, 9]), ({"max_steps": 4, "ema": None, "save_every": 3}, [3, 4])],
    ids=["", "every second epoch", "max_steps"],
)
def test_a_run_stopped_in_any_step_ends_as_one_left_alone(monkeypatch, tmp_path, settings, validations):
    alone = trainer(tmp_path / "alone", **settings)
    alone.fit()
    expected = left_by(tmp_path / "alone")
    assert [step for step, _ in expected[0]["1_overview/mIoU_validation"]] == validations
    every = range(1, alone.total_steps + 1)
    for number, steps in enumerate([*([step] for step in every), every]):
        folder = tmp_path / f"stopped{number}"
        running = stopping_after(monkeypatch, steps)
        for _ in steps:
            running.trainer = trainer(folder, **settings)
            with pytest.raises(Interrupted):
                running.trainer.fit()
        running.trainer = trainer(folder, **settings)
        running.trainer.fit()
        assert_same(left_by(folder), expected, f"stopped in {list(steps)}")
        # Gone on with once more, a finished run stays as it is.
        running.trainer = trainer(folder, **settings)
        running.trainer.fit()
        assert_same(left_by(folder), expected, "finished before")


def test_a_run_killed_around_any_save_or_validation_ends_as_one_left_alone(monkeypatch, tmp_path):
    passed, fatal = 0, None

    def tick():
        nonlocal passed
        passed += 1
        if passed == fatal:
            raise Killed

    def around(function):
        def call(*arguments, **named):
            tick()
            result = function(*arguments, **named)
            tick()
            return result

        return call

    monkeypatch.setattr(Trainer, "save", around(Trainer.save))
    monkeypatch.setattr(Trainer, "_validate", around(Trainer._validate))
    trainer(tmp_path / "alone").fit()
    expected, instants = left_by(tmp_path / "alone"), passed
    assert instants >= 18
    for instant in range(1, instants + 1):
        passed, fatal = 0, instant
        with pytest.raises(Killed):
            trainer(tmp_path / f"killed{instant}").fit()
        trainer(tmp_path / f"killed{instant}").fit()
        assert_same(left_by(tmp_path / f"killed{instant}"), expected, f"killed at {instant}")


def test_the_history_has_a_row_for_each_epoch_whatever_stops_the_run(monkeypatch, tmp_path):
    losses = {}
    log_step = RunLog.step
    monkeypatch.setattr(
        RunLog, "step", lambda log, step, loss, *rest: losses.update({step: loss}) or log_step(log, step, loss, *rest)
    )
    # Stopped in these steps; and whether the run goes on with another loss, which here is the same.
    for steps, other_loss in (([], False), ([2], False), ([3], False), ([4, 6], False), ([6], True)):
        folder = tmp_path / f"stopped{steps}{other_loss}"
        running = stopping_after(monkeypatch, steps)
        for _ in steps:
            running.trainer = trainer(folder, validate_every=2)
            with pytest.raises(Interrupted):
                running.trainer.fit()
        running.trainer = trainer(folder, validate_every=2)
        if other_loss:
            running.trainer.resume(other_loss=True)
        running.trainer.fit()
        rows = read_history(folder / "history.csv")
        assert [(row["step"], row["epoch"]) for row in rows] == [(3, 1), (6, 2), (9, 3)]
        assert [row["learning_rate"] for row in rows] == [0.05, 0.025, 0.0125]
        for row in rows:
            mean = sum(losses[step] for step in range(int(row["step"]) - 2, int(row["step"]) + 1)) / 3
            assert row["train_loss"] == pytest.approx(mean, rel=1e-5)
        # Validated after the second epoch and at the end.
        assert rows[0]["mIoU"] is rows[0]["validation_loss"] is rows[0]["IoU/wall"] is None
        assert rows[1]["mIoU"] is not None
        final = score(running.trainer.state.network_to_use)
        assert rows[2]["validation_loss"] == pytest.approx(final.loss, rel=1e-5)
        assert rows[2]["mIoU"] == pytest.approx(Scores.of(final.confusion).miou, rel=1e-5)
        assert [rows[2][f"IoU/{name}"] or 0 for name in CLASSES.names] == pytest.approx(
            Scores.of(final.confusion).iou, rel=1e-5
        )


def test_a_resume_that_is_refused_for_its_schedule_leaves_the_run_as_it_was(monkeypatch, tmp_path):
    running = stopping_after(monkeypatch, [2])
    running.trainer = trainer(tmp_path)
    with pytest.raises(Interrupted):
        running.trainer.fit()
    going_on = trainer(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    going_on.settings = replace(going_on.settings, schedule=lambda clock: None)
    with pytest.raises(UserError, match="recipe.schedule"):
        going_on.resume(other_loss=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_history_of_something_else_is_one_line(monkeypatch, tmp_path):
    stopping_after(monkeypatch, [4]).trainer = found = trainer(tmp_path)
    with pytest.raises(Interrupted):
        found.fit()
    path = tmp_path / "history.csv"
    sound = path.read_text()
    head, row = sound.splitlines()
    for content in (
        "",
        "a,b\n1,2\n",
        f"{head}\n{row}\n{row}\n",
        f"{head}\n{row},1\n",
        f"{head}\n{row.replace('3', 'x', 1)}\n",
    ):
        path.write_text(content)
        with pytest.raises(
            UserError, match=r"history\.csv: not the history of a training.*move the file away"
        ) as raised:
            trainer(tmp_path)
        assert "\n" not in str(raised.value)


def test_rows_of_other_classes_or_of_another_order_are_refused(tmp_path):
    epoch = Epoch(1, 1, 0.1, 1.0, None, None, 1.0, 1.0)
    History(tmp_path, 0).append(epoch.row(["wall", "floor"]))
    again = History(tmp_path, 2)
    with pytest.raises(UserError, match=r"history\.csv: has other columns .* or in another order; move the file away"):
        again.append(epoch.row(["floor", "wall"]))
    again.append(replace(epoch, step=2).row(["wall", "floor"]))
    assert [row["step"] for row in read_history(tmp_path / "history.csv")] == [1, 2]


def test_a_history_goes_on_before_its_first_new_step_with_every_digit_of_a_step(tmp_path):
    epoch = Epoch(12_345_677, 1, 0.1, 1 / 3, None, None, 1.0, 1.0)
    history = History(tmp_path, 0)
    for step in (12_345_677, 12_345_678):
        history.append(replace(epoch, step=step).row(["wall"]))
    # A run with max_steps=12345678 was killed before its last checkpoint, and goes on to a later step.
    History(tmp_path, 12_345_678).append(replace(epoch, step=12_345_680).row(["wall"]))
    rows = read_history(tmp_path / "history.csv")
    assert [row["step"] for row in rows] == [12_345_677, 12_345_680]
    assert [row["train_loss"] for row in rows] == [0.333333] * 2


def test_a_training_that_fails_before_its_first_step_leaves_no_events(monkeypatch, tmp_path):
    found = trainer(tmp_path)
    found.run_log.config("depth: 2")
    monkeypatch.setattr(F, "cross_entropy", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.fit()
    assert not list(tmp_path.glob("*tfevents*"))
    assert not (tmp_path / "history.csv").exists()


def test_the_peak_of_the_memory_is_of_the_whole_training(monkeypatch, tmp_path):
    """A run that is resumed only to be scored again needs less memory than its steps did."""
    for megabytes, expected in ((900.0, 900.0), (500.0, 900.0), (math.nan, math.nan), (950.0, 950.0)):
        monkeypatch.setattr(loop, "peak_memory_mb", lambda device, peak=megabytes: peak)
        run = trainer(tmp_path)
        run.fit()
        assert run.update_peak_memory() == pytest.approx(expected, nan_ok=True)


def test_bad_steps_in_a_row_are_counted_across_stops(monkeypatch, tmp_path):
    monkeypatch.setattr(F, "cross_entropy", lambda logits, *_, **__: logits.sum() * torch.nan)
    running = stopping_after(monkeypatch, [1, 2])
    for _ in range(2):
        running.trainer = trainer(tmp_path, max_bad_steps=2)
        with pytest.raises(Interrupted):
            running.trainer.fit()
    running.trainer = trainer(tmp_path, max_bad_steps=2)
    with pytest.raises(UserError, match="step 3: .* 3 such steps in a row"):
        running.trainer.fit()


def test_averaged_weights_and_counts():
    model = torch.nn.BatchNorm1d(2)
    averaged = average_of(model, 0.9)
    values = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
    expected = None
    for count, value in enumerate(values):
        with torch.no_grad():
            model.weight.copy_(value)
            model.num_batches_tracked += 1
        averaged.update_parameters(model)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert torch.allclose(averaged.module.weight, expected)
        assert averaged.module.num_batches_tracked == count + 1


def test_passes_without_a_labelled_point_do_not_count(tmp_path):
    run = trainer(tmp_path, batch_size=6, accumulate=3, objective=Objective(ignore=255), ema=None)
    run.state.model = Small(LayerNorm, dropout=0.0)
    run.state.optimizer = torch.optim.SGD(run.state.model.parameters(), 0.0)
    points, labels = map(torch.stack, zip(*(Blocks()[0, i] for i in run.sampler.steps()[0])))
    labels[2:4] = 255
    logits = run.state.model(points)
    expected = F.cross_entropy(logits[[0, 1, 4, 5]].flatten(0, 1), labels[[0, 1, 4, 5]].flatten())
    gradients = torch.autograd.grad(expected, list(run.state.model.parameters()))
    loss, _ = run._train_step(list(zip(points.chunk(3), labels.chunk(3))), lambda: False)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for parameter, gradient in zip(run.state.model.parameters(), gradients):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_a_step_without_a_labelled_point_changes_nothing_and_is_in_no_mean(tmp_path, caplog):
    run = trainer(tmp_path, objective=Objective(ignore=255))
    run.state.optimizer = torch.optim.AdamW(run.state.model.parameters(), 0.1, weight_decay=0.5)
    points, labels = map(torch.stack, zip(*(Blocks()[0, i] for i in range(2))))
    run._train_step([(points, labels)], lambda: False)
    before, count = deepcopy(run.state.model.state_dict()), run.state.losses
    assert run._train_step([(points, torch.full_like(labels, 255))], lambda: True) == (None, True)
    assert_same(run.state.model.state_dict(), before)
    assert (run.state.losses, run.state.skipped, run.state.bad_steps) == (count, 0, 0)
    run._train_step([(points, torch.full_like(labels, 255))], lambda: False)
    assert caplog.text.count("no block of it has a labelled point") == 1


def test_a_validation_without_a_score_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(f"{__name__}.score", lambda model: Result(torch.zeros(1, 3, 3, dtype=torch.long), {}, 0.0))
    trainer(tmp_path).fit()
    assert caplog.text.count("this validation has no score. The last checkpoint is scored at the end") == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("keep_best", "which"), [(True, "best"), (False, "last")])
def test_a_later_validation_without_a_score_names_what_is_scored(keep_best, which, tmp_path, monkeypatch, caplog):
    confusions = iter([torch.eye(3, dtype=torch.long)[None], *[torch.zeros(1, 3, 3, dtype=torch.long)] * 2])
    monkeypatch.setattr(f"{__name__}.score", lambda model: Result(next(confusions), {}, 0.0))
    trainer(tmp_path, keep_best=keep_best).fit()
    assert f"The {which} checkpoint is scored at the end" in caplog.text


def test_a_run_that_is_done_says_what_would_go_on(tmp_path, caplog):
    caplog.set_level("INFO")
    trainer(tmp_path, max_steps=4).fit()
    trainer(tmp_path, max_steps=4)
    assert "all 4 steps of max_steps=4 are done" in caplog.text
    trainer(tmp_path).fit()
    trainer(tmp_path)
    assert "all 9 steps of epochs=3 are done" in caplog.text


def test_a_run_does_not_go_on_with_a_schedule_that_returns_no_number(tmp_path):
    trainer(tmp_path, max_steps=4).fit()
    with pytest.raises(PartError, match=r"^recipe\.schedule: .* returned None; must return a finite number$"):
        trainer(tmp_path, schedule=lambda clock: None)


def test_averaged_weights_are_not_trained_on(tmp_path):
    trainer(tmp_path, max_steps=4).fit()
    with pytest.raises(UserError, match="has averaged weights beside those of the optimiser"):
        trainer(tmp_path, ema=None)


def test_training_goes_on_over_blocks_without_a_labelled_point(tmp_path, monkeypatch):
    item = Blocks.__getitem__

    def partly(self, place):
        points, label = item(self, place)
        return points, torch.full_like(label, 255) if place[-1] % 2 else label

    monkeypatch.setattr(Blocks, "__getitem__", partly)
    monkeypatch.setattr(f"{__name__}.score", lambda model: Result(torch.eye(3)[None], {}, 0.0))
    found = trainer(tmp_path, batch_size=1, objective=Objective(ignore=255))
    found.fit()
    assert (found.state.step, found.state.skipped) == (18, 0)
    assert all(torch.isfinite(tensor).all() for tensor in found.state.model.state_dict().values())


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_step_in_passes_has_the_gradient_of_the_whole_batch(tmp_path, accumulate):
    """Without batch norm, whose statistics are those of a pass."""
    run = trainer(tmp_path, batch_size=6, accumulate=accumulate, objective=Objective(CrossEntropy(0.1)), ema=None)
    run.state.model = Small(LayerNorm, dropout=0.0)
    run.state.optimizer = torch.optim.SGD(run.state.model.parameters(), 0.0)
    points, labels = map(torch.stack, zip(*(Blocks()[0, i] for i in run.sampler.steps()[0])))
    logits = run.state.model(points)
    smoothed = 0.9 * F.one_hot(labels, 3) + 0.1 / 3
    expected = -(smoothed * logits.log_softmax(-1)).sum(-1).mean()
    gradients = torch.autograd.grad(expected, list(run.state.model.parameters()))
    parts = list(zip(points.chunk(accumulate), labels.chunk(accumulate)))
    loss, _ = run._train_step(parts, lambda: False)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for parameter, gradient in zip(run.state.model.parameters(), gradients):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def optimizer_state(change):
    """Change every tensor of the optimiser's state."""

    def apply(content):
        for values in content["optimizer"]["state"].values():
            values.update({name: change(value) for name, value in values.items()})

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(best=float("nan")), "best=nan: must be a number"),
        (lambda c: c.update(best="x"), "best='x'"),
        (lambda c: c.update(step=None), "step=None"),
        (lambda c: c.update(seconds="a"), "seconds='a'"),
        (lambda c: c.update(skipped=None), "skipped=None"),
        (lambda c: c.update(validated_step="q"), "validated_step='q'"),
        (lambda c: c.pop("best"), "best is missing"),
        (lambda c: c.update(random=None), "not the state"),
        (lambda c: c.update(random=[{"torch": torch.zeros(3)}]), "not the state"),
        (lambda c: c.update(training=None), "not the state"),
        (lambda c: c.update(optimizer=[1]), "not the state"),
        (lambda c: c["optimizer"].pop("param_groups"), "not the state"),
        (optimizer_state(lambda value: torch.zeros(7)), "of a parameter"),
        (optimizer_state(lambda value: value * float("nan")), "not finite"),
        (lambda c: c["model"].update({"last.weight": torch.full((3, 8), torch.nan)}), "NaN or infinite"),
        (lambda c: c["training"]["model"].update({"last.weight": torch.ones(2, 2)}), "last.weight"),
    ],
)
def test_a_state_that_cannot_be_is_one_line(monkeypatch, tmp_path, change, message):
    stopping_after(monkeypatch, [3]).trainer = found = trainer(tmp_path)
    with pytest.raises(Interrupted):
        found.fit()
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    change(content)
    torch.save(content, last)
    with pytest.raises(UserError, match=message) as raised:
        found.resume()
    assert "\n" not in str(raised.value)


def test_settings_of_the_optimiser_are_the_configs(monkeypatch, tmp_path):
    stopping_after(monkeypatch, [3]).trainer = found = trainer(tmp_path)
    with pytest.raises(Interrupted):
        found.fit()
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["optimizer"]["param_groups"][0].update(betas="x", weight_decay=7.0)
    torch.save(content, last)
    assert trainer(tmp_path).state.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


FINISHED = json.dumps(
    {
        "test": {
            **{"data": "rooms", "protocol": "rooms", "areas": [5], "folds": ["Area_5"], "classes": ["a", "b"]},
            **{"confusion": [[2, 1], [1, 2]], "mIoU": 0.5, "mAcc": 2 / 3, "OA": 2 / 3},
        },
        "parameters": 1,
    }
)


@pytest.mark.parametrize("content", ["[" * 100_000, "5", '{"settings": 5}', '{"settings": null}', "{}", "no"])
def test_a_damaged_run_json_is_one_line(content, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json"):
        finished_miou(OmegaConf.create({"k": 4}), tmp_path)


def test_a_run_from_before_a_setting_is_the_run_with_its_value_of_then(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "run.json").write_text('{"settings": {"k": "4"}}')
    (tmp_path / "metrics.json").write_text(FINISHED)
    for same in ({"weights": None, "freeze": []}, {"protocol": {"min_points": 100}}):
        assert finished_miou(OmegaConf.create({"k": 4, **same}), tmp_path) == 0.5
    for other in (
        {"weights": "a.ckpt", "freeze": []},
        {"weights": None, "freeze": ["head"]},
        {"protocol": {"min_points": 20}},
    ):
        with pytest.raises(OccupiedError, match="a run of other settings"):
            finished_miou(OmegaConf.create({"k": 4, **other}), tmp_path)


def test_a_run_whose_settings_were_changed_on_the_way_is_not_one_of_the_last(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    facts = {"settings": {"k": "4"}, "changes": [{"step": 12, "settings": {"recipe.loss": ["focal", "lovasz"]}}]}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "metrics.json").write_text(FINISHED)
    with pytest.raises(OccupiedError, match="other settings at first .from step 12 on: recipe.loss lovasz instead"):
        finished_miou(OmegaConf.create({"k": 4}), tmp_path)


@pytest.mark.parametrize(
    ("metrics", "miou"),
    [
        (FINISHED, 0.5),
        (FINISHED.replace('"mIoU": 0.5', '"mIoU": 0.9'), None),
        ("[" * 100_000, None),
        ("5", None),
        ('{"test": []}', None),
    ],
    ids=["sound", "contradicting", "nested", "a number", "a list"],
)
def test_a_run_with_damaged_metrics_is_not_finished(metrics, miou, tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "run.json").write_text('{"settings": {"k": "4"}}')
    (tmp_path / "metrics.json").write_text(metrics)
    assert finished_miou(OmegaConf.create({"k": 4}), tmp_path) == miou
    assert ("the run is scored again" in caplog.text) == (miou is None)


@pytest.mark.parametrize(("rooms", "expected"), [(1, ""), (4, ", 95 % over 3 rooms 0.0000 to 1.0000")])
def test_a_validation_says_how_far_other_rooms_would_move_it(rooms, expected):
    """All of the first room is labelled wrong, none of the next two, and the last has no labelled point."""
    wrong, right = torch.tensor([[0, 8], [8, 0]]), torch.tensor([[8, 0], [0, 8]])
    each = [wrong, right, right, torch.zeros_like(wrong)]
    assert loop.over_rooms(Result(torch.stack(each[:rooms]), {}, 1.0)) == expected
