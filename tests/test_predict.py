"""Scans of any format and place get labels; the command, and its errors."""

import json
import os
import re
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import laspy
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_commands import data_root, run, trained  # noqa: F401
from test_scan import NEEDS_PYE57

import deepgcn_seg.commands.predict as predict_module
from deepgcn_seg import Segmenter
from deepgcn_seg.commands.predict import classes_path, output_paths, require_distinct, write_labelled
from deepgcn_seg.data.classes import S3DIS, ClassList
from deepgcn_seg.data.label_numbers import LabelNumbers
from deepgcn_seg.data.labelled_scans import Labelling
from deepgcn_seg.data.scannet import LABELLING, SCANNET
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.data.scans.formats.scan import Scan
from deepgcn_seg.data.scans.search import find_scans, scans_root
from deepgcn_seg.errors import UserError
from deepgcn_seg.inference.segmenter import Prediction, colors_of, no_label
from deepgcn_seg.inference.tiles import Tiles
from deepgcn_seg.inference.truth import trained_labelling, truth_of
from deepgcn_seg.inference.viewer import write_viewer
from deepgcn_seg.model.description import TrainedOn
from deepgcn_seg.model.trained import Member, Trained

CONF = Path(__file__).parents[1] / "conf"
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


def test_every_point_gets_a_label_and_a_confidence(segmenter):
    xyz, rgb = office()
    found = segmenter.predict(xyz, rgb)
    assert found.label.shape == found.confidence.shape == (3000,)
    assert found.confidence.min() > 1 / 13 - 1e-6 and found.confidence.max() <= 1


class ByRed(torch.nn.Module):
    """A network whose class of a point follows from its red alone."""

    def forward(self, points):
        return 9.0 * torch.nn.functional.one_hot((255 * points[..., 3]).round().long() // 20, 13)


@pytest.mark.parametrize("tile", [5.0, 20.0])
def test_every_point_gets_the_label_of_its_own_features(checkpoint, tile):
    segmenter = Segmenter(checkpoint, device="cpu", tile=tile)
    segmenter.model = ByRed()
    xyz, rgb = office()
    xyz[:, :2] *= [9, 4]
    xyz[::7] = np.nan
    expected = np.where(np.isnan(xyz[:, 0]), no_label(segmenter.classes), rgb[:, 0] // 20)
    assert np.array_equal(segmenter.predict(xyz, rgb).label, expected)


def test_the_origin_the_unit_and_the_axis_do_not_matter(segmenter):
    # Multiples of 1/1024 m: exact wherever they are moved to.
    xyz, rgb = office()
    xyz = np.round(xyz * 1024) / 1024
    before = segmenter.predict(xyz, rgb)
    moved = segmenter.predict(xyz + ORIGIN, rgb)
    millimetres = segmenter.predict(xyz * 1024, rgb, scale=1 / 1024)
    lying = segmenter.predict(xyz[:, [1, 2, 0]], rgb, up="y")
    for other in (moved, millimetres, lying):
        assert np.array_equal(other.label, before.label)


def test_tiles_of_a_large_scan_are_labelled_as_scans_of_their_own(checkpoint):
    xyz, rgb = office(2000)
    # Multiples of 1/1024 m: the coordinates in a tile are the same to the last bit.
    xyz = np.round(xyz * [9, 4, 1] * 1024) / 1024
    segmenter = Segmenter(checkpoint, device="cpu", tile=5.0)
    found, tiles = segmenter.predict(xyz, rgb), Tiles(xyz - xyz.min(0), rgb, 5.0)
    parts = [tiles.points_of(entry) for entry in tiles.entries]
    # 23 m x 7 m.
    assert len(parts) == 5 * 2 and sorted(np.concatenate(parts)) == list(range(2000))
    for points in parts:
        assert (np.ptp(xyz[points, :2], axis=0) <= 5).all()
        alone = segmenter.predict(xyz[points], rgb[points])
        assert np.array_equal(alone.label, found.label[points])
        assert np.allclose(alone.confidence, found.confidence[points], atol=1e-5)


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
        segmenter.predict(office()[0] * 0.001, office()[1])
    assert "does not look like metres" in caplog.text


def test_coordinates_that_cannot_be_metres_stop_unless_a_scale_is_given(segmenter):
    xyz, rgb = office()
    with pytest.raises(UserError, match=r"3,000 points over .* m are no building.*scale=0\.001"):
        segmenter.predict(xyz * 1000, rgb)
    assert len(segmenter.predict(xyz * 1000, rgb, scale=0.001).label) == 3000
    field = np.random.default_rng(0).random((60, 3)) * [300, 300, 2]
    with pytest.raises(UserError, match=r"scale=1 if they are in metres"):
        segmenter.predict(field)
    assert len(segmenter.predict(field, scale=1).label) == 60


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_points_without_coordinates_get_no_label(segmenter, caplog, missing):
    xyz, rgb = office()
    holes = np.arange(3000) % 7 == 0
    before = segmenter.predict(xyz[~holes], rgb[~holes])
    xyz[holes, 1] = missing
    colors = np.where(holes[:, None], np.nan, rgb / 255.0)
    found = segmenter.predict(xyz, colors)
    assert np.array_equal(found.label[~holes], before.label)
    assert np.array_equal(found.confidence[~holes], before.confidence)
    assert (found.label[holes] == no_label(segmenter.classes)).all() and no_label(segmenter.classes) == 255
    assert not found.confidence[holes].any()
    assert "429 of 3,000 points have no coordinates" in caplog.text


def test_no_label_is_no_class():
    for count, expected in ((2, 255), (255, 255), (256, 65535), (65535, 65535)):
        assert no_label(range(count)) == expected


def test_coordinates_that_float32_has_rounded_are_said(segmenter, caplog):
    xyz, rgb = office()
    segmenter.predict((xyz + [5e6, 5e6, 0]).astype(np.float32), rgb)
    assert "rounded to 0.5 m" in caplog.text
    caplog.clear()
    segmenter.predict(xyz + [5e6, 5e6, 0], rgb)
    assert "rounded" not in caplog.text


def test_points_without_sense(segmenter):
    texts, masked = np.full((5, 3), "1"), np.ma.masked_less(office(5)[0], 1)
    for bad in (
        *(np.zeros((0, 3)), np.zeros((5, 2)), np.zeros(3), np.full((5, 3), np.nan), np.full((5, 3), np.inf)),
        *(texts, masked, [[1, 2, 3], [4, 5]], np.zeros((5, 3), complex), np.zeros((5, 3), bool), None),
        *(torch.zeros(5, 3, device="meta"), torch.zeros(5, 3).to_sparse(), [[0, 0, 0], [1e300, 0, 0]]),
    ):
        with pytest.raises(UserError, match="points"):
            segmenter.predict(bad)
    for settings in ({"up": "w"}, {"up": ["z"]}, {"scale": 0}, {"scale": np.nan}, {"scale": -1}, {"scale": "1"}):
        with pytest.raises(UserError, match=f"{next(iter(settings))}="):
            segmenter.predict(office()[0], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        *({"stride": value} for value in (0, -1, np.nan, 1.5, 1e-9, "1")),
        *({"votes": value} for value in (0, 1.5, True)),
        *({"tile": value} for value in (0, np.inf, 1e9)),
        *({"batch_size": value} for value in (0, -3)),
        *({"trusted": value} for value in (5, [1], [["a"]])),
    ],
    ids=str,
)
def test_settings_out_of_range_end_before_any_point(checkpoint, settings):
    with pytest.raises(UserError, match=f"^{next(iter(settings))}="):
        Segmenter(checkpoint, device="cpu", **settings)


def as_list(values):
    return values.tolist()


@pytest.mark.parametrize(
    "convert", [as_list, torch.from_numpy, lambda a: torch.from_numpy(a).requires_grad_(), np.asfortranarray]
)
def test_points_may_be_tensors_and_lists(segmenter, convert):
    xyz, rgb = office(300)
    colors = rgb if convert is not as_list else rgb.tolist()
    assert np.array_equal(segmenter.predict(convert(xyz), colors).label, segmenter.predict(xyz, rgb).label)


RGB = office(50)[1]
SAME = {
    "uint8": RGB,
    "int64": RGB.astype(np.int64),
    "list": RGB.tolist(),
    "tensor": torch.from_numpy(RGB),
    "float of 0..255": RGB.astype(np.float32),
    "bfloat16": torch.from_numpy(RGB).to(torch.bfloat16),
    "float of 0..1": RGB / 255,
    "float32 of 0..1": RGB / np.float32(255),
    "tensor of 0..1": torch.from_numpy(RGB) / 255,
    "list of 0..1": (RGB / 255).tolist(),
}


@pytest.mark.parametrize("name", SAME)
def test_colours_mean_the_same_in_every_form(name):
    assert np.array_equal(colors_of(SAME[name], 50), RGB)


def test_fractions_may_exceed_one_by_a_rounding():
    assert colors_of([[1.0000001, 0.5, 0]], 1).tolist() == [[255, 128, 0]]


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (RGB[:49], r"must be \(50, 3\)"),
        (np.r_[RGB, RGB[:1]], r"must be \(50, 3\)"),
        (np.c_[RGB, RGB[:, :1]], r"must be \(50, 3\)"),
        (RGB.T, r"must be \(50, 3\)"),
        (RGB.ravel(), r"must be \(50, 3\)"),
        (RGB.astype(np.int16) - 300, "0..255"),
        (RGB.astype(np.uint16) * 257, "0..255"),
        (RGB / np.where(RGB[0, 0] == RGB, np.nan, 1.0), "0..255"),
        (RGB / 250, "fractions up to"),
        (RGB + 0.5, "fractions|0..255"),
        ((RGB > 100).astype(float), "only 0 and 1"),
        ((RGB > 100).astype(int), "only 0 and 1"),
        (RGB > 100, "must be numbers"),
        (RGB.astype(str), "must be numbers"),
        (RGB.astype(complex), "must be numbers"),
        ([[1, 2], [3]], "rgb"),
        (np.ma.masked_less(RGB, 50), "masked"),
    ],
)
def test_colours_whose_meaning_is_not_known_are_refused(rgb, message):
    with pytest.raises(UserError, match=message):
        colors_of(rgb, 50)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_colours_that_are_all_zero_are_none(segmenter, caplog, dtype):
    xyz = office(400)[0]
    without = segmenter.predict(xyz)
    with caplog.at_level("INFO"):
        black = segmenter.predict(xyz, np.zeros((400, 3), dtype))
    assert "all zero: it is taken for one without colours" in caplog.text
    assert np.array_equal(black.confidence, without.confidence)


# -- points far away ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", [[1e6, 1e6, 0], [-1e6, 3e5, 0], [-1e8, -1e8, 0]])
def test_a_stray_point_costs_one_tile_and_changes_no_other_label(segmenter, where):
    # Multiples of 1/1024 m, moved by whole tiles: the others' coordinates in their tile are the same to the last bit.
    xyz, rgb = office(600)
    xyz = np.round(xyz * 1024) / 1024
    xyz[0] = 0
    before = segmenter.predict(xyz, rgb)
    found = segmenter.predict(np.r_[xyz, [where]], np.r_[rgb, rgb[:1]])
    assert len(found.label) == 601 and np.isfinite(found.confidence).all()
    assert (found.label[:600] == before.label).mean() > 0.9


@pytest.mark.parametrize("height", [1000.0, -1000.0, 40.0])
@pytest.mark.parametrize("count", [600, 20_000])
def test_a_stray_point_above_or_below_is_told(segmenter, caplog, height, count):
    xyz, rgb = office(count)
    segmenter.predict(xyz, rgb)
    assert "stray points" not in caplog.text
    segmenter.predict(np.r_[xyz, [[1.0, 1.0, height]]], np.r_[rgb, rgb[:1]], scale=1)
    assert "1 of 1 tiles have stray points far above or below" in caplog.text


def test_strays_are_told_of_the_height_of_their_tile(caplog):
    xyz, rgb = office(600)
    points = np.r_[xyz + [0, 0, 50], [[1, 1, 90]], xyz + [30, 0, 0]]
    Tiles(points, np.r_[rgb, rgb[:1], rgb], 20.0).warn_of_strays()
    (told,) = re.findall(
        r"1 of 2 tiles .* one is (\S+) m high, but all but 2 of its points lie within (\S+) m", caplog.text
    )
    assert [float(number) for number in told] == pytest.approx([40, 2.9], abs=0.05)


@pytest.mark.parametrize("origin", [0, 2**60, -(2**60), 2**64 - 5000])
def test_integers_of_64_bits_keep_their_digits(segmenter, origin):
    xyz, rgb = office(500)
    units = np.round(xyz * 1000).astype(np.int64)
    moved = (units.astype(object) + origin).astype(np.uint64 if origin > 2**63 else np.int64)
    before, found = (segmenter.predict(points, rgb, scale=0.001) for points in (units, moved))
    assert np.array_equal(before.label, found.label) and np.array_equal(before.confidence, found.confidence)


def test_integers_at_both_ends_of_their_range_do_not_overflow(segmenter):
    far = np.array([[-120, 0, 0], [120, 0, 0], [0, 0, 1]], np.int8)
    expected = segmenter.predict(far.astype(float), scale=0.01)
    assert np.array_equal(segmenter.predict(far, scale=0.01).confidence, expected.confidence)


def test_a_long_line_of_points_costs_as_many_tiles_as_have_some(checkpoint):
    xyz = np.zeros((40, 3))
    xyz[:, :2] = np.arange(40)[:, None] * 1e5
    found = Segmenter(checkpoint, device="cpu").predict(xyz, np.full((40, 3), 9, np.uint8), scale=1)
    assert (found.confidence > 0).all()


def test_a_network_that_puts_out_nan_gives_no_labels(checkpoint):
    segmenter = Segmenter(checkpoint, device="cpu")
    with torch.no_grad():
        next(segmenter.model.head.parameters())[0] = torch.nan
    with pytest.raises(UserError, match=r"best\.ckpt: .* NaN or infinite in the block"):
        segmenter.predict(*office(300))


# -- the command --------------------------------------------------------------------------------


def test_a_scan_in_a_scan_out(checkpoint, tmp_path):
    scan_file(tmp_path / "a.ply", label=np.arange(3000) % 13, intensity=np.arange(3000, dtype=np.float32))
    done = run(
        "predict", f"checkpoint={checkpoint}", f"input={tmp_path}/a.ply", f"output={tmp_path}/b.las", "device=cpu",
        f"view={tmp_path}/b.html", f"picture={tmp_path}/b.png", f"hydra.run.dir={tmp_path}/log",
    )  # fmt: skip
    assert "a.ply: 3,000 points" in done.stderr
    assert "b.las: the scan's own label is kept as label_input" in done.stderr
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
        (["checkpoint=x", "input=/nowhere.ply", "output=x.ply"], "/nowhere.ply: no such file or folder"),
        (["checkpoint=README.md", "input={scan}", "output=x.ply"], "README.md: damaged, or not a checkpoint"),
        (["checkpoint={checkpoint}", "input={scan}", "output={scan}"], "would overwrite the scan"),
        (["checkpoint={checkpoint}", "input={scan}", "output=/dev/null/none/x.ply"], "/dev/null/none"),
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


def link(path, target):
    path.symlink_to(target)
    return path


def hard_link(path, target):
    path.hardlink_to(target)
    return path


READ, WRITTEN = ("scan", "checkpoint"), ("output", "view", "picture")


@pytest.mark.parametrize("key", WRITTEN)
@pytest.mark.parametrize("file", READ)
@pytest.mark.parametrize(
    "name",
    [
        lambda path, target: target,
        link,
        hard_link,
        lambda path, target: target.parent / ".." / target.parent.name / target.name,
    ],
)
def test_nothing_that_is_read_is_overwritten(tmp_path, key, file, name):
    read = [(what, tmp_path / f"{what}.ply") for what in READ]
    for what, path in read:
        path.write_text(what)
    written = [(what, tmp_path / f"{what}.out") for what in WRITTEN if what != key]
    require_distinct(read, [*written, (key, tmp_path / "fine.out")])
    with pytest.raises(UserError, match=f"^{key}=.* would overwrite the {file} "):
        require_distinct(read, [*written, (key, name(tmp_path / "other", dict(read)[file]))])


@pytest.mark.parametrize("first", ["a/b.ply", "a.ply"])
def test_nothing_that_is_written_is_overwritten(tmp_path, first):
    (tmp_path / "a").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    path = tmp_path / first
    other = tmp_path / first.replace("a/", "linked/")
    with pytest.raises(UserError, match="^picture=.* would overwrite view="):
        require_distinct([], [("output", tmp_path / "o.ply"), ("view", path), ("picture", other)])
    # Before either exists, and one as the folder of the other.
    with pytest.raises(UserError, match="its folder would be output="):
        require_distinct([], [("output", path), ("view", path / "x.html")])
    with pytest.raises(UserError, match="^view=.* would overwrite output="):
        require_distinct([], [("output", path), ("output", classes_path(path)), ("view", classes_path(path))])


@pytest.mark.parametrize("key", ["view", "picture"])
def test_the_scan_survives_its_own_name(checkpoint, tmp_path, key):
    path = scan_file(tmp_path / "a.ply")
    before = path.read_bytes()
    other = link(tmp_path / {"view": "a.html", "picture": "a.png"}[key], path)
    done = run(
        "predict", f"checkpoint={checkpoint}", f"input={path}", f"output={tmp_path}/o.ply", f"{key}={other}",
        f"hydra.run.dir={tmp_path}/log", "device=cpu", check=False,
    )  # fmt: skip
    assert done.returncode == 2 and f"{key}={other} would overwrite the scan" in done.stderr
    assert path.read_bytes() == before and not (tmp_path / "o.ply").exists()


NAMES = [
    "<!--<script>",
    "</script><script>alert(1)</script>",
    "]]>&lt;",
    "a\u2028b",
    "\udcff",
    "${x}`",
    "\\u003c",
    "{{data}}",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_holds_names_as_data_alone(tmp_path, name):
    xyz = office(9)[0]
    found = Prediction(np.zeros(9, np.uint8), np.ones(9, np.float32))
    # A class list holds printable names alone; titles are names of files, and may be anything.
    shown = name if name.isprintable() else "a"
    classes = ClassList.of([shown, "b"], [[1, 2, 3]] * 2)
    write_viewer(tmp_path / "a.html", xyz, None, found.label, found.confidence, None, classes, name)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    plain = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert plain["classes"] == [shown, "b", "unlabelled"] and plain["title"] == name
    # Beside it the page is the same whatever it shows.
    data = page.split('type="application/json">')[1].split("</script>")[0]
    template = files("deepgcn_seg.inference").joinpath("viewer.html").read_text(encoding="utf-8")
    assert page.replace(data, "{{data}}") == template
    assert data.isascii() and not set("<>&") & set(data)


def test_a_page_leaves_out_stray_points(tmp_path):
    xyz = office(1000)[0]
    xyz[3] = [1e6, 1e6, 0]
    found = Prediction(np.zeros(1000, np.uint8), np.ones(1000, np.float32))
    write_viewer(
        tmp_path / "a.html", xyz, None, found.label, found.confidence, None, ClassList.of(["a"], [[1, 2, 3]]), "t"
    )
    data = json.loads((tmp_path / "a.html").read_text().split('type="application/json">')[1].split("</script>")[0])
    assert (data["count"], data["far"], data["total"]) == (999, 1, 1000)
    assert data["extent"] < 3


def test_notes_add_no_lines_to_a_header(tmp_path):
    scan = read_scan(scan_file(tmp_path / "a.ply"))
    write_scan(tmp_path / "b.ply", scan, {}, ["a\nelement vertex 0"])
    assert len(read_scan(tmp_path / "b.ply")) == 3000


@NEEDS_PYE57
def test_notes_replace_those_of_an_earlier_labelling(tmp_path):
    head = "ply\nformat ascii 1.0\ncomment by hand, 2 hours\ncomment label\nobj_info scanner 5 north\n"
    head += "element vertex 4\n" + "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (tmp_path / "0.ply").write_text(head + "1 2 3\n" * 4)
    for number, names in enumerate((S3DIS.names, ("a", "b"), ("b", "a", "c"))):
        scan = read_scan(tmp_path / f"{number}.ply")
        write_labelled(
            tmp_path / f"{number + 1}.ply", scan, LABELS, ClassList.of(names, [(0, 0, 0)] * len(names)), False
        )
    lines = (tmp_path / "3.ply").read_text().splitlines()
    kept = ["comment by hand, 2 hours", "comment label", "obj_info scanner 5 north"]
    assert lines[2:9] == [*kept, "comment label 0 b", "comment label 1 a", "comment label 2 c", "element vertex 4"]


def test_a_scanner_s_file_becomes_labelled_e57(checkpoint, tmp_path):
    """Two scans in the systems of their scanners, with rows without a return."""
    xyz, rgb = office()
    rows = [f"{y} {-x} {z} 0.5 {r} {g} {b}" for (x, y, z), (r, g, b) in zip(xyz.tolist(), rgb.tolist())]
    rows[7] = rows[2000] = "0 0 0 0.5 0 0 0"
    # Each point is turned back by 90 degrees about z, and then moved.
    pose = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n0 1 0 0\n-1 0 0 0\n0 0 1 0\n500000 5400000 100 1\n"
    parts = [rows[:1000], rows[1000:]]
    text = "".join(f"{len(part)}\n1\n{pose}" + "\n".join(part) + "\n" for part in parts)
    (tmp_path / "a.ptx").write_text(text)
    run(
        "predict",
        f"checkpoint={checkpoint}",
        f"input={tmp_path}/a.ptx",
        f"output={tmp_path}/b.e57",
        f"hydra.run.dir={tmp_path}/log",
    )
    found = read_scan(tmp_path / "b.e57")
    missing = np.isin(np.arange(3000), [7, 2000])
    assert np.array_equal(np.isnan(found.xyz).all(1), missing)
    assert np.allclose(found.xyz[~missing], (xyz + [500_000, 5_400_000, 100])[~missing], rtol=0, atol=1e-6)
    assert np.array_equal(found.rgb[~missing], rgb[~missing])
    assert found.fields["scan"].tolist() == [0] * 1000 + [1] * 2000
    assert (found.fields["label"][missing] == 255).all() and not found.fields["confidence"][missing].any()
    assert (found.fields["label"][~missing] < 13).all()


def test_where_results_go(tmp_path):
    scans = [tmp_path / "a.ply", tmp_path / "b.las"]
    assert output_paths(scans, Path("out")) == [Path("out/a.ply"), Path("out/b.las")]
    assert output_paths(scans[:1], Path("out.npz")) == [Path("out.npz")]
    with pytest.raises(UserError, match="give a folder"):
        output_paths(scans, Path("out.ply"))
    with pytest.raises(UserError, match="same name"):
        output_paths([tmp_path / "x" / "a.ply", tmp_path / "y" / "a.ply"], Path("out"))
    with pytest.raises(UserError, match=r"\.obj is not written; known are .*end it in /"):
        output_paths(scans[:1], "out.obj")
    assert output_paths([tmp_path / "a.ptx", tmp_path / "a.e57"], "out") == [Path("out/a.ptx.ply"), Path("out/a.e57")]
    # Programs take a file that ends in .copc.laz for COPC.
    of_laz = [tmp_path / "a.laz", tmp_path / "a.copc.laz"]
    assert output_paths(of_laz, "out") == [Path("out/a.laz"), Path("out/a_copc.laz")]
    assert output_paths(scans[:1], "2024.05.12/") == [Path("2024.05.12/a.ply")]


def test_a_folder_is_labelled_but_for_what_cannot_be_read(checkpoint, tmp_path):
    folder = tmp_path / "Räume (2), neu"
    for place in ("a/scan.ply", "b/scan.ply", "b/.hidden.ply"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        scan_file(folder / place)
    (folder / "damaged.las").write_bytes(b"LASF")
    (folder / "a" / "empty.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n")
    (folder / "README.txt").write_text("Scans of the north wing.\nTaken with a phone.\n")
    (folder / "classes.yaml").write_text("classes: [floor, wall]\n")
    output = folder / "labelled"
    for _ in range(2):
        done = run(
            "predict", f"checkpoint={checkpoint}", f"input={folder}", f"output={output}", "device=cpu",
            f"hydra.run.dir={tmp_path}/log", check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert {str(path.relative_to(output)) for path in output.rglob("*.*")} == {
            "a/scan.ply", "b/scan.ply", "a/scan.ply.classes.json", "b/scan.ply.classes.json",
        }  # fmt: skip
        *listed, last = done.stderr.splitlines()[-4:]
        assert listed[0] == "Not labelled:"
        assert [line.strip().split(": ")[0] for line in listed[1:]] == [
            str(folder / "a" / "empty.ply"), str(folder / "damaged.las"),
        ]  # fmt: skip
        assert last == "error: 2 of 4 scans could not be labelled (listed above)"


@pytest.mark.parametrize(
    ("name", "content", "is_scan"),
    [
        ("readme.txt", "Taken on 2024 05 12.\n", False),
        ("notes.csv", "room,person,date\nhall,Jim,Monday\n", False),
        ("a.txt", "// X Y Z\n3\n1 2 3\n", True),
        ("a.csv", "x;y;z\n1,5;2,5;3,5\n", True),
        ("bad.txt", "x y z\n1 2\n", True),
        ("bad.csv", '"X","Y","Z","i"\nhall,1,2,3\n', True),
        ("bad.asc", "# x y z\n", True),
        ("bad.xyz", "//Points:0;Points:1;Points:2\n1;2\n", True),
        ("quoted.csv", '"1","2","3"\n', True),
        ("fortran.txt", "1.5D0 NA 1.#INF\n", True),
        ("readme.txt", "The columns are x y z.\n1 2\n", False),
        ("readme.txt", "# 1 2 3\n", False),
        ("empty.txt", "", True),
        ("damaged.txt", "\0\0\0", True),
    ],
)
def test_a_text_without_rows_is_no_scan(tmp_path, name, content, is_scan):
    (tmp_path / name).write_bytes(content.encode("utf-16") if "\0" in content else content.encode())
    scan_file(tmp_path / "b.ply")
    assert (tmp_path / name in find_scans(tmp_path)) == is_scan


def test_a_pattern_does_not_follow_links_in_a_circle_and_leaves_out_the_output(tmp_path):
    for name in ("a.ply", "sub/b.ply", "out/a.ply", "out/sub/b.ply"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        scan_file(tmp_path / name)
    (tmp_path / "sub" / "loop").symlink_to("..")
    (tmp_path / "other").symlink_to("sub")
    both = [tmp_path / "a.ply", tmp_path / "sub" / "b.ply"]
    for pattern in (tmp_path, f"{tmp_path}/**/*.ply", f"{tmp_path}/**", f"{tmp_path}/**/?.ply"):
        assert find_scans(pattern, besides=tmp_path / "out") == both
    assert find_scans(f"{tmp_path}/**.ply") == both[:1]
    # A link to another folder, at a place that the pattern names.
    assert find_scans(f"{tmp_path}/*/*.ply", besides=tmp_path / "out") == [tmp_path / "other" / "b.ply", both[1]]
    with pytest.raises(UserError, match="no point-cloud files here"):
        find_scans(f"{tmp_path}/*/*/*.ply", besides=tmp_path / "out")


def test_a_pipe_is_no_scan(checkpoint, tmp_path):
    os.mkfifo(tmp_path / "a.ply")
    (tmp_path / "log").mkdir()
    for source in (tmp_path / "a.ply", tmp_path, f"{tmp_path}/*.ply"):
        done = run(
            "predict", f"checkpoint={checkpoint}", f"input={source}", f"output={tmp_path}/out/", "device=cpu",
            f"hydra.run.dir={tmp_path}/log", check=False,
        )  # fmt: skip
        assert done.returncode == 2
        said = f"error: {tmp_path}/a.ply: not a regular file but a pipe or device; save it as a file first\n"
        assert said in done.stderr and "going on" not in done.stderr and "could not be labelled" not in done.stderr


def test_millimetres_are_one_line_that_names_the_file(checkpoint, tmp_path):
    xyz, rgb = office()
    fields = dict(zip("xyz", xyz.T * 1000)) | dict(zip(("red", "green", "blue"), rgb.T))
    write_scan(tmp_path / "a.ply", Scan(Path("x"), fields), {})
    done = run(
        "predict", f"checkpoint={checkpoint}", f"input={tmp_path}/a.ply", f"output={tmp_path}/o.ply", "device=cpu",
        f"hydra.run.dir={tmp_path}/log", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "are no building" in line]
    assert lines == [line for line in done.stderr.splitlines() if line.startswith("error: ")] and len(lines) == 1
    assert lines[0].startswith(f"error: {tmp_path}/a.ply: 3,000 points over 2,3") and "scale=0.001" in lines[0]
    assert "does not look like metres" not in done.stderr


def test_brackets_of_a_folder_that_is_there_are_no_pattern(tmp_path):
    path = tmp_path / "[a]" / "hall [1].ply"
    path.parent.mkdir()
    scan_file(path)
    for pattern in (path, path.parent, f"{path.parent}/*.ply", f"{path.parent}/hall*"):
        assert find_scans(pattern) == [path]
    assert scans_root(f"{path.parent}/*.ply") == path.parent
    with pytest.raises(UserError, match="no such file or folder"):
        find_scans(tmp_path / "none")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_not_utf_8(checkpoint, tmp_path):
    names = [tmp_path / os.fsdecode(b"r\xe4um" + end) for end in (b".ply", b"-out.ply", b".html", b".png", b"-log")]
    scan_file(tmp_path / "a.ply").rename(names[0])
    typed = [f"{key}={name}" for key, name in zip(("input", "output", "view", "picture", "hydra.run.dir"), names)]
    run("predict", f"checkpoint={checkpoint}", *typed, "device=cpu")
    for name in (*names, classes_path(names[1])):
        assert name.exists()
    assert "r\\udce4um-out.ply" in (names[4] / "predict.log").read_text()


def with_labels(values, field="label", path="a.ply"):
    return Scan(Path(path), {"x": np.zeros(len(values)), field: np.array(values)})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, 0, 0], "every number of field label is 0"),
        ([0, 1, 13], "field label has 13, which the network's classes do not have"),
        ([0, -1, 2], "field label has -1, which"),
        ([0.5, 1, 2], "not whole numbers"),
        (["a", "b", "c"], "field label has no numbers"),
        ([255] * 3, "no point has a class in field label"),
        ([1, np.inf, 0], "not whole numbers"),
    ],
)
def test_labels_that_can_be_no_truth_are_none_and_why(segmenter, values, told):
    truth, found = truth_of(with_labels(values), segmenter.labelling)
    assert truth is None and told in found


def test_labels_of_the_networks_numbers_are_the_truth(segmenter, tmp_path):
    for values, expected in (([0, 5, 12], [0, 5, 12]), ([0, 5, 255], [0, 5, 255]), ([0, np.nan, 12], [0, 255, 12])):
        truth, told = truth_of(with_labels(values), segmenter.labelling)
        assert truth.tolist() == expected and told == "field label"
    assert "no field label" in truth_of(with_labels([1, 2], "height"), segmenter.labelling)[1]
    scan = with_labels([1, 2], "LABEL")
    scan.fields["Label"] = scan.fields["LABEL"]
    assert truth_of(scan, segmenter.labelling) == (None, "the scan has fields LABEL and Label")
    (tmp_path / "a.ply.classes.json").touch()
    found = truth_of(with_labels([0, 5], path=tmp_path / "a.ply"), segmenter.labelling)
    assert found == (None, "a.ply.classes.json says that field label is a prediction")


@pytest.mark.parametrize(
    ("field", "confidence", "values", "is_truth"),
    [
        ("label", "confidence", [0.5, 1.0], False),
        ("scalar_label", "scalar_confidence", [0.5, 1.0], False),
        ("label", "confidence", [0, 2], True),
        ("label", "confidence", [0.5, 70.0], True),
        ("class", "confidence", [0.5, 1.0], True),
    ],
    ids=["moved", "saved by CloudCompare", "of a depth camera", "in percent", "of another field"],
)
def test_a_result_without_its_file_of_classes_is_no_truth(segmenter, field, confidence, values, is_truth):
    scan = with_labels([0, 5], field)
    scan.fields[confidence] = np.array(values)
    truth, told = truth_of(scan, segmenter.labelling)
    assert (truth is not None) == is_truth
    assert is_truth or told == f"field {field} is a prediction, because field {confidence} has probabilities"


OWN = ClassList.of(["floor", "wall", "chair"], [(0, 0, 0)] * 3)
OWN_NUMBERS = Labelling(
    OWN, LabelNumbers(classes=((1,), (2,), (3, 30)), unlabelled=(0,), other=1, field="kind"), skip=(None, 9)
).label_numbers


def members(*trained_on, classes=OWN):
    """What checkpoints of these trainings hold, as far as truth needs it."""
    described = [SimpleNamespace(trained_on=TrainedOn.of(fields, "test")) for fields in trained_on]
    found = [Member(Path("a.ckpt"), {}, 1, SimpleNamespace(class_list=classes, **vars(d))) for d in described]
    return Trained(tuple(found))


@pytest.mark.parametrize(
    ("classes", "trained_on", "labels", "expected"),
    [
        # The numbers of classes.yaml, of which none is the class's place.
        (OWN, {"source": "folder", "label_numbers": OWN_NUMBERS.plain()}, [1, 2, 3, 30, 0, 9, 77], [0, 1, 2, 2, 255, 255, 1]),
        # A checkpoint of before the numbers were kept.
        (OWN, {"source": "folder"}, [0, 1, 2], None),
        (OWN, {}, [0, 1, 2], None),
        (S3DIS, {"source": "folder"}, [0, 1, 2], None),
        (S3DIS, {"source": "s3dis"}, [0, 1, 12], [0, 1, 12]),
        # NYU40: 39 is the last class, and 13 none of the 20.
        (SCANNET, {"source": "scannet"}, [1, 39, 13, 0], [0, 19, 255, 255]),
    ],
    ids=["own", "own, not kept", "unknown", "own of these names", "S3DIS", "ScanNet"],
)  # fmt: skip
def test_label_numbers_are_taken_as_the_training_had_them(classes, trained_on, labels, expected):
    labelling = trained_labelling(members(trained_on, classes=classes))
    scan = with_labels(labels, "kind" if expected and classes is OWN else "label")
    truth, told = truth_of(scan, labelling)
    assert (None if truth is None else truth.tolist()) == expected
    assert expected or "does not say, or several do not agree, which classes the numbers of field label mean" in told


@pytest.mark.parametrize("field", ["classification", "scalar_Classification"])
@pytest.mark.parametrize(
    ("classes", "numbers", "expected"),
    [
        # An unclassified point of LAS and its ground are no floor and wall of S3DIS, and no wall and floor of ScanNet.
        (S3DIS, None, None),
        (S3DIS, Labelling.of(S3DIS).label_numbers, None),
        (SCANNET, None, None),
        (SCANNET, LABELLING.label_numbers, None),
        (S3DIS, LabelNumbers(classes=tuple((label + 1,) for label in range(13))), [0, 1]),
        (OWN, LabelNumbers(classes=((1,), (2,), (3,))), [0, 1]),
    ],
    ids=["S3DIS", "S3DIS, kept", "ScanNet", "ScanNet, kept", "own of these names", "own"],
)
def test_the_classification_of_las_is_the_truth_for_a_users_own_numbers_alone(classes, numbers, expected, field):
    trained_on = {} if numbers is None else {"source": "folder", "label_numbers": numbers.plain()}
    truth, told = truth_of(with_labels([1, 2], field), trained_labelling(members(trained_on, classes=classes)))
    assert (None if truth is None else truth.tolist()) == expected
    assert expected or f"the numbers of field {field} are those of LAS" in told


def test_networks_of_other_label_numbers_know_no_truth():
    other = {"source": "folder", "label_numbers": Labelling.of(OWN).label_numbers.plain()}
    assert trained_labelling(members({"source": "folder", "label_numbers": OWN_NUMBERS.plain()}, other)) is None
    assert trained_labelling(members(other, other)) is not None
    # Some of a user's own numbers are enough: those of S3DIS are not those of all.
    assert trained_labelling(members({"source": "s3dis"}, {"source": "s3dis"}, classes=S3DIS)).classes == S3DIS
    for own in ({"source": "folder"}, {"source": None, "label_numbers": Labelling.of(S3DIS).label_numbers.plain()}):
        assert trained_labelling(members({"source": "s3dis"}, own, classes=S3DIS)) is None


LABELS = Prediction(np.array([0, 1, 12, 255], np.uint8), np.array([1, 0.5, 0.5, 0], np.float32))


def test_labels_are_the_classification_of_las_if_asked_for(tmp_path):
    four = Scan(Path("x"), {axis: np.arange(4.0) for axis in "xyz"})
    known = Prediction(np.array([0, 1, 12, 3], np.uint8), LABELS.confidence)
    for asked, expected in ((True, known.label.tolist()), (False, [0] * 4)):
        write_labelled(tmp_path / "a.las", four, known, S3DIS, False, asked)
        assert read_scan(tmp_path / "a.las").fields["classification"].tolist() == expected
    before = read_scan(tmp_path / "a.las")
    write_labelled(tmp_path / "b.laz", before, known, S3DIS, False, True)
    again = read_scan(tmp_path / "b.laz")
    assert again.fields["classification"].tolist() == again.fields["label"].tolist() == known.label.tolist()
    assert again.fields["classification_input"].tolist() == [0] * 4


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize(
    ("version", "point_format", "colored"),
    [("1.2", 0, 2), ("1.1", 1, 3), ("1.3", 4, 5), ("1.4", 6, 7), ("1.4", 9, 10), ("1.2", 3, 3), ("1.4", 7, 7)],
)
def test_class_colours_are_those_of_las(tmp_path, caplog, suffix, version, point_format, colored):
    """Other programs read 16 bits, in the dimensions of a point format that has them."""
    las = laspy.LasData(laspy.LasHeader(point_format=point_format, version=version))
    las.x = las.y = las.z = np.arange(4) / 4
    las.intensity, las.classification = np.arange(4) * 100, [2, 3, 4, 5]
    las.add_extra_dim(laspy.ExtraBytesParams("own", np.int16))
    las["own"] = [-5, 0, 5, 9]
    if point_format in (3, 7):
        las.red = las.green = las.blue = np.arange(4) * 5000
    las.write(str(tmp_path / f"a{suffix}"))
    write_labelled(tmp_path / f"b{suffix}", read_scan(tmp_path / f"a{suffix}"), LABELS, S3DIS, True)
    found = laspy.read(tmp_path / f"b{suffix}")
    assert found.point_format.id == colored
    colors = np.array([*[S3DIS.palette[number] for number in (0, 1, 12)], (0, 0, 0)])
    assert np.array_equal(np.stack([found.red, found.green, found.blue], 1), colors * 257)
    assert sorted(found.point_format.extra_dimension_names) == ["confidence", "label", "own"]
    assert np.asarray(found.classification).tolist() == [2, 3, 4, 5] and found["own"].tolist() == [-5, 0, 5, 9]
    assert found.intensity.tolist() == [0, 100, 200, 300] and np.asarray(found.x).tolist() == [0, 0.25, 0.5, 0.75]
    assert ("point format" in caplog.text) == (colored != point_format)
    assert np.array_equal(read_scan(tmp_path / f"b{suffix}").rgb, colors)


def test_colours_in_extra_bytes_become_those_of_las(tmp_path):
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.x = las.y = las.z = np.arange(4.0)
    las.add_extra_dims([laspy.ExtraBytesParams(name, np.uint8) for name in ("red", "green", "blue")])
    las["red"] = [1, 2, 3, 255]
    las.write(str(tmp_path / "a.las"))
    write_labelled(tmp_path / "b.las", read_scan(tmp_path / "a.las"), LABELS, S3DIS, False)
    found = laspy.read(tmp_path / "b.las")
    assert found.point_format.id == 7 and found.red.tolist() == [257, 514, 771, 65535]
    assert sorted(found.point_format.extra_dimension_names) == ["confidence", "label"]


def test_fields_of_the_scan_that_are_named_as_the_results_are_kept_and_said(tmp_path, caplog):
    caplog.set_level("INFO")
    before = Scan(Path("x"), {axis: np.arange(4.0) for axis in "xyz"})
    write_labelled(tmp_path / "0.ply", before, LABELS, S3DIS, False)
    assert "is kept as" not in caplog.text
    for number in range(3):
        scan = read_scan(tmp_path / f"{number}.ply")
        known = Prediction(np.full(4, number + 1, np.uint8), LABELS.confidence)
        write_labelled(tmp_path / f"{number + 1}.ply", scan, known, S3DIS, False)
    said = "1.ply: the scan's own label is kept as label_input, confidence is kept as confidence_input"
    assert said in caplog.text and "2.ply: the scan's own label is kept as label_input_2, " in caplog.text
    found = read_scan(tmp_path / "3.ply").fields
    assert found["label_input"].tolist() == LABELS.label.tolist()
    assert [found[name][0] for name in ("label_input_2", "label_input_3", "label")] == [1, 2, 3]
    assert list(found).count("confidence") == 1 and len(found) == 3 + 2 * 4


@pytest.mark.parametrize(("label", "confidence"), [("Label", "CONFIDENCE"), ("scalar_label", "scalar_Confidence")])
def test_a_field_that_programs_show_under_the_name_of_a_result_is_kept_beside_it(tmp_path, label, confidence):
    """CloudCompare writes ``scalar_`` before the names of its fields, and leaves it out when it reads them."""
    four = {axis: np.arange(4.0) for axis in "xyz"} | {label: np.arange(4), confidence: np.arange(4)}
    write_labelled(tmp_path / "a.ply", Scan(Path("x"), four), LABELS, S3DIS, False)
    found = read_scan(tmp_path / "a.ply")
    assert list(found.fields) == ["x", "y", "z", f"{label}_input", f"{confidence}_input", "label", "confidence"]
    assert found.fields["label"].tolist() == LABELS.label.tolist()


def test_points_without_a_label_are_black_and_the_page_says_what_their_label_is(tmp_path):
    four = Scan(Path("x"), {axis: np.array([0, 1, 2, np.nan]) for axis in "xyz"})
    write_labelled(tmp_path / "a.ply", four, LABELS, S3DIS, True)
    found = read_scan(tmp_path / "a.ply")
    assert found.fields["label"].tolist() == [0, 1, 12, 255]
    assert found.rgb.tolist() == [*S3DIS.colors(LABELS.label[:3]).tolist(), [0, 0, 0]]
    assert json.loads(classes_path(tmp_path / "a.ply").read_text())["no_label"] == 255


def test_a_scan_with_holes_in_millimetres_is_shown_in_metres(checkpoint, tmp_path, monkeypatch):
    xyz, rgb = office()
    xyz[::7] = np.nan
    fields = dict(zip("xyz", xyz.T * 1000)) | dict(zip(("red", "green", "blue"), rgb.T))
    write_scan(tmp_path / "a.ply", Scan(Path("x"), fields), {})
    shown = {}
    monkeypatch.setattr(predict_module, "scan_picture", lambda path, xyz, *_: shown.update(picture=xyz))
    monkeypatch.setattr(
        predict_module, "write_viewer", lambda path, xyz, rgb, label, *_: shown.update(view=xyz[label < 255])
    )
    settings = {"checkpoint": str(checkpoint), "input": str(tmp_path / "a.ply"), "output": str(tmp_path / "o.ply")}
    settings |= {"view": str(tmp_path / "v.html"), "picture": str(tmp_path / "p.png"), "scale": 0.001, "device": "cpu"}
    config = OmegaConf.merge(OmegaConf.load(CONF / "predict.yaml"), settings)
    predict_module.predict(config)
    for points in shown.values():
        assert np.allclose(points, xyz[np.isfinite(xyz).all(1)], atol=1e-6)
    assert len(shown) == 2
    config.output = str(tmp_path / "o.las")
    with pytest.raises(UserError, match=r"LAS cannot hold the 429 points without coordinates; .* o\.ply"):
        predict_module.predict(config)
    config.output, config.classification = str(tmp_path / "o.ply"), True
    with pytest.raises(UserError, match="classification=true is for LAS and LAZ"):
        predict_module.predict(config)
