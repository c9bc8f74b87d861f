"""Reads what edgetpu_compiler says: a section for each file that it wrote, with a table of operators. Pure.

Model compiled successfully in 1379 ms.
Input model: model.tflite
On-chip memory used for caching model parameters: 1.92MiB
On-chip memory remaining for caching model parameters: 1.75KiB
Off-chip memory used for streaming uncached model parameters: 3.23MiB
Operator                       Count      Status
ADD                            10         Mapped to Edge TPU
LOGISTIC                       1          More than one subgraph is not supported
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MAPPED = "Mapped to Edge TPU"

_ROW = re.compile(r"^(?P<operator>[A-Z][A-Z0-9_]*|[\w-]+)\s{2,}(?P<count>\d+)\s+(?P<status>\S.*)$")
_SIZE = re.compile(
    r"^(?P<what>.+ for (?:caching|streaming).* model parameters): (?P<number>[\d.]+)(?P<unit>[KMG]?i?B)$"
)
_VERSION = re.compile(r"^Edge TPU Compiler version (?P<version>\S+)")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FAULTS = ("ERROR:", "Compilation failed: ", "Internal compiler error", "Invalid model", "Model not quantized")
_GENERAL = ("ERROR: Registration failed", "ERROR: Restored original execution plan")
"""Faults that say nothing: what failed was said in another line."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: so many operators of one kind with one status."""

    operator: str
    count: int
    status: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is said of one file.

    Attributes:
        rows: The table's.
        on_chip_bytes: Parameters in the on-chip memory.
        remaining_bytes: What is left of it.
        streamed_bytes: Parameters that go over the bus at every inference.
    """

    rows: tuple[Row, ...]
    on_chip_bytes: int
    remaining_bytes: int
    streamed_bytes: int


def sections(log: str) -> tuple[Section, ...]:
    """The sections in their order; none where nothing was compiled."""
    starts = [found.start() for found in re.finditer(r"^Input model:", log, re.MULTILINE)]
    return tuple(_section(log[start:stop]) for start, stop in pairwise([*starts, len(log)]))


def _section(text: str) -> Section:
    rows, sizes = [], {}
    for line in map(str.strip, text.splitlines()):
        if row := _ROW.match(line):
            rows.append(Row(operator=row["operator"], count=int(row["count"]), status=row["status"].strip()))
        elif size := _SIZE.match(line):
            sizes[size["what"].partition(" for ")[0]] = round(float(size["number"]) * _UNITS.get(size["unit"], 1))
    return Section(
        rows=tuple(rows),
        on_chip_bytes=sizes.get("On-chip memory used", 0),
        remaining_bytes=sizes.get("On-chip memory remaining", 0),
        streamed_bytes=sizes.get("Off-chip memory used", 0),
    )


def version(log: str) -> str:
    """The compiler's version; empty where the log does not say it."""
    found = next((match for line in log.splitlines() if (match := _VERSION.match(line))), None)
    return found["version"] if found else ""


def fault(log: str) -> str:
    """The line that says best what went wrong: the first that names a fault, else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(_FAULTS)]
    telling = [line for line in named if not line.startswith(_GENERAL)]
    return (telling or named or lines[-1:] or ["it wrote nothing"])[0]


def statuses(names: Sequence[str], foretold: Sequence[bool], rows: Sequence[Row]) -> list[str]:
    """A reason for each operator, empty for those on the Edge TPU.

    The table counts by kind and does not say which. Of one kind, those that the rules take come first, and of these
    the earlier ones: the part on the Edge TPU is the graph's beginning.

    Args:
        names: The operators, in the order of execution.
        foretold: Whether the rules take each.
        rows: The table.
    """
    reasons = ["the compiler's log does not name it"] * len(names)
    for name in sorted(set(names)):
        places = [place for place, one in enumerate(names) if one == name]
        places.sort(key=lambda place: (not foretold[place], place))
        own = sorted((row for row in rows if row.operator == name), key=lambda row: row.status != MAPPED)
        told = ["" if row.status == MAPPED else row.status for row in own for _ in range(row.count)]
        for place, reason in zip(places, told, strict=False):
            reasons[place] = reason
    return reasons
