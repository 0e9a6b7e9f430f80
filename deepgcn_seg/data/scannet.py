"""ScanNet (Dai et al., CVPR 2017) in the layout of its release: scenes, labels in two forms, the official lists.

scans/scene0000_00/scene0000_00_vh_clean_2.ply                 the mesh; its vertices are the points
scans/scene0000_00/scene0000_00_vh_clean_2.labels.ply          the same vertices with a field label, the NYU40 id
scannetv2_train.txt, scannetv2_val.txt                         the official lists, a scene a line

Without the file of labels, they are put together from the annotation:

scans/scene0000_00/scene0000_00_vh_clean_2.0.010000.segs.json  the segment of each vertex
scans/scene0000_00/scene0000_00.aggregation.json               objects: a raw category and segments of each
scannetv2-labels.combined.tsv                                  the NYU40 id of each raw category

``scene0000`` is a place and ``_00`` a scan of it; further scans of the place are ``_01``, ``_02`` and so on.
"""

import csv
import io
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import ConfigDict, Field, StringConstraints

from ..errors import UserError, first_line
from ..escaping import one_line
from ..files import replacing
from ..schema import Schema, read_json, read_text
from .classes import ClassList
from .label_numbers import LabelNumbers
from .labelled_scans import Labelling, labelled_room
from .repairs import Repair
from .room import SCENE, Room, place_of
from .scans.files import read_scan
from .scans.formats.bounds import MAX_POINTS
from .scans.formats.scan import Scan

log = logging.getLogger(__name__)

# Names of files behind the name of their scene.
MESH, LABELS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply"
SEGMENTS, OBJECTS = "_vh_clean_2.0.010000.segs.json", ".aggregation.json"
TABLE = "scannetv2-labels.combined.tsv"
# The areas of a store, and what the official lists are called.
AREAS = ("train", "val")
# Metres between a vertex of the mesh and the same one in the file of labels, at most: one may have been rounded.
_SAME_VERTEX = 1e-3
# Bytes of a list of scenes and of the table of categories. The official ones have 20 kB and 100 kB.
_MAX_LIST, _MAX_TABLE = 1 << 20, 1 << 24

# NYU40 id, name and colour of each class of the benchmark. All other ids are unlabelled; 0 is "unannotated".
_CLASSES = (
    (1, "wall", (174, 199, 232)),
    (2, "floor", (152, 223, 138)),
    (3, "cabinet", (31, 119, 180)),
    (4, "bed", (255, 187, 120)),
    (5, "chair", (188, 189, 34)),
    (6, "sofa", (140, 86, 75)),
    (7, "table", (255, 152, 150)),
    (8, "door", (214, 39, 40)),
    (9, "window", (197, 176, 213)),
    (10, "bookshelf", (148, 103, 189)),
    (11, "picture", (196, 156, 148)),
    (12, "counter", (23, 190, 207)),
    (14, "desk", (247, 182, 210)),
    (16, "curtain", (219, 219, 141)),
    (24, "refrigerator", (255, 127, 14)),
    (28, "shower curtain", (158, 218, 229)),
    (33, "toilet", (44, 160, 44)),
    (34, "sink", (112, 128, 144)),
    (36, "bathtub", (227, 119, 194)),
    (39, "otherfurniture", (82, 84, 163)),
)
NYU40 = tuple(number for number, _, _ in _CLASSES)
SCANNET = ClassList.of([name for _, name, _ in _CLASSES], [color for _, _, color in _CLASSES])
LABELLING = Labelling(SCANNET, LabelNumbers(classes=tuple((number,) for number in NYU40), other="unlabelled"))

_SegmentNumber = Annotated[int, Field(ge=0, lt=2**53)]


class _Annotation(Schema):
    """Base of the files of annotations, whose other fields are not read."""

    model_config = ConfigDict(extra="ignore")
    sceneId: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of annotations, and refuse one of another scene than its folder, as ``scannet.scene0000_00``."""
        found = cls.of(read_json(path), str(path))
        if found.sceneId and found.sceneId.rpartition(".")[2] != path.parent.name:
            raise UserError(f"{path}: is of {one_line(found.sceneId, 60)}, not of {path.parent.name}")
        return found


class _Segments(_Annotation):
    """The segment of each vertex."""

    segIndices: tuple[_SegmentNumber, ...]


class _Object(_Annotation):
    """An object: its raw category and its segments."""

    label: Annotated[str, StringConstraints(max_length=1000)]
    segments: tuple[_SegmentNumber, ...]


class _Objects(_Annotation):
    """The objects of a scene."""

    segGroups: tuple[_Object, ...]


def find_scenes(root: Path) -> list[tuple[str, str, Path]] | None:
    """Return area, name and folder of the scenes below ``root/scans`` that the lists name; None if there are no scenes.

    Raises:
        UserError: a list is missing or damaged, or names none of the scenes.
    """
    folders = [mesh.parent for mesh in root.glob(f"scans/scene*/*{MESH}") if mesh.name == f"{mesh.parent.name}{MESH}"]
    if not folders:
        return None
    area = read_lists(root)
    if found := [(area[folder.name], folder.name, folder) for folder in folders if folder.name in area]:
        if len(found) < len(folders):
            log.info("%s: %d scenes that no list names are left out", root, len(folders) - len(found))
        return found
    raise UserError(
        f"{root}: {len(folders)} scenes of ScanNet, but scannetv2_train.txt and scannetv2_val.txt name none"
    )


def read_lists(root: Path) -> dict[str, str]:
    """Return the area, train or val, of each scene of the official lists.

    Raises:
        UserError: a list is missing or damaged, or a place has scans in both.
    """
    area: dict[str, str] = {}
    of_place: dict[str, str] = {}
    for name in AREAS:
        path = root / f"scannetv2_{name}.txt"
        if not path.is_file():
            raise UserError(
                f"{path}: not there; scenes of ScanNet are split by its official lists, which are in the folder "
                "Tasks/Benchmark of github.com/ScanNet/ScanNet: copy both into this folder"
            )
        for scene in read_text(path, _MAX_LIST).split():
            if not SCENE.fullmatch(scene):
                raise UserError(f"{path}: {one_line(scene, 60)} is not the name of a scene, such as scene0000_00")
            if of_place.setdefault(place_of(scene), name) != name:
                raise UserError(
                    f"{path}: {scene} is a scan of a place that is in scannetv2_train.txt too; one place cannot be "
                    "trained and tested on"
                )
            area[scene] = name
    return area


def missing_scenes(root: Path, found: Iterable[str]) -> list[str]:
    """Return the scenes of the official lists, as ``train/scene0000_00``, that are not among ``found``."""
    have = set(found)
    return [key for scene, area in read_lists(root).items() if (key := f"{area}/{scene}") not in have]


def scene_files(folder: Path) -> list[Path]:
    """Return the files that a scene is read from, whether they exist or not."""
    mesh, labels, segments, objects = (folder / f"{folder.name}{end}" for end in (MESH, LABELS, SEGMENTS, OBJECTS))
    return [mesh, labels] if labels.is_file() else [mesh, segments, objects, folder.parent.parent / TABLE]


def read_scannet_room(
    folder: Path, area: str, labelling: Labelling = LABELLING, max_points: int = MAX_POINTS
) -> tuple[Room, list[Repair]]:
    """Return a scene as a room, one point for each vertex in their order, and what is wrong with its files.

    Raises:
        UserError: a file is missing or damaged, or the labels are of other vertices or of another scene.
    """
    mesh, labels, *annotation = scene_files(folder)
    scan = read_scan(mesh, None, max_points)
    if annotation:
        ids, repairs = _annotated(labels, *annotation)
    else:
        ids, repairs = _field_of_labels(labels, scan, max_points), []
    if len(ids) != len(scan):
        raise UserError(f"{labels}: labels of {len(ids):,} vertices, but {mesh.name} has {len(scan):,}")
    scan = replace(scan, fields={**scan.fields, "label": ids})
    room, found = labelled_room(scan, "label", area, folder.name, labelling)
    return room, repairs + found


def _field_of_labels(path: Path, mesh: Scan, max_points: int) -> np.ndarray:
    """Return the NYU40 ids (N,) in a file of labels, which has the vertices of the mesh in the same order."""
    labelled = read_scan(path, None, max_points)
    if "label" not in labelled.fields:
        raise UserError(f"{path}: no field label; it has {one_line(', '.join(labelled.fields), 500)}")
    same = len(labelled) == len(mesh)
    if same and not np.allclose(labelled.xyz, mesh.xyz, rtol=0, atol=_SAME_VERTEX, equal_nan=True):
        raise UserError(
            f"{path}: its vertices are not those of the mesh beside it in the same order, so that its labels would be "
            "of other points; take both files from the release again"
        )
    return labelled.fields["label"]


def _annotated(segments_path: Path, objects_path: Path, table_path: Path) -> tuple[np.ndarray, list[Repair]]:
    """Return the NYU40 ids (N,) that follow from an annotation, 0 for vertices of no object.

    A segment of several categories gets the last one, in the order in which the categories first appear: so do the
    benchmark's own scripts.
    """
    for path in (segments_path, objects_path, table_path):
        if not path.is_file():
            raise UserError(
                f"{path}: not there; the labels of a scene are in {segments_path.parent.name}{LABELS}, or in "
                f"*{SEGMENTS} and *{OBJECTS} beside it and {TABLE} two folders above"
            )
    ids, repairs = read_table(table_path), []
    of_category: dict[str, list[int]] = {}
    for thing in _Objects.read(objects_path).segGroups:
        of_category.setdefault(thing.label, []).extend(thing.segments)
    of_segment: dict[int, int] = {}
    for category, segments in of_category.items():
        if category not in ids:
            problem = f"category {one_line(category, 60)}, which {TABLE} does not have"
            repairs.append(Repair(str(objects_path), None, problem, "taken as unlabelled"))
        of_segment.update(dict.fromkeys(segments, ids.get(category, 0)))
    of_vertex = _Segments.read(segments_path).segIndices
    return np.array([of_segment.get(segment, 0) for segment in of_vertex], np.int64), repairs


def read_table(path: Path) -> dict[str, int]:
    """Return the NYU40 id of each raw category of the label table.

    Raises:
        UserError: not a table with these two columns.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, _MAX_TABLE), newline=""), delimiter="\t")
        rows = [(row.get("raw_category"), row.get("nyu40id")) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: not a readable table ({first_line(error)})") from None
    if not {"raw_category", "nyu40id"} <= set(reader.fieldnames or ()):
        raise UserError(f"{path}: must have the columns raw_category and nyu40id, between tabs")
    for category, number in rows:
        if not category or not re.fullmatch(r"[0-9]{1,4}", number or ""):
            raise UserError(
                f"{path}: the nyu40id of {one_line(category, 60)} is {one_line(number, 60)}, must be a number"
            )
    return {str(category): int(str(number)) for category, number in rows}


def submission_paths(folder: str | Path, scans: Sequence[Path]) -> list[Path]:
    """Return the benchmark's file for each scan: ``scene0707_00.txt`` for ``scene0707_00_vh_clean_2.ply``.

    Raises:
        UserError: a scan is not a mesh of ScanNet.
    """
    names = [scan.name.removesuffix(MESH) for scan in scans]
    for scan, name in zip(scans, names):
        if not (scan.name.endswith(MESH) and SCENE.fullmatch(name)):
            raise UserError(
                f"submission={folder}: {scan} is no scene0000_00{MESH}, for whose vertices the benchmark wants labels; "
                f"give a pattern, such as input='scans_test/*/*{MESH}'"
            )
    return [Path(folder) / f"{name}.txt" for name in names]


def write_submission(path: Path, label: np.ndarray) -> None:
    """Write labels (N,) of :data:`SCANNET` as the benchmark wants them: the NYU40 id of each vertex on a line.

    Vertices without a label get 0, which the benchmark counts as wrong.
    """
    ids = np.zeros(np.iinfo(label.dtype).max + 1, np.int64)
    ids[: len(NYU40)] = NYU40
    with replacing(path) as temporary:
        np.savetxt(temporary, ids[label], "%d")
