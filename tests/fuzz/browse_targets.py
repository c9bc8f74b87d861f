"""What is announced on the network, as `Discovery` reads it: by zeroconf's own listener and cache."""

from __future__ import annotations

import asyncio
import atexit
import functools
from collections.abc import Sequence
from typing import Any

from fuzz.device_targets import _packet_seeds
from fuzz.target import Target
from zeroconf import Error, IPVersion, Zeroconf, const
from zeroconf.asyncio import AsyncServiceInfo

from edge_runtime.config import is_address
from edge_runtime.remote.addresses import MAX_ADDRESSES
from edge_runtime.remote.discovery import Discovery
from edge_runtime.remote.flood import weight
from edge_runtime.remote.sightings import Sighting
from fallback_server.protocol.mdns import SERVICE_TYPE

_FROM = ("127.0.0.1", 5353)


class _Table:
    """Is told what was found, and looks whether it can be so."""

    def add(self, sighting: Sighting) -> bool:
        assert 0 < len(sighting.addresses) <= MAX_ADDRESSES
        assert all(map(is_address, sighting.addresses))
        assert sighting.key.endswith(SERVICE_TYPE)
        return True

    def remove(self, key: str) -> None:
        assert key

    def dropped(self, count: int) -> None:
        assert count


class _Hearing(Discovery):
    """Discovery that hears what it is given alone: it browses nothing."""

    def _start(self) -> None:
        self._zeroconf = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)

    def hear(self, data: bytes) -> None:
        """Reads a packet, and looks into each name that it announces and has an address of.

        Raises:
            Error: zeroconf refuses a name.
        """
        asyncio.run_coroutine_threadsafe(self._hear(data), self._zeroconf.loop).result()

    async def _hear(self, data: bytes) -> None:
        zeroconf = self._zeroconf
        await zeroconf.async_wait_for_start()
        cache = zeroconf.cache
        cache.async_remove_records([one for name in cache.names() for one in cache.entries_with_name(name)])
        zeroconf.engine.protocols[0].datagram_received(data, _FROM)
        assert weight(data) > 0
        for record in cache.async_all_by_details(SERVICE_TYPE, const._TYPE_PTR, const._CLASS_IN):
            name = record.alias
            if name.lower().endswith(f".{SERVICE_TYPE}") and _is_known(zeroconf, name):
                await self._look(name.lower(), name)


def _is_known(zeroconf: Any, name: str) -> bool:
    """Else it would be asked for, and waited."""
    return AsyncServiceInfo(SERVICE_TYPE, name[: -len(SERVICE_TYPE)] + SERVICE_TYPE).load_from_cache(zeroconf)


@functools.cache
def _hearing() -> _Hearing:
    made = _Hearing(_Table())
    atexit.register(made.close)
    return made


TARGETS: Sequence[Target] = (
    Target(
        name="mdns_browsing",
        read=lambda data: _hearing().hear(data),
        refusals=(Error,),
        seeds=_packet_seeds,
        words=(b"\x0e_edge-fallback\x04_tcp\x05local\0", b"\xc0\x0c", b"\0\x0c\0\1", b"\0\x21\x80\1", b"\0\x10\x80\1"),
        modules=("edge_runtime.remote", "fallback_server.protocol.mdns"),
        max_bytes=9000,
    ),
)
"""All of them."""
