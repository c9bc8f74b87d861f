"""A running application at one instant: what the metrics' server gives out at `/stats`, and what `edge-run top` reads.

    curl -s 127.0.0.1:9101/stats

is the JSON of a `Snapshot`. Fields may be added, so whoever reads it passes over those that it does not know.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.screen_text import plain
from edge_runtime.telemetry import Histogram, RuntimeStats

if TYPE_CHECKING:
    from http.client import HTTPConnection

PATH = "/stats"

CONTENT_TYPE = "application/json"

DEFAULT_ADDRESS = "127.0.0.1:9101"
"""Where a runtime is looked for that is not named."""

LIMIT_S = 3.0
"""For one answer. A board that is busy answers within some ten milliseconds."""

MAX_BYTES = 2**24
"""Of an answer: a thousand models have some 2 MB, so that what has more is none of ours."""

_MOST = 2**63
"""Of any figure: no counter of ours gets there, and sums and ratios of such figures are still numbers."""

_MOST_SAID = 200
"""Letters of a foreign answer that are repeated."""

_PROCESS = Path("/proc/self")
_START_TIME = 21
"""The index of `starttime` in /proc/self/stat; the second field, a name in brackets, may have spaces. See proc(5)."""


class NoSnapshot(EdgeRuntimeError):
    """No runtime answers at an address; the text says what does, and what to do."""


class ProcessStats(msgspec.Struct, frozen=True, kw_only=True):
    """The application's process; engines in worker processes are not in it.

    Attributes:
        pid: Its number.
        program: The script's or command's name.
        cpu_s: Seconds of processor time that it has used.
        up_s: Seconds since it was started; None where the system doesn't say.
        resident_bytes: The memory that it holds; None likewise.
    """

    pid: int
    program: str = ""
    cpu_s: float = 0.0
    up_s: float | None = None
    resident_bytes: int | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown.

    Attributes:
        taken_s: When, in seconds of the device's monotonic clock: for differences between two of them.
        process: The application's.
        stats: The runtime's.
    """

    taken_s: float
    process: ProcessStats
    stats: RuntimeStats


def take(stats: RuntimeStats) -> Snapshot:
    """The snapshot of this process, with these stats of its runtime."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    return Snapshot(
        taken_s=time.monotonic(),
        process=ProcessStats(
            pid=os.getpid(),
            program=program,
            cpu_s=time.process_time(),
            up_s=_up_s(),
            resident_bytes=_resident_bytes(),
        ),
        stats=stats,
    )


def encode(snapshot: Snapshot) -> bytes:
    """As JSON."""
    return msgspec.json.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """From JSON.

    Raises:
        ValueError: it is none, one with figures that no runtime has, or one of a release that counts latencies by other
            bounds.
    """
    try:
        snapshot = msgspec.json.decode(data, type=Snapshot)
    except RecursionError as error:
        raise ValueError("its values are nested too deep") from error
    for model in snapshot.stats.models:
        for one in model.answered:
            if len(one.latency.counts) != len(Histogram().counts):
                raise ValueError(f"{len(one.latency.counts)} counts of latencies, {len(Histogram().counts)} expected")
    _check_figures(snapshot)
    return snapshot


def fetch(address: str, *, limit_s: float = LIMIT_S) -> Snapshot:
    """Asks a runtime for its snapshot, and waits for all of it.

    Args:
        address: `host:port` of its metrics.
        limit_s: Seconds, for everything together.

    Raises:
        NoSnapshot: nobody answers there in time, or somebody else does.
    """
    with Look(address, limit_s=limit_s) as look:
        look.wait(limit_s)
        return look.result()


class Look:
    """A runtime is asked for its snapshot, by a thread of its own: whoever answers a byte a second holds up nobody.

    Args:
        address: `host:port` of its metrics.
        limit_s: Seconds, for everything together.
    """

    def __init__(self, address: str, *, limit_s: float = LIMIT_S) -> None:
        import http.client  # noqa: PLC0415  only who looks pays for it; a runtime that is looked at has its server

        self._address = address
        self._limit_s = limit_s
        self._given_up = False
        self._socket: socket.socket | None = None
        self._found: Snapshot | BaseException | None = None
        self._done = threading.Event()
        # Without a proxy, whatever the environment says: the device is here or on this network.
        self._connection = http.client.HTTPConnection(address, timeout=limit_s)
        threading.Thread(target=self._run, name="edge-look", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the answer; whether it is there."""
        return self._done.wait(timeout_s)

    def result(self) -> Snapshot:
        """What was answered.

        Raises:
            NoSnapshot: nothing, until now, or by somebody else.
        """
        if not self._done.is_set():
            said = f"timed out, no whole answer within {self._limit_s:g} s"
            raise NoSnapshot(f"no runtime answers at {self._address}: {said}")
        if isinstance(self._found, Snapshot):
            return self._found
        assert self._found is not None
        raise self._found

    def close(self) -> None:
        """Waits no longer: the connection ends, and with it the thread. Returns at once."""
        self._given_up = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # It is not connected any more.
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self._found = _ask(self._connection, self._address, self._connected)
        except BaseException as error:  # noqa: BLE001  who waits is told
            self._found = error
        finally:
            self._connection.close()
            self._done.set()

    def _connected(self) -> None:
        # The connection itself forgets its socket as soon as the answer's head is there.
        self._socket = self._connection.sock
        if self._given_up:
            raise TimeoutError("timed out")


def _ask(connection: HTTPConnection, address: str, connected: Callable[[], None]) -> Snapshot:
    import http.client  # noqa: PLC0415  loaded already

    try:
        connection.connect()
        connected()
        connection.request("GET", PATH)
        answer = connection.getresponse()
        status, body = answer.status, answer.read(MAX_BYTES + 1)
    except ConnectionRefusedError as error:
        raise NoSnapshot(
            f"nothing listens at {address}: open the runtime with metrics={address!r} (in a .toml: metrics = "
            f'"{address}"), or say where its metrics are: edge-run top HOST:PORT'
        ) from error
    except (OSError, http.client.HTTPException) as error:
        said = plain((getattr(error, "strerror", None) or str(error) or type(error).__name__)[:_MOST_SAID])
        raise NoSnapshot(f"no runtime answers at {address}: {said}") from error
    if status != http.HTTPStatus.OK:
        said = body[:_MOST_SAID].decode(errors="replace").split("\n")[0]
        other = " (another program, or an older runtime)" if status == http.HTTPStatus.NOT_FOUND else ""
        raise NoSnapshot(f"{address} has no stats to give: {status} {said!r}{other}")
    try:
        return decode(body)
    except ValueError as error:
        said = plain(str(error)[:_MOST_SAID])
        raise NoSnapshot(f"what {address} answers is no snapshot of a runtime: {said}") from error


def _check_figures(value: Any) -> None:
    """Raises ValueError for a number, at any depth, that no runtime has."""
    if isinstance(value, int | float):
        if not -_MOST <= value <= _MOST or not math.isfinite(value):
            raise ValueError("it has figures that no runtime has")
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_figures(key)
            _check_figures(each)
    elif isinstance(value, tuple | list):
        for each in value:
            _check_figures(each)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _check_figures(getattr(value, name))


def _up_s() -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        after_name = (_PROCESS / "stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
        started_s = int(after_name[_START_TIME - 2]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 0.0)
    return None


def _resident_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_PROCESS / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
