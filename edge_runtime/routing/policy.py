"""Device or server? Pure: two snapshots and the time that is left go in, a route and its reason come out."""

from __future__ import annotations

import enum

import msgspec

REASON_LOCAL = "local"
REASON_OVERLOADED = "overloaded"
REASON_TOO_SLOW = "too-slow"
REASON_VERSION_MISSING = "version-missing"
REASON_VERSION_DAMAGED = "version-damaged"
REASON_SERVER_FAILED = "server-failed"
REASON_ENGINE_FAILED = "engine-failed"


SAFE_SHARE = 0.7
"""The share of the remaining time that the device's prediction may fill: it is made from past runs, and a request that
is kept on a prediction that comes true only just is lost by the next hiccup."""


class Place(enum.Enum):
    """Where a request goes."""

    DEVICE = "device"
    SERVER = "server"
    NOWHERE = "nowhere"


class DeviceView(msgspec.Struct, frozen=True, gc=False):
    """The device's side of the choice.

    Attributes:
        installed: Whether the version is loaded here.
        full: Whether its queue refuses.
        waits: Whether the request would have to wait for others; False for an idle engine.
        predicted_s: Seconds until this request would be answered here, from the queue and the measured times.
    """

    installed: bool
    full: bool = False
    predicted_s: float = 0.0
    waits: bool = True


class ServerView(msgspec.Struct, frozen=True, gc=False):
    """The servers' side.

    Attributes:
        usable: Whether there is an endpoint whose breaker lets a request through.
        expected_s: Seconds until the best of them would have answered.
    """

    usable: bool
    expected_s: float = 0.0


class Route(msgspec.Struct, frozen=True, gc=False):
    """The choice: where, and what the reply says of it."""

    place: Place
    reason: str


def choose(device: DeviceView, server: ServerView, remaining_s: float | None) -> Route:
    """The route of one request that no idle engine can answer in time.

    The device answers what it can answer in time. What it can't goes to a server that can; where neither can, to
    whichever would be sooner, since a prediction may be wrong and an answer is still better than none.

    Args:
        device: The device's snapshot.
        server: The servers' snapshot.
        remaining_s: Seconds until the deadline; None for no deadline.
    """
    if not device.installed:
        return Route(Place.SERVER if server.usable else Place.NOWHERE, REASON_VERSION_MISSING)
    if device.full:
        return Route(Place.SERVER if server.usable else Place.NOWHERE, REASON_OVERLOADED)
    in_time = remaining_s is None or device.predicted_s <= remaining_s * SAFE_SHARE
    if in_time or not server.usable or server.expected_s >= device.predicted_s:
        return Route(Place.DEVICE, REASON_LOCAL)
    return Route(Place.SERVER, REASON_OVERLOADED if device.waits else REASON_TOO_SLOW)


def predicted_s(*, queued_rows: int, running_rows: int, engines: int, row_s: float, own_s: float) -> float:
    """Seconds until a request that is queued now is answered.

    What waits is shared by the engines; what runs is half done on average; then the request's own run.

    Args:
        queued_rows: Rows ahead of it.
        running_rows: Rows that run now.
        engines: Engines that serve the queue.
        row_s: Seconds a row in the batches that are formed under load.
        own_s: Seconds of its own run.
    """
    return (queued_rows + running_rows / 2) * row_s / engines + own_s
