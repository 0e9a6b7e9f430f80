"""Every reader of files that come from elsewhere, fed damaged ones: one clear error or sound data,
never a crash, a hang or much memory. FUZZ_EXAMPLES=9000 makes it a hundred thousand in all."""

import json
import os
import resource

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limited_memory import limit_memory
from test_checkpoint import NETWORK, TRAINED_ON, small
from test_scan import scan

from deepgcn_seg import load_model, load_official
from deepgcn_seg.data.annotation_file import read_points
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.data.labelled_scans import read_labelling
from deepgcn_seg.data.official_hdf5 import OfficialBlocks
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.room_file import write_room
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.data.store import RoomStore
from deepgcn_seg.data.stored_room import StoredRoom
from deepgcn_seg.errors import UserError
from deepgcn_seg.model.checkpoint import save_checkpoint
from deepgcn_seg.reporting.page import write_page
from deepgcn_seg.reporting.reading import LeftOut
from deepgcn_seg.reporting.runs import find_runs
from deepgcn_seg.reporting.tables import comparisons

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
# Beyond what the process has when a reader starts.
MOST_MEMORY = 2 << 30


def _scan_file(suffix):
    def write(folder):
        path = folder / f"a{suffix}"
        write_scan(path, scan(25), {"label": np.arange(25, dtype=np.uint8)})
        return path

    return write, lambda path: [f(read_scan(path)) for f in (lambda s: s.xyz, lambda s: s.rgb)]


def _annotation(folder):
    path = folder / "chair_1.txt"
    path.write_text("".join(f"{i}.5 -2.25 0.125 {i} 20 255\n" for i in range(20)))
    return path


def _room(folder):
    rng = np.random.default_rng(0)
    rgb, label = rng.integers(0, 256, (300, 3), np.uint8), rng.integers(0, 13, 300, np.uint8)
    return write_room(folder, Room("Area_1", "office_1", rng.uniform(0, 3, (300, 3)), rgb, label))


def _checkpoint(folder):
    save_checkpoint(folder / "a.ckpt", small(), NETWORK, S3DIS, TRAINED_ON)
    return folder / "a.ckpt"


def _official(folder):
    torch.save({"epoch": 1, "state_dict": {"backbone.0": torch.ones(3)}}, folder / "a.pth")
    return folder / "a.pth"


def _manifest(folder):
    (folder / "Area_1").mkdir(exist_ok=True)
    (folder / "Area_1" / "x.h5").touch()
    content = {"format": 1, "classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]], "source": "x", "colored": True}
    (folder / "store.json").write_text(json.dumps(content))
    return folder / "store.json"


def _labelling(folder):
    (folder / "classes.yaml").write_text("classes: {a: 1, b: [2, 3]}\ncolors: {a: [1, 2, 3]}\nskip: [0]\nscale: 0.5\n")
    return folder / "classes.yaml"


def _lists(folder):
    with h5py.File(folder / "ply_data_all_0.h5", "w") as file:
        file["data"], file["label"] = np.zeros((2, 8, 9), np.float32), np.zeros((2, 8), np.uint8)
    (folder / "all_files.txt").write_text("x/ply_data_all_0.h5\n")
    (folder / "room_filelist.txt").write_text("Area_1_a_1\nArea_2_b_1\n")
    return folder / "room_filelist.txt"


def _metrics(folder):
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text("recipe: {name: paper}\ndata: {fold: 5}\n")
    entry = {
        "data": "x",
        "protocol": "rooms",
        "mIoU": 0.2,
        "mAcc": 1 / 3,
        "OA": 1 / 3,
        "areas": [5],
        "folds": ["Area_5"],
    }
    entry |= {"classes": ["a", "b"], "confusion": [[1, 2], [2, 1]], "selection": "last", "points_per_second": 3}
    entry |= {"rooms": {"Area_5/a": {"points": 6, "mIoU": 0.5, "OA": None}}, "pictures": {"room.png": "Area_5/a"}}
    content = {"test": entry, "parameters": 12, "training": {"seconds": 2.5, "steps": 3, "peak_memory_mb": 12.0}}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder / "metrics.json"


def _report(path):
    left_out = LeftOut()
    runs, unfinished = find_runs(path.parent, left_out)
    write_page(path.parent / "report.html", runs, unfinished, comparisons(runs), {}, left_out)


READERS = {
    **{suffix[1:]: _scan_file(suffix) for suffix in (".ply", ".las", ".laz", ".pcd", ".npy", ".npz", ".txt")},
    "annotation": (_annotation, lambda path: read_points(path, [])),
    "room": (_room, lambda path: StoredRoom(path).all()),
    "checkpoint": (_checkpoint, load_model),
    "official checkpoint": (_official, load_official),
    "store manifest": (_manifest, lambda path: RoomStore(path.parent)),
    "classes.yaml": (_labelling, read_labelling),
    "official lists": (_lists, lambda path: OfficialBlocks(path.parent)),
    "metrics.json": (_metrics, _report),
}


@pytest.fixture(scope="module", autouse=True)
def _little_memory():
    """An allocation that a header talked a reader into fails, and fails the test."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory(MOST_MEMORY)
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("reader", READERS)
def test_damage_is_an_error_or_sound_data(tmp_path_factory, reader):
    # A LAZ file is decoded in a process of its own, which takes a second.
    examples = max(EXAMPLES // 20, 3) if reader == "laz" else EXAMPLES

    @settings(max_examples=examples, deadline=20_000, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def feed(data):
        feed_once(tmp_path_factory, reader, data)

    feed()


def feed_once(tmp_path_factory, reader, data):
    write, read = READERS[reader]
    folder = _folder(tmp_path_factory, reader)
    path = write(folder) if reader not in _VALID else _VALID[reader][0]
    _VALID.setdefault(reader, (path, path.read_bytes()))
    path.write_bytes(damaged(_VALID[reader][1], data))
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000  # noqa: PT017
    except ValueError as error:
        # What a Python caller of load_official is told.
        assert reader == "official checkpoint" and str(error)  # noqa: PT017


_VALID: dict = {}
_FOLDERS: dict = {}


def _folder(factory, reader):
    if reader not in _FOLDERS:
        _FOLDERS[reader] = factory.mktemp("fuzz")
    return _FOLDERS[reader]


def damaged(content, data):
    """Bytes changed, cut out or added, numbers made extreme, ends cut off, or something else entirely."""
    kind = data.draw(st.sampled_from(["bytes", "number", "cut", "other"]))
    if kind == "other":
        return data.draw(st.binary(max_size=200))
    if kind == "cut":
        return content[: data.draw(st.integers(0, len(content)))]
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        # Headers decide most.
        most = len(content) if data.draw(st.booleans()) else min(len(content), 400)
        at = data.draw(st.integers(0, max(most - 1, 0)))
        if kind == "number":
            new = data.draw(
                st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x00" * 4, b"\x7f\xff", b"99999999999", b"-1", b"nan"])
            )
            content[at : at + len(new)] = new
        else:
            content[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    return bytes(content)
