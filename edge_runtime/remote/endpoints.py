"""The table of endpoints: which there are, which may be asked, which is expected to answer first."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec

from edge_runtime.remote.endpoint import Endpoint, Turn
from edge_runtime.remote.log_limit import LogLimit
from edge_runtime.types import InferRequest

_log = logging.getLogger(__name__)

MAX_ENDPOINTS = 64
"""Announcements are cheap to forge; past this bound they are passed over."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source says of a server.

    Attributes:
        key: What the source knows it by: the mDNS instance, or the address.
        address: `host:port`.
    """

    key: str
    address: str


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a request needs of an endpoint.

    Attributes:
        model: The model's name.
        version: The version that must answer; None for the label's, or the latest.
        label: The label that must answer, where `version` is None.
        nbytes: What has to be sent.
    """

    model: str
    version: int | None
    label: str | None
    nbytes: int

    @classmethod
    def of(cls, request: InferRequest) -> Wanted:
        """What this request needs."""
        return cls(request.model, request.version, request.label, request.nbytes)


class EndpointTable:
    """Endpoints by key. Thread-safe; sources add and remove, the router picks."""

    def __init__(self, connect: Callable[[str], Endpoint]) -> None:
        """Takes what makes an Endpoint of an address."""
        self._connect = connect
        self._endpoints: dict[str, Endpoint] = {}
        self._limit = LogLimit(_log, time.monotonic)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<EndpointTable {self.all()}>"

    def add(self, found: Found) -> None:
        """A server is there, or is announced anew: with a fresh connection and a closed breaker."""
        with self._lock:
            old = self._endpoints.get(found.key)
            if old is not None and old.address == found.address:
                old.reset()
                return
            if old is None and len(self._endpoints) >= MAX_ENDPOINTS:
                self._limit.warning("server %s passed over: %d are known already", found.address, MAX_ENDPOINTS)
                return
            self._endpoints[found.key] = self._connect(found.address)
            self._changed.notify_all()
        if old is not None:
            old.close()
        _log.info("server found: %s", found.address)

    def remove(self, key: str) -> None:
        """A server has said that it goes, or its announcement has expired."""
        with self._lock:
            gone = self._endpoints.pop(key, None)
        if gone is not None:
            _log.info("server gone: %s", gone.address)
            gone.close()

    def all(self) -> list[Endpoint]:
        """Every endpoint, whether it may be asked or not."""
        with self._lock:
            return list(self._endpoints.values())

    def pick(self, besides: Collection[str] = ()) -> Endpoint | None:
        """The endpoint that should answer first among those that may be asked; None if there is none.

        Args:
            besides: Addresses that were tried already.
        """
        usable = [one for one in self.all() if one.allows and one.address not in besides]
        return min(usable, key=lambda one: one.expected_s, default=None)

    def expects(self, wanted: Wanted) -> float | None:  # noqa: ARG002  what servers have is not known yet
        """Seconds in which the best endpoint should answer; None if none may be asked now, or none has the version."""
        best = self.pick()
        return None if best is None else best.expected_s

    def acquire(self, wanted: Wanted, besides: Collection[str] = ()) -> tuple[Endpoint, Turn] | None:  # noqa: ARG002
        """As `pick`, and takes the endpoint's leave for one call, which must follow.

        Between looking and taking another request may have been let through a half-open breaker: then the next best.
        """
        usable = [(one.expected_s, one) for one in self.all() if one.allows and one.address not in besides]
        for _, endpoint in sorted(usable, key=lambda pair: pair[0]):
            turn = endpoint.try_begin()
            if turn is not None:
                return endpoint, turn
        return None

    def wait_for_any(self, timeout_s: float) -> bool:
        """Waits until there is an endpoint; whether there is."""
        with self._lock:
            return self._changed.wait_for(lambda: bool(self._endpoints), timeout_s)

    def close(self) -> None:
        """Closes every connection."""
        with self._lock:
            endpoints, self._endpoints = list(self._endpoints.values()), {}
        for endpoint in endpoints:
            endpoint.close()
