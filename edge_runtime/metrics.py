"""Prometheus, for whoever asks for it: a runtime's stats in the text exposition format, and a server to scrape.

    with Runtime.open("packages/") as runtime, serve_metrics(runtime, "127.0.0.1:9101"):
        ...

Everything is read when it is scraped; requests pay nothing for it. Format 0.0.4:
https://prometheus.io/docs/instrumenting/exposition_formats/. At `/stats` the same server has all of it as JSON: see
`edge_runtime.snapshot`.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from edge_runtime import snapshot
from edge_runtime.errors import EdgeRuntimeError, InvalidConfig
from edge_runtime.telemetry import (
    BUCKETS_S,
    Answers,
    ClimateStats,
    EngineStats,
    Histogram,
    ModelStats,
    RuntimeStats,
    ServerStats,
    TrustStats,
)

if TYPE_CHECKING:
    from edge_runtime.metrics_server import Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TEXT = "text/plain; charset=utf-8"

STATES = ("ready", "standby", "starting", "unhealthy", "refused")
"""Of `EngineReport.state`."""

_log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")

Labels = Mapping[str, str]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One value. Labels that are empty count as absent, as Prometheus has it."""

    value: float
    labels: dict[str, str]
    suffix: str = ""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A metric with all its samples."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


class HasStats(Protocol):
    """A runtime."""

    def stats(self) -> RuntimeStats:
        """Its counters now."""
        ...


def is_address(text: str) -> bool:
    """Whether it is `host:port`, IPv6 in brackets."""
    match = _ADDRESS.fullmatch(text)
    return match is not None and int(match["port"]) <= 65_535


def prometheus_text(stats: RuntimeStats) -> str:
    """The stats as the body of an answer to a scrape. Pure."""
    return "".join(_rendered(family) for family in families(stats) if family.samples)


def families(stats: RuntimeStats) -> list[Family]:
    """The metrics, for programs that feed another collector. Pure."""
    models = stats.models
    breakers = (Sample(value=1, labels={"server": name, "state": state}) for name, state in stats.servers.items())
    return [
        *_requests(models),
        *_queues(models),
        *_engines(models),
        Family(
            name="edge_server_breaker",
            kind="gauge",
            help="1 for the state of a server's breaker; closed is the healthy one, and unreachable if nobody answers.",
            samples=tuple(breakers),
        ),
        *_servers(stats.endpoints),
        *_trust(stats.trust),
        *_climate(stats.climate),
    ]


def _requests(models: Iterable[ModelStats]) -> Iterator[Family]:
    answered = [(_of(model), one) for model in models for one in model.answered]
    yield Family(
        name="edge_requests_total",
        kind="counter",
        help="Requests that were answered, by the device or server that answered and why it did.",
        samples=tuple(
            Sample(value=one.requests, labels=labels | _place(one.place) | {"reason": one.reason})
            for labels, one in answered
        ),
    )
    yield Family(
        name="edge_request_errors_total",
        kind="counter",
        help="Requests that failed, by kind of error.",
        samples=tuple(
            Sample(value=count, labels=_of(model) | {"kind": kind})
            for model in models
            for kind, count in model.errors.items()
        ),
    )
    yield Family(
        name="edge_request_duration_seconds",
        kind="histogram",
        help="From the call to the answer.",
        samples=tuple(
            sample
            for model in models
            for place, latency in _by_place(model.answered).items()
            for sample in _histogram(latency, _of(model) | _place(place))
        ),
    )


_QUEUE = (
    ("edge_queue_requests", "gauge", "Requests that wait for the device.", "queued"),
    ("edge_queue_rows", "gauge", "Rows of the requests that wait.", "queued_rows"),
    ("edge_queue_bytes", "gauge", "Bytes of the inputs of the requests that wait.", "queued_bytes"),
    ("edge_slots", "gauge", "Engines in use.", "slots"),
    ("edge_slots_running", "gauge", "Engines that run now.", "running"),
    ("edge_slots_standby", "gauge", "Engines that stand by.", "standby"),
    ("edge_device_requests_total", "counter", "Requests that the device took.", "requests"),
    ("edge_device_rows_total", "counter", "Rows of the requests that the device took.", "rows"),
    ("edge_device_failures_total", "counter", "Requests that ended with an engine's error.", "failed"),
    ("edge_requests_refused_total", "counter", "Requests that found the device's queue full.", "refused"),
    ("edge_requests_dropped_total", "counter", "Requests not run, since they would have been late.", "dropped"),
    ("edge_requests_expired_total", "counter", "Requests whose deadline passed on the device.", "expired"),
    ("edge_requests_cancelled_total", "counter", "Requests given up by their callers while they waited.", "cancelled"),
    ("edge_retries_total", "counter", "Runs repeated on another engine after a failure.", "retried"),
    ("edge_run_seconds_total", "counter", "Time that engines ran, added up.", "run_s"),
)
"""Name, kind, help and the field of `BatcherStats`."""


def _queues(models: Iterable[ModelStats]) -> Iterator[Family]:
    queues = [(_of(model), model.queue) for model in models if model.queue is not None]
    for name, kind, said, field in _QUEUE:
        samples = tuple(Sample(value=getattr(queue, field), labels=labels) for labels, queue in queues)
        yield Family(name=name, kind=kind, help=said, samples=samples)
    yield Family(
        name="edge_batches_total",
        kind="counter",
        help="Runs on the device, by rows.",
        samples=tuple(
            Sample(value=count, labels=labels | {"rows": str(rows)})
            for labels, queue in queues
            for rows, count in sorted(queue.batches.items())
        ),
    )


def _engines(models: Iterable[ModelStats]) -> Iterator[Family]:
    engines = [(_of(model) | {"device": one.report.device}, one) for model in models for one in model.engines]
    yield Family(
        name="edge_engine_state",
        kind="gauge",
        help="1 for the state that a version's engines on a device are in, 0 for the others.",
        samples=tuple(sample for labels, one in engines for sample in _states(labels, one)),
    )
    yield Family(
        name="edge_engine_failures_total",
        kind="counter",
        help="Runs that failed, and engines that were lost: crashed, stuck (killed by the watchdog) or vanished.",
        samples=tuple(
            Sample(value=getattr(one.faults, cause), labels=labels | {"cause": cause})
            for labels, one in engines
            for cause in ("failed", "crashed", "stuck", "vanished")
        ),
    )
    yield Family(
        name="edge_engine_restarts_total",
        kind="counter",
        help="Engines that were opened anew after a loss.",
        samples=tuple(Sample(value=one.faults.restarts, labels=labels) for labels, one in engines),
    )


def _servers(servers: Iterable[ServerStats]) -> Iterator[Family]:
    known = [({"server": one.address}, one) for one in servers]
    yield Family(
        name="edge_server_calls_in_flight",
        kind="gauge",
        help="Calls that wait for a server now.",
        samples=tuple(Sample(value=one.in_flight, labels=labels) for labels, one in known),
    )
    for name, said, field, factor in (
        ("edge_server_wait_seconds", "How long a row waits and runs there, as the server says.", "wait_ms", 1e-3),
        ("edge_server_round_trip_seconds", "The way to a server and back.", "round_trip_ms", 1e-3),
        ("edge_server_unreachable_seconds", "For how long nobody has answered there.", "unreachable_s", 1.0),
        ("edge_server_certificate_end_seconds", "When its certificate ends, since 1970.", "certificate_until_s", 1.0),
        ("edge_server_bandwidth_bytes", "Bytes a second that the way carries.", "bandwidth_bytes_s", 1.0),
    ):
        values = [(labels, getattr(one, field)) for labels, one in known]
        samples = tuple(Sample(value=value * factor, labels=labels) for labels, value in values if value is not None)
        yield Family(name=name, kind="gauge", help=said, samples=samples)


def _trust(trust: TrustStats) -> Iterator[Family]:
    yield Family(
        name="edge_remote_untrusted_total",
        kind="counter",
        help="How often a server that was announced or named was found not to be trusted.",
        samples=tuple(Sample(value=count, labels={"reason": reason}) for reason, count in sorted(trust.counts.items())),
    )
    yield Family(
        name="edge_remote_announcements_dropped_total",
        kind="counter",
        help="Packets and names by mDNS that came too fast, or of servers that had no place.",
        samples=(Sample(value=trust.dropped, labels={}),) if trust.dropped else (),
    )


def _climate(climate: ClimateStats) -> Iterator[Family]:
    yield Family(
        name="edge_temperature_celsius",
        kind="gauge",
        help="Of each sensor that answers: thermal zones, and Edge TPUs on PCIe.",
        samples=tuple(
            Sample(value=one.celsius, labels={"sensor": one.source, "kind": one.kind}) for one in climate.sensors
        ),
    )
    yield Family(
        name="edge_throttle_factor",
        kind="gauge",
        help="By what runs take longer than at full clock; 1 where nothing is throttled.",
        samples=tuple(Sample(value=factor, labels={"device": name}) for name, factor in climate.factors.items()),
    )
    allowed = climate.clock_mhz or ()
    yield Family(
        name="edge_cpu_frequency_hertz",
        kind="gauge",
        help="What the most throttled cores may run at now, and what they can.",
        samples=tuple(
            Sample(value=round(mhz * 1e6), labels={"limit": name})
            for name, mhz in zip(("allowed", "maximal"), allowed, strict=False)
        ),
    )
    yield Family(
        name="edge_firmware_throttling",
        kind="gauge",
        help="What a Raspberry Pi's firmware says: 1 for what is so now, and (seen_) was since boot.",
        samples=tuple(Sample(value=1, labels={"state": name}) for name in climate.firmware or ()),
    )


def _states(labels: Labels, engine: EngineStats) -> Iterator[Sample]:
    report = engine.report
    for state in STATES:
        yield Sample(value=int(state == report.state), labels={**labels, "variant": report.variant, "state": state})


def _of(model: ModelStats) -> dict[str, str]:
    return {"model": model.model, "version": "" if model.version is None else str(model.version)}


def _place(place: str) -> dict[str, str]:
    """`device:cpu` -> the label device, `server:10.0.0.7:8500` -> the label server."""
    kind, _, name = place.partition(":")
    return {kind: name} if kind in ("device", "server") else {"device": place}


def _by_place(answered: Iterable[Answers]) -> dict[str, Histogram]:
    """The histograms of a place's reasons added up."""
    found: dict[str, Histogram] = {}
    for one in answered:
        before = found.get(one.place, Histogram())
        found[one.place] = Histogram(
            counts=tuple(a + b for a, b in zip(before.counts, one.latency.counts, strict=True)),
            sum_s=before.sum_s + one.latency.sum_s,
        )
    return found


def _histogram(latency: Histogram, labels: Labels) -> Iterator[Sample]:
    total = 0
    for bound_s, count in zip((*map(_number, BUCKETS_S), "+Inf"), latency.counts, strict=True):
        total += count
        yield Sample(suffix="_bucket", value=total, labels={**labels, "le": bound_s})
    yield Sample(suffix="_sum", value=latency.sum_s, labels=dict(labels))
    yield Sample(suffix="_count", value=total, labels=dict(labels))


def _rendered(family: Family) -> str:
    said = family.help.replace("\\", r"\\").replace("\n", r"\n")
    values: dict[str, float] = {}
    for one in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in one.labels.items() if value)
        series = f"{family.name}{one.suffix}{f'{{{labels}}}' if labels else ''}"
        # While a version is replaced there are two of it for a while; a series twice would spoil the whole scrape.
        values[series] = values.get(series, 0) + one.value
    lines = [f"# HELP {family.name} {said}", f"# TYPE {family.name} {family.kind}"]
    return "\n".join([*lines, *(f"{series} {_number(value)}" for series, value in values.items())]) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


class MetricsServer:
    """Answers at `/metrics` and `/stats`, on threads of its own: a few at once, each for 2 s. Made by `serve_metrics`.

    Attributes:
        address: `host:port`; the port that was found where 0 was asked for.
    """

    def __init__(self, server: Server, host: str) -> None:
        """Takes a bound server, and starts the thread."""
        self.address = f"{host}:{server.server_address[1]}"
        self._server = server
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="edge-metrics", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.address}, {'closed' if self._closed else 'open'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the port, after the scrapes that are being answered. Takes a second at most: the silent are cut off."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._server.shutdown()
            self._thread.join()
            self._server.finish()


def serve_metrics(runtime: HasStats, address: str = "127.0.0.1:9101") -> MetricsServer:
    """Serves a runtime's metrics until it is closed; the runtime may be closed before.

    Args:
        runtime: Asked at each scrape.
        address: `host:port`; port 0 for any that is free. There is no authentication: beyond 127.0.0.1 everyone who
            reaches the port reads the counters, and nothing else.

    Raises:
        InvalidConfig: it is no address of this machine, or the port is taken.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not is_address(address):
        raise InvalidConfig(f"metrics: 'host:port' with a port from 0 to 65535 is expected, got {address!r}")
    from edge_runtime.metrics_server import Server  # noqa: PLC0415  15 ms that a runtime without metrics does not pay

    host = match["v6"] or match["host"]
    try:
        server = Server(host, int(match["port"]), partial(_answer, runtime), v6=match["v6"] is not None)
    except OSError as error:
        raise InvalidConfig(f"metrics: {address} can't be listened on: {error.strerror or error}") from error
    return MetricsServer(server, f"[{host}]" if match["v6"] else host)


def _answer(runtime: HasStats, path: str) -> tuple[int, str, bytes]:
    wanted = path.partition("?")[0]
    if wanted not in ("/metrics", "/", snapshot.PATH):
        return 404, _TEXT, f"the metrics are at /metrics, and as JSON at {snapshot.PATH}\n".encode()
    try:
        if wanted == snapshot.PATH:
            return 200, snapshot.CONTENT_TYPE, snapshot.encode(snapshot.take(runtime.stats()))
        return 200, CONTENT_TYPE, prometheus_text(runtime.stats()).encode()
    except EdgeRuntimeError as error:
        return 503, _TEXT, f"{error}\n".encode()
    except Exception:  # noqa: BLE001  told to the log and to the scraper; the thread serves on
        _log.exception("the metrics can't be read")
        return 500, _TEXT, b"the metrics can't be read; the log says why\n"
