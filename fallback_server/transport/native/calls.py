"""A call that came over the native transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fallback_server.dataplane import Answer, PredictCall
from fallback_server.transport.calls import Inference
from fallback_server.transport.native.addresses import peer_text
from fallback_server.transport.rpc import Unary

Details = tuple[tuple[tuple[str, str | bytes], ...], str, float | None]
"""Of a call: its metadata, who calls, and the seconds that are left of its time."""

Kind = tuple[Unary[Any, Any], Inference[Any, Any] | None]
"""What is called; also as an inference, where the data plane answers it."""


class NativeCall:
    """A call under way; the `Caller` of whoever answers it.

    Attributes:
        call_id: The native server's number for it.
        unary: What is called.
        inference: The same, where the data plane answers it.
        came_s: When it was taken, of the data plane's clock.
        size_bytes: Of its request.
        asked: What was read.
        calls: What it asks of the data plane.
        answers: What the data plane has given, by its calls.
        task: What answers it in the event loop, where the data plane doesn't.
    """

    __slots__ = (
        "_clock",
        "_details",
        "_done_callbacks",
        "answers",
        "asked",
        "call_id",
        "calls",
        "came_s",
        "inference",
        "size_bytes",
        "task",
        "unary",
    )

    def __init__(
        self,
        call_id: int,
        kind: Kind,
        details: Details,
        size_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.call_id = call_id
        self.unary, self.inference = kind
        self.came_s = clock()
        self.size_bytes = size_bytes
        self.asked: Any = None
        self.calls: Sequence[PredictCall] = ()
        self.answers: dict[PredictCall, Answer] = {}
        self.task: asyncio.Task[None] | None = None
        self._details = details
        self._clock = clock
        self._done_callbacks: list[Callable[[object], object]] = []

    def peer(self) -> str:
        """Who calls, in gRPC's words."""
        return peer_text(self._details[1])

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Keys and values, as they came."""
        return self._details[0]

    def time_remaining(self) -> float | None:
        """Seconds until nobody waits any more; None for ever."""
        left_s = self._details[2]
        return None if left_s is None else left_s - (self._clock() - self.came_s)

    def add_done_callback(self, callback: Callable[[object], object]) -> None:
        """Has something called when the call is over; in the event loop alone."""
        self._done_callbacks.append(callback)

    def done(self) -> None:
        """The call is over."""
        callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            callback(self)
