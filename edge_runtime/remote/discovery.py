"""Servers found by mDNS: a browser that keeps the endpoint table true.

Anybody on the network can announce anything. So a name costs no more than a task on zeroconf's own event loop, of
which there are `MAX_PENDING`; nothing that a name or record holds ends the browsing; and the log is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from edge_runtime.remote.addresses import best_address, refusal
from edge_runtime.remote.endpoints import Found
from edge_runtime.remote.log_limit import LogLimit, shown
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement, AnnouncementInvalid

_log = logging.getLogger(__name__)

_RESOLVE_MS = 3000
"""How long address and TXT record of an announced server may take to come: zeroconf's own default."""

MAX_PENDING = 64
"""Names that are being resolved. One more drives out the oldest: a server that is there answers within a fraction of a
second, so what has waited longest is most likely a ghost."""

_CLOSE_S = 5.0
"""How long closing waits for zeroconf's event loop: it needs milliseconds."""


class Table(Protocol):
    """What is kept true: `EndpointTable`."""

    def add(self, found: Found) -> None:
        """A server is there."""
        ...

    def remove(self, key: str) -> None:
        """A server has gone, if it was there."""
        ...


class Discovery:
    """Browses for servers until closed. A machine without a usable network finds nothing, and is told so once."""

    def __init__(self, table: Table, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts to browse; returns at once.

        Args:
            table: Kept true from zeroconf's event loop.
            clock: Monotonic seconds, for the bound on the log.
        """
        self._table = table
        self._limit = LogLimit(_log, clock)
        self._pending: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._zeroconf: Any = None
        # In a thread of its own: in an application's event loop zeroconf would take that one for itself.
        starter = threading.Thread(target=self._start, name="edge-mdns-start")
        starter.start()
        starter.join()

    def add_service(self, zeroconf: Any, type_: str, name: str) -> None:  # noqa: ARG002  zeroconf's signature
        """Zeroconf's call, in the browser's thread: a server is announced."""
        self._on_loop(self._announced, name)

    def update_service(self, zeroconf: Any, type_: str, name: str) -> None:  # noqa: ARG002  zeroconf's signature
        """Zeroconf's call: a server's record has changed."""
        self._on_loop(self._announced, name)

    def remove_service(self, zeroconf: Any, type_: str, name: str) -> None:  # noqa: ARG002  zeroconf's signature
        """Zeroconf's call: a server has gone, or its record has expired."""
        self._on_loop(self._withdrawn, name)

    def close(self) -> None:
        """Stops browsing, and gives up what is being resolved. May be called again."""
        if self._zeroconf is None or self._closing:
            return
        self._closing = True
        drained = asyncio.run_coroutine_threadsafe(self._drain(), self._zeroconf.loop)
        with contextlib.suppress(TimeoutError):
            drained.result(_CLOSE_S)
        self._zeroconf.close()

    def _start(self) -> None:
        from zeroconf import ServiceBrowser, Zeroconf  # noqa: PLC0415  only who browses pays for it

        try:
            self._zeroconf = Zeroconf()
            self._browser: Any = ServiceBrowser(self._zeroconf, SERVICE_TYPE, listener=self)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001  no network, no permission: the servers that are given still serve
            _log.warning("mDNS is not available, no server will be found by it: %s", error)

    def _on_loop(self, what: Callable[[str], None], name: str) -> None:
        """What is raised here would end the browser's thread for good."""
        with contextlib.suppress(RuntimeError):  # The loop has been closed.
            self._zeroconf.loop.call_soon_threadsafe(what, name)

    def _announced(self, name: str) -> None:
        if self._closing:
            return
        key = name.lower()  # Names differ in no more than case: the same server.
        if not key.endswith(f".{SERVICE_TYPE}"):
            self._limit.warning("announcement of %s passed over: it is no name of a server", shown(name))
            return
        self._give_up(key)
        while len(self._pending) >= MAX_PENDING:
            oldest = next(iter(self._pending))
            self._limit.warning("announcement of %s passed over: too many others have no address", shown(oldest))
            self._give_up(oldest)
        self._pending[key] = asyncio.get_running_loop().create_task(self._resolve(key, name))

    def _withdrawn(self, name: str) -> None:
        key = name.lower()
        self._give_up(key)
        self._table.remove(key)

    def _give_up(self, key: str) -> None:
        task = self._pending.pop(key, None)
        if task is not None:
            task.cancel()

    async def _resolve(self, key: str, name: str) -> None:
        try:
            await self._look(key, name)
        except Exception as error:  # noqa: BLE001  what a stranger's records do to zeroconf or to us ends here
            said = f"{type(error).__name__}: {error}"
            self._limit.warning("announcement of %s passed over: %s", shown(name), shown(said))
        finally:
            if self._pending.get(key) is asyncio.current_task():
                del self._pending[key]

    async def _look(self, key: str, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415  loaded already

        info = AsyncServiceInfo(SERVICE_TYPE, name[: -len(SERVICE_TYPE)] + SERVICE_TYPE)
        if not await info.async_request(self._zeroconf, _RESOLVE_MS):
            self._limit.warning("server %s is announced, but its address is not", shown(name))
            return
        try:
            reason = refusal(Announcement.from_txt(info.properties))
        except AnnouncementInvalid as error:
            reason = str(error)
        address = best_address(info.parsed_scoped_addresses(), info.port)
        if reason or address is None:
            self._limit.warning(
                "server %s passed over: %s", shown(name), shown(reason or "no usable address in its announcement")
            )
            self._table.remove(key)  # What was announced there before is so no more.
            return
        self._table.add(Found(key=key, address=address))

    async def _drain(self) -> None:
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
