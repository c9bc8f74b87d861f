"""A running application at one instant: what the metrics' server gives out at `/stats`, and what `edge-run top` reads.

    curl -s 127.0.0.1:9101/stats

is the JSON of a `Snapshot`. Fields may be added, so whoever reads it passes over those that it does not know.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import msgspec

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.telemetry import Histogram, RuntimeStats

PATH = "/stats"

CONTENT_TYPE = "application/json"

DEFAULT_ADDRESS = "127.0.0.1:9101"
"""Where a runtime is looked for that is not named."""

LIMIT_S = 3.0
"""For one answer. A board that is busy answers within some ten milliseconds."""

MAX_BYTES = 2**24
"""Of an answer: a thousand models have some 2 MB, so that what has more is none of ours."""

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
        ValueError: it is none, or one of a release that counts latencies by other bounds.
    """
    snapshot = msgspec.json.decode(data, type=Snapshot)
    for model in snapshot.stats.models:
        for one in model.answered:
            if len(one.latency.counts) != len(Histogram().counts):
                raise ValueError(f"{len(one.latency.counts)} counts of latencies, {len(Histogram().counts)} expected")
    return snapshot


def fetch(address: str, *, limit_s: float = LIMIT_S) -> Snapshot:
    """Asks a runtime for its snapshot, within the limit for each step.

    Args:
        address: `host:port` of its metrics.
        limit_s: Seconds.

    Raises:
        NoSnapshot: nobody answers there, or somebody else does.
    """
    import http.client  # noqa: PLC0415  only who looks pays for it; a runtime that is looked at has its server

    # Without a proxy, whatever the environment says: the device is here or on this network.
    connection = http.client.HTTPConnection(address, timeout=limit_s)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        status, body = answer.status, answer.read(MAX_BYTES + 1)
    except ConnectionRefusedError as error:
        raise NoSnapshot(
            f"nothing listens at {address}: open the runtime with metrics={address!r} (in a .toml: metrics = "
            f'"{address}"), or say where its metrics are: edge-run top HOST:PORT'
        ) from error
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoSnapshot(f"no runtime answers at {address}: {said}") from error
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        said = body[:200].decode(errors="replace").split("\n")[0]
        other = " (another program, or an older runtime)" if status == http.HTTPStatus.NOT_FOUND else ""
        raise NoSnapshot(f"{address} has no stats to give: {status} {said!r}{other}")
    try:
        return decode(body)
    except ValueError as error:
        raise NoSnapshot(f"what {address} answers is no snapshot of a runtime: {error}") from error


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
