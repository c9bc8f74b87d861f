"""A bench for people: a table, bars where they look at a terminal, and a line that says how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from converter.artifact.bench import Bench, EngineTime

_HEADINGS = (
    *("engine", "variant", "threads", "batch", "median", "p90", "p99", "rows/s"),
    *("bare", "ratio", "added"),
)
_TEXT_COLUMNS = 2

_EIGHTHS = " \N{LEFT ONE EIGHTH BLOCK}\N{LEFT ONE QUARTER BLOCK}\N{LEFT THREE EIGHTHS BLOCK}\N{LEFT HALF BLOCK}"
_EIGHTHS += "\N{LEFT FIVE EIGHTHS BLOCK}\N{LEFT THREE QUARTERS BLOCK}\N{LEFT SEVEN EIGHTHS BLOCK}"
_FULL = "\N{FULL BLOCK}"

_MIN_BAR, _MAX_BAR = 10, 60
"""Columns that the longest bar has."""


def as_text(found: Bench) -> str:
    """A line for each engine and number of rows, what failed below."""
    bare = any(one.ratio is not None for one in found.engines)
    columns = len(_HEADINGS) if bare else _HEADINGS.index("bare")
    rows = [_HEADINGS[:columns], *(_cells(one)[:columns] for one in found.engines)]
    head = f"{found.package} version {found.version} on {found.host or 'this machine'}: warm, one call after another"
    refused = [f"{_subject(one.device, one.variant)}: not timed: {one.reason}" for one in found.refused]
    lines = [head, "", *_aligned(rows), *([""] if refused else []), *refused]
    if bare:
        lines += ["", "bare: the interpreter without a runtime around it, called in turn with the engine"]
    return "\n".join(lines)


def _cells(one: EngineTime) -> tuple[str, ...]:
    return (
        one.device,
        one.variant,
        str(one.threads),
        str(one.rows),
        time_text(one.median_us),
        time_text(one.p90_us),
        time_text(one.p99_us),
        f"{one.rows_per_s:,.0f}" if one.rows_per_s >= 100 else f"{one.rows_per_s:.3g}",
        "" if one.bare_median_us is None else time_text(one.bare_median_us),
        "" if one.ratio is None else f"{one.ratio:.3f}",
        "" if one.added_us is None else time_text(one.added_us),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Each column as wide as its widest cell; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < _TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _subject(device: str, variant: str) -> str:
    return f"{variant} on {device}" if variant else device


def bars(found: Bench, columns: int, *, blocks: bool = True) -> str:
    """The medians of a row as bars, the shortest the fastest; empty where there is nothing to compare.

    Args:
        found: What was timed.
        columns: Of the terminal.
        blocks: Whether it shows block characters; else `#`.
    """
    times = [(_label(one), one.median_us / one.rows) for one in found.engines]
    if len(times) < 2:
        return ""
    longest = max(value_us for _, value_us in times)
    width = max(len(label) for label, _ in times)
    room = min(max(columns - width - 14, _MIN_BAR), _MAX_BAR)
    lines = [
        f"{label.ljust(width)}  {time_text(value_us).rjust(8)}  {_bar(value_us / longest * room, blocks=blocks)}"
        for label, value_us in times
    ]
    return "\n".join(["median of a row", "", *lines])


def _label(one: EngineTime) -> str:
    threads = f", {one.threads} threads" if one.threads > 1 else ""
    batch = f", batch {one.rows}" if one.rows > 1 else ""
    return f"{_subject(one.device, one.variant)}{threads}{batch}"


def _bar(length: float, *, blocks: bool) -> str:
    if not blocks:
        return "#" * max(round(length), 1)
    eighths = max(round(length * 8), 1)
    return (_FULL * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def time_text(value_us: float) -> str:
    """1234.5 -> `1.23 ms`; also of less than nothing, which noise makes of a small difference."""
    value, unit = value_us, "\N{MICRO SIGN}s"
    for larger in ("ms", "s"):
        if abs(value) < 1_000:
            break
        value, unit = value / 1_000, larger
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


class ProgressLine:
    """One line that is written over and over, where a terminal shows it; else nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        """Takes where to write; None or what is no terminal for nowhere."""
        self._stream = stream if stream is not None and stream.isatty() else None
        self._shown = 0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Shows how many are done, of how many, and what is under way; clears the line when nothing is."""
        if self._stream is None:
            return
        line = f"[{done + 1}/{total}] {what}" if what else ""
        self._stream.write("\r" + line.ljust(self._shown) + ("" if line else "\r"))
        self._stream.flush()
        self._shown = len(line)
