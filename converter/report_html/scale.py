"""Axes and the places of labels in a plot. Pure geometry; y grows downwards, as in SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHARACTER = 7.0
"""Width of a character at 12 px, generously: fonts differ, and a label is rather too far off than over another."""

LINE = 15.0
"""Height of a line at 12 px."""


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most about `count` round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    step = _round_step((high - low) / max(1, count))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def tick_text(value: float, step: float) -> str:
    """The number with as many digits as its step needs."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value + 0.0:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear axis: values from `low` to `high`, drawn from `start` to `end`, in pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value is drawn; those beyond the axis, at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        """Whether it lies within the other."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A circle that wants a label: its centre and radius, and the label's width, in pixels."""

    x: float
    y: float
    radius: float
    width: float

    @property
    def box(self) -> Box:
        """What it covers."""
        return Box(
            left=self.x - self.radius,
            top=self.y - self.radius,
            right=self.x + self.radius,
            bottom=self.y + self.radius,
        )


def place(marks: Sequence[Mark], frame: Box, taken: Sequence[Box] = ()) -> list[Box]:
    """Where each mark's label goes: near it, inside the frame, over no other label and, if it can be, over no mark.

    Args:
        marks: In the order of their importance: the first gets the best place.
        frame: Where labels may be.
        taken: Where none may be.
    """
    placed: list[Box] = []
    circles = [mark.box for mark in marks]
    for mark in marks:
        blocked = (*placed, *taken)
        free = [box for box in _candidates(mark) if box.inside(frame) and not any(box.meets(one) for one in blocked)]
        clear = [box for box in free if not any(box.meets(one) for one in circles)]
        # A mark that lies in another's has no way out but through it.
        others = [one for one in circles if not (one.left <= mark.x <= one.right and one.top <= mark.y <= one.bottom)]
        apart = [box for box in clear if not _crosses(mark, box, (*placed, *others))]
        placed.append(next(iter((*apart, *clear, *free)), None) or _anywhere(mark, frame, placed))
    return placed


def leader(mark: Mark, box: Box) -> tuple[float, float]:
    """Where a line from the mark meets its label: the nearest point of the box."""
    return min(max(mark.x, box.left), box.right), min(max(mark.y, box.top + 2), box.bottom - 2)


def _crosses(mark: Mark, box: Box, others: Sequence[Box]) -> bool:
    """Whether the line from the mark to its label goes through one of the others; looked at in steps."""
    x, y = leader(mark, box)
    steps = [index / 16 for index in range(1, 16)]
    points = [(mark.x + (x - mark.x) * share, mark.y + (y - mark.y) * share) for share in steps]
    return any(one.left < px < one.right and one.top < py < one.bottom for one in others for px, py in points)


def _candidates(mark: Mark) -> Iterator[Box]:
    """Beside, above and below; then the same, further and further away."""
    for step in range(24):
        gap = mark.radius + 5
        for shift in (0.0,) if step == 0 else (step * LINE * 0.6, -step * LINE * 0.6):
            yield _box(mark.x + gap, mark.y + shift - LINE / 2, mark.width)
            yield _box(mark.x - gap - mark.width, mark.y + shift - LINE / 2, mark.width)
        away = gap + step * LINE
        yield _box(mark.x - mark.width / 2, mark.y - away - LINE, mark.width)
        yield _box(mark.x - mark.width / 2, mark.y + away, mark.width)


def _anywhere(mark: Mark, frame: Box, placed: Sequence[Box]) -> Box:
    """The first free line in the frame; the top one where there is none at all."""
    left = max(frame.left, frame.right - mark.width)
    for row in range(int((frame.bottom - frame.top) // LINE)):
        box = _box(left, frame.top + row * LINE, mark.width)
        if not any(box.meets(one) for one in placed):
            return box
    return _box(left, frame.top, mark.width)


def _box(left: float, top: float, width: float) -> Box:
    return Box(left=left, top=top, right=left + width, bottom=top + LINE)
