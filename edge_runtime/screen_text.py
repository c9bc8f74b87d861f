"""Lines of styled pieces, and tables of them, cut to a terminal's width. Pure, but for `prepared`."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Sequence
from typing import TextIO

Piece = tuple[str, str]
"""A text and its style; an empty one for none."""

Line = tuple[Piece, ...]

STYLES = {
    "bold": "1",
    "dim": "2",
    "heading": "7",
    "good": "32",
    "fair": "33",
    "bad": "31",
    "name": "36",
}
"""The parameters of `ESC [ ... m` (ECMA-48, SGR)."""

_WIDE = frozenset("WF")
"""Letters that take two columns (Unicode's East_Asian_Width)."""

_GAP = "  "
_MOST_CHARS = 512
"""Of a cell: terminals are not wider, and what is told may be of any length."""


def plain(text: str) -> str:
    """A text that moves no cursor: what does not print, of whatever origin, is a question mark."""
    text = text[:_MOST_CHARS]
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def line(*pieces: str | Piece) -> Line:
    """A line of texts, each alone or with its style."""
    return tuple((plain(one), "") if isinstance(one, str) else (plain(one[0]), one[1]) for one in pieces)


def table(headings: Sequence[str], rows: Sequence[Sequence[str | Piece]], *, right: Sequence[int] = ()) -> list[Line]:
    """The lines of a table, the heading first; nothing where there are no rows.

    Args:
        headings: Of the columns.
        rows: Cells, each alone or with its style.
        right: The columns that are set to the right.
    """
    if not rows:
        return []
    cells = [line(*row) for row in rows]
    widths = [max(_width(headings[index]), *(_width(row[index][0]) for row in cells)) for index in range(len(headings))]
    heading = tuple((name, "heading") for name in headings)
    return [_set(row, widths, right, style) for row, style in ((heading, "heading"), *((row, "") for row in cells))]


def width(text: Line) -> int:
    """How many columns a line takes, without blanks at its end."""
    return _width("".join(part for part, _ in text).rstrip())


def shown(text: Line, columns: int | None, *, colours: bool, begin: int = 0) -> str:
    """A line as it is written, cut to so many columns (None: not cut), from the column `begin` on."""
    room = columns
    out = []
    for whole, style in text:
        part = whole
        if begin:
            part, begin = _without(whole, begin), max(begin - _width(whole), 0)
        piece = part if room is None else _cut(part, room)
        if room is not None:
            room -= _width(piece)
        code = STYLES.get(style) if colours else None
        out.append(f"\x1b[{code}m{piece}\x1b[0m" if code and piece else piece)
    said = "".join(out)
    return said if colours else said.rstrip()


def prepared(out: TextIO) -> bool:
    """Makes an output take any text: what its encoding has no letter for is a question mark there.

    Returns:
        Whether it is to have colours: a terminal, unless the environment says otherwise (https://no-color.org).
    """
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")
    return out.isatty() and not os.environ.get("NO_COLOR") and can_draw()


def can_draw() -> bool:
    """Whether the terminal heeds control sequences: not where `TERM` is `dumb`, or says nothing."""
    return os.environ.get("TERM", "") not in {"", "dumb"}


def _set(row: Line, widths: Sequence[int], right: Sequence[int], gap_style: str) -> Line:
    out: list[Piece] = []
    for index, ((text, style), width) in enumerate(zip(row, widths, strict=True)):
        room = " " * (width - _width(text))
        if index:
            out.append((_GAP, gap_style))
        out.append((room + text if index in right else text + room, style))
    return tuple(out)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in _WIDE else 1 for each in text)


def _cut(text: str, columns: int) -> str:
    if len(text) * 2 <= columns or _width(text) <= columns:
        return text
    kept, used = [], 0
    for each in text:
        used += _width(each)
        if used > columns:
            break
        kept.append(each)
    return "".join(kept)


def _without(text: str, columns: int) -> str:
    """What is right of so many columns; of a letter that is cut through, a blank."""
    for index, each in enumerate(text):
        if columns <= 0:
            return " " * -columns + text[index:]
        columns -= _width(each)
    return " " * -columns if columns < 0 else ""
