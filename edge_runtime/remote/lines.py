"""The connections to one server: the one in use, and those that are given up once their calls have ended."""

from __future__ import annotations

import threading
from typing import Any

from google.protobuf.message import Message

from edge_runtime.remote.line import Line
from edge_runtime.remote.way import PLAIN, Way
from fallback_server.protocol.methods import Method


class Lines:
    """Thread-safe. Nothing goes out while there is no way on which the server has proved who it is."""

    def __init__(self, address: str) -> None:
        """Takes `host:port`; the way is plain until `take` says otherwise. Opens no connection yet."""
        self._address = address
        self._lock = threading.Lock()
        self._way: Way | None = PLAIN
        self._line: Line | None = None
        self._retired: list[Line] = []
        self._closed = False

    @property
    def way(self) -> Way | None:
        """How the server is spoken to; None while it has not proved who it is."""
        return self._way

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        with self._lock:
            return all(line.idle for line in self._all())

    def start(
        self,
        method: Method[Any, Any],
        message: Message | bytes,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...],
    ) -> Any:
        """Sends a message: see `Line.start`.

        Raises:
            ValueError: closed, or the server has not proved who it is.
            Exception: what gRPC raises at a message that it can't send.
        """
        with self._lock:
            way = self._way
            if way is None or self._closed:
                raise ValueError("the connection is closed" if way else "the server has not proved who it is")
            if self._line is None:
                self._line = Line(self._address, way)
            line = self._line
        return line.start(method, message, timeout_s, (*metadata, *way.metadata) if way.token else metadata)

    def take(self, way: Way | None) -> None:
        """From now on the server is spoken to so; None for not at all: then calls under way end as failed.

        Never from a call's own callback.
        """
        cut: list[Line] = []
        with self._lock:
            old, self._way = self._way, way
            if way is None:
                cut, self._line, self._retired = self._all(), None, []
            elif old is not None and not way.alike(old):
                self._retire()
        for line in cut:
            line.close()

    def renew(self) -> None:
        """Connects anew with the next call; calls under way keep the old line."""
        with self._lock:
            self._retire()

    def sweep(self) -> None:
        """Closes the lines that nobody uses any more."""
        with self._lock:
            over = [line for line in self._retired if line.idle]
            self._retired = [line for line in self._retired if line not in over]
        for line in over:
            line.close()

    def close(self) -> None:
        """Closes them all for good; calls in flight end as failed."""
        with self._lock:
            self._closed = True
            lines = self._all()
        for line in lines:
            line.close()

    def _all(self) -> list[Line]:
        return [*self._retired, *([] if self._line is None else [self._line])]

    def _retire(self) -> None:
        if self._line is not None:
            self._retired.append(self._line)
            self._line = None
