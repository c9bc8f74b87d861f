"""What `edge-run top` shows of a runtime: snapshots in, lines out. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edge_runtime.figures import added, bytes_text, count_text, duration_text, known_text, quantile_text, since
from edge_runtime.screen_text import Line, Piece, line, table
from edge_runtime.snapshot import Snapshot
from edge_runtime.telemetry import (
    ClimateStats,
    FetchStats,
    Histogram,
    ModelStats,
    RuntimeStats,
    ServerStats,
    TrustStats,
)

KEPT = 61
"""Snapshots that are looked at: at one a second, the curve of a minute."""

WINDOW = 5
"""Rates and percentiles are of so many steps: of one alone they would jump."""

_LEAST_S = 1e-9
"""Between two snapshots, where a rate is reckoned: whoever is looked at may say anything."""

_STYLES = {
    "ready": "good",
    "closed": "good",
    "standby": "dim",
    "untrusted": "bad",
    "unproved": "fair",
    "starting": "fair",
    "half-open": "fair",
    "unhealthy": "bad",
    "refused": "bad",
    "open": "bad",
    "unreachable": "bad",
}
"""Of engines and breakers."""

_BLOCKS = "\N{LOWER ONE EIGHTH BLOCK}\N{LOWER ONE QUARTER BLOCK}\N{LOWER THREE EIGHTHS BLOCK}\N{LOWER HALF BLOCK}"
_BLOCKS += "\N{LOWER FIVE EIGHTHS BLOCK}\N{LOWER THREE QUARTERS BLOCK}\N{LOWER SEVEN EIGHTHS BLOCK}\N{FULL BLOCK}"
_MOST_SERVED = 8
"""Models of a server that are named."""

_MOST_UNTRUSTED = 5
"""Servers that are not trusted and are named."""


class View(NamedTuple):
    """What is shown: `head` stays where it is, `body` may be longer than the screen."""

    head: list[Line]
    body: list[Line]


class _Span(NamedTuple):
    """Two snapshots of one process; `before` None: everything since its start."""

    now: Snapshot
    before: Snapshot | None

    @property
    def seconds(self) -> float:
        return 0.0 if self.before is None else max(self.now.taken_s - self.before.taken_s, _LEAST_S)

    def rate(self, now: float, before: float) -> str:
        """How often a second; since the start, how often."""
        if self.before is None:
            return count_text(now)
        return count_text(max(now - before, 0) / self.seconds)  # A version that was loaded anew counts from 0.


def view(history: Sequence[Snapshot], address: str, *, blocks: bool = True) -> View:
    """The view of the latest snapshot, with rates from those before it.

    Args:
        history: Snapshots of one address, the oldest first; at least one.
        address: `host:port` of the metrics.
        blocks: Whether the terminal has the letters for a curve.
    """
    history = _of_one_process(history)[-KEPT:]
    now = history[-1]
    before = history[max(len(history) - 1 - WINDOW, 0)] if len(history) > 1 else None
    span = _Span(now, before)
    stats, old = now.stats, RuntimeStats() if before is None else before.stats
    answers = _answers(stats.models, old.models)
    errors = _errors(stats.models, old.models)
    head = [
        line(*_title(history, address)),
        line(*_totals(span, answers, errors, _curve(history) if blocks else "")),
        *_climate(stats.climate),
    ]
    parts = (
        _models(span, stats, old, answers),
        _places(span, answers),
        _servers(span, stats, answers),
        _untrusted(stats.trust),
        _fetch(span, stats.fetch, old.fetch),
        _engines(stats.models),
        _failures(span, errors),
    )
    body = [each for part in parts if part for each in (line(""), *part)]
    return View(head, body or [line(""), line("no model has been asked for yet")])


def _of_one_process(history: Sequence[Snapshot]) -> Sequence[Snapshot]:
    """Those after the last restart: another process, or a clock or counters that went back."""
    begin = 0
    for index in range(1, len(history)):
        old, new = history[index - 1], history[index]
        if (
            old.process.pid != new.process.pid
            or new.taken_s <= old.taken_s
            or _requests(new.stats) < _requests(old.stats)
        ):
            begin = index
    return history[begin:]


class _Key(NamedTuple):
    model: str
    version: int | None
    place: str
    reason: str


def _answers(now: Iterable[ModelStats], before: Iterable[ModelStats]) -> dict[_Key, tuple[Histogram, int]]:
    """By model, version, place and reason: the latencies of the span, and the answers since the start."""
    old = _latencies(before)
    return {key: (since(latency, old.get(key)), latency.count) for key, latency in _latencies(now).items()}


def _latencies(models: Iterable[ModelStats]) -> dict[_Key, Histogram]:
    found: dict[_Key, Histogram] = {}
    for model in models:
        for one in model.answered:
            key = _Key(model.model, model.version, one.place, one.reason)
            found[key] = added([found[key], one.latency]) if key in found else one.latency
    return found


def _errors(now: Iterable[ModelStats], before: Iterable[ModelStats]) -> dict[tuple[str, str], tuple[int, int]]:
    """By version and kind: how many since the start, and how many of these before the span."""
    old: dict[tuple[str, str], int] = {}
    for model in before:
        for kind, count in model.errors.items():
            old[_name(model), kind] = old.get((_name(model), kind), 0) + count
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for model in now:
        for kind, count in model.errors.items():
            key = (_name(model), kind)
            found[key] = (found.get(key, (0, 0))[0] + count, old.get(key, 0))
    return found


def _title(history: Sequence[Snapshot], address: str) -> list[str | Piece]:
    process = history[-1].process
    said: list[str] = [f"pid {process.pid}"]
    if process.up_s is not None:
        said.append(f"up {duration_text(process.up_s)}")
    if len(history) > 1:
        spent_s = history[-1].process.cpu_s - history[-2].process.cpu_s
        said.append(f"cpu {100 * spent_s / max(history[-1].taken_s - history[-2].taken_s, _LEAST_S):.0f} %")
    if process.resident_bytes is not None:
        said.append(f"{process.resident_bytes / 2**20:.0f} MiB")
    return [("edge-run top", "bold"), f"  {address}  ", (process.program or "?", "name"), f"  {', '.join(said)}"]


def _totals(
    span: _Span,
    answers: dict[_Key, tuple[Histogram, int]],
    errors: dict[tuple[str, str], tuple[int, int]],
    curve: str,
) -> list[str | Piece]:
    latency = added(latency for latency, _ in answers.values())
    count, failed = latency.count, sum(now - before for now, before in errors.values())
    unit = "" if span.before is None else "/s"
    per = span.seconds or 1.0
    said: list[str | Piece] = [(f"{count_text(count / per)}{unit}", "bold"), " requests, "]
    said.append((f"{count_text(failed / per)}{unit} errors", "bad" if failed else ""))
    if count:
        shares = ("p50", 0.5), ("p95", 0.95), ("p99", 0.99)
        said.append(f"   {'  '.join(f'{name} {quantile_text(latency, share)}' for name, share in shares)} ms")
    return [*said, "   ", (curve, "name")]


def _curve(history: Sequence[Snapshot]) -> str:
    """Requests a second, a block for each step."""
    rates = [
        max(_requests(new.stats) - _requests(old.stats), 0) / max(new.taken_s - old.taken_s, _LEAST_S)
        for old, new in itertools.pairwise(history)
    ]
    most = max(rates, default=0.0)
    return "".join(_BLOCKS[round(rate / most * (len(_BLOCKS) - 1))] for rate in rates) if most else ""


def _climate(climate: ClimateStats) -> list[Line]:
    slow = {name: factor for name, factor in climate.factors.items() if factor > 1.0}
    said: list[str | Piece] = []
    for sensor in climate.sensors:
        hot = any(sensor.celsius >= trip for trip in sensor.trips_celsius)
        said += [f"{'' if not said else '  '}{_sensor(sensor.kind, sensor.source)} "]
        said += [(f"{sensor.celsius:.1f} °C", "bad" if hot else "")]
    if climate.clock_mhz is not None:
        allowed, most = climate.clock_mhz
        said += ["  clock " if said else "clock ", (f"{allowed:.0f} of {most:.0f} MHz", "fair" if slow else "")]
    lines = [line(*said)] if said else []
    if slow:
        told = ", ".join(f"{name} runs take {factor:.2f} x" for name, factor in slow.items())
        lines.append(line(("throttled: " + told, "bad")))
    if climate.firmware:
        now = [name for name in climate.firmware if not name.startswith("seen_")]
        lines.append(line((f"firmware: {', '.join(climate.firmware)}", "bad" if now else "fair")))
    return lines


def _sensor(kind: str, source: str) -> str:
    return source if kind == "edgetpu" or not kind else kind


def _models(
    span: _Span, stats: RuntimeStats, old: RuntimeStats, answers: dict[_Key, tuple[Histogram, int]]
) -> list[Line]:
    before = {(one.model, one.version): one for one in old.models}
    rows: list[list[str | Piece]] = []
    for model in stats.models:
        own = [latency for key, (latency, _) in answers.items() if key[:2] == (model.model, model.version)]
        latency = added(own)
        earlier = before.get((model.model, model.version))
        failed = sum(model.errors.values()), sum(earlier.errors.values()) if earlier else 0
        rows.append(
            [
                (_name(model), "name"),
                span.rate(latency.count, 0),
                quantile_text(latency, 0.5),
                quantile_text(latency, 0.95),
                (span.rate(*failed), "bad" if failed[0] > failed[1] else ""),
                *_queue(span, model, earlier),
            ]
        )
    unit = _unit(span)
    queue = ("WAITING", "RUNNING", "ROWS/RUN", f"TOO LATE{unit}")
    headings = ("MODEL", f"REQUESTS{unit}", "P50 ms", "P95 ms", f"ERRORS{unit}", *queue)
    return table(headings, rows, right=range(1, len(headings)))


def _queue(span: _Span, model: ModelStats, earlier: ModelStats | None) -> list[str | Piece]:
    queue, before = model.queue, None if earlier is None else earlier.queue
    if queue is None:
        return ["-", "remote", "-", "-"]
    runs, rows = _run(queue.batches), sum(rows * count for rows, count in queue.batches.items())
    lost = queue.dropped + queue.expired + queue.refused
    lost_before = 0
    if before is not None:
        runs -= _run(before.batches)
        rows -= sum(size * count for size, count in before.batches.items())
        lost_before = before.dropped + before.expired + before.refused
    return [
        (str(queue.queued), "fair" if queue.queued else ""),
        f"{queue.running} of {queue.slots}" + (f" (+{queue.standby})" if queue.standby else ""),
        f"{rows / runs:.1f}" if runs > 0 else "-",
        (span.rate(lost, lost_before), "bad" if lost > lost_before else ""),
    ]


def _run(batches: dict[int, int]) -> int:
    return sum(batches.values())


def _places(span: _Span, answers: dict[_Key, tuple[Histogram, int]]) -> list[Line]:
    found: dict[tuple[str, str], tuple[list[Histogram], int]] = {}
    for key, (latency, count) in answers.items():
        latencies, total = found.setdefault((key.place, key.reason), ([], 0))
        found[key.place, key.reason] = ([*latencies, latency], total + count)
    merged = {key: (added(latencies), count) for key, (latencies, count) in found.items()}
    everything = sum(latency.count for latency, _ in merged.values())
    rows: list[list[str | Piece]] = [
        [
            place,
            (reason, "" if reason == "local" else "fair"),
            span.rate(latency.count, 0),
            f"{100 * latency.count / everything:.1f} %" if everything else "-",
            quantile_text(latency, 0.5),
            quantile_text(latency, 0.95),
            count_text(total),
        ]
        # By what changes slowly: lines that change places with each look can't be read.
        for (place, reason), (latency, total) in sorted(merged.items(), key=lambda item: (-item[1][1], item[0]))
    ]
    headings = ("ANSWERED BY", "WHY", f"REQUESTS{_unit(span)}", "SHARE", "P50 ms", "P95 ms", "TOTAL")
    return table(headings, rows, right=range(2, len(headings)))


def _servers(span: _Span, stats: RuntimeStats, answers: dict[_Key, tuple[Histogram, int]]) -> list[Line]:
    known = {one.address: one for one in stats.endpoints}
    for address, state in stats.servers.items():
        known.setdefault(address, ServerStats(address=address, state=state))
    rows: list[list[str | Piece]] = []
    for address, one in sorted(known.items()):
        answered = sum(latency.count for key, (latency, _) in answers.items() if key.place == f"server:{address}")
        rows.append(
            [
                address,
                (_state(one), _STYLES.get(one.state if one.unreachable_s is None else "unreachable", "")),
                str(one.in_flight),
                span.rate(answered, 0),
                known_text(one.round_trip_ms),
                "-" if one.bandwidth_bytes_s is None else bytes_text(one.bandwidth_bytes_s),
                known_text(one.wait_ms),
                _served(one.serves),
            ]
        )
    unit = _unit(span)
    headings = ("SERVER", "STATE", "IN FLIGHT", f"ANSWERS{unit}", "ROUND TRIP ms", "BYTES/s", "TAKES ms", "SERVES")
    return table(headings, rows, right=range(2, 7))


def _untrusted(trust: TrustStats) -> list[Line]:
    """Those that were announced or named and are asked nothing, the latest first."""
    latest = trust.untrusted[::-1]
    rows: list[list[str | Piece]] = [
        [one.address, (one.reason, "bad"), count_text(one.times), f"{duration_text(one.ago_s)} ago", one.name, one.said]
        for one in latest[:_MOST_UNTRUSTED]
    ]
    found = table(("NOT TRUSTED", "WHY", "TIMES", "LAST", "ANNOUNCED AS", "BECAUSE"), rows, right=(2, 3))
    if len(latest) > _MOST_UNTRUSTED:
        found.append(line(f"and {len(latest) - _MOST_UNTRUSTED} more"))
    if trust.dropped:
        found.append(line(f"{count_text(trust.dropped)} announcements came faster than they are looked at"))
    if trust.files:
        found.append(line((f"files for TLS as they are now are not in force: {trust.files}", "bad")))
    return found


def _fetch(span: _Span, fetch: FetchStats | None, before: FetchStats | None) -> list[Line]:
    if fetch is None:
        return []
    pace = "-"
    if before is not None and (before.model, before.version) == (fetch.model, fetch.version):
        pace = bytes_text(max(fetch.held_bytes - before.held_bytes, 0) / span.seconds)
    row: list[str | Piece] = [
        (f"{fetch.model}/{fetch.version}", "name"),
        fetch.server,
        (fetch.state, "fair"),
        bytes_text(fetch.held_bytes),
        bytes_text(fetch.total_bytes),
        f"{100 * fetch.held_bytes / fetch.total_bytes:.0f} %" if fetch.total_bytes > 0 else "-",
        pace,
    ]
    return table(("FETCHED", "FROM", "STATE", "HAS COME", "OF", "SHARE", "BYTES/s"), [row], right=(3, 4, 5, 6))


def _state(server: ServerStats) -> str:
    if server.unreachable_s is None:
        return server.state
    also = "" if server.state == "unreachable" else f"{server.state}, "
    return f"{also}unreachable {duration_text(server.unreachable_s)}"


def _served(serves: dict[str, tuple[int, ...]] | None) -> str:
    if serves is None:
        return "not known"
    named = [f"{name}/{','.join(map(str, versions))}" for name, versions in sorted(serves.items()) if versions]
    more = f" and {len(named) - _MOST_SERVED} more" if len(named) > _MOST_SERVED else ""
    return (" ".join(named[:_MOST_SERVED]) + more) or "nothing"


def _engines(models: Iterable[ModelStats]) -> list[Line]:
    rows: list[list[str | Piece]] = []
    for model in models:
        for one in model.engines:
            report, faults = one.report, one.faults
            lost = faults.crashed + faults.stuck + faults.vanished
            rows.append(
                [
                    (_name(model), "name"),
                    report.device,
                    (report.state, _STYLES.get(report.state, "")),
                    report.variant or "-",
                    str(report.threads),
                    "worker" if report.isolation == "process" else "here",
                    (str(faults.failed), "bad" if faults.failed else ""),
                    (str(lost), "bad" if lost else ""),
                    str(faults.restarts),
                    report.reason,
                ]
            )
    headings = ("MODEL", "DEVICE", "STATE", "VARIANT", "THREADS", "RUNS", "FAILED", "LOST", "BACK", "WHY NOT READY")
    return table(headings, rows, right=(4, 6, 7, 8))


def _failures(span: _Span, errors: dict[tuple[str, str], tuple[int, int]]) -> list[Line]:
    rows: list[list[str | Piece]] = [
        [(name, "name"), kind, span.rate(now, before), count_text(now)]
        for (name, kind), (now, before) in errors.items()
    ]
    return table(("MODEL", "ERROR", f"ERRORS{_unit(span)}", "TOTAL"), rows, right=(2, 3))


def _requests(stats: RuntimeStats) -> int:
    return sum(model.requests for model in stats.models)


def _name(model: ModelStats) -> str:
    return f"{model.model}/{'latest' if model.version is None else model.version}"


def _unit(span: _Span) -> str:
    return "" if span.before is None else "/s"
