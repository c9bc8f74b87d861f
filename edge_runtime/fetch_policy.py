"""What is fetched from servers: decided from what is wanted and what is installed. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from edge_runtime.config import Fetch, RuntimeOptions
from edge_runtime.errors import InvalidConfig
from edge_runtime.pins import Pin

FOLLOWED = "server"
"""The device's label for what the server answers with who names no version, where that is followed. It outlasts a
restart without a network, and keeps the version from making room for others. Who asks for it by name gets what is
followed here: a server's label of that name is not fetched, since one label can't go where two things do."""


FAITHFUL_S = 300.0
"""How long a server that is followed, and does not answer, is waited for before another is followed: the other may have
an older version, and that is no reason to go back to it while the first one starts again."""


class Followed(NamedTuple):
    """The server that a model follows.

    Attributes:
        address: Where it is.
        answered_s: When it last said what it has, in monotonic seconds; of one that was followed before the application
            was started again, when it was first to be asked.
    """

    address: str
    answered_s: float


class Want(msgspec.Struct, frozen=True):
    """A model as it is asked for, and what there is of it.

    Attributes:
        model: Its name.
        pin: Which of its versions.
        fetch: What may be fetched.
        installed: The versions on the device.
        labels: Its labels there.
    """

    model: str
    pin: Pin
    fetch: Fetch
    installed: tuple[int, ...] = ()
    labels: Mapping[str, int] = {}

    @property
    def key(self) -> tuple[str, Pin]:
        """What tells it from others."""
        return (self.model, self.pin)

    @property
    def label(self) -> str | None:
        """The device's label that goes where the server's does; None for none."""
        if self.pin == FOLLOWED:
            return None
        if isinstance(self.pin, str):
            return self.pin
        return FOLLOWED if self.pin is None and self.fetch == "follow" else None

    @property
    def follows(self) -> bool:
        """Whether a server is followed."""
        return self.fetch == "follow" and self.label is not None

    def __str__(self) -> str:
        return f"{self.model}/{self.pin or 'latest'}"


def checked_fetch(options: RuntimeOptions, *, folder: bool) -> bool:
    """Whether a runtime may fetch anything.

    Args:
        options: The runtime's.
        folder: Whether its store is a folder of packages.

    Raises:
        InvalidConfig: it may, and there is no server to ask, or nowhere to put a package.
    """
    asked = [options.fetch, *(own.fetch or "never" for own in options.models.values())]
    fetch = next((one for one in asked if one != "never"), "never")
    if fetch == "never":
        return False
    if not options.fallbacks:
        raise InvalidConfig(f"fetch={fetch!r}: there is no server to fetch from; give fallback='mdns' or 'host:port'")
    if not folder:
        raise InvalidConfig(f"fetch={fetch!r}: {options.store} is no folder of packages, so none can be put there")
    return True


def lacks(want: Want) -> bool:
    """Whether nothing that is installed can answer it."""
    if want.pin is None:
        return not want.installed
    version = want.labels.get(want.pin) if isinstance(want.pin, str) else want.pin
    return version not in want.installed


def asks(want: Want) -> bool:
    """Whether servers are to be asked: for what is lacking, and what a server is followed for."""
    if want.fetch == "never" or want.pin == FOLLOWED:
        return False
    return lacks(want) or (want.fetch == "follow" and not isinstance(want.pin, int))


def in_order(fetch: Fetch | None, labels: Mapping[str, int], versions: Sequence[int]) -> list[int]:
    """The installed versions that may answer who asks for the latest, the best first.

    Where a server is followed, what that answers with comes first: it may have gone back to a lower one.
    """
    first = labels.get(FOLLOWED) if fetch == "follow" else None
    return sorted(versions, key=lambda version: (version == first, version), reverse=True)


def in_turn(found: Iterable[tuple[str, bool]], paces: Mapping[str, float], last: str | None) -> list[str]:
    """The servers in the order in which they are asked for a package.

    First those that have not been tried, then those that brought parts of it, the fastest first, then those that
    failed. So neither a server that fails nor one that brings it drop by drop keeps it from coming from another.

    Args:
        found: The servers' addresses, and whether requests go there now.
        paces: What each that was tried brought, in bytes a second; 0 for one that failed.
        last: Which one brought something last.
    """
    order = {(-paces.get(address, math.inf), address != last, not allows, address) for address, allows in found}
    return [address for *_, address in sorted(order)]


def to_ask(
    want: Want, found: Iterable[tuple[str, bool]], paces: Mapping[str, float], last: Followed | None, now_s: float
) -> list[str]:
    """The servers that may be asked, in this order: as `in_turn`, but for a while none but the one that is followed.

    Args:
        want: For what. Where nothing that is installed can answer it, nobody is waited for.
        found: See `in_turn`.
        paces: See there.
        last: Which one brought something last, if any.
        now_s: Monotonic seconds.
    """
    if last is not None and not lacks(want) and now_s < last.answered_s + FAITHFUL_S:
        return [address for address, _ in found if address == last.address]
    return in_turn(found, paces, None if last is None else last.address)
