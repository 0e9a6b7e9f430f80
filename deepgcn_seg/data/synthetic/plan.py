"""A floor plan that keeps the objects of a synthetic room apart."""

from .scene import Scene


class Plan:
    """The places that are taken, so that objects on the floor and along each wall stay apart."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.taken: list[tuple[float, float, float, float]] = []
        self.walls: dict[int, list[tuple[float, float, float, float]]] = {0: [], 1: [], 2: [], 3: []}

    def floor_spot(self, width: float, depth: float, margin: float = 0.25) -> tuple[float, float] | None:
        """Return the centre of a free place for an object of width x depth, or None after 30 tries."""
        rng, (sx, sy, _) = self.scene.rng, self.scene.size
        if sx < width + 2 * margin or sy < depth + 2 * margin:
            return None
        for _ in range(30):
            x = rng.uniform(margin + width / 2, sx - margin - width / 2)
            y = rng.uniform(margin + depth / 2, sy - margin - depth / 2)
            if self._free(x, y, width / 2, depth / 2):
                self.taken.append((x, y, width / 2, depth / 2))
                return x, y
        return None

    def _free(self, x: float, y: float, hx: float, hy: float, gap: float = 0.1) -> bool:
        return all(abs(x - a) > hx + c + gap or abs(y - b) > hy + d + gap for a, b, c, d in self.taken)

    def wall_spot(
        self, width: float, depth: float = 0.0, low: float = 0.0, high: float = 9.0
    ) -> tuple[int, float] | None:
        """Return a free place at a wall, or None after 30 tries: the wall's number and the middle along it, metres.

        Args:
            depth: how far the object extends into the room at floor level, 0 for what hangs on the wall.
            low, high: heights that it takes; objects may be above one another.
        """
        rng = self.scene.rng
        for _ in range(30):
            wall = int(rng.integers(4))
            length = self.scene.size[wall % 2]
            if length < width + 0.4:
                continue
            along = rng.uniform(0.2 + width / 2, length - 0.2 - width / 2)
            overlaps = (
                abs(along - a) < (width + w) / 2 + 0.08 and low < h and high > b for a, w, b, h in self.walls[wall]
            )
            if any(overlaps):
                continue
            if depth:
                x, y, hx, hy = self.footprint(wall, along, width, depth)
                if not self._free(x, y, hx, hy, 0.02):
                    continue
                self.taken.append((x, y, hx, hy))
            self.walls[wall].append((along, width, low, high))
            return wall, along
        return None

    def footprint(self, wall: int, along: float, width: float, depth: float) -> tuple[float, float, float, float]:
        """Return the centre and half extents on the floor of an object against a wall: x, y, half x, half y."""
        sx, sy, _ = self.scene.size
        if wall % 2 == 0:
            return along, depth / 2 if wall == 0 else sy - depth / 2, width / 2, depth / 2
        return depth / 2 if wall == 3 else sx - depth / 2, along, depth / 2, width / 2
