"""tools/evaluate.py: a network is scored on what it was trained on, whatever data it is given."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_checkpoint import NETWORK, TRAINED_ON, small
from test_commands import TINY, run

import deepgcn_seg
from deepgcn_seg.data.blocks import BlockGrid
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.data.store import RoomStore
from deepgcn_seg.evaluation.history import read_history
from deepgcn_seg.evaluation.model_card import card_text
from deepgcn_seg.model.checkpoint import add_to_checkpoint, read_checkpoint, save_checkpoint

SYNTHETIC = ["data=synthetic", "data.store.rooms_per_area=1", "data.store.density=60"]
MINE = """
from deepgcn_seg.model import MRConv

class Conv(MRConv):
    pass
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on other channels, blocks and area than the defaults, with a convolution of its own."""
    root = tmp_path_factory.mktemp("evaluate")
    (root / "mine_evaluated.py").write_text(MINE)
    grid = ["data.grid.side=1.5", "data.grid.min_points=500"]
    other = ["data.features=[block,room]", *grid, "data.fold=2", "conv._target_=mine_evaluated.Conv"]
    run("train", *TINY, *other, f"data.root={root}/data", f"hydra.run.dir={root}/run", env={"PYTHONPATH": str(root)})
    return root


def evaluate(trained, *arguments, check=True, trusted="trusted=[mine_evaluated]", checkpoint="run"):
    shutil.rmtree(trained / "scores", ignore_errors=True)
    return run(
        "evaluate",
        f"checkpoint={trained}/{checkpoint}",
        *filter(None, [trusted]),
        f"hydra.run.dir={trained}/scores",
        *arguments,
        check=check,
        env={"PYTHONPATH": str(trained)},
    )


def confusion(folder, part="test"):
    return json.loads((folder / "metrics.json").read_text())[part]["confusion"]


@pytest.mark.parametrize("data", [[], SYNTHETIC], ids=["its own", "given"])
def test_the_score_is_that_of_the_training_whatever_the_data_group_says(trained, data):
    root = [f"data.root={trained}/data"] if data else []
    evaluate(trained, *data, *root)
    assert confusion(trained / "scores") == confusion(trained / "run")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.features=[block,color,room]", "trained with ['block', 'room']"),
        ("data.grid.side=1.0", "trained with 1.5"),
        ("data.variant=port", "trained with paper"),
        ("protocol.side=1.0", "trained with 1.5"),
        ("protocol.features=[block]", "trained with [block,room]"),
        ("points=3", "points=3: the network's k x dilation needs blocks of"),
        ("protocol.points=1", "protocol.points=1: the network's k x dilation needs blocks of"),
    ],
)
def test_settings_at_odds_with_the_training_are_errors(trained, setting, message):
    done = evaluate(trained, *SYNTHETIC, f"data.root={trained}/data", setting, check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "changed", "selection"),
    [
        ("best", {}, "best on validation rooms"),
        # Not scored at the end of the training.
        ("last", {}, "last"),
        ("last", {"selection": "best on test rooms"}, "best on test rooms"),
        ("last", {"selection": None}, None),
    ],
)
def test_a_score_says_how_its_checkpoint_was_chosen(trained, tmp_path, name, changed, selection):
    path = shutil.copytree(trained / "run", tmp_path / "run") / "checkpoints" / f"{name}.ckpt"
    add_to_checkpoint(path, card={**read_checkpoint(path)["card"], **changed})
    assert f"({selection})" in card_text(read_checkpoint(path), path) or selection is None
    done = run(
        "evaluate",
        f"checkpoint={path}",
        f"hydra.run.dir={tmp_path}/scores",
        "trusted=[mine_evaluated]",
        env={"PYTHONPATH": str(trained)},
    )
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["test"].get("selection") == selection
    warned = f"checkpoint {path}: was chosen by the test rooms of its training" in done.stderr
    assert warned == (selection == "best on test rooms")


def test_scores_of_samples_are_of_the_blocks_that_training_takes(trained):
    evaluate(trained, "protocol=recut", "part=validation", checkpoint="run/checkpoints/last.ckpt")
    entry = json.loads((trained / "scores" / "metrics.json").read_text())["validation"]
    assert entry["protocol"] == "recut (stride 1.5 m, 64 sampled points a block, blocks of 500 points or more)"
    store = RoomStore(next(trained.glob("data/*/store")))
    rooms = [room for room in store.rooms if room.key in entry["rooms"]]
    blocks, others = ([b for room in rooms for b in BlockGrid(1.5, 1.5, n).cut(store, room)] for n in (500, 100))
    assert entry["points"] == 64 * len(blocks) < 64 * len(others)
    last = read_history(trained / "run" / "history.csv")[-1]
    assert [last["mIoU"], last["OA"]] == pytest.approx([entry["mIoU"], entry["OA"]], rel=1e-5)


def test_another_area_of_the_same_data_is_said_to_have_been_trained_on(trained):
    assert "trained with fold 2 held out" in evaluate(trained, "data.fold=3").stderr


@pytest.mark.parametrize("tool", ["evaluate", "predict"])
def test_own_parts_are_trusted_by_a_setting_that_the_error_names(trained, tool):
    np.save(trained / "scan.npy", np.random.default_rng(0).uniform(0, 2, (300, 3)))
    scan = [f"input={trained}/scan.npy", f"output={trained}/out.ply"] if tool == "predict" else []
    common = [f"checkpoint={trained}/run", f"hydra.run.dir={trained}/{tool}", *scan]
    done = run(tool, *common, check=False, env={"PYTHONPATH": str(trained)})
    assert done.returncode == 2
    assert "set trusted=[mine_evaluated]" in done.stderr.splitlines()[-1]
    run(tool, *common, "trusted=[mine_evaluated]", env={"PYTHONPATH": str(trained)})


def test_a_checkpoint_does_not_say_where_data_lie(tmp_path):
    on = {**TRAINED_ON, "source": "s3dis", "fold": 5}
    save_checkpoint(tmp_path / "a.ckpt", small(), NETWORK, S3DIS, on, config={"data": {"root": str(tmp_path)}})
    assert read_checkpoint(tmp_path / "a.ckpt")["config"]["data"]["root"] == str(tmp_path)
    done = run("evaluate", f"checkpoint={tmp_path}/a.ckpt", f"hydra.run.dir={tmp_path}/log", check=False)
    assert done.returncode == 2
    assert "give data.root=DIR" in done.stderr.splitlines()[-1]


def test_data_without_colours_do_not_fit_a_network_with_colours(tmp_path):
    from deepgcn_seg.data.room import Room
    from deepgcn_seg.data.room_file import write_room
    from deepgcn_seg.data.store import write_manifest

    rng = np.random.default_rng(0)
    for area in ("Area_1", "Area_5"):
        label = rng.integers(0, 13, 500).astype(np.uint8)
        write_room(tmp_path / "store", Room(area, "office_1", rng.uniform(0, 1, (500, 3)), None, label))
    write_manifest(tmp_path / "store", S3DIS, "plain")
    save_checkpoint(tmp_path / "a.ckpt", small(), NETWORK, S3DIS, {**TRAINED_ON, "source": "s3dis", "fold": 5})
    command = [f"checkpoint={tmp_path}/a.ckpt", f"data.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/log"]
    done = run("evaluate", *command, check=False)
    assert done.returncode == 2
    assert "trained with colours" in done.stderr.splitlines()[-1]


def test_many_more_rooms_than_anybody_makes_are_not_made_because_a_checkpoint_says_so(tmp_path):
    rooms = {"rooms_per_area": 1000, "density": 1e5, "seed": 0}
    on = {**TRAINED_ON, "source": "synthetic", "fold": 5, "synthetic": rooms}
    save_checkpoint(tmp_path / "a.ckpt", small(), NETWORK, S3DIS, on)
    command = [f"checkpoint={tmp_path}/a.ckpt", f"data.root={tmp_path}/rooms", f"hydra.run.dir={tmp_path}/log"]
    done = run("evaluate", *command, check=False)
    assert done.returncode == 2
    assert "data.store.rooms_per_area=1000 data.store.density=100000" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "rooms").exists()


def files(folder):
    """The content of every file but logs and the lock, which say nothing of results."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".log" and p.name != ".lock"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run, and its scores under another protocol."""
    root = tmp_path_factory.mktemp("folders")
    deepgcn_seg.train(*TINY, f"data.root={root}/data", f"hydra.run.dir={root}/run")
    deepgcn_seg.evaluate(f"checkpoint={root}/run", "protocol=recut", f"hydra.run.dir={root}/scores")
    return root


@pytest.mark.parametrize(
    ("command", "settings", "folder", "message"),
    [
        ("evaluate", ["protocol=recut"], "run", "holds a training, whose files are kept; choose another directory"),
        ("evaluate", ["protocol=rooms"], "run", "holds a training"),
        ("evaluate", [], "scores", r"scores/metrics\.json: scores that are there are kept; choose another directory"),
        ("predict", ["input={}/scan.npy", "output={}/out.ply"], "run", "holds a training"),
        ("predict", ["input={}/scan.npy", "output={}/out.ply"], "scores", "scores that are there are kept"),
        ("train", TINY, "scores", r"scores/metrics\.json: scores that are there are kept"),
    ],
)
def test_no_result_is_overwritten(plain, command, settings, folder, message):
    np.save(plain / "scan.npy", np.random.default_rng(0).uniform(0, 2, (300, 3)))
    before = files(plain / folder)
    given = [setting.format(plain) for setting in settings]
    what = f"data.root={plain}/data" if command == "train" else f"checkpoint={plain}/run"
    with pytest.raises(deepgcn_seg.UserError, match=message) as raised:
        getattr(deepgcn_seg, command)(what, *given, f"hydra.run.dir={plain}/{folder}")
    assert "\n" not in str(raised.value)
    assert files(plain / folder) == before


def test_an_evaluation_that_left_no_scores_may_be_repeated(plain):
    folder = plain / "killed"
    again = lambda *more: deepgcn_seg.evaluate(f"checkpoint={plain}/run", f"hydra.run.dir={folder}", *more)
    with pytest.raises(deepgcn_seg.UserError, match="data.fold=99"):
        again("data.fold=99")
    assert again("protocol=recut")["mIoU"] >= 0


def test_of_two_evaluations_at_once_into_one_folder_one_is_refused_and_none_is_lost(plain):
    command = ["evaluate", f"checkpoint={plain}/run", "protocol=recut", f"hydra.run.dir={plain}/at once"]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda part: run(*command, part, check=False), ("part=test", "part=train")))
    (failed,) = (each for each in done if each.returncode == 2)
    assert "choose another directory" in failed.stderr.splitlines()[-1]
    won = ("test", "train")[1 - done.index(failed)]
    assert list(json.loads((plain / "at once" / "metrics.json").read_text())) == [won]


def test_a_sweep_that_is_repeated_keeps_its_scores(plain):
    command = ["evaluate", "-m", f"checkpoint={plain}/run", "protocol=recut", "part=test,train"]
    command.append(f"hydra.sweep.dir={plain}/sweep")
    run(*command)
    before = files(plain / "sweep")
    done = run(*command, check=False)
    assert done.returncode == 2
    summary = done.stderr[done.stderr.index("2 jobs without a directory of their own did not run") :]
    assert summary.count("metrics.json: scores that are there are kept") == 2
    assert files(plain / "sweep") == before
