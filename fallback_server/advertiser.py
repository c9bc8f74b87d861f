"""Announces the server by mDNS, so that devices on the network find it without being told where it is."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zeroconf import (  # type: ignore[attr-defined]  # get_all_addresses is there for users, but not in __all__
    InterfaceChoice,
    IPVersion,
    NonUniqueNameException,
    ServiceInfo,
    Zeroconf,
    get_all_addresses,
)

from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the announcement goes, and which addresses it names.

    Attributes:
        interfaces: What zeroconf opens.
        addresses: Where devices connect to.
        ip_version: Of both.
    """

    interfaces: Sequence[str] | InterfaceChoice
    addresses: Sequence[str]
    ip_version: IPVersion


def place_of(host: str, *, all_addresses: Callable[[], Sequence[str]] = get_all_addresses) -> Place:
    """Where a server that listens on `host` is announced: on loopback alone when it listens there alone.

    Raises:
        OSError: the host is no name of an address.
    """
    address = ipaddress.ip_address(_resolve(host))
    version = IPVersion.V4Only if address.version == 4 else IPVersion.V6Only
    if not address.is_unspecified:
        return Place(interfaces=[str(address)], addresses=[str(address)], ip_version=version)
    found = [ipaddress.ip_address(each) for each in all_addresses()]
    outside = [each for each in found if not each.is_loopback]
    routable = [each for each in outside if not each.is_link_local]
    return Place(
        interfaces=InterfaceChoice.All,
        addresses=[str(each) for each in (routable or outside or found)],
        ip_version=IPVersion.V4Only,
    )


class Advertiser:
    """One announcement, made and withdrawn in threads of its own: it takes a second or two.

    Where it can't be made (no network, no permission), a warning says so and the server serves on.
    """

    def __init__(self, announcement: Announcement, *, host: str, port: int) -> None:
        self._announcement = announcement
        self._host = host
        self._port = port
        self._lock = threading.Lock()
        self._withdrawn = False
        self._zeroconf: Zeroconf | None = None
        self._thread = threading.Thread(target=self._register, name="mdns", daemon=True)

    def start(self) -> None:
        """Begins to announce; returns at once."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """Withdraws the announcement and waits until it is withdrawn, at most so long."""
        thread = threading.Thread(target=self._withdraw, name="mdns-withdraw", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            _log.warning("mDNS: the announcement could not be withdrawn within %.1f s", timeout_s)

    def _register(self) -> None:
        try:
            place = place_of(self._host)
            zeroconf = Zeroconf(interfaces=place.interfaces, ip_version=place.ip_version)
            with self._lock:
                if self._withdrawn:
                    zeroconf.close()
                    return
                self._zeroconf = zeroconf
            zeroconf.register_service(self._info(place))
        except Exception as error:  # noqa: BLE001  whatever the network lacks, the server serves on
            if not self._withdrawn:
                _log.warning("mDNS: the server is not announced, devices must be told its address: %s", _text(error))
        else:
            _log.info("mDNS: announced as %s at %s", self._announcement.instance_name, ", ".join(place.addresses))

    def _withdraw(self) -> None:
        with self._lock:
            self._withdrawn = True
            zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            with contextlib.suppress(Exception):
                zeroconf.unregister_all_services()
            zeroconf.close()

    def _info(self, place: Place) -> ServiceInfo:
        return ServiceInfo(
            SERVICE_TYPE,
            self._announcement.instance_name,
            port=self._port,
            parsed_addresses=list(place.addresses),
            properties=self._announcement.to_txt(),
            server=f"{self._announcement.server_id}.local.",
        )


def _resolve(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _text(error: Exception) -> str:
    if isinstance(error, NonUniqueNameException):
        return "another server on this network announces the same id"
    return f"{type(error).__name__}: {error}"
