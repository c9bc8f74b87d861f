"""Size against loss, with latency as the size of the marks: what can be had for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converter.config import Budget
from converter.figures import points_text, size_text, time_text
from converter.findings import Findings
from converter.report_html.markup import Markup, clean, join, shortened, tag
from converter.report_html.scale import CHARACTER, LINE, Axis, Box, Mark, leader, place, tick_text, ticks
from converter.result import PackageResult
from converter.summary import front, loss_of, median_us, targets_of

MAX_MARKS = 24
"""More variants than this are no picture any more."""

_LARGEST, _SMALLEST = 17.0, 4.5
"""Radii: the slowest variant's, and the least that can be seen."""

_NAME_CHARACTERS = 26

_OFF_SCALE = 6.0
"""Losses beyond so many budgets are drawn at the edge: they would squeeze those that matter into a line."""


@dataclass(frozen=True, kw_only=True)
class _Point:
    name: str
    size_bytes: int
    loss: float
    time_us: float | None
    front: bool
    chosen: bool
    off_scale: bool = False


def figure(result: PackageResult, findings: Findings, budget: Budget | None) -> Markup | None:
    """The plot with its legend; None where fewer than two variants were measured."""
    bound = budget.in_points(_reference(result, findings)) if budget else None
    points = _points(result, findings, bound)
    if len(points) < 2:
        return None
    label = "Size against loss of each variant: " + "; ".join(
        f"{one.name} {size_text(one.size_bytes)}, {points_text(one.loss)} points" for one in points
    )
    drawings = [
        tag("div", _svg(points, bound, width, height, label), class_=kind)
        for kind, width, height in (("wide", 880, 430), ("narrow", 330, 400))
    ]
    return tag("figure", tag("div", *drawings, _legend(points, bound), class_="plot"), _caption(points))


def _reference(result: PackageResult, findings: Findings) -> float:
    losses = [loss for one in result.variants if (loss := loss_of(findings, one.name)) is not None]
    return min((loss.reference_points for loss in losses), default=100.0)


def _points(result: PackageResult, findings: Findings, bound: float | None) -> list[_Point]:
    """The chosen first, which get the best places for their labels."""
    best = front(result, findings)
    found = []
    for one in result.variants:
        loss = loss_of(findings, one.name)
        if one.status != "ok" or not one.size_bytes or loss is None:
            continue
        found.append(
            _Point(
                name=one.name,
                size_bytes=one.size_bytes,
                loss=loss.points,
                time_us=median_us(one),
                front=one.name in best,
                chosen=bool(targets_of(result, one.name)),
                off_scale=bound is not None and loss.points > _OFF_SCALE * max(bound, 0.1),
            )
        )
    return sorted(found, key=lambda one: (not one.chosen, not one.front, one.size_bytes, one.name))[:MAX_MARKS]


def _svg(points: Sequence[_Point], bound: float | None, width: float, height: float, label: str) -> Markup:
    left, right, top, bottom = 54.0, width - 16.0, 26.0, height - 46.0
    across = Axis(low=0.0, high=max(one.size_bytes for one in points) * 1.12, start=left, end=right)
    up = _loss_axis(points, bound, start=bottom, end=top)
    frame = Box(left=left + 2, top=top, right=right, bottom=bottom - 1)
    # The largest are drawn first, so that none hides another.
    ordered = sorted(points, key=lambda one: -_radius(one, points))
    return tag(
        "svg",
        *_grid(across, up, width),
        *_budget_line(bound, across, up),
        *(_mark(one, across, up, _radius(one, points)) for one in ordered),
        *_labels(points, across, up, frame, bound),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
    )


def _loss_axis(points: Sequence[_Point], bound: float | None, *, start: float, end: float) -> Axis:
    shown = [one.loss for one in points if not one.off_scale] + ([bound] if bound is not None else [])
    low, high = min([0.0, *shown]), max([0.05, *shown])
    margin = (high - low) * 0.14
    return Axis(low=low - (margin if low < 0 else margin / 2), high=high + margin, start=start, end=end)


def _radius(point: _Point, points: Sequence[_Point]) -> float:
    """The area goes with the latency."""
    slowest = max((one.time_us or 0.0 for one in points), default=0.0)
    if not point.time_us or not slowest:
        return 6.0
    return float(max(_SMALLEST, _LARGEST * (point.time_us / slowest) ** 0.5))


def _grid(across: Axis, up: Axis, width: float) -> list[Markup]:
    unit, per = _unit(across.high)
    xs = ticks(0.0, across.high / per, int(width / 95))
    ys = ticks(up.low, up.high, 6)
    x_step, y_step = (values[1] - values[0] if values[1:] else 1.0 for values in (xs, ys))
    drawn = []
    for value in ys:
        y = up.at(value)
        drawn.append(tag("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="grid"))
        drawn.append(
            tag("text", tick_text(value, y_step), x=across.start - 8, y=y + 4, text_anchor="end", class_="quiet")
        )
    for value in xs:
        x = across.at(value * per)
        drawn.append(tag("line", x1=x, x2=x, y1=up.start, y2=up.start + 5, class_="axis"))
        drawn.append(tag("text", tick_text(value, x_step), x=x, y=up.start + 19, text_anchor="middle", class_="quiet"))
    drawn.append(tag("line", x1=across.start, x2=across.end, y1=up.start, y2=up.start, class_="axis"))
    drawn.append(tag("text", f"size, {unit}", x=across.end, y=up.start + 38, text_anchor="end", class_="strong"))
    drawn.append(tag("text", "loss, percentage points", x=2.0, y=13.0, class_="strong"))
    return drawn


def _unit(largest_bytes: float) -> tuple[str, float]:
    return next(
        ((unit, per) for unit, per in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if largest_bytes >= per), ("B", 1.0)
    )


def _budget_line(bound: float | None, across: Axis, up: Axis) -> list[Markup]:
    if bound is None:
        return []
    y = up.at(bound)
    return [
        tag("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="budget"),
        tag("text", _budget_text(bound), x=across.end, y=y - 6, text_anchor="end", class_="warn-text"),
    ]


def _budget_text(bound: float) -> str:
    return f"budget: {bound:.3g} points"


def _mark(point: _Point, across: Axis, up: Axis, radius: float) -> Markup:
    x, y = across.at(point.size_bytes), up.at(point.loss)
    time = f", {time_text(point.time_us)} on this host" if point.time_us else ""
    title = tag("title", f"{point.name}: {size_text(point.size_bytes)}, {points_text(point.loss)} points lost{time}")
    parts = [tag("circle", title, cx=x, cy=y, r=radius, class_=f"dot{' front' if point.front else ''}")]
    if point.chosen:
        parts += [
            tag("circle", cx=x, cy=y, r=radius + 4, class_="ring"),
            tag("circle", cx=x, cy=y, r=2.5, class_="core"),
        ]
    return tag("g", *parts)


def _labels(points: Sequence[_Point], across: Axis, up: Axis, frame: Box, bound: float | None) -> list[Markup]:
    texts = [_label_text(one) for one in points]
    marks = [
        Mark(
            x=across.at(one.size_bytes),
            y=up.at(one.loss),
            radius=_radius(one, points) + (4 if one.chosen else 0),
            width=len(text) * CHARACTER,
        )
        for one, text in zip(points, texts, strict=True)
    ]
    taken = []
    if bound is not None:
        y = up.at(bound)
        taken.append(Box(left=frame.left, top=y - 2, right=frame.right, bottom=y + 2))
        wide = len(_budget_text(bound)) * CHARACTER
        taken.append(Box(left=across.end - wide, top=y - 6 - LINE, right=across.end, bottom=y))
    drawn = []
    for point, text, mark, box in zip(points, texts, marks, place(marks, frame, taken), strict=True):
        drawn += _line_to(mark, box)
        weight = "strong" if point.chosen else None
        # Anchored in the middle of its box: a narrower font leaves the same room on both sides.
        middle = (box.left + box.right) / 2
        if box.left >= mark.x:
            drawn.append(tag("text", text, x=box.left, y=box.bottom - 4, class_=weight))
        elif box.right <= mark.x:
            drawn.append(tag("text", text, x=box.right, y=box.bottom - 4, text_anchor="end", class_=weight))
        else:
            drawn.append(tag("text", text, x=middle, y=box.bottom - 4, text_anchor="middle", class_=weight))
    return drawn


def _label_text(point: _Point) -> str:
    name = shortened(clean(point.name), _NAME_CHARACTERS)
    return f"{name} ↑ {points_text(point.loss)}" if point.off_scale else name


def _line_to(mark: Mark, box: Box) -> list[Markup]:
    """A line from the mark to a label that stands away from it."""
    x, y = leader(mark, box)
    distance = ((x - mark.x) ** 2 + (y - mark.y) ** 2) ** 0.5
    if distance <= mark.radius + LINE:
        return []
    share = mark.radius / distance
    return [
        tag(
            "line",
            x1=mark.x + (x - mark.x) * share,
            y1=mark.y + (y - mark.y) * share,
            x2=x,
            y2=y,
            class_="leader",
        )
    ]


def _symbol(*parts: Markup, side: float = 22.0) -> Markup:
    half = side / 2
    box = f"{-half:g} {-half:g} {side:g} {side:g}"
    return tag("svg", *parts, viewBox=box, width=side, height=side, aria_hidden="true")


def _circle(kind: str, radius: float) -> Markup:
    return tag("circle", cx=0, cy=0, r=radius, class_=kind)


def _legend(points: Sequence[_Point], bound: float | None) -> Markup:
    entries = [
        join((_symbol(_circle("dot front", 6.5)), "on the Pareto front")),
        join((_symbol(_circle("dot", 6.5)), "another one is better in something and worse in nothing")),
        join((_symbol(_circle("ring", 9.0), _circle("core", 2.5)), "chosen")),
    ]
    if bound is not None:
        line = tag("line", x1=-10, x2=10, y1=0, y2=0, class_="budget")
        entries.append(join((_symbol(line), "the most that may be lost")))
    times = sorted(one.time_us for one in points if one.time_us)
    if times:
        scale = [times[0], times[-1]] if times[0] < times[-1] else times[-1:]
        for value in scale:
            radius = max(_SMALLEST, _LARGEST * (value / times[-1]) ** 0.5)
            side = max(22.0, 2 * radius + 4)
            entries.append(join((_symbol(_circle("dot", radius), side=side), f"{time_text(value)} a call")))
    return tag("ul", *(tag("li", entry) for entry in entries), class_="legend")


def _caption(points: Sequence[_Point]) -> Markup:
    said = "Further to the left is smaller, further down loses less."
    if any(one.time_us for one in points):
        said += " The area of a mark goes with its latency on this host: a smaller mark is faster."
    if any(one.off_scale for one in points):
        said += " An arrow stands for a loss beyond the scale."
    return tag("figcaption", said)
