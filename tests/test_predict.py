"""Scans of any format and place get labels; the command, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_commands import data_root, run, trained  # noqa: F401

from deepgcn_seg import Segmenter
from deepgcn_seg.data.scan import Scan, read_scan, write_scan
from deepgcn_seg.errors import UserError
from deepgcn_seg.inference.predict import output_paths, truth_of

ORIGIN = np.array([451234.5, 5412345.25, 112.0])


@pytest.fixture(scope="module")
def checkpoint(trained):  # noqa: F811
    return trained[0] / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter(checkpoint, device="cpu")


def office(count=3000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, [2.6, 1.8, 2.9], (count, 3)), rng.integers(0, 256, (count, 3), np.uint8)


def scan_file(path, colored=True, **more):
    xyz, rgb = office()
    fields = dict(zip("xyz", (xyz + ORIGIN).T.copy()))
    if colored:
        fields |= dict(zip(("red", "green", "blue"), rgb.T.copy()))
    write_scan(path, Scan(Path("x.foo"), {**fields, **more}), {})
    return path


# -- the network over a scan --------------------------------------------------------------------


def test_every_point_gets_a_label_and_a_confidence_in_its_place(segmenter):
    xyz, rgb = office()
    found = segmenter.predict(xyz, rgb)
    assert found.label.shape == found.confidence.shape == (3000,)
    assert found.confidence.min() > 1 / 13 - 1e-6 and found.confidence.max() <= 1
    # The same points in another order get the same labels wherever no choice of neighbours changed.
    order = np.random.default_rng(1).permutation(3000)
    again = segmenter.predict(xyz[order], rgb[order])
    assert (again.label == found.label[order]).mean() > 0.5


def test_the_origin_the_unit_and_the_axis_do_not_matter(segmenter):
    # Multiples of 1/1024 m: exact wherever they are moved to.
    xyz, rgb = office()
    xyz = np.round(xyz * 1024) / 1024
    before = segmenter.predict(xyz, rgb)
    moved = segmenter.predict(xyz + ORIGIN, rgb)
    millimetres = segmenter.predict(xyz * 1024, rgb, scale=1 / 1024)
    lying = segmenter.predict(xyz[:, [0, 2, 1]], rgb, up="y")
    for other in (moved, millimetres, lying):
        assert np.array_equal(other.label, before.label)


def test_tiles_cover_a_large_scan(checkpoint):
    xyz, rgb = office(2000)
    xyz[:, :2] *= [9, 4]
    found = Segmenter(checkpoint, device="cpu", tile=5.0).predict(xyz, rgb)
    assert (found.confidence > 0).all()
    assert Segmenter(checkpoint, device="cpu", tile=5.0).predict(xyz, rgb).label.tolist() == found.label.tolist()


def test_one_point_and_flat_scans(segmenter):
    assert segmenter.predict(np.array([[5.0, 6.0, 7.0]]), np.zeros((1, 3), np.uint8)).label.shape == (1,)
    xyz, rgb = office(500)
    xyz[:, 2] = 1.0
    assert len(segmenter.predict(xyz, rgb).label) == 500


def test_a_scan_without_colour_is_told(segmenter, caplog):
    with caplog.at_level("INFO"):
        segmenter.predict(office()[0])
    assert "trained with colours and the scan has none: grey is filled in" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        segmenter.predict(office()[0] * 1000, office()[1])
    assert "does not look like metres" in caplog.text


def test_points_without_sense(segmenter):
    for bad in (np.zeros((0, 3)), np.zeros((5, 2)), np.full((5, 3), np.nan)):
        with pytest.raises(UserError):
            segmenter.predict(bad)
    with pytest.raises(UserError, match="up=w"):
        segmenter.predict(office()[0], up="w")


# -- the command --------------------------------------------------------------------------------


def test_a_scan_in_a_scan_out(checkpoint, tmp_path):
    scan_file(tmp_path / "a.ply", label=np.arange(3000) % 13, intensity=np.arange(3000, dtype=np.float32))
    done = run(
        "predict", f"checkpoint={checkpoint}", f"input={tmp_path}/a.ply", f"output={tmp_path}/b.las", "device=cpu",
        f"view={tmp_path}/b.html", f"picture={tmp_path}/b.png", f"hydra.run.dir={tmp_path}/log",
    )  # fmt: skip
    assert "a.ply: 3,000 points" in done.stderr
    before, after = read_scan(tmp_path / "a.ply"), read_scan(tmp_path / "b.las")
    assert np.abs(before.xyz - after.xyz).max() < 1e-6
    assert np.array_equal(before.rgb, after.rgb)
    assert after.fields["label"].max() < 13 and after.fields["confidence"].max() <= 1
    assert np.array_equal(after.fields["label_input"], np.arange(3000) % 13)
    assert np.array_equal(after.fields["intensity"], np.arange(3000))
    names = json.loads((tmp_path / "b.las.classes.json").read_text())
    assert names["classes"][0] == "ceiling" and len(names["palette"]) == 13
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"
    assert "<canvas" in (tmp_path / "b.html").read_text()


def test_a_folder_of_scans_with_class_colours(checkpoint, tmp_path):
    for name in ("a.ply", "b.txt"):
        scan_file(tmp_path / "in" / name) if (tmp_path / "in").mkdir(exist_ok=True) is None else None
    run(
        "predict",
        f"checkpoint={checkpoint}",
        f"input={tmp_path}/in",
        f"output={tmp_path}/out",
        "colors=true",
        f"hydra.run.dir={tmp_path}/log",
    )
    found = read_scan(tmp_path / "out" / "b.txt")
    palette = np.array(json.loads((tmp_path / "out" / "b.txt.classes.json").read_text())["palette"])
    assert np.array_equal(found.rgb, palette[found.fields["label"]])
    assert (tmp_path / "out" / "a.ply").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint is not set"),
        (["checkpoint=x", "input=/nowhere.ply", "output=x.ply"], "/nowhere.ply: no point-cloud files here"),
        (["checkpoint=README.md", "input={scan}", "output=x.ply"], "README.md: damaged, or not a checkpoint"),
        (["checkpoint={checkpoint}", "input={scan}", "output={scan}"], "would overwrite the scan"),
        (["checkpoint={checkpoint}", "input={scan}", "output=/proc/none/x.ply"], "/proc/none"),
        (["checkpoint={checkpoint}", "input=README.md", "output=x.ply"], "README.md: unknown format"),
    ],
)
def test_mistakes_are_one_line(checkpoint, tmp_path, arguments, message):
    path = scan_file(tmp_path / "a.ply")
    filled = [argument.format(scan=path, checkpoint=checkpoint) for argument in arguments]
    done = run("predict", *filled, f"hydra.run.dir={tmp_path}/log", "device=cpu", check=False)
    assert done.returncode == 2
    assert (
        len(errors := [line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
        and message in errors[0]
    )
    assert "Traceback" not in done.stderr


def test_where_results_go(tmp_path):
    scans = [tmp_path / "a.ply", tmp_path / "b.las"]
    assert output_paths(scans, Path("out")) == [Path("out/a.ply"), Path("out/b.las")]
    assert output_paths(scans[:1], Path("out.npz")) == [Path("out.npz")]
    with pytest.raises(UserError, match="give a folder"):
        output_paths(scans, Path("out.ply"))
    with pytest.raises(UserError, match="same name"):
        output_paths([tmp_path / "x" / "a.ply", tmp_path / "y" / "a.ply"], Path("out"))


def test_labels_of_a_scan_are_truth_only_if_they_can_be(segmenter):
    def with_labels(values):
        return Scan(Path("a.ply"), {"x": np.zeros(3), "label": np.array(values)})

    assert truth_of(with_labels([0, 5, 12]), segmenter.classes).tolist() == [0, 5, 12]
    for values in ([0, 0, 0], [0, 1, 13], [0, -1, 2], [0.5, 1, 2], ["a", "b", "c"]):
        assert truth_of(with_labels(values), segmenter.classes) is None
