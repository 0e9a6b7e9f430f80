"""Pictures of a room: colour, truth, prediction and errors side by side, without a display."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..data.classes import ClassList
from ..data.files import replacing

RIGHT, WRONG = (205, 210, 205), (214, 39, 40)
MOST_DRAWN = 1_000_000


def draw_points(
    xyz: np.ndarray, rgb: np.ndarray, width: int = 900, azimuth: float = 35.0, elevation: float = 38.0, splat: int = 4
) -> np.ndarray:
    """An orthographic image of points by a depth buffer: (H, width, 3) uint8 on white.

    Args:
        xyz: (N, 3), z up. rgb: (N, 3) uint8.
        azimuth, elevation: degrees of the view. splat: side of a point in pixels.
    """
    a, e = np.radians(azimuth), np.radians(elevation)
    right = np.array([np.cos(a), np.sin(a), 0])
    back = np.array([-np.sin(a), np.cos(a), 0])
    up = np.cos(e) * np.array([0, 0, 1]) + np.sin(e) * back
    toward = np.sin(e) * np.array([0, 0, 1]) - np.cos(e) * back
    u, v, depth = (xyz @ axis for axis in (right, up, toward))
    scale = (width - 2 * splat - 1) / max(np.ptp(u), 1e-9)
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
    open_side: float = 0.12,
) -> None:
    """Write a PNG of four views of a room, with the classes' colours and the share of errors.

    Args:
        open_side: metres cut off the top and the two sides that face the viewer, to see inside.
    """
    low, high = xyz.min(0) + open_side, xyz.max(0) - open_side
    keep = (xyz[:, 2] < high[2]) & (xyz[:, 0] < high[0]) & (xyz[:, 1] > low[1])
    wrong = truth != predicted
    # More points than pixels would only take time.
    keep = np.flatnonzero(keep)[:: len(xyz) // MOST_DRAWN + 1]
    errors = np.where(wrong[:, None], WRONG, RIGHT).astype(np.uint8)
    panels = [
        ("colour", rgb),
        ("truth", classes.colors(truth)),
        ("prediction", classes.colors(predicted)),
        (f"errors ({wrong.mean():.1%} of all points)", errors),
    ]
    figure = Figure(figsize=(14, 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    for axis, (name, colors) in zip(axes.flat, panels):
        axis.imshow(draw_points(xyz[keep], colors[keep]), interpolation="antialiased")
        axis.set_title(name)
        axis.axis("off")
    figure.suptitle(title)
    present = np.union1d(np.unique(truth), np.unique(predicted))
    handles = [
        Patch(facecolor=np.array(classes.palette[c]) / 255, edgecolor="0.4", label=classes.names[c]) for c in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(handles), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
