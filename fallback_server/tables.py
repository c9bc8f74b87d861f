"""Tables as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def aligned(
    rows: Sequence[Sequence[str]], *, paint: Callable[[str], str] = str, right: Sequence[int] = ()
) -> list[str]:
    """Rows as lines whose columns stand below each other; the first row is the heading.

    Args:
        rows: All of the same length.
        paint: Wraps a cell in what takes no room, such as a colour.
        right: The columns that are set to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            room = " " * (width - len(cell))
            cells.append(room + paint(cell) if index in right else paint(cell) + room)
        lines.append("  ".join(cells).rstrip())
    return lines
