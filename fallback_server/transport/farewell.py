"""What is done with calls that come while a server stops: they are held until its clients are told that it does."""

from __future__ import annotations

import asyncio
import time

QUIET_S = 0.05
"""So long no call has come: those that were on their way when the first were refused have, in a data center."""

LONGEST_QUIET_S = 1.0
"""Clients that ask again at once, for ever, do not keep the server."""

_LOOK_S = 0.01

_QUIET_LOOKS = 10
"""So often in a row nobody has come. Looks are counted, as a process that gets no time sees nobody come either."""

HELD_SHARE = 0.5
"""Of the time that a caller gives a call is held so much at most: in the rest the caller can ask elsewhere."""

MAX_HELD = 2**12
"""Calls that are held at a time; further ones are refused at once."""


class Farewell:
    """Holds calls. Lives in one event loop.

    From when gRPC's server is told to stop until a client has heard of it, whatever that client sends is CANCELLED by
    gRPC itself, which no client asks again; one that asks as soon as it is answered is nearly always sending. So what
    comes at the end is not answered: before long each of them has a call here, and none sends. Then the server is told
    to stop, and they hear of that before they hear their answers, which say UNAVAILABLE.

    Attributes:
        holding: Whether who comes is to `wait`.
    """

    def __init__(self) -> None:
        self.holding = False
        self._over = asyncio.Event()
        self._held = 0
        self._came = False

    async def gather(self, *, most_s: float) -> None:
        """Holds what comes from now on; returns when none has come for a moment, at most a second.

        Args:
            most_s: At most so long, too.
        """
        self.holding = True
        end_s = time.monotonic() + min(most_s, LONGEST_QUIET_S)
        looks = 0
        while looks < _QUIET_LOOKS and time.monotonic() < end_s:
            self._came = False
            await asyncio.sleep(_LOOK_S)
            looks = 0 if self._came else looks + 1

    def end(self) -> None:
        """Has all that are held go on, and holds no more. Ending again does nothing."""
        self.holding = False
        self._over.set()

    async def wait(self, left_s: float | None) -> None:
        """Holds a call until the end, or for as long as its caller can spare.

        Args:
            left_s: Seconds until its caller waits no more; None for ever.
        """
        self._came = True
        if self._held >= MAX_HELD:
            return
        self._held += 1
        try:
            async with asyncio.timeout(None if left_s is None else HELD_SHARE * left_s):
                await self._over.wait()
        except TimeoutError:
            return
        finally:
            self._held -= 1


def is_quiet(busy: bool, idle_s: float, waited_s: float) -> bool:  # noqa: FBT001  a table's columns
    """Whether a server that refuses what comes may end its connections.

    Args:
        busy: Whether calls are under way.
        idle_s: How long none has come.
        waited_s: How long it was waited for quiet.
    """
    return not busy and (idle_s >= QUIET_S or waited_s >= LONGEST_QUIET_S)
