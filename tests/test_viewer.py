"""The page of a scan: what it holds. What it shows is in test_browser.py."""

import base64
import json

import numpy as np
import pytest

from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.inference.viewer import MAX_FIELDS, coarse_to_fine, write_viewer

CLASSES = ClassList.of(["a", "b", "c"], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def written(path, *content, **settings):
    """What the script of a page reads, with its arrays as such."""
    write_viewer(path, *content, **settings)
    data = json.loads(path.read_text(encoding="utf-8").split('type="application/json">')[1].split("</script>")[0])
    array = lambda packed: packed and np.frombuffer(base64.b64decode(packed["values"]), f"<{packed['type']}")
    fields = {field["name"]: array(field) for field in data["fields"]}
    arrays = {key: array(data[key]) for key in ("xyz", "rgb", "label", "confidence", "truth")}
    return {**data, **arrays, "fields": fields}


@pytest.mark.parametrize("kind", ["volume", "surface", "few", "same"])
def test_every_beginning_of_the_order_is_an_even_sample(kind):
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 2**16, (1 if kind == "few" else 5000, 3)).astype(np.uint16)
    if kind == "surface":
        # Most points are near one another, as they are near a scanner.
        grid[:4000] >>= 6
        grid[:, 2] = 65535
    if kind == "same":
        grid[:] = grid[0]
    order = coarse_to_fine(grid)
    assert sorted(order) == list(range(len(grid)))
    for level in range(17):
        cells = grid >> (16 - level) if level < 16 else grid
        occupied = len(np.unique(cells, axis=0))
        assert len(np.unique(cells[order[:occupied]], axis=0)) == occupied


def test_a_page_holds_each_point_with_what_belongs_to_it(tmp_path):
    rng = np.random.default_rng(0)
    xyz, rgb = rng.uniform(0, 3, (50, 3)) + [4e5, 5e6, 100], rng.integers(0, 256, (50, 3), np.uint8)
    label, truth = rng.integers(0, 3, (2, 50)).astype(np.uint8)
    label[7], truth[8] = 255, 255
    xyz[7] = np.nan
    fields = {
        "name": np.array(["x"] * 50),
        "id": np.arange(50, dtype=np.uint32) + 4_000_000_000,
        "signed": -np.arange(50, dtype=np.int16),
        "time": np.arange(50) * 1e3,
        "huge": np.full(50, 1e300),
        "one_more": np.zeros(50),
    }
    page = written(tmp_path / "a.html", xyz, rgb, label, np.full(50, 0.5), truth, CLASSES, "t", fields.items())
    rows = page["fields"].pop("row")
    assert sorted(rows) == [row for row in range(50) if row != 7]
    assert page["total"] == page["count"] == 49
    at = page["xyz"].reshape(-1, 3) / 65535 * page["extent"] + page["origin"]
    assert np.abs(at - xyz[rows]).max() < 1e-4
    assert (page["rgb"].reshape(-1, 3) == rgb[rows]).all()
    assert (page["label"] == label[rows]).all() and (page["confidence"] == 128).all()
    assert [page["classes"][n] for n in page["truth"]] == [[*"abc", "unlabelled"][min(truth[row], 3)] for row in rows]
    assert list(page["fields"]) == ["id", "signed", "time", "huge"] and len(page["fields"]) == MAX_FIELDS
    for name in ("id", "signed", "time"):
        assert (page["fields"][name] == fields[name][rows]).all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([0.5, np.nan, np.inf]), "f4"),
        (np.array([123456789.25, 0, 0]), "f8"),
        (np.array([0, 2**32 - 1, 5]), "u4"),
        (np.array([-(2**31), 2**31 - 1, 5]), "i4"),
        (np.array([-1, 2**62 + 1, 5]), "i8"),
        (np.array([0, 2**64 - 1, 5], np.uint64), "u8"),
        (np.array([True, False, True]), "u4"),
        (np.array([0.1, 0.2, 0.3], np.float32), "f4"),
    ],
)
def test_fields_keep_every_digit(tmp_path, values, kind):
    xyz, label = np.arange(9.0).reshape(3, 3), np.zeros(3, np.uint8)
    page = written(tmp_path / "a.html", xyz, None, label, None, None, CLASSES, "t", [("field", values)])
    assert page["fields"]["field"].dtype == np.dtype(kind)
    np.testing.assert_array_equal(page["fields"]["field"], values[page["fields"]["row"]])


def test_more_classes_than_a_byte_can_tell_apart(tmp_path):
    classes = ClassList.of([f"c{n}" for n in range(300)], [[n % 256, 0, 0] for n in range(300)])
    label = np.arange(300, dtype=np.uint16)
    truth = np.where(label == 5, 65535, label).astype(np.uint16)
    page = written(
        tmp_path / "a.html", np.random.default_rng(0).random((300, 3)), None, label, None, truth, classes, "t"
    )
    rows = page["fields"]["row"]
    assert page["label"].dtype == np.uint16 and (page["label"] == rows).all()
    assert (page["truth"] == np.where(rows == 5, 300, rows)).all()
    assert page["rgb"] is None and page["confidence"] is None


def test_a_page_of_many_points_is_no_larger_than_one_of_the_most(tmp_path):
    xyz = np.random.default_rng(0).random((3000, 3))
    label = np.zeros(3000, np.uint8)
    page = written(tmp_path / "a.html", xyz, None, label, None, None, CLASSES, "t", max_points=1000)
    assert (page["count"], page["total"]) == (1000, 3000) and len(page["xyz"]) == 3000
    assert len(np.unique(page["fields"]["row"])) == 1000
