"""Simulated laser scanners: points on a room's surfaces, thinned with distance, hidden behind others, with noise."""

import numpy as np

from .scene import Scene

# Scanners in a room, and cells around the horizon of the depth buffer of each.
SCANNERS, CELLS = 2, 640


def scan(scene: Scene, density: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points of a scene that scanners inside the room see.

    Args:
        density: points per square metre within 1.6 m of a scanner; falls with squared distance.

    Returns:
        xyz (N, 3) metres, rgb (N, 3) uint8, and the number (N,) of the scene's rectangle that each point lies on.
    """
    rng = scene.rng
    origins = np.array([rectangle.origin for rectangle in scene.rectangles], float)
    edges = np.array([rectangle.edges for rectangle in scene.rectangles], float)
    colors = np.array([rectangle.color for rectangle in scene.rectangles], float)
    returns = np.array([rectangle.returns for rectangle in scene.rectangles])
    normals = np.cross(edges[:, 0], edges[:, 1])
    areas = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(areas, 1e-12)[:, None]
    counts = np.floor(areas * density * returns + rng.random(len(areas))).astype(np.int64)
    patch = np.repeat(np.arange(len(counts)), counts)
    st = rng.random((len(patch), 2))
    xyz = origins[patch] + edges[patch, 0] * st[:, :1] + edges[patch, 1] * st[:, 1:]
    sx, sy, _ = scene.size
    seen = np.zeros(len(xyz), bool)
    luck = rng.random(len(xyz))
    for _ in range(SCANNERS):
        eye = np.array([rng.uniform(0.25, 0.75) * sx, rng.uniform(0.25, 0.75) * sy, rng.uniform(1.3, 1.7)])
        ray = xyz - eye
        distance = np.linalg.norm(ray, axis=1)
        seen |= _visible(ray, distance) & (luck < (1.6 / distance) ** 2)
    xyz, patch = xyz[seen], patch[seen]
    xyz = xyz + rng.normal(0, 0.003, xyz.shape)
    # Light falls from above and from one side, with slow changes over the room.
    side = rng.normal(0, 1, 3)
    light = 0.82 + 0.1 * normals[patch, 2] + 0.06 * (normals[patch] @ (side / np.linalg.norm(side)))
    wave = rng.uniform(0.5, 1.5, 3)
    light = light + 0.05 * np.sin(xyz @ wave + rng.uniform(0, 6))
    light = light * rng.uniform(0.65, 1.1)
    color = colors[patch] * light[:, None] + rng.normal(0, 7, (len(patch), 3))
    return xyz, np.clip(np.round(color), 0, 255).astype(np.uint8), patch


def _visible(ray: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return which points (N,) no other hides: none in the same cell of a spherical depth buffer is much nearer."""
    azimuth = np.arctan2(ray[:, 1], ray[:, 0]) / (2 * np.pi) + 0.5
    elevation = np.arcsin(np.clip(ray[:, 2] / distance, -1, 1)) / np.pi + 0.5
    cell = (azimuth * CELLS).astype(np.int64) * CELLS + (elevation * CELLS / 2).astype(np.int64)
    order = np.lexsort((distance, cell))
    first = np.r_[True, np.diff(cell[order]) != 0]
    nearest = distance[order][first][np.cumsum(first) - 1]
    visible = np.empty(len(ray), bool)
    visible[order] = distance[order] < nearest * 1.03 + 0.03
    return visible
