"""Tells coroutines that something has changed, and how often they look again where nobody tells them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

Watch = Callable[[Callable[[], None]], Callable[[], None]]
"""Calls the function after each change, in any thread; the result ends that."""

COALESCE_S = 0.05
"""Changes come in swarms (a load is four); watchers hear of a swarm at once."""


class Changes:
    """Bridges a watch of any thread to coroutines, which only ever learn that there was a change since they looked.

    Lives in the event loop that makes it.

    Args:
        watch: Where changes are told.
        coalesce_s: How long after the first change of a swarm the watchers are woken.
    """

    def __init__(self, watch: Watch, *, coalesce_s: float = COALESCE_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._coalesce_s = coalesce_s
        self._woken = asyncio.Event()
        self._told = False
        self.count = 0
        self.closed = False
        self._unwatch = watch(self._on_change)

    async def wait(self, seen: int, timeout_s: float | None = None) -> int:
        """Waits until `count` is beyond what was seen, the time is up, or this is closed; returns `count`."""
        if self.count == seen and not self.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), timeout_s)
        return self.count

    async def closing(self) -> None:
        """Waits until this is closed."""
        while not self.closed:
            await self._woken.wait()

    def tell(self) -> None:
        """Wakes the watchers at once. In the event loop alone."""
        self._told = False
        self.count += 1
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    def close(self) -> None:
        """Wakes the watchers, for their last look. Closing again does nothing."""
        if self.closed:
            return
        self._unwatch()
        self.closed = True
        self.tell()

    def _on_change(self) -> None:
        if self._told:
            return
        self._told = True
        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._coalesce_s, self.tell)
        except RuntimeError:
            _log.debug("a change came after the server had stopped")
