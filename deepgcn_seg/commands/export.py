"""``tools/export.py``: a trained network as an ONNX model or a PyTorch program."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ..errors import UserError
from ..files import require_writable
from ..inference.export import describe_for_export, differences, load_exported, write_onnx, write_program
from ..model import DeepGCN
from ..model.checkpoint import build_model, describe, find_checkpoint, read_checkpoint
from ..settings import counted

log = logging.getLogger(__name__)

# Of random points, fewer than one in a thousand has two candidates for its furthest neighbour at equal distances.
MOST_OTHER_LABELS = 0.01


def export(config: DictConfig) -> None:
    """Write the network of a checkpoint as a file that runs without this package, and compare the two.

    Raises:
        UserError: a setting is missing, the network cannot be exported, or the file gives other labels.
    """
    for key in ("checkpoint", "output"):
        if OmegaConf.is_missing(config, key):
            raise UserError(f"{key} is not set: give checkpoint=FILE output=model.onnx (or .pt2)")
    path, output = find_checkpoint(config.checkpoint), Path(config.output)
    if not output.absolute().parent.is_dir():
        raise UserError(f"output={output}: there is no folder {output.parent}")
    require_writable("output", output)
    content = read_checkpoint(path)
    description = describe(content, path)
    if description.trained_on is None:
        raise UserError(f"checkpoint {path}: does not say what it was trained on")
    model = build_model(content, path, config.trusted, description)
    if not isinstance(model, DeepGCN):
        raise UserError(f"checkpoint {path}: its network is a {type(model).__name__}; a DeepGCN can be exported")
    log.info("Tracing the network: seconds a layer")
    write = write_program if output.suffix.lower() == ".pt2" else write_onnx
    write(model, output, describe_for_export(model, description.class_list, description.trained_on))
    log.info("%s: %.1f MB", output, output.stat().st_size / 2**20)
    if config.check:
        _check(model, output, description.trained_on.points)


def _check(model: DeepGCN, output: Path, points: int) -> None:
    """Compare the file with the network on blocks of several sizes.

    Raises:
        UserError: more labels differ than near-ties explain.
    """
    fewest = model.min_points
    sizes = [(1, fewest), (3, fewest + 37), (1, max(points, fewest))]
    for found in differences(model, load_exported(output), sizes):
        log.info(
            "Compared on %s of %s: largest difference %.1e of the largest logit, %.3f %% of the labels differ",
            counted(found.blocks, "random block"),
            counted(found.points, "point"),
            found.logits,
            100 * found.labels,
        )
        if found.labels > MOST_OTHER_LABELS:
            raise UserError(
                f"output={output}: {100 * found.labels:.1f} % of the labels differ from the network's on "
                f"{found.blocks} blocks of {found.points} points; do not use this file"
            )
