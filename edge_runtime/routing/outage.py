"""What the log says of servers that are missed: once when none is left, and once when one answers again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from edge_runtime.types import Reply

_log = logging.getLogger(__name__)

_NO_BREAKERS = frozenset({"unreachable", "untrusted", "unproved"})


class Outage:
    """Whether requests miss servers at present; one for all models of a runtime. Thread-safe.

    Two threads that find out at the same instant may both say so: that is no harm, and a lock on every answer is.
    """

    def __init__(self, servers: Callable[[], Mapping[str, str]], sought: Callable[[], bool] = bool) -> None:
        """Takes what tells of servers.

        Args:
            servers: The state of each known one, by `host:port`: `closed` is the healthy one.
            sought: Whether none is known, and the first may be found any moment: that is no outage yet.
        """
        self._servers = servers
        self._sought = sought
        self._said = False

    def __repr__(self) -> str:
        return f"<Outage {'since a request missed a server' if self._said else 'none'}>"

    def missed(self) -> None:
        """A request was for a server, and none could be asked, or none answered.

        Servers that may be asked now, but lack the version or are too far away, are no outage.
        """
        if self._said or self._sought():
            return
        states = self._servers()
        if "closed" in states.values():
            return
        self._said = True
        known = ", ".join(f"{address}: {_said(state)}" for address, state in states.items()) or "none is known"
        left = "the device answers alone what it may and can, the rest fails"
        _log.warning("no server can be asked now (%s): %s", known, left)

    @property
    def lasts(self) -> bool:
        """Whether it was said that no server can be asked, and none has answered since."""
        return self._said

    def ended(self, call: Future[Reply]) -> None:
        """Looks at how a call ended: a server's answer ends the outage."""
        if self._said and not call.cancelled() and call.exception() is None:
            self._said = False
            _log.info("servers answer again")


def _said(state: str) -> str:
    return state if state in _NO_BREAKERS else f"breaker {state}"
