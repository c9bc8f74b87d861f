"""Servers found by mDNS: a browser that tells of what is announced. Whether that is so is others' business (`trust`).

Anybody on the network can announce anything. So what comes is bounded by sender and over all (`flood`); a name costs no
more than a task on zeroconf's own event loop, of which there are `MAX_PENDING`, and `NAMES_S` are begun in a second;
nothing that a name or record holds ends the browsing; and the log is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from edge_runtime.remote.addresses import MAX_ADDRESSES, refusal, usable_addresses
from edge_runtime.remote.flood import Bucket, Flood, FloodGate
from edge_runtime.remote.log_limit import LogLimit, shown
from edge_runtime.remote.sightings import Sighting
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement, AnnouncementInvalid

_log = logging.getLogger(__name__)

_RESOLVE_MS = 3000
"""How long address and TXT record of an announced server may take to come: zeroconf's own default."""

MAX_PENDING = 64
"""Names that are being resolved. One more drives out the oldest: a server that is there answers within a fraction of a
second, so what has waited longest is most likely a ghost."""

NAMES_S = 50.0
"""Names that are looked into in a second, and five times that at once: each costs questions to everybody."""

MAX_LATER = 1024
"""Names that wait for that; beyond, one that is drawn gives way."""

_OF_ONE = 2
"""Addresses that are looked at of each that tells where a server is."""

_DRAWN = 16
"""Names that are drawn for each that is looked into."""

_DRAIN_S = 0.2
"""How often they are gone on with."""

_ASK_S = 3.0
"""After packets were dropped everybody is asked again so much later: what was dropped may have been a server's."""

_MAX_AGAIN_S = 60.0
"""After names were dropped all that are known are looked into once more, as soon as that at first, and twice as late
each time that some were dropped meanwhile: names of nobody stay known for hours."""

_CLOSE_S = 5.0
"""How long closing waits for zeroconf's event loop: it needs milliseconds."""


class Table(Protocol):
    """What is told: `Trust`, or `PlainText`."""

    def add(self, sighting: Sighting) -> bool:
        """A server is announced; whether there was room for it: else it is told again."""
        ...

    def remove(self, key: str) -> None:
        """A server has gone, if it was there."""
        ...

    def dropped(self, count: int) -> None:
        """So much was announced faster than it is looked at."""
        ...


class Discovery:
    """Browses for servers until closed. A machine without a usable network finds nothing, and is told so once."""

    def __init__(self, table: Table, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts to browse; returns at once.

        Args:
            table: Told from zeroconf's event loop.
            clock: Monotonic seconds, for the bounds.
        """
        self._table = table
        self._limit = LogLimit(_log, clock)
        self._pending: dict[str, asyncio.Task[None]] = {}
        self._clock = clock
        self._names = Bucket(NAMES_S, clock())
        self._later: dict[str, str] = {}
        self._asks = self._names_dropped = self._again = False
        self._again_s = _ASK_S
        self._flood = Flood(clock)
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
            asyncio.run_coroutine_threadsafe(self._guard(), self._zeroconf.loop).result(_CLOSE_S)
            self._browser: Any = ServiceBrowser(self._zeroconf, SERVICE_TYPE, listener=self)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001  no network, no permission: the servers that are given still serve
            _log.warning("mDNS is not available, no server will be found by it: %s", error)

    def _on_loop(self, what: Callable[[str], None], name: str) -> None:
        """What is raised here would end the browser's thread for good."""
        with contextlib.suppress(RuntimeError):  # The loop has been closed.
            self._zeroconf.loop.call_soon_threadsafe(what, name)

    async def _guard(self) -> None:
        """Puts a gate before each socket."""
        await self._zeroconf.async_wait_for_start()
        for listener in self._zeroconf.engine.protocols:
            listener.transport.transport.set_protocol(FloodGate(listener, self._flood, self._packet_dropped))

    def _packet_dropped(self) -> None:
        """A packet was not read: in a while everybody is asked again."""
        self._table.dropped(1)
        if not self._asks:
            self._asks = True
            self._zeroconf.loop.call_later(_ASK_S, self._ask)

    def _ask(self) -> None:
        from zeroconf import const  # noqa: PLC0415  loaded already
        from zeroconf._dns import DNSQuestion  # noqa: PLC0415  likewise
        from zeroconf._protocol.outgoing import DNSOutgoing  # noqa: PLC0415  likewise

        self._asks = False
        if not self._closing:
            question = DNSOutgoing(const._FLAGS_QR_QUERY)  # noqa: SLF001  the standard's numbers have no other names
            question.add_question(DNSQuestion(SERVICE_TYPE, const._TYPE_PTR, const._CLASS_IN))  # noqa: SLF001
            self._zeroconf.async_send(question)

    def _name_dropped(self) -> None:
        """A name was not looked into: in a while all are once more."""
        self._table.dropped(1)
        self._names_dropped = True
        if not self._again:
            self._again = True
            self._zeroconf.loop.call_later(self._again_s, self._look_again)

    def _look_again(self) -> None:
        from zeroconf import const  # noqa: PLC0415  loaded already

        dropped, self._names_dropped = self._names_dropped, False
        if self._closing or not dropped:
            self._again, self._again_s = False, _ASK_S
            return
        self._again_s = min(self._again_s * 2, _MAX_AGAIN_S)
        self._zeroconf.loop.call_later(self._again_s, self._look_again)
        for record in self._zeroconf.cache.async_all_by_details(SERVICE_TYPE, const._TYPE_PTR, const._CLASS_IN):  # noqa: SLF001
            self._announced(record.alias)

    def _announced(self, name: str) -> None:
        if self._names.take(1, self._clock()):
            self._look_into(name)
        else:
            self._wait(name)

    def _wait(self, name: str) -> None:
        """It is looked into later."""
        if not self._later:
            self._zeroconf.loop.call_later(_DRAIN_S, self._go_on)
        elif len(self._later) >= MAX_LATER and name.lower() not in self._later:
            del self._later[_drawn(self._later)]
            self._name_dropped()
        self._later[name.lower()] = name

    def _go_on(self) -> None:
        """Looks into some of the names that wait."""
        while self._later and not self._closing and self._names.take(1, self._clock()):
            self._look_into(self._later.pop(self._likely()))
        if self._later and not self._closing:
            self._zeroconf.loop.call_later(_DRAIN_S, self._go_on)

    def _likely(self) -> str:
        """One of the names that wait, as chance has it: no flood can be before all others.

        Of some that are drawn the first of which more is known than the name: servers tell all at once.
        """
        from zeroconf import const  # noqa: PLC0415  loaded already

        names = list(self._later)
        drawn = random.sample(names, min(_DRAWN, len(names)))
        cache = self._zeroconf.cache
        known = (one for one in drawn if cache.async_all_by_details(one, const._TYPE_SRV, const._CLASS_IN))  # noqa: SLF001
        return next(known, drawn[0])

    def _look_into(self, name: str) -> None:
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
            self._name_dropped()
        self._pending[key] = asyncio.get_running_loop().create_task(self._resolve(key, name))

    def _withdrawn(self, name: str) -> None:
        key = name.lower()
        self._later.pop(key, None)
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
        addresses = self._places(info)
        tls = False
        try:
            announcement = Announcement.from_txt(info.properties)
            reason, tls = refusal(announcement), announcement.tls
        except AnnouncementInvalid as error:
            reason = str(error)
        if reason or not addresses:
            self._limit.warning(
                "server %s passed over: %s", shown(name), shown(reason or "no usable address in its announcement")
            )
            self._table.remove(key)  # What was announced there before is so no more.
            return
        direct = any(self._flood.heard(one.rpartition(":")[0].strip("[]")) for one in addresses)
        if not self._table.add(Sighting(key=key, addresses=addresses, tls=tls, direct=direct)):
            self._wait(name)

    def _places(self, info: Any) -> tuple[str, ...]:
        """Where a server may be, as its records say, and those that somebody else has told by its name.

        Whoever replays a server's records drives them out of the cache, until the server is asked again: it is, then.
        """
        from zeroconf import const  # noqa: PLC0415  loaded already

        found = list(usable_addresses(info.parsed_scoped_addresses(), info.port))
        details = self._zeroconf.cache.async_all_by_details
        told = details(info.name, const._TYPE_SRV, const._CLASS_IN)  # noqa: SLF001
        for service in random.sample(told, len(told)):
            hosts = details(service.server, const._TYPE_A, const._CLASS_IN)  # noqa: SLF001
            others = usable_addresses([str(ipaddress.ip_address(one.address)) for one in hosts], service.port)
            found[_OF_ONE:_OF_ONE] = others[:_OF_ONE]
        if len(told) > 1 and not self._asks:
            self._asks = True
            self._zeroconf.loop.call_later(_ASK_S, self._ask)
        return tuple(dict.fromkeys(found))[:MAX_ADDRESSES]

    async def _drain(self) -> None:
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _drawn(names: dict[str, str]) -> str:
    return random.choice(list(names))  # noqa: S311  no secret
