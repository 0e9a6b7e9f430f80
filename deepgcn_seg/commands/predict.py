"""``tools/predict.py``: label scans."""

import logging
import os
import re
from collections.abc import Collection, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ..data.classes import ClassList, no_label
from ..data.scannet import SCANNET, submission_paths, write_submission
from ..data.scans.files import read_scan, write_scan
from ..data.scans.format_table import WRITTEN, require_library
from ..data.scans.formats.scan import AXES, COLORS, LABELS, PACKED, Scan
from ..data.scans.formats.scene import is_scene
from ..data.scans.search import find_scans, scans_root
from ..data.units import UP
from ..errors import UserError
from ..escaping import one_line
from ..files import require_writable, write_json
from ..inference.picture import scan_picture
from ..inference.segmenter import Prediction, Segmenter
from ..inference.truth import CLASSES_FILE, truth_of
from ..inference.viewer import write_viewer
from ..model.trained import find_checkpoints

log = logging.getLogger(__name__)


def predict(config: DictConfig) -> list[Path]:
    """Label each scan that ``input`` stands for.

    Returns:
        The labelled files.

    Raises:
        UserError: a setting is missing, or a file cannot be read or written. If one of several scans cannot be
            labelled, the error comes after the others are.
    """
    for key in ("checkpoint", "input", "output"):
        if OmegaConf.is_missing(config, key):
            raise UserError(f"{key} is not set: give checkpoint=FILE input=SCAN output=FILE")
    single = os.path.isfile(config.input) or is_scene(Path(config.input))
    scans = find_scans(config.input, besides=Path(config.output))
    outputs = output_paths(scans, config.output, None if single else scans_root(config.input))
    if len(scans) > 1 and (config.view or config.picture):
        raise UserError(f"view and picture show one scan, but input={config.input} stands for {len(scans)}")
    if config.classification and not any(path.suffix.lower() in (".las", ".laz") for path in outputs):
        raise UserError(
            f"classification=true is for LAS and LAZ, but output={config.output} is written as none of them"
        )
    checkpoints = find_checkpoints(config.checkpoint if isinstance(config.checkpoint, str) else list(config.checkpoint))
    read = [("scan", path) for path in scans] + [("checkpoint", path) for path in checkpoints]
    written = [("output", path) for path in outputs] + [("output", classes_path(path)) for path in outputs]
    written += [(key, Path(config[key])) for key in ("view", "picture") if config[key]]
    submissions = submission_paths(config.submission, scans) if config.submission else []
    written += [("submission", path) for path in submissions]
    require_distinct(read, written)
    for key, path in written:
        require_writable(key, path)
    for path in outputs:
        require_library(path)
    settings = {key: config[key] for key in ("device", "stride", "votes", "batch_size", "tile", "trusted", "tta")}
    segmenter = Segmenter(checkpoints, **settings)
    if submissions and segmenter.classes.names != SCANNET.names:
        raise UserError(
            f"submission={config.submission}: needs a network of ScanNet's 20 classes, but those of "
            f"{', '.join(map(str, checkpoints))} are {', '.join(segmenter.classes)}"
        )
    log.info("%s; %d classes, %s", segmenter.describe(), len(segmenter.classes), segmenter.device)
    failed: list[str] = []
    for path, output, submission in zip_longest(scans, outputs, submissions):
        try:
            found = _label(path, output, segmenter, config)
            if submission is not None:
                write_submission(submission, found.label)
        except (UserError, OSError) as error:
            if len(scans) == 1:
                raise
            whose = getattr(error, "filename", None) or path
            failed.append(str(error) if isinstance(error, UserError) else f"{whose}: {error.strerror}")
            log.error("%s; going on with the next", failed[-1])
    if failed:
        log.error("Not labelled:\n  %s", "\n  ".join(failed))
        raise UserError(f"{len(failed)} of {len(scans)} scans could not be labelled (listed above)")
    return outputs


def _label(path: Path, output: Path, segmenter: Segmenter, config: DictConfig) -> Prediction:
    """Read one scan, label it, write the labelled scan, the viewer and the picture, and return the labels."""
    scan = read_scan(path, config.columns, config.max_points)
    xyz, rgb = scan.xyz, scan.rgb
    _require_writable_points(output, xyz)
    log.info("%s: %s points, fields %s", path, f"{len(scan):,}", ", ".join(scan.fields))
    try:
        found = segmenter.predict(xyz, rgb, config.scale, config.up)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    write_labelled(output, scan, found, segmenter.classes, config.colors, config.classification)
    labelled = found.label < len(segmenter.classes)
    shares = np.bincount(found.label[labelled], minlength=len(segmenter.classes)) / labelled.sum()
    most = sorted(zip(shares, segmenter.classes), reverse=True)[:5]
    log.info("%s: %s", output, ", ".join(f"{name} {share:.1%}" for share, name in most if share > 0))
    if config.view or config.picture:
        _show(config, scan, xyz, rgb, found, segmenter)
    return found


def _show(
    config: DictConfig, scan: Scan, xyz: np.ndarray, rgb: np.ndarray | None, found: Prediction, segmenter: Segmenter
) -> None:
    """Write ``view`` and ``picture`` of the points that have a label, in metres.

    Args:
        xyz, rgb: of the scan, which would compute them again.
    """
    classes = segmenter.classes
    truth, told = truth_of(scan, segmenter.labelling)
    shown_as = f"{told} is shown as the truth" if truth is not None else f"no truth is shown: {told}"
    log.info("%s: %s", scan.path, shown_as)
    labelled = found.label < len(classes)
    xyz = xyz[:, UP[config.up]] * (config.scale or 1.0)
    if rgb is not None and not rgb.any():
        rgb = None
    name = scan.path.name
    if config.view:
        others = ((field, scan.fields[field]) for field in _other_fields(scan))
        write_viewer(config.view, xyz, rgb, found.label, found.confidence, truth, classes, name, others)
        log.info("%s: open it in a browser", config.view)
    if config.picture:
        rgb, truth = (None if values is None else values[labelled] for values in (rgb, truth))
        label, confidence = found.label[labelled], found.confidence[labelled]
        colored = classes.in_palette(config.palette)
        scan_picture(config.picture, xyz[labelled], rgb, label, confidence, truth, colored, name)
        log.info("%s", config.picture)


def _other_fields(scan: Scan) -> list[str]:
    """Return the names of a scan's fields that are no coordinates, colours or labels."""
    known = {name for names in (*AXES, *zip(*COLORS), PACKED, LABELS) for name in scan.candidates(*names)}
    return [name for name in scan.fields if name not in known]


def output_paths(scans: list[Path], output: str | Path, root: Path | None = None) -> list[Path]:
    """Return a file for each scan: ``output`` itself if it names a format, else files in that folder.

    A scan of a format that cannot be written, such as PTX or a folder of arrays, becomes a PLY file. COPC becomes LAZ
    of another ending than ``.copc.laz``, by which programs take it for COPC, whose index it does not have.

    Args:
        root: the folder below which scans keep their sub-folders in ``output``; None for one scan by its name.

    Raises:
        UserError: one file for several scans, two of one name, or an ending that is no format's.
    """
    path, is_folder = Path(output), str(output).endswith(os.sep) or os.path.isdir(output)
    if path.suffix.lower() in WRITTEN and not is_folder:
        if len(scans) > 1:
            raise UserError(f"output={output} is one file, but there are {len(scans)} scans: give a folder")
        return [path]
    # A dot need not begin an ending: folders have names with dates and versions.
    ending = re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]{1,4}", path.suffix) or (path.suffix and root is None)
    if ending and not is_folder:
        raise UserError(
            f"output={output}: {path.suffix} is not written; known are {', '.join(WRITTEN)}. For a folder, end it in /"
        )
    names = [Path(scan.name) if root in (None, scan) else scan.relative_to(root) for scan in scans]
    names = [n.with_name(re.sub(r"(?i)\.copc(\.la[sz])$", r"_copc\1", n.name)) for n in names]
    paths = [path / (n if n.suffix.lower() in WRITTEN else n.with_name(f"{n.name}.ply")) for n in names]
    if len(set(paths)) < len(paths):
        raise UserError(f"output={output}: several scans have the same name; label them one folder at a time")
    return paths


def classes_path(output: Path) -> Path:
    """Return the file for the names of the classes, beside a labelled scan."""
    return output.with_name(output.name + CLASSES_FILE)


def require_distinct(read: Sequence[tuple[str, Path]], written: Sequence[tuple[str, Path]]) -> None:
    """Refuse to write a file that is also read, or to write two files into one, by whatever names and links.

    Args:
        read, written: paths, each with what it is: a word for a file that is read, its setting for one that is written.

    Raises:
        UserError: names both.
    """
    taken = {_identity(path): f"the {what} {path}" for what, path in read}
    for key, path in written:
        same = _identity(path)
        if same in taken:
            raise UserError(f"{key}={path} would overwrite {taken[same]}: choose another")
        taken[same] = f"{key}={path}"
    for key, path in written:
        for folder in path.parents:
            if (found := taken.get(_identity(folder))) is not None:
                raise UserError(f"{key}={path}: its folder would be {found}; choose another")


def _identity(path: Path) -> tuple[object, ...]:
    """Return the identity of a file: device and inode of it, or of the nearest folder that exists and the rest."""
    real = Path(os.path.realpath(path))
    nearest = next(place for place in (real, *real.parents) if os.path.exists(place))
    status, rest = nearest.stat(), real.relative_to(nearest).parts
    other = nearest.parent / nearest.name.swapcase()
    # Does the file system tell upper and lower case apart?
    if other != nearest and os.path.exists(other) and other.samefile(nearest):
        rest = tuple(part.casefold() for part in rest)
    return status.st_dev, status.st_ino, *rest


def _require_writable_points(output: Path, xyz: np.ndarray) -> None:
    """Refuse, before labelling, a scan with missing coordinates for LAS, whose coordinates are integers."""
    if output.suffix.lower() in (".las", ".laz") and (missing := (~np.isfinite(xyz).all(1)).sum()):
        raise UserError(
            f"output={output}: LAS cannot hold the {missing:,} points without coordinates; write another format, such "
            f"as {output.with_suffix('.ply').name}"
        )


def write_labelled(
    path: Path, scan: Scan, found: Prediction, classes: ClassList, colors: bool, classification: bool = False
) -> None:
    """Write a scan with ``label`` and ``confidence``, and the class names in a JSON beside it.

    Fields of those names that the scan has are kept as ``label_input`` and so on, which the log says.

    Args:
        colors: replace the scan's colours by those of the classes; points without a label become black.
        classification: in LAS and LAZ, write the labels as ``classification`` too.
    """
    more = {"label": found.label, "confidence": found.confidence}
    if classification and path.suffix.lower() in (".las", ".laz"):
        more["classification"] = found.label
    names = _names_beside(list(scan.fields), more)
    fields = dict(zip(names, scan.fields.values()))
    if moved := [(name, kept) for name, kept in zip(scan.fields, names) if name != kept]:
        log.info("%s: the scan's own %s", path, ", ".join(f"{name} is kept as {kept}" for name, kept in moved))
    if colors:
        names = [scan.field(name) or name for name in ("red", "green", "blue")]
        labelled = found.label < len(classes)
        drawn = np.zeros((len(labelled), 3), np.uint8)
        drawn[labelled] = classes.colors(found.label[labelled])
        more |= dict(zip(names, drawn.T))
    notes = [f"label {number} {one_line(name, 120)}" for number, name in enumerate(classes)]
    write_scan(path, Scan(scan.path, fields, scan.template), more, notes)
    content = {
        "classes": list(classes.names),
        "palette": [list(rgb) for rgb in classes.palette],
        "no_label": int(no_label(classes)),
    }
    write_json(classes_path(path), content)


def _names_beside(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """Return names of fields, of which those that are taken end in ``_input``, or ``_input_2`` and so on if need be.

    Names that differ only in case are the same name to many programs, and so is one that begins with ``scalar_`` to
    CloudCompare: it writes this before the names of its fields, and leaves it out when it reads them.
    """
    used = {_shown_name(name) for name in (*names, *taken)}
    moved = {_shown_name(name) for name in taken}
    found = []
    for name in names:
        kept, number = name, 1
        while _shown_name(name) in moved and _shown_name(kept) in used:
            kept, number = f"{name}_input" + (f"_{number}" if number > 1 else ""), number + 1
        used.add(_shown_name(kept))
        found.append(kept)
    return found


def _shown_name(name: str) -> str:
    """Return the name under which programs show a field."""
    return name.lower().removeprefix("scalar_")
