"""Servers found by mDNS: a browser that keeps the endpoint table true."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from edge_runtime.remote.endpoints import EndpointTable, Found
from fallback_server.protocol.mdns import (
    API_TFS_GRPC,
    PROTOCOL_VERSION,
    SERVICE_TYPE,
    Announcement,
    AnnouncementInvalid,
)

_log = logging.getLogger(__name__)

_RESOLVE_MS = 3000
"""How long address and TXT record of an announced server may take to come: zeroconf's own default."""


class Discovery:
    """Browses for servers until closed. A machine without a usable network finds nothing, and is told so once."""

    def __init__(self, table: EndpointTable) -> None:
        """Starts to browse; returns at once.

        Args:
            table: Kept true from zeroconf's own thread.
        """
        from zeroconf import ServiceBrowser, Zeroconf  # noqa: PLC0415  only who browses pays for it

        self._table = table
        self._zeroconf: Any = None
        try:
            self._zeroconf = Zeroconf()
            self._browser: Any = ServiceBrowser(self._zeroconf, SERVICE_TYPE, listener=self)  # type: ignore[arg-type]
        except OSError as error:
            _log.warning("mDNS is not available, no server will be found by it: %s", error)

    def add_service(self, zeroconf: Any, type_: str, name: str) -> None:
        """Zeroconf's call: a server is announced."""
        info = zeroconf.get_service_info(type_, name, _RESOLVE_MS)
        if info is None:
            _log.warning("server %s is announced, but its address is not", name)
            return
        try:
            announcement = Announcement.from_txt(info.properties)
        except AnnouncementInvalid as error:
            _log.warning("announcement of %s passed over: %s", name, error)
            return
        if refusal := _refusal(announcement):
            _log.warning("server %s passed over: %s", name, refusal)
            return
        address = best_address(info.parsed_scoped_addresses(), info.port)
        if address is None:
            _log.warning("server %s passed over: no address in its announcement", name)
            return
        self._table.add(Found(key=name, address=address))

    def update_service(self, zeroconf: Any, type_: str, name: str) -> None:
        """Zeroconf's call: a server's record has changed."""
        self.add_service(zeroconf, type_, name)

    def remove_service(self, zeroconf: Any, type_: str, name: str) -> None:  # noqa: ARG002  zeroconf's signature
        """Zeroconf's call: a server has gone, or its record has expired."""
        self._table.remove(name)

    def close(self) -> None:
        """Stops browsing."""
        if self._zeroconf is not None:
            self._zeroconf.close()


def _refusal(announcement: Announcement) -> str:
    """Why a device of this release can't use the server; empty if it can."""
    if announcement.protocol_version > PROTOCOL_VERSION:
        return f"it speaks protocol {announcement.protocol_version}, this device {PROTOCOL_VERSION}"
    if API_TFS_GRPC not in announcement.apis:
        return f"it offers {', '.join(announcement.apis) or 'nothing'}, this device speaks {API_TFS_GRPC}"
    if announcement.tls:
        return "it speaks TLS, this device is not configured for it"
    return ""


def best_address(addresses: list[str], port: int | None) -> str | None:
    """`host:port` of the address to use: IPv4 before IPv6, others before loopback; None if there is none."""
    if not addresses or not port:
        return None

    def rank(text: str) -> tuple[bool, bool]:
        address = ipaddress.ip_address(text.partition("%")[0])
        return (address.version == 6, address.is_loopback)

    best = min(addresses, key=rank)
    return f"[{best}]:{port}" if ":" in best else f"{best}:{port}"
