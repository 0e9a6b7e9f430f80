"""Losses against formulas written independently and slowly, and weights of classes against numbers by hand."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, read_write
from test_commands import TINY, data_root, run, trained  # noqa: F401
from test_config import CONF, composed
from test_training import FINISHED

from deepgcn_seg.commands.command_line.arguments import for_hydra
from deepgcn_seg.commands.command_line.checks import check
from deepgcn_seg.commands.command_line.main import hydra_arguments
from deepgcn_seg.commands.command_line.mappings import unmerge
from deepgcn_seg.data.blocks import BlockGrid
from deepgcn_seg.data.dataset import split_by_area
from deepgcn_seg.data.export_hdf5 import export_blocks
from deepgcn_seg.data.official_hdf5 import OfficialBlocks
from deepgcn_seg.data.store import RoomStore
from deepgcn_seg.distributed import World
from deepgcn_seg.errors import OccupiedError, UserError
from deepgcn_seg.evaluation.metrics import Scores, confusion_matrix
from deepgcn_seg.training import build
from deepgcn_seg.training.class_weights import class_weights, count_labels, weights_of_counts
from deepgcn_seg.training.losses import (
    NAMES,
    CrossEntropy,
    Focal,
    LovaszSoftmax,
    Objective,
    WeightedSum,
    build_loss,
    jaccard_gradient,
    require_loss,
)
from deepgcn_seg.training.run_directory import finished_miou, run_settings
from deepgcn_seg.training.tensorboard import RunLog

LOSSES = [
    *map(build_loss, NAMES),
    CrossEntropy(0.2),
    Focal(0.5),
    WeightedSum(((1.0, CrossEntropy()), (0.5, LovaszSoftmax()))),
]


def example(points=40, classes=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(points)
    logits = torch.randn(points, classes, generator=generator, dtype=dtype).mul(2).requires_grad_()
    # The last class has no points.
    return logits, torch.randint(classes - 1, (points,), generator=generator)


def probabilities(row):
    largest = max(row)
    parts = [math.exp(value - largest) for value in row]
    return [part / sum(parts) for part in parts]


def jaccard_loss(wrong, truth):
    """1 - IoU of a class whose points are the set ``truth``, if the points ``wrong`` are labelled wrong."""
    predicted = truth ^ wrong
    return 1 - len(truth & predicted) / len(truth | predicted)


def lovasz_extension(errors, truth):
    """The integral of jaccard_loss({i: errors_i >= t}) over t from 0 to 1 (Choquet's form of the extension)."""
    value, below = 0.0, 0.0
    for level in sorted(set(errors)):
        value += (level - below) * jaccard_loss({i for i, error in enumerate(errors) if error >= level}, truth)
        below = level
    return value


def slow_lovasz_softmax(logits, labels):
    rows, labels = [probabilities(row) for row in logits.tolist()], labels.tolist()
    found = []
    for name in sorted(set(labels)):
        errors = [1 - row[name] if label == name else row[name] for row, label in zip(rows, labels)]
        found.append(lovasz_extension(errors, {i for i, label in enumerate(labels) if label == name}))
    return sum(found) / len(found)


@pytest.mark.parametrize("points", [1, 2, 7, 40])
def test_lovasz_softmax_is_the_extension_of_the_jaccard_loss(points):
    logits, labels = example(points, dtype=torch.float64)
    assert LovaszSoftmax()(logits, labels, None).item() == pytest.approx(slow_lovasz_softmax(logits, labels), abs=1e-6)


def test_the_gradient_of_lovasz_softmax_is_the_slope_of_the_extension():
    logits, labels = example(12, dtype=torch.float64)
    LovaszSoftmax()(logits, labels, None).backward()
    step = 1e-6
    for place in np.ndindex(*logits.shape):
        moved = [logits.detach().clone() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        slope = (slow_lovasz_softmax(moved[0], labels) - slow_lovasz_softmax(moved[1], labels)) / (2 * step)
        assert logits.grad[place].item() == pytest.approx(slope, abs=1e-6)


def test_the_jaccard_gradient_is_the_step_of_the_jaccard_loss_from_point_to_point():
    foreground = torch.rand(30, 3) < 0.3
    foreground[-1] = True
    found = jaccard_gradient(foreground)
    for column in range(3):
        truth = {i for i in range(30) if foreground[i, column]}
        losses = [jaccard_loss(set(range(count)), truth) for count in range(31)]
        assert found[:, column].tolist() == pytest.approx(np.diff(losses).tolist(), abs=1e-6)


def test_lovasz_softmax_of_certain_labels_is_one_minus_the_mean_iou():
    _, labels = example(200)
    predicted = torch.where(torch.rand(200) < 0.7, labels, torch.randint(4, (200,)))
    certain = 100 * torch.nn.functional.one_hot(predicted, 5).float()
    miou = Scores.of(confusion_matrix(labels, predicted, 5)).miou
    assert LovaszSoftmax()(certain, labels, None).item() == pytest.approx(1 - miou, abs=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_is_its_formula(gamma, weighted):
    logits, labels = example()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]) if weighted else None
    p = [probabilities(row)[label] for row, label in zip(logits.tolist(), labels.tolist())]
    alpha = weights[labels].tolist() if weighted else [1] * len(labels)
    expected = sum(-a * (1 - q) ** gamma * math.log(q) for a, q in zip(alpha, p)) / len(p)
    assert Focal(gamma)(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_with_gamma_0_is_cross_entropy():
    logits, labels = example()
    losses = [loss(logits, labels, None) for loss in (Focal(0), CrossEntropy())]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    assert torch.allclose(*losses) and torch.allclose(*gradients)


@pytest.mark.parametrize("smoothing", [0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_weights_points_by_their_class_and_smooths_their_target(smoothing, weighted):
    logits, labels = example()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]) if weighted else None
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        logs = [math.log(p) for p in probabilities(row)]
        smoothed = -(1 - smoothing) * logs[label] - smoothing * sum(logs) / 5
        expected += (weights[label].item() if weighted else 1) * smoothed / len(labels)
    assert CrossEntropy(smoothing)(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5)


def test_a_sum_is_the_weighted_sum_of_its_losses():
    logits, labels = example()
    terms = {"cross_entropy": 2, "focal": 1, "lovasz": 0.5}
    parts = [CrossEntropy(0.1), Focal(3), LovaszSoftmax()]
    expected = sum(weight * part(logits, labels, None) for weight, part in zip(terms.values(), parts))
    assert torch.allclose(build_loss(OmegaConf.create(terms), 0.1, 3)(logits, labels, None), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("ignore", [-100, 2, 255])
def test_ignored_points_count_in_no_loss(loss, ignore):
    logits = torch.randn(2, 30, 5, requires_grad=True)
    labels = torch.randint(5, (2, 30))
    labels[labels == 2] = 3
    left_out = torch.rand(2, 30) < 0.4
    weights = torch.rand(5)
    expected = loss(logits[~left_out], labels[~left_out], weights)
    labels[left_out] = ignore
    found = Objective(loss, weights, ignore)(logits, labels)
    assert torch.allclose(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[left_out].any()
    assert gradient[~left_out].any()


@pytest.mark.parametrize("ignored", [slice(0), slice(10), slice(None)], ids=["none", "some", "all"])
def test_which_points_count_is_not_read_from_the_device_of_the_logits(ignored):
    # A tensor on this device has no values that could be read.
    logits = torch.rand(2, 30, 5, device="meta", requires_grad=True)
    labels = torch.randint(5, (2, 30))
    labels[:, ignored] = 255
    Objective(CrossEntropy(), ignore=255)(logits, labels).backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_pass_of_ignored_points_has_no_loss_and_no_gradient(loss):
    logits = torch.randn(2, 30, 5, requires_grad=True)
    found = Objective(loss, torch.rand(5), 255)(logits, torch.full((2, 30), 255))
    found.backward()
    assert found.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("scale", [1, 1e4], ids=["", "certain"])
@pytest.mark.parametrize("right", [True, False])
def test_a_block_of_one_class_has_a_finite_loss_that_falls_towards_it(loss, scale, right):
    labels = torch.full((1, 20), 3)
    logits = torch.zeros(1, 20, 5)
    logits[..., 3 if right else 1] = scale
    logits.requires_grad_()
    found = Objective(loss)(logits, labels)
    found.backward()
    assert torch.isfinite(found) and torch.isfinite(logits.grad).all()
    if scale == 1:
        assert (logits.grad[..., 3] < 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_are_computed_in_float32(loss):
    logits, labels = torch.randn(2, 30, 5).bfloat16(), torch.randint(5, (2, 30))
    found = Objective(loss)(logits, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, Objective(loss)(logits.float(), labels))


@pytest.mark.parametrize("loss", LOSSES[:2] + LOSSES[3:5], ids=str)
def test_passes_of_half_a_batch_average_to_the_loss_of_the_batch(loss):
    """Also with weights, and with classes that only one of the halves has."""
    logits, labels = torch.randn(4, 30, 5), torch.arange(4)[:, None].expand(4, 30)
    objective = Objective(loss, torch.tensor([0.1, 1, 3, 9, 0]))
    halves = [objective(*part) for part in zip(logits.chunk(2), labels.chunk(2))]
    assert torch.allclose(sum(halves) / 2, objective(logits, labels))


@pytest.mark.parametrize(
    ("rule", "counts", "beta", "expected"),
    [
        # 40 points: 40 / (2 * 10) and 40 / (2 * 30).
        ("inverse", [10, 30, 0], None, [2, 2 / 3, 0]),
        # 1/2 and 1/4, whose mean over the points is (4/2 + 16/4) / 20 = 0.3.
        ("sqrt", [4, 16], None, [5 / 3, 5 / 6]),
        # Effective numbers 1, 1.5, 1.75; the points sum up to 1 + 2/1.5 + 3/1.75 = 85/21.
        ("effective", [1, 2, 3], 0.5, [126 / 85, 84 / 85, 72 / 85]),
        # beta = 1 - 1/2: effective numbers 1, 1.75; the points sum up to 1 + 3/1.75 = 19/7.
        ("effective", [1, 0, 3], None, [28 / 19, 0, 16 / 19]),
        ("effective", [1, 50, 7], 0, [1, 1, 1]),
        ("effective", [1, 1], None, [1, 1]),
        ("inverse", [0, 0, 5], None, [0, 0, 1]),
    ],
)
def test_weights_by_hand(rule, counts, beta, expected):
    assert weights_of_counts(rule, np.array(counts), beta).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["inverse", "sqrt", "effective"])
def test_weights_of_very_many_points_have_mean_1_and_fall_with_the_number(rule):
    counts = np.array([10**9, 0, 1, 10**4, 3 * 10**8])
    weights = weights_of_counts(rule, counts)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[1] == 0
    assert weights[2] > weights[3] > weights[4] > weights[0] > 0


def test_effective_numbers_with_beta_near_1_weigh_as_inverse():
    counts = np.array([3, 1000, 20])
    found = weights_of_counts("effective", counts, 1 - 1e-12)
    assert found.tolist() == pytest.approx(weights_of_counts("inverse", counts).tolist(), rel=1e-6)


def labels_of(store, rooms):
    return np.concatenate([store.open(room).all()[2] for room in rooms])


def test_labels_are_counted_in_the_rooms_to_train_on(store):
    split = split_by_area(store, 5)
    labels = labels_of(store, split.train)
    assert count_labels(store, split.train).tolist() == [(labels == i).sum() for i in range(13)]


def test_labels_of_the_official_blocks_are_counted_as_they_are_trained_on(store, tmp_path):
    export_blocks(store, tmp_path)
    official = OfficialBlocks(tmp_path)
    rooms = official.rooms[:2]
    items = official.blocks(rooms, 4096)
    labels = torch.cat([items[i][1] for i in range(len(items))])
    assert count_labels(official, rooms).tolist() == torch.bincount(labels, minlength=13).tolist()


def test_every_process_has_the_weights_of_the_first(store, monkeypatch):
    rooms = split_by_area(store, 5).train
    first = class_weights("sqrt", store, rooms)
    counts = count_labels(store, rooms)
    monkeypatch.setattr(World, "share", lambda world, value: counts)
    monkeypatch.setattr(RoomStore, "labels", lambda *_: pytest.fail("the second process reads labels"))
    assert class_weights("sqrt", store, rooms, world=World(rank=1, size=2)).tolist() == first.tolist()


def test_a_list_is_used_as_it_is_and_none_is_no_weights(store):
    given = [float(i) for i in range(13)]
    assert class_weights(given, store, []).tolist() == given
    assert class_weights("none", store, []) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.loss=dice", "must be one of cross_entropy, focal, lovasz, a weighted sum as"),
        ("recipe.loss=null", "is not set: must be one of cross_entropy"),
        ("recipe.loss=[focal]", "must be one of"),
        ("recipe.loss={}", "must be one of"),
        ("recipe.loss={focal:0}", "{focal:0}: must be one of"),
        ("recipe.loss={focal:.nan}", "must be one of"),
        ("recipe.loss={focal:1,dice:1}", "must be one of"),
        ("recipe.loss={_target_:builtins.dict}", "must be called"),
        ("recipe.focal_gamma=-1", "must be a number of at least 0"),
        ("recipe.class_weights=cubic", "must be one of none, inverse, sqrt, effective, or a list"),
        ("recipe.class_weights=[1,-1]", "must be one of"),
        ("recipe.class_weights=[0,0]", "must be one of"),
        ("recipe.class_weights=[1,.inf]", "must be one of"),
        ("recipe.class_weights=3", "must be one of"),
        ("recipe.effective_beta=1", "must be null or a number of at least 0 and below 1"),
    ],
)
def test_a_loss_that_cannot_be_is_one_line_before_any_work(override, message):
    with pytest.raises(UserError) as raised:
        check(composed(override))
    assert str(raised.value).startswith(override.split("=")[0])
    assert message in str(raised.value) and "\n" not in str(raised.value)


class Squared:
    """The mean square of the logits, of which each is counted as often as there are labels."""

    def __call__(self, logits, labels, class_weights):
        return logits.square().mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            torch.nn.CrossEntropyLoss(),
            r"CrossEntropyLoss cannot be called with logits \(8, 4\), labels \(8,\) and class",
        ),
        (lambda logits, labels, weights: logits, r"must return a scalar .*, not a tensor of shape \(8, 4\)"),
        (lambda logits, labels, weights: torch.tensor(1.0), r"not a tensor of shape \(\) without a gradient"),
        (lambda logits, labels, weights: 1.0, "not float"),
        (lambda logits, labels, weights: (logits.mean(0) * weights).sum(), "class weights, which may be None: .*None"),
        (lambda logits, labels, weights: logits[:, 7].mean(), "index 7 is out of bounds"),
    ],
)
def test_a_loss_of_ones_own_that_does_not_fit_is_one_line_before_the_training(loss, message):
    with pytest.raises(UserError, match=f"^recipe.loss: .*{message}"):
        require_loss(loss, 4, None, torch.device("cpu"))
    for fits in (Squared(), CrossEntropy(), LovaszSoftmax()):
        require_loss(fits, 4, None, torch.device("cpu"))


@pytest.mark.parametrize("loss", ["lovasz", "{lovasz:2}"])
def test_class_weights_that_the_loss_would_not_use_are_refused(loss):
    with pytest.raises(UserError, match="recipe.class_weights=inverse: lovasz takes none"):
        check(composed(f"recipe.loss={loss}", "recipe.class_weights=inverse"))
    check(composed("recipe.loss={cross_entropy:1,lovasz:1}", "recipe.class_weights=inverse"))


def test_arguments_of_a_loss_are_named_as_they_are_typed():
    with pytest.raises(UserError, match=r"recipe\.loss\.gamma=-1: must be a number"):
        check(composed("recipe.loss={_target_:deepgcn_seg.training.losses.Focal,gamma:-1}"))


class Own:
    """A loss of a user's own."""

    def __call__(self, logits, labels, class_weights):
        return logits.mean()


def test_a_loss_of_ones_own_is_built_from_its_target():
    own = OmegaConf.create({"_target_": "test_losses.Own"})
    logits = torch.randn(2, 30, 5)
    assert Objective(build_loss(own))(logits, torch.zeros(2, 30)) == logits.mean()
    check(composed("recipe.loss={_target_:test_losses.Own}"))


def test_a_training_with_a_sum_and_weights_logs_and_records_them(data_root, tmp_path):  # noqa: F811
    done = run(
        "train", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}", "max_steps=1",
        "recipe.loss={cross_entropy:1,lovasz:1}", "recipe.class_weights=sqrt",
    )  # fmt: skip
    store = RoomStore(next(data_root.glob("*")) / "store")
    rooms = split_by_area(store, 5, 0.1, 0).train
    expected = weights_of_counts("sqrt", np.bincount(labels_of(store, rooms), minlength=13))
    recorded = json.loads((tmp_path / "run.json").read_text())["class_weights"]
    assert list(recorded) == list(store.classes)
    assert list(recorded.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert "Loss: {cross_entropy:1,lovasz:1}, label_smoothing 0.1" in done.stderr
    assert done.stderr.count("Class weights (sqrt, from ") == 1
    assert f"ceiling {expected[0]:.4g}, floor {expected[1]:.4g}" in done.stderr


def test_a_list_of_another_length_is_one_line(data_root, tmp_path):  # noqa: F811
    done = run(
        "train", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}", "recipe.class_weights=[1,2]", check=False
    )
    assert done.returncode == 2
    assert "error: recipe.class_weights: 2 weights, must be one for each of the 13 classes: ceiling" in done.stderr
    assert not (tmp_path / "run.json").exists()


NEW = ("loss", "focal_gamma", "class_weights", "effective_beta")


def test_a_run_from_before_losses_could_be_chosen_goes_on(trained, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    stored = folder / ".hydra" / "config.yaml"
    config = yaml.safe_load(stored.read_text())
    config["recipe"] = {key: value for key, value in config["recipe"].items() if key not in NEW}
    stored.write_text(yaml.safe_dump(config))
    run("train", f"resume={folder}", "max_steps=7")
    assert yaml.safe_load(stored.read_text())["recipe"]["loss"] == "cross_entropy"


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("old", "cross_entropy", True),
        ("old", "focal", False),
        ("old", {"focal": 1}, False),
        ({"focal": 1}, {"focal": 1}, True),
        ({"focal": 1, "lovasz": 1}, {"focal": 1}, False),
        ({"focal": 1}, "cross_entropy", False),
        ("focal", "focal", True),
    ],
)
def test_a_sweep_knows_its_finished_runs_by_their_loss(before, now, same, tmp_path):
    def config(loss):
        rest = {"focal_gamma": 2.0, "class_weights": "none", "effective_beta": None}
        return OmegaConf.create({"recipe": {"loss": loss, **rest}})

    settings = {} if before == "old" else run_settings(config(before))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings}))
    (tmp_path / "metrics.json").write_text(FINISHED)
    if same:
        assert finished_miou(config(now), tmp_path) == 0.5
    else:
        with pytest.raises(OccupiedError, match=r"of other settings \(recipe.loss"):
            finished_miou(config(now), tmp_path)


def test_class_weights_that_do_not_fit_are_refused_before_the_network_is_built(store, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_build_model", lambda *_: 1 / 0)
    data = build.TrainingData(store, split_by_area(store, 5, 0.1, 0), BlockGrid())
    config = composed("recipe.class_weights=[1,2]")
    with pytest.raises(UserError, match="2 weights, must be one for each of the 13 classes"):
        build.build_trainer(config, tmp_path, data, torch.device("cpu"), World(), RunLog(None))
    assert not list(tmp_path.iterdir())


def announced(store, folder, caplog, *overrides):
    """Return what the log says of a training before its first step."""
    data = build.TrainingData(store, split_by_area(store, 5, 0.1, 0), BlockGrid())
    config = composed(*[t for t in TINY if not t.startswith(("data.", "recipe"))], *overrides)
    trainer = build.build_trainer(config, folder, data, torch.device("cpu"), World(), RunLog(None))
    caplog.clear()
    with caplog.at_level("INFO"):
        build.announce(config, trainer, data)
    return caplog.text


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe=modern", "accumulate=2"], True),
        (["recipe.loss=lovasz", "accumulate=4"], True),
        (["recipe=modern"], False),
        (["recipe=paper", "accumulate=2"], False),
    ],
)
def test_the_log_says_when_lovasz_sees_parts_of_the_batch(overrides, said, store, tmp_path, caplog):
    assert ("Lovasz-softmax sees" in announced(store, tmp_path, caplog, *overrides)) == said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["batch_size=4"], "batch_size=4: the schedule is made for 16. It counts 8 blocks a step"),
        (["batch_size=4", "recipe.schedule.samples_per_step=3"], "the schedule is made for 6"),
        (["batch_size=4", "recipe.schedule.samples=1000"], "halves the rate every 125 steps"),
        (["batch_size=4", "recipe.schedule.samples_per_step=2"], None),
        (["batch_size=16"], None),
        (["batch_size=4", "recipe=port"], None),
        (["batch_size=4", "recipe=modern"], None),
    ],
)
def test_the_log_says_when_a_schedule_is_made_for_another_batch(overrides, said, store, tmp_path, caplog):
    text = announced(store, tmp_path, caplog, *overrides)
    assert said in text if said else "the schedule is made for" not in text


RECIPE = "recipe:\n  loss: {cross_entropy: 1, lovasz: 1}\n"


def composed_by_files(tmp_path, recipe, experiment, *arguments):
    """What a command composes of a recipe's and an experiment's file, and of what is typed."""
    for group, text in (("recipe", recipe), ("experiment", experiment)):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    chosen = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = compose("train", [*chosen, *arguments], return_hydra_config=True)
        HydraConfig.instance().set_config(found)
        with read_write(found):
            unmerge(found)
        HydraConfig.instance().cfg = None
    return found


@pytest.mark.parametrize(
    ("experiment", "typed", "expected"),
    [
        ("recipe: {loss: {focal: 1}}", [], {"focal": 1}),
        ("recipe: {loss: {focal: 1}}", ["recipe.loss={lovasz:2}"], {"lovasz": 2}),
        ("recipe: {loss: {focal: 1}}", ["recipe.loss=focal"], "focal"),
        ("recipe: {loss: {focal: 1}}", ["recipe.loss={_target_:mine.Dice,power:2}"], {"_target_": "mine.Dice", "power": 2}),
        ("recipe: {loss: {_target_: mine.Dice}}", ["recipe.loss={focal:1}"], {"focal": 1}),
        ("recipe: {loss: focal}", ["recipe.loss={focal:1}"], {"focal": 1}),
        ("recipe: {loss: {focal: 1}}", ["recipe.loss.focal=3"], {"focal": 3}),
    ],
)  # fmt: skip
def test_a_loss_replaces_the_loss_before_it(tmp_path, experiment, typed, expected):
    found = composed_by_files(tmp_path, RECIPE, experiment, *for_hydra(typed))
    loss = found.recipe.loss
    assert (OmegaConf.to_container(loss) if OmegaConf.is_config(loss) else loss) == expected


def test_a_loss_of_an_experiment_replaces_that_of_a_recipe(tmp_path):
    experiment = "recipe: {loss: {focal: 1}}"
    found = composed_by_files(tmp_path, RECIPE, experiment, "recipe=mine")
    assert OmegaConf.to_container(found.recipe.loss) == {"focal": 1}
    found = composed_by_files(tmp_path, RECIPE, "depth: 3", "recipe=mine")
    assert OmegaConf.to_container(found.recipe.loss) == {"cross_entropy": 1, "lovasz": 1}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["recipe.loss.focal=3"], {"focal": 3, "lovasz": 1}),
        (["~recipe.loss.lovasz"], {"focal": 1}),
        (["~recipe.loss.cross_entropy"], {"focal": 1, "lovasz": 1}),
        (["recipe.loss={focal:2,lovasz:3}", "~recipe.loss.lovasz", "recipe.loss.focal=4"], {"focal": 4}),
    ],
)
def test_what_is_typed_changes_the_loss_of_an_experiment_and_not_of_its_recipe(tmp_path, typed, expected):
    experiment = "recipe: {loss: {focal: 1, lovasz: 1}}"
    found = composed_by_files(tmp_path, RECIPE, experiment, "recipe=mine", *typed)
    assert OmegaConf.to_container(found.recipe.loss) == expected


def test_an_experiment_that_begins_with_another_has_its_loss_and_parts(tmp_path):
    (tmp_path / "experiment").mkdir()
    base = "{recipe: {loss: {focal: 1}, schedule: {_target_: mine.Schedule, power: 3}}}"
    (tmp_path / "experiment" / "base.yaml").write_text(f"# @package _global_\n{base}\n")
    experiment = "defaults: [base]\nrecipe: {schedule: {power: 2}}"
    found = OmegaConf.to_container(composed_by_files(tmp_path, RECIPE, experiment, "recipe=modern").recipe)
    assert found["loss"] == {"focal": 1}
    assert found["schedule"] == {"_target_": "mine.Schedule", "power": 2}


@pytest.mark.parametrize(
    ("experiment", "typed", "key", "expected"),
    [
        ("{recipe: {schedule: {_target_: mine.Schedule}}}", [], "recipe.schedule", {}),
        ("{recipe: {schedule: {_target_: mine.Schedule, power: 2}}}", ["recipe.schedule.power=3"], "recipe.schedule",
         {"power": 3}),
        ("{recipe: {schedule: {warmup: 0.3}}}", [], "recipe.schedule", {"warmup": 0.3, "floor": 0.0}),
        ("{data: {store: {_target_: mine.rooms, root: '${data.root}'}}}", ["data.root=there"], "data.store",
         {"root": "there"}),
        ("{recipe: {optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 0.1}}}", [], "recipe.optimizer",
         {"_partial_": True, "lr": 0.1}),
        ("{recipe: {optimizer: {lr: 0.1}}}", [], "recipe.optimizer", {"_partial_": True, "lr": 0.1, "weight_decay": 0.01}),
        ("{conv: {_target_: mine.Conv}}", [], "conv", {"_partial_": True}),
    ],
)  # fmt: skip
def test_a_part_of_an_experiment_replaces_that_of_a_recipe(tmp_path, experiment, typed, key, expected):
    composition = composed_by_files(tmp_path, RECIPE, experiment, "recipe=modern", *typed)
    found = OmegaConf.to_container(OmegaConf.select(composition, key), resolve=True)
    del found["_target_"]
    assert found == expected


def test_a_part_that_is_given_whole_replaces_the_part_before_it():
    schedule = "{_target_:deepgcn_seg.training.schedules.HalveByEpochs,epochs:3}"
    found = composed(*for_hydra([f"recipe.schedule={schedule}", "recipe.optimizer={lr:0.5}"]))
    assert OmegaConf.to_container(found.recipe.schedule) == {
        "_target_": "deepgcn_seg.training.schedules.HalveByEpochs", "epochs": 3
    }  # fmt: skip
    # A mapping without the class is merged, as everywhere.
    assert (found.recipe.optimizer.lr, found.recipe.optimizer._partial_) == (0.5, True)
    assert for_hydra(["recipe.loss=focal,{focal:1}"]) == ["++recipe.loss=null", "++recipe.loss=focal,{focal:1}"]


def test_a_resumed_run_takes_another_loss_as_it_is_typed(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "checkpoints").mkdir()
    stored = OmegaConf.to_container(composed("recipe.loss={cross_entropy:1,lovasz:1}"))
    (tmp_path / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(stored)))
    arguments = hydra_arguments([f"resume={tmp_path}", "recipe.loss={focal:1}"], CONF)
    overrides = [a for a in arguments if not a.startswith(("--", "hydra/", "hydra."))]
    with initialize_config_dir(str(tmp_path / ".hydra"), version_base="1.3"):
        assert OmegaConf.to_container(compose("config", overrides).recipe.loss) == {"focal": 1}


def test_each_job_of_a_sweep_has_the_loss_that_is_typed(tmp_path):
    typed = for_hydra(["recipe.loss=focal,{focal:1},{lovasz:2}", "recipe.loss.lovasz=3"])
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed[:2]), None)[0]
    # The sweeper keeps one argument for each key.
    assert all(len(job) == 1 for job in jobs)
    losses = [composed_by_files(tmp_path, RECIPE, "recipe: {loss: {focal: 5}}", *job).recipe.loss for job in jobs]
    assert losses == ["focal", {"focal": 1}, {"lovasz": 2}]
    found = composed_by_files(tmp_path, RECIPE, "depth: 3", *jobs[2], typed[-1])
    assert found.recipe.loss == {"lovasz": 3}
