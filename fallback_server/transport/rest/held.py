"""Bytes of requests' bodies that are held, shared among the addresses that they come from."""

from __future__ import annotations

from collections import Counter

from fallback_server.core.errors import QueueFull


class HeldBodies:
    """So many bytes at a time. Lives in the event loop.

    Args:
        max_bytes: The most of all addresses together. One alone may hold half of them; see `Places`.

    Attributes:
        max_bytes: See above.
        bytes: What is held.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._of: Counter[str] = Counter()

    def hold(self, address: str, size_bytes: int) -> None:
        """Counts bytes of a body; they must be given back by `let_go`.

        Raises:
            QueueFull: the address would hold more than would be free.
        """
        own, free = self._of[address] + size_bytes, self.max_bytes - self.bytes - size_bytes
        if own > free:
            raise QueueFull(
                f"the bodies of {address}'s requests take {own} bytes, at most as many are held as stay free: "
                f"{max(0, free)} of {self.max_bytes}"
            )
        self._of[address] = own
        self.bytes += size_bytes

    def let_go(self, address: str, size_bytes: int) -> None:
        """Gives back what `hold` has counted."""
        self.bytes -= size_bytes
        self._of[address] -= size_bytes
        if not self._of[address]:
            del self._of[address]
