"""What is sent over a connection and not taken yet by its client, and whether that goes on taking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from fallback_server.transport.rest.backend import BODY_STEP_BYTES, GROWTH

TAKING = "fallback_server.taking"
"""In a request's state: the `Taking` of its connection."""


class Taking:
    """The answers of one connection. Lives in the event loop.

    Args:
        look: Called when a large answer begins, and when all of it has been handed to the transport.

    Attributes:
        answer_bytes: Of the large answer that is being sent: it is held until its last piece is sent.
        gone: Whether nobody takes anything any more.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self.answer_bytes = 0
        self.gone = False
        self._look = look
        self._handed_bytes = 0
        self._left_bytes = 0

    @contextlib.contextmanager
    def sending(self, size_bytes: int) -> Iterator[None]:
        """While a large answer is sent, in pieces."""
        self.answer_bytes, self._handed_bytes = size_bytes, 0
        self._look()
        try:
            yield
        finally:
            self.answer_bytes = self._handed_bytes = 0
            self._look()

    def handed(self, size_bytes: int) -> None:
        """A piece of the large answer has been handed to the transport."""
        self._handed_bytes += size_bytes

    def begin(self, unsent_bytes: int) -> None:
        """From now on it is waited for the client.

        Args:
            unsent_bytes: What the transport holds.
        """
        self._left_bytes = self._left(unsent_bytes)

    def stepped(self, unsent_bytes: int) -> bool:
        """Whether the client has taken a step since it began to be waited for, or since the step before.

        A step is as large as one of a body: few bytes, and of an answer that holds much a part of that.
        """
        left_bytes = self._left(unsent_bytes)
        needed_bytes = max(BODY_STEP_BYTES, (self.answer_bytes + unsent_bytes) // GROWTH)
        step = self._left_bytes - left_bytes >= needed_bytes
        if step or left_bytes > self._left_bytes:  # There is more where the next answer has come.
            self._left_bytes = left_bytes
        return step

    def _left(self, unsent_bytes: int) -> int:
        return self.answer_bytes - self._handed_bytes + unsent_bytes
