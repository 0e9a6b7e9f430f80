"""Scans in, labelled scans out: what ``tools/predict.py`` does with its config."""

import json
import logging
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ..data.classes import ClassList
from ..data.files import replacing
from ..data.scan import LABELS, Scan, find_scans, read_scan, write_scan
from ..data.scan_formats import FORMATS
from ..errors import UserError
from .picture import scan_picture
from .segmenter import UP, Prediction, Segmenter
from .viewer import write_viewer

log = logging.getLogger(__name__)


def predict(config: DictConfig) -> None:
    """Label each scan that ``input`` stands for.

    Raises:
        UserError: something is not given, not readable, or cannot be written.
    """
    for key in ("checkpoint", "input", "output"):
        if OmegaConf.is_missing(config, key):
            raise UserError(f"{key} is not set: give checkpoint=FILE input=SCAN output=FILE")
    scans = find_scans(config.input)
    outputs = output_paths(scans, Path(config.output))
    if len(scans) > 1 and (config.view or config.picture):
        raise UserError(f"view and picture show one scan, but input={config.input} stands for {len(scans)}")
    segmenter = Segmenter(
        config.checkpoint,
        config.device,
        config.stride,
        config.votes,
        config.batch_size,
        config.tile,
        config.trusted,
    )
    log.info("%s: %d classes, %s", config.checkpoint, len(segmenter.classes), segmenter.device)
    for path, output in zip(scans, outputs):
        scan = read_scan(path, config.columns)
        xyz, rgb = scan.xyz, scan.rgb
        log.info("%s: %s points, fields %s", path, f"{len(scan):,}", ", ".join(scan.fields))
        found = segmenter.predict(xyz, rgb, config.scale, config.up)
        write_labelled(output, scan, found, segmenter.classes, config.colors)
        shares = np.bincount(found.label, minlength=len(segmenter.classes)) / len(scan)
        most = sorted(zip(shares, segmenter.classes), reverse=True)[:5]
        log.info("%s: %s", output, ", ".join(f"{name} {share:.1%}" for share, name in most if share > 0))
        truth = truth_of(scan, segmenter.classes)
        upright = xyz[:, UP[config.up]]
        if config.view:
            write_viewer(config.view, upright, rgb, found, truth, segmenter.classes, path.name)
            log.info("%s: open it in a browser", config.view)
        if config.picture:
            scan_picture(
                config.picture, upright, rgb, found.label, found.confidence, truth, segmenter.classes, path.name
            )
            log.info("%s", config.picture)


def output_paths(scans: list[Path], output: Path) -> list[Path]:
    """A file for each scan: ``output`` itself if it names a format, else files in that folder.

    Raises:
        UserError: one file for several scans, two of one name, or a scan would be overwritten.
    """
    if output.suffix.lower() in FORMATS:
        if len(scans) > 1:
            raise UserError(f"output={output} is one file, but there are {len(scans)} scans: give a folder")
        paths = [output]
    else:
        paths = [output / scan.name for scan in scans]
    if len(set(paths)) < len(paths):
        raise UserError(f"output={output}: several scans have the same name; label them one folder at a time")
    if same := [scan for scan, path in zip(scans, paths) if path.exists() and path.samefile(scan)]:
        raise UserError(f"output={output} would overwrite the scan {same[0]}: choose another")
    return paths


def write_labelled(path: Path, scan: Scan, found: Prediction, classes: ClassList, colors: bool) -> None:
    """Write a scan with ``label`` and ``confidence``, and the class names in a JSON beside it.

    Fields of those names that the scan has are kept as ``label_input`` and so on.
    """
    more = {"label": found.label, "confidence": found.confidence}
    fields = {f"{name}_input" if name in more else name: values for name, values in scan.fields.items()}
    if colors:
        names = [scan.field(name) or name for name in ("red", "green", "blue")]
        more |= dict(zip(names, classes.colors(found.label).T))
    notes = [f"label {number} {name}" for number, name in enumerate(classes)]
    write_scan(path, Scan(scan.path, fields, scan.template), more, notes)
    with replacing(path.with_name(path.name + ".classes.json")) as temporary:
        content = {"classes": list(classes.names), "palette": [list(rgb) for rgb in classes.palette]}
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def truth_of(scan: Scan, classes: ClassList) -> np.ndarray | None:
    """The labels that a scan came with, if they can be of these classes."""
    name = scan.field(*LABELS)
    if name is None or scan.fields[name].dtype.kind not in "iuf":
        return None
    values = scan.fields[name]
    whole = np.isfinite(values).all() and (values == np.rint(values)).all()
    if not whole or values.min() < 0 or values.max() >= len(classes) or not values.any():
        return None
    return values.astype(classes.dtype)
