"""Boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class BBox(NamedTuple):
    """A box with its sides along the axes: x to the right, y down, in whatever unit its maker says.

    A box without area, with equal sides, is valid.
    """

    xmin: float
    ymin: float
    xmax: float
    ymax: float

    @property
    def width(self) -> float:
        """Along x; negative where the box is not valid."""
        return self.xmax - self.xmin

    @property
    def height(self) -> float:
        """Along y; likewise."""
        return self.ymax - self.ymin

    @property
    def area(self) -> float:
        """Width times height."""
        return self.width * self.height

    @property
    def valid(self) -> bool:
        """Whether no side lies beyond its opposite."""
        return self.xmin <= self.xmax and self.ymin <= self.ymax

    def scale(self, sx: float, sy: float) -> BBox:
        """Every x times `sx`, every y times `sy`."""
        return BBox(sx * self.xmin, sy * self.ymin, sx * self.xmax, sy * self.ymax)

    def translate(self, dx: float, dy: float) -> BBox:
        """Moved by `dx` and `dy`."""
        return BBox(self.xmin + dx, self.ymin + dy, self.xmax + dx, self.ymax + dy)

    def map(self, function: Callable[[float], float]) -> BBox:
        """The function of each coordinate: `box.map(int)` for pixels to draw at."""
        return BBox(function(self.xmin), function(self.ymin), function(self.xmax), function(self.ymax))

    @staticmethod
    def intersect(a: BBox, b: BBox) -> BBox:
        """What both cover; not valid where they have no point in common."""
        return BBox(max(a.xmin, b.xmin), max(a.ymin, b.ymin), min(a.xmax, b.xmax), min(a.ymax, b.ymax))

    @staticmethod
    def union(a: BBox, b: BBox) -> BBox:
        """The smallest box around both."""
        return BBox(min(a.xmin, b.xmin), min(a.ymin, b.ymin), max(a.xmax, b.xmax), max(a.ymax, b.ymax))

    @staticmethod
    def iou(a: BBox, b: BBox) -> float:
        """Intersection over union, 0..1; 0 where neither has an area."""
        common = BBox.intersect(a, b)
        if not common.valid or common.area <= 0:
            return 0.0
        return common.area / (a.area + b.area - common.area)
