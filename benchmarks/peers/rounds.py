"""Measures servers in turn, round after round, and makes ratios of what was measured next to each other."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.peers.loads import Load

Key = tuple[str, str]
"""A server's name and a load's."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Row:
    """A target.

    Attributes:
        text: What is compared.
        load: The load's name.
        ours: The server's name.
        theirs: The others': the ratio is to the best of them.
        figure: An attribute of `Load`.
        target: The ratio that is wanted.
        at_most: Whether it is an upper bound.
    """

    text: str
    load: str
    ours: str
    theirs: tuple[str, ...]
    figure: str = "rate"
    target: float
    at_most: bool = False


@dataclass
class Rounds:
    """What was measured.

    Attributes:
        loads: A list a server and load, one item a round.
        absent: Why a server was not measured.
        left_out: Why a load was not measured, of any server.
        broken: What became of a measurement that failed.
        failed: Whether one was not that could have been.
    """

    loads: dict[Key, list[Load]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    broken: dict[Key, str] = field(default_factory=dict)
    failed: bool = False

    def measure(
        self, ways: Mapping[Key, Callable[[], Load]], rounds: int, before: Callable[[], None] = _nothing
    ) -> None:
        """Each way once a round, in an order that turns round: whoever came first comes last.

        One that fails is not measured again, and nothing of it is kept: rounds are compared with each other.

        Args:
            ways: How each is measured; those of one load should follow each other.
            rounds: How often.
            before: Called before each measurement.
        """
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for load in dict.fromkeys(load for _, load in ways):
                keys = [key for key in ways if key[1] == load]
                for key in keys if number % 2 == 0 else reversed(keys):
                    if key not in self.broken:
                        before()
                        self._add(key, ways[key])

    def _add(self, key: Key, way: Callable[[], Load]) -> None:
        try:
            self.loads.setdefault(key, []).append(way())
        except Exception as error:  # noqa: BLE001  whatever one server does, the others are measured
            print(f"{key[0]}, {key[1]}: {error!r}", file=sys.stderr)
            self.broken[key] = f"FAILED: {_first_line(error)}"
            self.loads.pop(key)
            self.failed = True

    def median(self, server: str, load: str, figure: str) -> float | None:
        """Over the rounds; None where it was not measured."""
        values = [getattr(one, figure) for one in self.loads.get((server, load), ())]
        return statistics.median(values) if values and None not in values else None

    def ratio(self, row: Row) -> float | None:
        """The median of the rounds' ratios to whoever of the others is best; None where one side was not measured."""
        ratios = [self._ratio(row, other) for other in row.theirs]
        known = [ratio for ratio in ratios if ratio is not None]
        if not known or len(known) < len(ratios):
            return None
        return max(known) if row.at_most else min(known)

    def why_not(self, row: Row) -> str:
        """What of a row's servers could not be measured."""
        names = (row.ours, *row.theirs)
        told = [self.absent[name] for name in names if name in self.absent]
        told += [self.broken[name, row.load] for name in names if (name, row.load) in self.broken]
        return "; ".join(dict.fromkeys(told or [self.left_out.get(row.load, "")]))

    def failures(self, server: str, load: str) -> int:
        """Requests that were not answered well, over the rounds."""
        return sum(one.failed for one in self.loads.get((server, load), ()))

    def _ratio(self, row: Row, other: str) -> float | None:
        ours, theirs = self.loads.get((row.ours, row.load)), self.loads.get((other, row.load))
        if not ours or not theirs:
            return None
        pairs = zip(ours, theirs, strict=True)
        return statistics.median(getattr(one, row.figure) / getattr(two, row.figure) for one, two in pairs)


def table(rounds: Rounds, rows: Iterable[Row]) -> list[str]:
    """The targets, as lines of Markdown."""
    lines = ["| what | ours | theirs | ratio | target | |", "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = rounds.ratio(row)
        bound = f"{'at most' if row.at_most else 'at least'} {row.target:g}"
        if ratio is None:
            lines.append(f"| {row.text} | - | - | not there | {bound} | {rounds.why_not(row)} |")
            continue
        met = ratio <= row.target if row.at_most else ratio >= row.target
        ours = _figure(rounds.median(row.ours, row.load, row.figure), row.figure)
        theirs = ", ".join(_figure(rounds.median(other, row.load, row.figure), row.figure) for other in row.theirs)
        verdict = "met" if met else "NOT met"
        for name in (row.ours, *row.theirs):
            if failed := rounds.failures(name, row.load):
                verdict += f"; {failed} requests of {name} failed"
        lines.append(f"| {row.text} | {ours} | {theirs} | {ratio:.2f} | {bound} | {verdict} |")
    return lines


def figures(rounds: Rounds, servers: Sequence[str], loads: Sequence[str]) -> list[str]:
    """Every server's medians, as lines of Markdown."""
    lines = [
        "| server | " + " | ".join(f"{load}: req/s, p50/p95/p99 ms" for load in loads) + " | CPU a request |",
        "|---|" + "---|" * (len(loads) + 1),
    ]
    for server in servers:
        if server in rounds.absent:
            lines.append(f"| {server} | not there: {rounds.absent[server]} |" + " |" * len(loads))
            continue
        cells, cpu = [], "-"
        for load in loads:
            rate = rounds.median(server, load, "rate")
            if rate is None:
                cells.append(rounds.broken.get((server, load), "-"))
                continue
            late = [rounds.median(server, load, figure) or 0.0 for figure in ("p50_ms", "p95_ms", "p99_ms")]
            failed = rounds.failures(server, load)
            cells.append(
                f"{rate:.0f}, {late[0]:.2f}/{late[1]:.2f}/{late[2]:.2f}" + (f"; {failed} FAILED" if failed else "")
            )
            if (used_us := rounds.median(server, load, "cpu_us")) is not None:
                cpu = f"{used_us:.0f} us"
        lines.append(f"| {server} | {' | '.join(cells)} | {cpu} |")
    return lines


def _first_line(error: Exception) -> str:
    """What a cell of a table can hold of an error."""
    return (str(error).strip().split("\n", 1)[0][:200] or type(error).__name__).replace("|", "/")


def _figure(value: float | None, figure: str) -> str:
    if value is None:
        return "-"
    return {"rate": f"{value:.0f}/s", "cpu_us": f"{value:.0f} us"}.get(figure, f"{value:.2f} ms")
