"""What a resumed run may change: what it refuses leaves it as it was, and what it takes is said in its record."""

import json
import logging
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from test_commands import tensors_equal
from test_losses import composed

import deepgcn_seg
from deepgcn_seg.changes import HOW_IT_IS_DONE, WHERE_ROOMS_ARE, Change, add_change, changes_of, values_in_time
from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.synthetic_rooms import generate
from deepgcn_seg.errors import Interrupted, UserError
from deepgcn_seg.evaluation.history import Epoch, History, read_history
from deepgcn_seg.evaluation.model_card import NAME
from deepgcn_seg.model.checkpoint import read_checkpoint
from deepgcn_seg.reporting.reading import LeftOut
from deepgcn_seg.reporting.runs import find_runs
from deepgcn_seg.training import loop
from deepgcn_seg.training.resuming import EFFECTS, Effect, Resumed, effect_of, require_same_data
from deepgcn_seg.training.run_directory import changed_settings, record_changes, recorded_settings, run_settings

TINY = [
    "depth=2", "channels=8", "k=4", "points=64", "batch_size=8", "epochs=1", "recipe=paper", "pages=false",
    "model.fusion_channels=16", "model.head_channels=[16]", "device=cpu", "data=folder", "data.fold=5",
    "data.grid.stride=3", "protocol=recut", "data.validation=0.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resuming") / "run"
    deepgcn_seg.train(*TINY, f"data.root={store.root}", f"hydra.run.dir={folder}")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def last(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def reported(folder):
    """The settings by which a report tells a run from others."""
    return find_runs(folder, LeftOut())[0][0].settings


def content_of(folder):
    """The files of a run by name; its log, which says what was refused, and its lock are no part of its state."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("train.log", ".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.fold=1"], "data.fold=1: the run was started with 5, and keeps it; weights= begins another run"),
        (["seed=9"], "seed=9: the run was started with 0"),
        (["data.validation=0"], r"data.validation=0: the run was started with 0\.2"),
        (["select=test"], "select=test: the run was started with last"),
        (["recipe.ema=0.9"], r"recipe.ema=0\.9: the run was started without averaged weights"),
        (["recipe.optimizer={_target_:torch.optim.SGD,_partial_:true,lr:1}"], r"recipe\.optimizer\._target_=torch.optim"),
        (["+recipe.optimizer.amsgrad=true"], r"recipe\.optimizer\.amsgrad=true: the run was started with not set"),
        (["k=3"], "k=3: the run was started with 4"),
        (["graph.dilation=none"], r"graph\.dilation=none: the run was started with linear"),
        (["points=60"], "points=60: the run was started with 64"),
        (["data.grid.stride=2.9"], r"data\.grid\.stride=2\.9: the run was started with 3"),
        (["++weights=x.ckpt"], r"weights=x\.ckpt: the run was started with null"),
    ],
)  # fmt: skip
def test_what_a_run_is_cannot_be_changed(run, settings, message, caplog):
    before = content_of(run)
    with pytest.raises(UserError, match=f"^{message}") as raised:
        deepgcn_seg.train(f"resume={run}", "epochs=2", *settings)
    assert "\n" not in str(raised.value)
    assert content_of(run) == before
    # Before the data are opened and the network is shown.
    assert not caplog.records


def test_settings_of_steps_are_refused_if_no_step_is_left(run):
    before, done = content_of(run), last(run)["step"]
    for settings in (["recipe.loss=lovasz", "recipe.optimizer.lr=0.5"], ["freeze=[backbone]"]):
        message = f"{settings[0]}: the run has all its {done} steps (1 epoch), so that no step would use it"
        with pytest.raises(UserError) as raised:
            deepgcn_seg.train(f"resume={run}", *settings)
        assert str(raised.value).startswith(message)
    with pytest.raises(UserError, match=f"max_steps=1: stands for 1 step, but the run has {done} steps"):
        deepgcn_seg.train(f"resume={run}", "max_steps=1")
    assert content_of(run) == before
    # How it is scored may change.
    deepgcn_seg.train(f"resume={run}", "protocol.seed=7")
    facts = json.loads((run / "run.json").read_text())
    assert facts["settings"]["protocol.seed"] == "7" and "changes" not in facts


def test_other_rooms_under_the_same_names_are_refused(run, tmp_path):
    generate(tmp_path / "raw", rooms_per_area=2, density=61)
    other = prepare(tmp_path / "raw", tmp_path / "store", described="denser rooms")
    before = content_of(run)
    with pytest.raises(UserError, match=r"the train rooms are others than when .* has other points.* and \d+ more"):
        deepgcn_seg.train(f"resume={run}", "epochs=2", f"data.root={other.root}")
    assert content_of(run) == before


@pytest.mark.parametrize("record", ["new", "old"])
def test_a_store_elsewhere_and_a_run_without_the_record_go_on(run, record, store, raw_rooms, tmp_path):
    moved = tmp_path / "moved"
    if record == "new":
        # Prepared again, from copies of the scans whose times are others.
        copied = shutil.copytree(raw_rooms, tmp_path / "copied", copy_function=shutil.copyfile)
        prepare(copied, moved)
    else:
        shutil.copytree(store.root, moved)
    if record == "old":
        path = run / "checkpoints" / "last.ckpt"
        content = last(run)
        assert set(content["rooms"]) == {"train", "validation", "test"}
        for field in ("rooms", "steps_per_epoch"):
            del content[field]
        torch.save(content, path)
    deepgcn_seg.train(f"resume={run}", "epochs=2", f"data.root={moved}")
    whole = tmp_path / "whole"
    deepgcn_seg.train(*TINY, f"data.root={store.root}", f"hydra.run.dir={whole}", "epochs=2")
    for field in ("model", "optimizer", "best", "step", "rooms"):
        assert tensors_equal(last(run)[field], last(whole)[field]), field
    facts = json.loads((run / "run.json").read_text())
    # A longer run of this schedule is that of the length from the start: nothing to be told.
    assert "changes" not in facts and facts["settings"]["data.root"] == str(moved)


def test_a_change_on_the_way_is_recorded_everywhere(run, caplog):
    done = last(run)["step"]
    deepgcn_seg.train(f"resume={run}", f"max_steps={done + 1}", "epochs=2")
    # In mid-epoch: the losses until here are of the loss before.
    with caplog.at_level(logging.INFO):
        deepgcn_seg.train(f"resume={run}", "max_steps=null", "recipe.loss={focal:1}", "recipe.optimizer.lr=0.01")
    logged = (run / "train.log").read_text()
    assert "recipe.loss cross_entropy -> {focal:1}" in logged and "recipe.loss.focal" not in logged
    change = {"recipe.loss": ["cross_entropy", "{focal:1}"], "recipe.optimizer.lr": ["0.001", "0.01"]}
    recorded = [{"step": done + 1, "settings": change}]
    for file in ("run.json", "metrics.json"):
        assert json.loads((run / file).read_text())["changes"] == recorded
    told = f"from step {done + 1} on: recipe.loss {{focal:1}} instead of cross_entropy, "
    assert last(run)["card"]["training"]["changes"][0].startswith(told)
    settings = reported(run)
    assert settings["recipe.loss"] == f"cross_entropy, from step {done + 1} on {{focal:1}}"
    assert settings["epochs"] == 2
    # Further, without a change: the record stays.
    deepgcn_seg.train(f"resume={run}", "epochs=3")
    assert json.loads((run / "run.json").read_text())["changes"] == recorded
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    deepgcn_seg.train(f"resume={run}")
    assert f"- Changed from step {done + 1} on: " in (run / NAME).read_text()


def test_losses_before_and_after_a_change_are_not_averaged(store, tmp_path, monkeypatch):
    """A run that is stopped within an epoch and goes on with another loss has a row for each of them."""
    given = [*TINY, f"data.root={store.root}", f"hydra.run.dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requested", lambda: nullcontext(lambda: True))
        with pytest.raises(Interrupted):
            deepgcn_seg.train(*given)
    assert last(tmp_path)["step"] == 1 and last(tmp_path)["losses"] == 1
    first = last(tmp_path)["loss_sum"]
    deepgcn_seg.train(f"resume={tmp_path}", "recipe.loss=focal")
    one, two = read_history(tmp_path / "history.csv")
    assert (one["step"], one["epoch"], one["mIoU"]) == (1, 1, None)
    assert one["train_loss"] == pytest.approx(first, rel=1e-5)
    assert two["train_loss"] < one["train_loss"]


def test_a_longer_cosine_is_recorded_because_its_first_steps_had_other_rates(run, store, tmp_path):
    cosine = tmp_path / "cosine"
    deepgcn_seg.train(*TINY, "recipe=modern", "epochs=1", f"data.root={store.root}", f"hydra.run.dir={cosine}")
    done = last(cosine)["step"]
    deepgcn_seg.train(f"resume={cosine}", "epochs=2")
    facts = json.loads((cosine / "run.json").read_text())
    assert facts["changes"] == [{"step": done, "settings": {"epochs": ["1", "2"]}}]
    assert reported(cosine)["epochs"] == f"1, from step {done} on 2"
    for settings, message in (
        (["recipe.ema=null"], "recipe.ema=null: the run was started with averaged weights"),
        (["recipe.ema=0.9"], r"recipe\.ema=0\.9: the run has all its"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            deepgcn_seg.train(f"resume={cosine}", *settings)


def test_a_length_is_recorded_after_steps_of_another_schedule(run):
    """Those steps may have followed the length before, whatever the present schedule does."""
    content, path = last(run), run / "run.json"

    def changes(**now):
        resumed = Resumed(run, {**recorded_settings(run), "epochs": "2", **now})
        resumed.require_same(content, 2, None, [lambda clock: 1.0])
        return resumed.changes

    longer, schedule = {"epochs": ("1", "2")}, "recipe.schedule._target_"
    assert changes() == []
    (change,) = changes(**{schedule: "mine.Schedule"})
    assert change.settings.items() > longer.items()
    before = {"step": 1, "settings": {schedule: ["mine.Schedule", "yours.Schedule"]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "changes": [before]}))
    assert changes()[1:] == [Change(step=content["step"], settings=longer)]


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("depth", None), ("model.dropout", None), ("model.recompute", Effect.WORK), ("backbone.connection", None),
        ("data.root", Effect.WORK), ("data.store.root", Effect.WORK), ("data.store.folder", Effect.WORK),
        ("data.store.seed", None), ("data.name", None), ("recipe.name", None), ("recipe.schedule.floor", Effect.STEPS),
        ("recipe.optimizer.lr", Effect.STEPS), ("recipe.optimizer.momentum", None), ("protocol.votes", Effect.SCORE),
        ("batch_size", None), ("accumulate", Effect.STEPS), ("epochs", Effect.LENGTH),
    ],
)  # fmt: skip
def test_each_setting_has_its_effect(key, effect):
    assert effect_of(key) == effect


def test_all_settings_of_a_recipe_are_decided_on():
    """A setting that a resume keeps is kept on purpose."""
    kept = {key for key in run_settings(composed()) if key.startswith("recipe.") and effect_of(key) is None}
    assert kept == {"recipe.name", "recipe.optimizer._target_", "recipe.optimizer._partial_"}


def test_the_settings_that_may_change_are_there():
    """A setting that is renamed is renamed here too."""
    config = composed("recipe=modern")
    there = lambda key: OmegaConf.select(config, key, default=EFFECTS) is not EFFECTS
    assert {key for key in EFFECTS if not there(key)} == {"recipe.optimizer.betas", "recipe.optimizer.eps"}


def test_the_page_lists_the_settings_that_change_how_the_work_is_done():
    page = (Path(__file__).parent.parent / "docs" / "experiments.md").read_text()
    row = re.search(r"^\|(.*)\| where and how the work is done \|$", page, re.M)
    listed = set(re.findall(r"`(.*?)`", row[1]))
    assert listed == {"data.root", *HOW_IT_IS_DONE}
    assert {effect_of(key) for key in (*listed, *WHERE_ROOMS_ARE)} == {Effect.WORK}
    assert not listed - {"data.root"} & run_settings(composed()).keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["wall", "floor", "thing"]}, "but those of the data are in another order floor, wall"),
        ({"classes": ["wall"]}, "classes wall, but those of the data are floor, wall"),
        ({"trained_on": {"features": ["block", "room"]}}, "data.features=[block,color]: the run was started with"),
        ({"trained_on": {"variant": "port"}}, "data.variant=paper: the run was started with port, and keeps it"),
        ({"steps_per_epoch": 2}, "an epoch had 2 steps, and has 3 now"),
        ({"rooms": {"train": {"a/1": "x"}}}, "train rooms are others than when the run was started (a/2 is new)"),
        ({"rooms": {"train": {"a/1": "x", "a/2": "y", "b/3": "z"}}}, "(b/3 is not there)"),
        ({"rooms": {"train": {"a/1": "x", "a/2": "z"}}}, "(a/2 has other points)"),
        ({"rooms": {"test": {}}}, "the test rooms are others than when the run was started (c/1 is new)"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_its_classes_channels_rooms_and_epochs(change, message):
    own = {
        "classes": ["floor", "wall", "thing"],
        "trained_on": {"features": ("block", "color"), "variant": "paper"},
        "rooms": {"train": {"a/1": "x", "a/2": "y"}, "test": {"c/1": "x"}},
        "steps_per_epoch": 3,
    }
    require_same_data(own, own, "checkpoint")
    require_same_data({}, own, "checkpoint")
    with pytest.raises(UserError) as raised:
        require_same_data({**own, **change}, own, "checkpoint")
    assert message in str(raised.value)


def test_what_a_resume_changes_is_said_and_recorded(tmp_path, caplog):
    caplog.set_level("INFO")
    before = {"recipe.loss": "cross_entropy", "epochs": "2"}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"settings": before, "class_weights": {"wall": 1.0}}))
    now = {"recipe.loss.focal": "1", "epochs": "3"}
    changed = changed_settings(before, now)
    assert changed == {"recipe.loss": ("cross_entropy", "{focal:1}"), "epochs": ("2", "3")}
    changes = [Change(step=4, settings=changed)]
    record_changes(tmp_path, now, {"wall": 2.0}, changed, changes)
    assert "Changed: " in caplog.text and "recipe.loss cross_entropy -> {focal:1}" in caplog.text
    facts = json.loads(path.read_text())
    assert (facts["settings"], facts["class_weights"]) == (now, {"wall": 2.0})
    assert changes_of(facts, "run.json") == changes
    record_changes(tmp_path, now, None, {}, [])
    assert json.loads(path.read_text()) == {"settings": now}
    # A setting that runs did not have from the beginning has the value that it had then.
    assert not changed_settings({"epochs": "3"}, {"epochs": "3", "recipe.loss": "cross_entropy"})


@pytest.mark.parametrize(("protocol", "differ"), [("rooms", False), ("blocks", True)])
def test_fewest_points_of_a_block_are_of_protocols_that_leave_out_blocks(protocol, differ):
    # A run before protocol.min_points was a setting, and the same one of today.
    before = {"protocol.name": protocol, "data.grid.min_points": "20"}
    assert bool(changed_settings(before, {**before, "protocol.min_points": "20"})) == differ


def test_a_resume_reads_its_checkpoint_once(run, monkeypatch):
    monkeypatch.setattr(loop, "read_checkpoint", lambda path: pytest.fail("read twice"))
    deepgcn_seg.train(f"resume={run}", "epochs=2")
    assert json.loads((run / "metrics.json").read_text())["training"]["steps"] > 0


def test_changes_at_one_step_are_one_and_a_change_back_is_none():
    changes = add_change([], 4, {"a": ("1", "2"), "b": ("x", "y")})
    changes = add_change(changes, 4, {"a": ("2", "1"), "b": ("y", "z")})
    assert changes == [Change(step=4, settings={"b": ("x", "z")})]
    changes = add_change(changes, 9, {"b": ("z", None)})
    assert values_in_time(changes) == {"b": "x, from step 4 on z, from step 9 on not set"}
    assert add_change(changes, 10, {}) == changes


def test_a_change_of_many_settings_is_a_line_of_a_card():
    change = Change(step=4, settings={f"recipe.schedule.{i}": ("x" * 1000, None) for i in range(40)})
    assert len(str(change)) < 500 and "\n" not in str(change)


def test_a_validation_on_test_rooms_is_said(store, tmp_path):
    given = [*TINY, f"data.root={store.root}", f"hydra.run.dir={tmp_path}", "select=test", "max_steps=1"]
    given += ["data.grid.side=1.5", "data.grid.min_points=300"]
    deepgcn_seg.train(*given, "freeze=[backbone.head,backbone,backbone]", "recipe.loss={focal:1}")
    logged = (tmp_path / "train.log").read_text()
    assert "for 1 step; validation on 2 test rooms, test on 2 of Area_5" in logged
    assert "Epoch 1, step 1: test mIoU 0." in logged and "validation mIoU" not in logged
    assert "Loss: {focal:1}, focal_gamma 2" in logged and "Frozen: backbone; " in logged
    assert "A step is 8 blocks: 1 process x 1 pass of 8" in logged
    # The validation was of the rooms and blocks that the score is of.
    score = json.loads((tmp_path / "metrics.json").read_text())["test"]["mIoU"]
    assert read_history(tmp_path / "history.csv")[-1]["mIoU"] == pytest.approx(score, rel=1e-5)


def test_a_damaged_record_of_changes_is_one_line():
    for damaged in (5, [{"step": -1, "settings": {}}], [{"step": 1, "settings": {"a": ["1"]}}]):
        with pytest.raises(UserError, match=r"^run\.json: changes"):
            changes_of({"changes": damaged}, "run.json")


def test_a_step_that_is_done_again_has_one_row(tmp_path):
    """A run may be killed between a row of the history and the checkpoint that goes with it."""
    history = History(tmp_path, 0)
    for step, loss in ((2, 1.0), (4, 0.5), (4, 0.25)):
        history.append(Epoch(step, 1, 0.1, loss, None, None, 1.0, 1.0).row(["wall"]))
    assert [(row["step"], row["train_loss"]) for row in read_history(tmp_path / "history.csv")] == [(2, 1), (4, 0.25)]
