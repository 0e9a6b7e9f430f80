"""Pictures of rooms and scans with colours, truth, prediction and errors side by side; no display is needed."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.text import Text

from ..data.classes import GREY, UNLABELLED, ClassList, no_label
from ..escaping import one_line
from ..files import replacing

# Colours of points with the right and with a wrong label.
RIGHT, WRONG = (205, 210, 205), (214, 39, 40)
# Formats of pictures, and dots per inch of what is drawn of points in each: a PDF is printed.
FORMATS = {".png": 100, ".pdf": 200, ".svg": 200}
# Colours of confidence. Its lightness rises evenly, so that it can be read in grey and by colour-blind readers.
CONFIDENCE = "viridis"
# Most points to draw. A view has fewer pixels.
MAX_DRAWN = 1_000_000
# Largest ratio of a picture's height to its width: that of a chimney would need more memory than there is.
MAX_ASPECT = 2
# Metres to cut off at the top and at the two sides that face the viewer, to see inside.
CUT_OFF = 0.12
# A point is far away if its distance from the middle 99 % of the points is this many times their extent.
FAR = 10


def close_together(xyz: np.ndarray) -> np.ndarray:
    """Return which points (N,) are not far away from the rest. With a far one, all others would be drawn as one dot."""
    low, high = np.quantile(xyz, [0.005, 0.995], axis=0)
    margin = FAR * (high - low).max()
    near = ((xyz >= low - margin) & (xyz <= high + margin)).all(1)
    return near if near.any() else np.ones(len(xyz), bool)


def draw_points(
    xyz: np.ndarray, rgb: np.ndarray, width: int = 900, azimuth: float = 35.0, elevation: float = 38.0, splat: int = 4
) -> np.ndarray:
    """Return an orthographic image of points on white, drawn with a depth buffer: (H, width, 3) uint8.

    Args:
        xyz: (N, 3), z up. rgb: (N, 3) uint8.
        width: of the image, pixels. azimuth, elevation: of the view, degrees. splat: side of a point, pixels.
    """
    a, e = np.radians(azimuth), np.radians(elevation)
    right = np.array([np.cos(a), np.sin(a), 0])
    back = np.array([-np.sin(a), np.cos(a), 0])
    up = np.cos(e) * np.array([0, 0, 1]) + np.sin(e) * back
    toward = np.sin(e) * np.array([0, 0, 1]) - np.cos(e) * back
    u, v, depth = (xyz @ axis for axis in (right, up, toward))
    scale = min((width - 2 * splat - 1) / max(np.ptp(u), 1e-9), MAX_ASPECT * width / max(np.ptp(v), 1e-9))
    height = int(np.ptp(v) * scale) + 2 * splat + 1
    column = ((u - u.min()) * scale).astype(np.int64)
    row = ((v.max() - v) * scale).astype(np.int64)
    # Far points first, so that near ones overwrite them.
    order = np.argsort(depth, kind="stable")
    image = np.full((height, width, 3), 255, np.uint8)
    nearest = np.full((height, width), -np.inf)
    for dy in range(splat):
        for dx in range(splat):
            y, x, d = row[order] + dy, column[order] + dx, depth[order]
            layer, color = np.full((height, width), -np.inf), np.zeros((height, width, 3), np.uint8)
            layer[y, x], color[y, x] = d, rgb[order]
            closer = layer > nearest
            image[closer], nearest[closer] = color[closer], layer[closer]
    return image


def room_picture(
    path: str | Path,
    xyz: np.ndarray,
    rgb: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: ClassList,
    title: str,
) -> None:
    """Write a picture of four views of a room: colour, truth, prediction, errors and their share.

    Args:
        path: its ending is one of :data:`FORMATS`.
        truth: labels (N,); points with :func:`~deepgcn_seg.data.classes.no_label` are grey, and no errors.
    """
    panels = {"colour": rgb, "truth": classes.colors(truth), "prediction": classes.colors(predicted)}
    panels |= _errors(truth, predicted, classes)
    _draw(path, xyz, panels, np.union1d(truth, predicted), classes, title)


def scan_picture(
    path: str | Path,
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    predicted: np.ndarray,
    confidence: np.ndarray,
    truth: np.ndarray | None,
    classes: ClassList,
    title: str,
) -> None:
    """Write a picture of a labelled scan: its colours, prediction and confidence; with ``truth`` also that and errors.

    Args:
        path: its ending is one of :data:`FORMATS`.
    """
    panels = {} if rgb is None else {"colour": rgb}
    panels |= {"prediction": classes.colors(predicted), "confidence": confidence_colors(confidence)}
    present = np.unique(predicted)
    if truth is not None:
        panels |= {"truth": classes.colors(truth), **_errors(truth, predicted, classes)}
        present = np.union1d(present, truth)
    _draw(path, xyz, panels, present, classes, title)


def confidence_colors(confidence: np.ndarray) -> np.ndarray:
    """Return colours (N, 3) uint8 for confidence (N,) in 0..1: from dark for 0 to yellow for 1."""
    return (colormaps[CONFIDENCE](confidence)[:, :3] * 255).astype(np.uint8)


def _errors(truth: np.ndarray, predicted: np.ndarray, classes: ClassList) -> dict[str, np.ndarray]:
    wrong, unlabelled = truth != predicted, truth == no_label(classes)
    colors = np.where(wrong[:, None], WRONG, RIGHT).astype(np.uint8)
    colors[unlabelled] = GREY
    if unlabelled.all():
        return {"no point has a true label": colors}
    which = "labelled" if unlabelled.any() else "all"
    return {f"errors ({wrong[~unlabelled].mean():.1%} of {which} points)": colors}


def _draw(
    path: str | Path,
    xyz: np.ndarray,
    panels: dict[str, np.ndarray],
    present: np.ndarray,
    classes: ClassList,
    title: str,
) -> None:
    near = close_together(xyz)
    if not near.all():
        title += f" ({(~near).sum():,} points far away are not drawn)"
        xyz, panels = xyz[near], {name: colors[near] for name, colors in panels.items()}
    low, high = xyz.min(0) + CUT_OFF, xyz.max(0) - CUT_OFF
    inside = (xyz[:, 2] < high[2]) & (xyz[:, 0] < high[0]) & (xyz[:, 1] > low[1])
    # A scan that is thinner than what is cut off is shown whole. Of more points than pixels, only some are drawn.
    keep = np.flatnonzero(inside if inside.any() else np.ones(len(xyz), bool))[:: len(xyz) // MAX_DRAWN + 1]
    centred = xyz[keep] - xyz.min(0)
    columns = 2 if len(panels) in (2, 4) else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7 * columns, 4.7 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, (name, colors) in zip(axes, panels.items()):
        axis.imshow(draw_points(centred, colors[keep]), interpolation="antialiased")
        axis.set_title(name)
        _explain(figure, axis, name, colors)
    plain(figure.suptitle(""), title)
    names = [UNLABELLED if label == no_label(classes) else classes.names[label] for label in present]
    # Inches of an entry: its patch and letters.
    fit = int(figure.get_figwidth() / (0.7 + 0.09 * max(map(len, names))))
    _key(figure, classes.colors(present), names, loc="outside lower center", ncol=max(min(len(names), fit), 1))
    with replacing(path) as temporary, warnings.catch_warnings():
        # A character that the font does not have is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph")
        suffix = Path(path).suffix.lower()
        figure.savefig(temporary, format=suffix[1:], dpi=FORMATS[suffix])


def _explain(figure: Figure, axis: Axes, name: str, colors: np.ndarray) -> None:
    """Add a key to the errors and a colour bar to the confidence."""
    if name == "confidence":
        figure.colorbar(ScalarMappable(cmap=CONFIDENCE), ax=axis, shrink=0.6, label="confidence")
    elif name.startswith("errors"):
        meant = {"right": RIGHT, "wrong": WRONG, UNLABELLED: GREY}
        shown = {text: color for text, color in meant.items() if (colors == color).all(1).any()}
        _key(axis, np.array(list(shown.values())), list(shown), loc="upper center", bbox_to_anchor=(0.5, 0), ncol=3)


def _key(place: Figure | Axes, colors: np.ndarray, names: Sequence[str], **settings: Any) -> Legend:
    """Add a key of colours (n, 3) and what they stand for."""
    patches = [Patch(facecolor=color / 255, edgecolor="0.4") for color in colors]
    # Names are set afterwards, because Matplotlib leaves out labels that begin with an underscore.
    legend = place.legend(patches, ["-"] * len(patches), frameon=False, **settings)
    for text, name in zip(legend.get_texts(), names):
        plain(text, name)
    return legend


def plain(text: Text, content: str) -> None:
    """Set a text to a name as it is: no formulas between dollar signs, no TeX, no control characters."""
    text.set_usetex(False)
    text.set_parse_math(False)
    text.set_text(one_line(content, 120))
