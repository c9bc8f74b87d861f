"""What a runtime tells of itself: counters, and log records with fields.

`runtime.stats()` gives a `RuntimeStats`: plain frozen structs, `as_dict` for JSON. `edge_runtime.metrics` shows
the same to Prometheus, for whoever asks for it. What a request pays is one `Meter.answered`.

Events are ordinary records of the standard `logging`; handlers and levels are the application's. Their fields are in
`record.edge`, a dict with `event` and what the event has:

    engine_ready      model, version, device, variant, threads, isolation
    engine_refused    model, version, device, reason
    engine_lost       model, version, device, cause (crashed, stuck, vanished, failed, refused), reason, losses
    engine_back       model, version, device, variant, threads, after_s
    version_loaded    model, version
    version_unloaded  model, version
    throttled         device (cpu, apex_0), factor, mhz, celsius
    unthrottled       likewise
    under_voltage, voltage_back

    handler = logging.StreamHandler()
    handler.setFormatter(telemetry.JsonFormatter())     # one JSON object a line
    logging.getLogger("edge_runtime").addHandler(handler)
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from edge_runtime.scheduling.stats import BatcherStats
from edge_runtime.types import EngineReport, Reply

BUCKETS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The latency histogram's upper bounds: three to a decade, from a small network's time to a server's worst."""

MAX_CELLS = 64
"""Pairs of place and reason that a meter tells apart: servers come and go for months. The rest counts as `other`."""

MAX_ERRORS = 64
"""Kinds of errors likewise; the tree has a dozen."""

OTHER = "other"

Event = Literal[
    "engine_ready",
    "engine_refused",
    "engine_lost",
    "engine_back",
    "version_loaded",
    "version_unloaded",
    "throttled",
    "unthrottled",
    "under_voltage",
    "voltage_back",
]

_BOUNDS_MS = tuple(bound * 1e3 for bound in BUCKETS_S)


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies by bucket.

    Attributes:
        counts: For each of `BUCKETS_S` the requests that took at most so long and longer than the one before; then
            those that took longer than all.
        sum_s: Of all latencies.
    """

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        """How many requests."""
        return sum(self.counts)

    def quantile_s(self, share: float) -> float:
        """The latency that this share (0..1) of the requests kept to, in seconds; NaN where there is none.

        Interpolated within a bucket, as Prometheus' histogram_quantile does; at most the largest bound.
        """
        wanted, below = share * self.count, 0
        for index, count in enumerate(self.counts[:-1]):
            if count and below + count >= wanted:
                low_s = BUCKETS_S[index - 1] if index else 0.0
                return low_s + (BUCKETS_S[index] - low_s) * max(wanted - below, 0.0) / count
            below += count
        return BUCKETS_S[-1] if self.count else float("nan")


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were answered.

    Attributes:
        place: Where, as in `Reply.place`.
        reason: Why there, as in `Reply.reason`.
        latency: From the call to the answer.
    """

    place: str
    reason: str
    latency: Histogram

    @property
    def requests(self) -> int:
        """How many."""
        return self.latency.count


class EngineFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong with a version's engines on one device since the version was loaded.

    Attributes:
        failed: Runs that failed and left the engine usable.
        crashed: Engines whose process died.
        stuck: Engines that were killed because a run passed its limit.
        vanished: Engines whose device went away.
        restarts: Engines that were opened anew and taken back.
    """

    failed: int = 0
    crashed: int = 0
    stuck: int = 0
    vanished: int = 0
    restarts: int = 0


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a version: its state, and its faults."""

    report: EngineReport
    faults: EngineFaults = EngineFaults()


class ModelStats(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model.

    Attributes:
        model: Its name.
        version: The version; None where a server decides.
        answered: By place and reason.
        errors: Requests that failed, by the error's class name; those too that were refused as they were made, for
            their inputs or for whatever else they ask. A call of `predict_many` that is refused as a whole counts once.
        queue: Its queue on the device, and what was run; None where the version is not loaded here.
        engines: Likewise empty.
    """

    model: str
    version: int | None
    answered: tuple[Answers, ...] = ()
    errors: dict[str, int] = {}
    queue: BatcherStats | None = None
    engines: tuple[EngineStats, ...] = ()

    @property
    def requests(self) -> int:
        """Requests that were answered or failed."""
        return sum(one.requests for one in self.answered) + sum(self.errors.values())


class Sensor(msgspec.Struct, frozen=True, kw_only=True):
    """One temperature.

    Attributes:
        source: `thermal_zone0`, `apex_0`.
        kind: What the kernel calls it: `cpu-thermal`; `edgetpu` for an apex device.
        celsius: The value.
        trips_celsius: Where an Edge TPU's clock is lowered.
    """

    source: str
    kind: str
    celsius: float
    trips_celsius: tuple[float, ...] = ()


class ClimateStats(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's heat and power, and what they do to its speed. See `edge_runtime.thermal`.

    Attributes:
        sensors: All that answer.
        factors: By what runs take longer than at full clock: `cpu`, and each Edge TPU on PCIe, as `apex_0`.
        clock_mhz: What the CPU may run at now, and what it can; None where its clock is not scaled.
        firmware: What a Raspberry Pi's firmware says: the fields of `devices.Throttled` that are set; None where there
            is none to ask.
    """

    sensors: tuple[Sensor, ...] = ()
    factors: dict[str, float] = {}
    clock_mhz: tuple[float, float] | None = None
    firmware: tuple[str, ...] | None = None


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    """One server as the runtime knows it. None stands for what is not known yet.

    Attributes:
        address: `host:port`.
        state: Of its breaker: `closed` is the healthy one. `unreachable` where that isn't `open` and nobody answers:
            what would fail there is not sent. `untrusted` where it has not proved who it is, `unproved` where it has
            not been asked to yet.
        unreachable_s: For how long nobody has answered there; None where somebody does.
        in_flight: Calls that wait for it now.
        round_trip_ms: The way there and back.
        bandwidth_bytes_s: What the way carries.
        wait_ms: How long a row waits and runs there, as it says; of its versions the longest.
        serves: What it has said that it answers for, by model the versions.
        certificate: Whose certificate it has shown; empty for plain text, or where it has not proved who it is.
        certificate_until_s: When that ends, in seconds since 1970.
    """

    address: str
    state: str
    unreachable_s: float | None = None
    in_flight: int = 0
    round_trip_ms: float | None = None
    bandwidth_bytes_s: float | None = None
    wait_ms: float | None = None
    serves: dict[str, tuple[int, ...]] | None = None
    certificate: str = ""
    certificate_until_s: float | None = None


class UntrustedServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that was announced or named and is asked nothing.

    Attributes:
        name: What it is announced as; the address where the configuration names it.
        address: `host:port`.
        reason: In one word: see `edge_runtime.remote.handshake.Reason`.
        said: In words for people.
        times: How often that was found.
        ago_s: Seconds since it last was.
    """

    name: str
    address: str
    reason: str
    said: str = ""
    times: int = 1
    ago_s: float = 0.0


class TrustStats(msgspec.Struct, frozen=True, kw_only=True):
    """What became of servers that are not trusted.

    Attributes:
        untrusted: The latest of them.
        counts: How often one was found not to be trusted, by reason.
        dropped: Announcements that came faster than they are looked at, or of servers for which there was no place.
        files: Why the files by which servers are trusted are not in force as they are now; empty where they are.
    """

    untrusted: tuple[UntrustedServer, ...] = ()
    counts: dict[str, int] = {}
    dropped: int = 0
    files: str = ""


class FetchStats(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is being fetched.

    Attributes:
        model: Whose.
        version: Which.
        server: From which server, as `host:port`.
        state: `fetching`, or `installing` when all of it has come.
        held_bytes: What has come so far, in this turn and before.
        total_bytes: Of so many.
    """

    model: str
    version: int
    server: str
    state: str
    held_bytes: int
    total_bytes: int


class RuntimeStats(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime at one instant.

    Attributes:
        models: Every version that has been asked since the runtime was opened, or is loaded.
        servers: By `host:port`, the state, as in `ServerStats`: `closed` is the healthy one.
        climate: Temperatures and throttling.
        endpoints: The servers once more, with what is known of each.
        fetch: The package that is being fetched now; None for none.
        trust: The servers that are not trusted.
    """

    models: tuple[ModelStats, ...] = ()
    servers: dict[str, str] = {}
    climate: ClimateStats = ClimateStats()
    endpoints: tuple[ServerStats, ...] = ()
    fetch: FetchStats | None = None
    trust: TrustStats = TrustStats()

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return found


class Meter:
    """Counts what becomes of one version's requests. Thread-safe; an answer pays a quarter of a microsecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By place, then reason: the counts by bucket, at the end the sum in milliseconds.
        self._cells: dict[str, dict[str, list[float]]] = {}
        self._errors: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Meter {sum(one.requests for one in self.answers())} answered, {self.errors()}>"

    def answered(self, reply: Reply) -> None:
        """Takes an answer into account.

        No lock: an interpreter with a global lock changes threads at calls and jumps only, and there is none within
        the two additions. One without it may lose a count, which harms nobody.
        """
        latency_ms = reply.latency_ms
        slot = bisect_left(_BOUNDS_MS, latency_ms)
        try:
            cell = self._cells[reply.place][reply.reason]
        except KeyError:
            cell = self._cell(reply.place, reply.reason)
        cell[slot] += 1
        cell[-1] += latency_ms

    def failed(self, error: BaseException) -> None:
        """Takes a request that failed into account."""
        kind = type(error).__name__
        with self._lock:
            if kind not in self._errors and len(self._errors) >= MAX_ERRORS:
                kind = OTHER
            self._errors[kind] = self._errors.get(kind, 0) + 1

    def answers(self) -> tuple[Answers, ...]:
        """What was answered so far, by place and reason."""
        with self._lock:
            cells = [(place, reason, list(cell)) for place, one in self._cells.items() for reason, cell in one.items()]
        return tuple(
            Answers(
                place=place,
                reason=reason,
                latency=Histogram(counts=tuple(int(count) for count in cell[:-1]), sum_s=cell[-1] / 1e3),
            )
            for place, reason, cell in sorted(cells)
        )

    def errors(self) -> dict[str, int]:
        """What failed so far, by the error's class name."""
        with self._lock:
            return dict(sorted(self._errors.items()))

    def _cell(self, place: str, reason: str) -> list[float]:
        with self._lock:
            known = reason in self._cells.get(place, {})
            if not known and sum(map(len, self._cells.values())) >= MAX_CELLS:
                place = reason = OTHER
            return self._cells.setdefault(place, {}).setdefault(reason, [0.0] * (len(_BOUNDS_MS) + 2))


def model_stats(
    model: str,
    version: int | None,
    meter: Meter | None = None,
    *,
    queue: BatcherStats | None = None,
    engines: Sequence[EngineReport] = (),
    faults: Mapping[str, EngineFaults] | None = None,
) -> ModelStats:
    """Puts together what the parts of a runtime know of one version.

    Args:
        model: Its name.
        version: None where a server decides.
        meter: What became of its requests.
        queue: Its batcher's.
        engines: Its devices.
        faults: By device string.
    """
    return ModelStats(
        model=model,
        version=version,
        answered=meter.answers() if meter else (),
        errors=meter.errors() if meter else {},
        queue=queue,
        engines=tuple(
            EngineStats(report=one, faults=(faults or {}).get(one.device, EngineFaults())) for one in engines
        ),
    )


def event(log: logging.Logger, level: int, name: Event, text: str, /, **fields: object) -> None:
    """Logs one of the events that the module's docstring lists.

    Args:
        log: The logger of the module in which it happened.
        level: As `logging.INFO`.
        name: Which event.
        text: The sentence for people; complete without the fields.
        fields: Plain values.
    """
    if log.isEnabledFor(level):
        log.log(level, "%s", text, extra={"edge": {"event": name, **fields}}, stacklevel=2)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then the event and its fields.

    Records without fields, also of other programs, come out with the first four; an exception is added as text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "edge", None)
        if isinstance(fields, dict):
            line |= {str(name): value for name, value in fields.items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        # A value that JSON has no form for is told as text: a log line is never lost for a field.
        return msgspec.json.encode(line, enc_hook=str).decode()
