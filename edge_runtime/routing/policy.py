"""Device or server? Pure: two snapshots, the time that is left and a policy go in, a route and its reason come out."""

from __future__ import annotations

import enum

import msgspec

from edge_runtime.types import Policy

REASON_LOCAL = "local"
REASON_OVERLOADED = "overloaded"
REASON_TOO_SLOW = "too-slow"
REASON_VERSION_MISSING = "version-missing"
REASON_VERSION_DAMAGED = "version-damaged"
REASON_SERVER_FAILED = "server-failed"
REASON_ENGINE_FAILED = "engine-failed"
REASON_UNSURE = "unsure"
REASON_POLICY = "policy"
REASON_SERVER_LATE = "server-late"
REASON_NO_SERVER = "no-server"
REASON_HEDGED = "hedged"

REASONS = {
    REASON_LOCAL: "the device answers: nothing speaks against it, or nobody could do better",
    REASON_OVERLOADED: "a server: what waits for the device is too long for the deadline, or its queue is full",
    REASON_TOO_SLOW: "a server: the device would be too late even if nothing else waited for it",
    REASON_VERSION_MISSING: "a server: the version is not installed",
    REASON_VERSION_DAMAGED: "a server: the version is installed and can't be loaded",
    REASON_ENGINE_FAILED: "a server: the device's engines failed on the request, or none works now",
    REASON_UNSURE: "a server: the device's answer was less sure than the package's threshold",
    REASON_POLICY: "a server: the policy says so",
    REASON_HEDGED: "a server: the device took longer than usual, and the copy was answered first",
    REASON_SERVER_FAILED: "the device: a server was asked first, and failed",
    REASON_SERVER_LATE: "the device: a server was asked first, and hung until the device could only just be in time",
    REASON_NO_SERVER: "the device: a server was to be asked first, and none may be, or none would be in time",
}
"""What `Reply.reason` may say: where the answer is from, and the rule behind it."""

POLICIES: tuple[Policy, ...] = ("prefer_device", "only_device", "prefer_server", "only_server")

DEVICE_FIRST: frozenset[Policy] = frozenset({"prefer_device", "only_device"})
"""Those under which a request is tried on the device first."""

SAFE_SHARE = 0.7
"""The share of the remaining time that the device's prediction may fill: it is made from past runs, and a request that
is kept on a prediction that comes true only just is lost by the next hiccup."""

HOPE = 1.5
"""Where nobody is expected in time, a server is asked as long as it is expected within so many times what is left: a
prediction may be wrong by half. What is expected later than that only takes the network from the others."""


TRY_AGAIN_S = 0.1
"""How often at most a request that is lost anyway finds out whether a server is late."""

TRY_WITHIN = 10.0
"""A server may be that many times too late for it: a hiccup makes it so. A line that is too slow is so by far more."""


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
        predicted_s: Seconds until this request would be answered here, from the queue, the measured times and the
            device's heat.
        waits: Whether the request would have to wait for others; False for an idle engine.
        healthy: Whether any of its engines works now.
        absent: Why it is not loaded, where it isn't.
        stalled: Whether all of its engines have runs that take far longer than they should.
    """

    installed: bool
    full: bool = False
    predicted_s: float = 0.0
    waits: bool = True
    healthy: bool = True
    absent: str = REASON_VERSION_MISSING
    stalled: bool = False


class ServerView(msgspec.Struct, frozen=True, gc=False):
    """The servers' side.

    Attributes:
        usable: Whether there is an endpoint whose breaker lets a request through, and that may have the version.
        expected_s: Seconds until the best of them would have answered, with the way there and back.
    """

    usable: bool
    expected_s: float = 0.0


class Route(msgspec.Struct, frozen=True, gc=False):
    """The choice: where, and what the reply says of it."""

    place: Place
    reason: str


LOCAL = Route(Place.DEVICE, REASON_LOCAL)
"""The usual one."""

_SERVERS_TURN = Route(Place.SERVER, REASON_POLICY)
_NO_SERVER = Route(Place.DEVICE, REASON_NO_SERVER)
TOO_SLOW = Route(Place.SERVER, REASON_TOO_SLOW)
_OVERLOADED = Route(Place.SERVER, REASON_OVERLOADED)
_ENGINE_FAILED = Route(Place.SERVER, REASON_ENGINE_FAILED)


def needs_servers(device: DeviceView, remaining_s: float | None, policy: Policy) -> bool:
    """Whether what the servers are expected to take can change the choice: who need not know need not ask.

    Args:
        device: The device's snapshot.
        remaining_s: Seconds until the deadline; None for no deadline.
        policy: Of this request.
    """
    if policy == "only_device":
        return False
    if policy != "prefer_device":
        return True
    return not (device.installed and device.healthy and not device.full and _in_time(device, remaining_s))


def waits_in_vain(device: DeviceView, server: ServerView, remaining_s: float, policy: Policy) -> bool:
    """Whether a request that would stand last in the device's queue should be told so at once.

    It is expected to be late there, or to be in time only just, and no server will be: to wait till the deadline would
    help nobody, and those who come after it would wait behind it.

    Args:
        device: The device's snapshot.
        server: The servers' snapshot; not usable where none is to be asked.
        remaining_s: Seconds until the deadline.
        policy: Of this request.
    """
    if not device.waits or _in_time(device, remaining_s):
        return False
    return policy == "only_device" or not server.usable or server.expected_s > remaining_s * HOPE


def tries_again(server: ServerView, remaining_s: float, since_s: float) -> bool:
    """Whether a request that is lost on the device finds out if a server that is expected too late still is.

    A server that was late once, by a hiccup of the network, would be passed over until that is forgotten.

    Args:
        server: The servers' snapshot.
        remaining_s: Seconds until the deadline.
        since_s: Seconds since this was last tried.
    """
    if not server.usable or server.expected_s > remaining_s * TRY_WITHIN:
        return False
    return since_s >= max(TRY_AGAIN_S, 2 * server.expected_s)


def choose(
    device: DeviceView, server: ServerView, remaining_s: float | None, policy: Policy = "prefer_device"
) -> Route:
    """The route of one request that no idle engine can answer in time.

    Args:
        device: The device's snapshot.
        server: The servers' snapshot.
        remaining_s: Seconds until the deadline; None for no deadline.
        policy: `prefer_device`: the device answers what it can answer in time, and what a server could not either.
            `prefer_server`: a server does, as long as one is usable and in time; else the device. `only_device`,
            `only_server`: that one, or nobody.
    """
    able = device.installed and not device.full
    if policy == "only_device":
        return LOCAL if able else Route(Place.NOWHERE, _lack(device))
    if not device.installed:
        return Route(Place.SERVER if server.usable else Place.NOWHERE, device.absent)
    if policy == "only_server":
        return _SERVERS_TURN if server.usable else Route(Place.NOWHERE, REASON_NO_SERVER)
    if policy == "prefer_server":
        return _servers_first(device, server, remaining_s)
    if device.full:
        hoped = server.usable and (remaining_s is None or server.expected_s <= remaining_s * HOPE)
        return _OVERLOADED if hoped else Route(Place.NOWHERE, REASON_OVERLOADED)
    return _devices_first(device, server, remaining_s)


def _devices_first(device: DeviceView, server: ServerView, remaining_s: float | None) -> Route:
    """For a device that has the version and room for the request."""
    if not server.usable:
        return LOCAL
    if not device.healthy:
        return _ENGINE_FAILED
    if remaining_s is None or _in_time(device, remaining_s) or server.expected_s >= device.predicted_s:
        return LOCAL
    # Either the server is in time, or neither is and the server may be by luck.
    if server.expected_s > (remaining_s if device.predicted_s <= remaining_s else remaining_s * HOPE):
        return LOCAL
    return _OVERLOADED if device.waits else TOO_SLOW


def _servers_first(device: DeviceView, server: ServerView, remaining_s: float | None) -> Route:
    """For a device that has the version."""
    able = device.healthy and not device.full
    if server.usable:
        if remaining_s is None or server.expected_s <= remaining_s or not able:
            return _SERVERS_TURN
        # Late there. Here as well: then by the policy, which is no worse.
        if device.predicted_s > remaining_s and server.expected_s <= remaining_s * HOPE:
            return _SERVERS_TURN
    return _NO_SERVER if not device.full else Route(Place.NOWHERE, REASON_OVERLOADED)


def _in_time(device: DeviceView, remaining_s: float | None) -> bool:
    return remaining_s is None or device.predicted_s <= remaining_s * SAFE_SHARE


def _lack(device: DeviceView) -> str:
    return REASON_OVERLOADED if device.installed else device.absent


def predicted_s(  # noqa: PLR0917  by position: half the time that names take
    queued_rows: int,
    running_rows: int,
    engines: int,
    row_s: float,
    own_s: float,
    stalled: int = 0,
    stalled_s: float = 0.0,
) -> float:
    """Seconds until a request that is queued now is answered.

    What waits is shared by the engines; what runs is half done on average; then the request's own run. An engine whose
    run is stalled does nothing for the queue; where all are, nobody knows for how long: for as long again as the latest
    of these runs has taken, which is right by a factor of two for half of whatever may be.

    Args:
        queued_rows: Rows ahead of it.
        running_rows: Rows that run now.
        engines: Engines that serve the queue.
        row_s: Seconds a row in the batches that are formed under load.
        own_s: Seconds of its own run.
        stalled: Engines whose runs take far longer than they should.
        stalled_s: Seconds that the latest of these runs has taken.
    """
    if stalled >= engines > 0:
        own_s += stalled_s
    elif stalled:
        engines -= stalled
    return (queued_rows + running_rows / 2) * row_s / engines + own_s
