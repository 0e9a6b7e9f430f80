"""A newcomer's days: commands for scans of one's own in docs/data.md and docs/tutorial.md, run in order on tiny data."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from test_commands import ROOT, TINY, data_root, run, trained  # noqa: F401
from test_labelled_scans import classes

from deepgcn_seg import load_model
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.data.scans.formats.scan import Scan
from deepgcn_seg.data.store import RoomStore

SMALL = [*(t for t in TINY if not t.startswith("data.store")), "data.grid.min_points=20", "max_steps=2"]
SECTION = re.search(r"## Your own rooms\n(.*?)\n## ", (ROOT / "docs" / "data.md").read_text(), re.S)[1]
COMMAND = re.compile(r"^    python tools/(\w+)\.py (.*)$", re.M)
COMMANDS = COMMAND.findall(SECTION)
TUNING = (ROOT / "docs" / "tutorial.md").read_text().partition("## 6. Fine-tune on three classes of your own\n")[2]


def write_hall(path, seed, unit=1000.0, count=3000):
    """Write a scan of floor, walls and furniture with holes and unlabelled points, and return its labels."""
    rng = np.random.default_rng(seed)
    xyz = rng.random((count, 3)) * [4.0, 3.0, 2.6]
    label = rng.integers(0, 3, count).astype(np.float64)
    xyz[label == 0, 2], xyz[label == 1, 0], xyz[label == 2, 2] = 0, 0, 0.8
    xyz[:40, 0] = np.nan
    label[100:150], label[200:230] = np.nan, 255
    fields = dict(zip("xyz", (unit * xyz).T.copy()))
    fields |= {name: rng.integers(0, 256, count, np.uint8) for name in ("red", "green", "blue")}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scan(path, Scan(path, fields), {"label": label})
    return label


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkout with the documented scans."""
    root = tmp_path_factory.mktemp("newcomer")
    for name in ("tools", "conf"):
        shutil.copytree(ROOT / name, root / name)
    rooms = ["Gebäude Nord/Büro 1", "Gebäude Nord/Büro 2", "Gebäude Süd/Küche (oben)"]
    for seed, room in enumerate(rooms):
        write_hall(root / "Meine Scans" / f"{room}.ply", seed)
    (root / "Meine Scans" / "classes.yaml").write_text(re.search(r"```yaml\n(.*?)```", SECTION, re.S)[1])
    for seed, name in enumerate(("Flur 1", "Flur 2")):
        write_hall(root / "neu" / f"{name}.ply", 10 + seed)
    (root / "neu" / "Eingang (kaputt).ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement ver")
    return root


def test_a_newcomers_day(place):
    done = []
    for tool, arguments in COMMANDS:
        small = SMALL if tool == "train" else []
        given = [*shlex.split(arguments), *small, *([] if tool == "train" else [f"hydra.run.dir={place}/log"])]
        done.append(run(tool, *given, check=False, folder=place))
    prepared, training, labelled, shown = done
    assert prepared.returncode == 0, prepared.stderr
    assert "120 points with NaN or infinite coordinates were left out" in prepared.stderr
    assert "240 points with no label were kept, but neither trained on nor scored" in prepared.stderr
    store = RoomStore(place / "data" / "scans")
    assert store.classes.names == ("Boden", "Wand", "Möbel")
    assert [store.open(room).count for room in store.rooms] == [3000 - 40] * 3
    assert store.open(store.rooms[0]).size == pytest.approx([4, 3, 2.6], abs=0.02)
    assert training.returncode == 0, training.stderr
    assert (place / "outputs" / "scans" / "checkpoints" / "last.ckpt").is_file()
    assert labelled.returncode == 2
    assert "Eingang (kaputt).ply" in labelled.stderr
    for name in ("Flur 1", "Flur 2"):
        label = read_scan(place / "labelled" / f"{name}.ply").fields["label"]
        assert len(label) == 3000 and (label[40:] < 3).all()
        assert (label[:40] >= 3).all()
    assert shown.returncode == 0, shown.stderr
    assert "<html" in (place / "flur.html").read_text()


def test_two_scans_train_and_say_what_is_used(tmp_path):
    raw = tmp_path / "scans"
    for area in ("a", "b"):
        write_hall(raw / area / "hall.ply", 0)
    classes(raw, classes=["floor", "wall", "things"], ignore=255, scale=0.001)
    log = f"hydra.run.dir={tmp_path}/log"
    run("prepare", f"source={raw}", f"data.root={tmp_path}/store", log)
    common = [*SMALL, "data=folder", f"data.root={tmp_path}/store", "data.fold=b", "select=validation"]
    done = run("train", *common, f"hydra.run.dir={tmp_path}/run")
    assert "No room is left for validation (data.validation=0.1, 1 room to train on)" in done.stderr
    scored = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert scored["selection"] == "last"
    for tool, more in (("evaluate", []), ("predict", [f"input={tmp_path}/scan.ply", f"output={tmp_path}/out.ply"])):
        write_hall(tmp_path / "scan.ply", 1, unit=1.0)
        scan = read_scan(tmp_path / "scan.ply")
        write_scan(tmp_path / "scan.ply", Scan(scan.path, {n: v[40:] for n, v in scan.fields.items()}), {})
        done = run(tool, f"checkpoint={tmp_path}/run/checkpoints/best.ckpt", *more, f"hydra.run.dir={tmp_path}/{tool}")
        assert "no validation chose a best one; last.ckpt is taken" in done.stderr


def test_millimetres_stop_before_any_work_and_scale_overrules(tmp_path):
    write_hall(tmp_path / "raw" / "a" / "hall.ply", 0)
    classes(tmp_path / "raw", classes=["floor", "wall", "things"], ignore=255)
    given = [f"source={tmp_path}/raw", f"data.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/log"]
    done = run("prepare", *given, check=False)
    assert done.returncode == 2
    assert "hall.ply: 2,960 points over" in done.stderr and "scale=0.001" in done.stderr.splitlines()[-1]
    run("prepare", *given, "scale=0.001")
    assert RoomStore(tmp_path / "store").rooms[0].key == "a/hall"


def test_sparse_scans_end_with_settings_that_train(tmp_path):
    for area in ("a", "b"):
        write_hall(tmp_path / "raw" / area / "tile.ply", 0, unit=10.0)
    classes(tmp_path / "raw", classes=["floor", "wall", "things"], ignore=255)
    run("prepare", f"source={tmp_path}/raw", f"data.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/log")
    tiny = [t for t in SMALL if not t.startswith("data.grid")]
    common = [*tiny, "data=folder", f"data.root={tmp_path}/store", "data.fold=b", f"hydra.run.dir={tmp_path}/run"]
    done = run("train", *common, check=False)
    assert done.returncode == 2
    advised = re.search(r"(data\.grid\.side=\S+) (data\.grid\.stride=[^,]+),", done.stderr.splitlines()[-1])
    run("train", *common, *advised.groups())


def test_fine_tuning_onto_three_classes_of_ones_own(trained, tmp_path):  # noqa: F811
    """The commands of the tutorial, after a training on the thirteen classes of the synthetic rooms."""
    for name in ("tools", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(trained[0], tmp_path / "RUN_DIR")
    for seed, room in enumerate(("north/hall", "north/office", "south/office")):
        write_hall(tmp_path / "scans" / f"{room}.ply", seed, unit=1.0)
    (tmp_path / "scans" / "classes.yaml").write_text(re.search(r"```yaml\n(.*?)```", TUNING, re.S)[1])
    label = write_hall(tmp_path / "scan.ply", 9, unit=1.0)
    done = []
    for tool, arguments in COMMAND.findall(TUNING):
        small = [*SMALL, "recipe=modern"] if tool == "train" else [f"hydra.run.dir={tmp_path}/log"]
        done.append((tool, run(tool, *shlex.split(arguments), *small, folder=tmp_path)))
    assert [tool for tool, _ in done] == ["prepare", "train", "train", "predict"]
    reason = "classes ceiling, floor, wall and 10 more there, floor, wall, furniture here"
    for _, training in done[1:3]:
        assert f"Begin anew: head.classifier ({reason})\n" in training.stderr
    source, frozen = (load_model(tmp_path / name).state_dict() for name in ("RUN_DIR", "outputs/frozen"))
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in source.items() if name.startswith("backbone."))
    assert load_model(tmp_path / "outputs" / "tuned").classes.names == ("floor", "wall", "furniture")
    found = read_scan(tmp_path / "tuned.ply").fields["label"]
    assert len(found) == len(label) and (found[40:] < 3).all()
    assert "<html" in (tmp_path / "tuned.html").read_text()
