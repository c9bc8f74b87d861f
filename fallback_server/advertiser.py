"""Announces the server by mDNS, so that devices on the network find it without being told where it is."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ifaddr
from zeroconf import IPVersion, NonUniqueNameException, ServiceInfo, Zeroconf

from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

_log = logging.getLogger(__name__)

POLL_S = 10.0
"""How often the machine's addresses are looked at: a cable or a lease comes and goes."""

RETRY_S = 60.0
"""After which an announcement that failed is tried again where nothing has changed."""

_ASK_MS = 500
"""For whoever has the name to say so; they do at once."""

Addresses = Mapping[str, Sequence[str]]
"""Interface name -> its addresses."""


class InterfaceUnknown(ValueError):
    """A name or address is of no interface of this machine, now."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the announcement goes, and which addresses it names. Equal where nothing has changed.

    Attributes:
        interfaces: Addresses of the interfaces that zeroconf opens.
        addresses: Where devices connect to.
    """

    interfaces: tuple[str, ...]
    addresses: tuple[str, ...]

    @property
    def ip_version(self) -> IPVersion:
        """Of the interfaces."""
        versions = {ipaddress.ip_address(each).version for each in self.interfaces}
        return {frozenset({4}): IPVersion.V4Only, frozenset({6}): IPVersion.V6Only}.get(
            frozenset(versions), IPVersion.All
        )


def machine_addresses() -> Addresses:
    """The addresses that this machine has at the moment."""
    return {
        adapter.name: [each.ip if isinstance(each.ip, str) else each.ip[0] for each in adapter.ips]
        for adapter in ifaddr.get_adapters()
    }


def interfaces_of(choice: Sequence[str], *, machine: Callable[[], Addresses] = machine_addresses) -> tuple[str, ...]:
    """The addresses of chosen interfaces; none for `default` and `all`, which choose none.

    Args:
        choice: `default`, `all`, or names and addresses of interfaces.
        machine: The machine's addresses.

    Raises:
        InterfaceUnknown: the machine has no such interface, or it has no address.
    """
    if tuple(choice) in {("default",), ("all",)}:
        return ()
    found: list[str] = []
    there = machine()
    for each in choice:
        if any(each in addresses for addresses in there.values()):
            found.append(each)
        else:
            found += _sorted(there.get(each, ()), version=4) or _sorted(there.get(each, ()), version=6)
        if not found:
            raise InterfaceUnknown(
                f"--mdns_interfaces: {each} is no interface or address of this machine, or has no address; "
                f"there is {', '.join(sorted(there)) or 'none'}"
            )
    return tuple(dict.fromkeys(found))


def place_of(
    host: str, choice: Sequence[str] = ("default",), *, machine: Callable[[], Addresses] = machine_addresses
) -> Place:
    """Where a server is announced: on loopback alone when it listens there alone, unless told otherwise.

    Args:
        host: Where it listens.
        choice: See `interfaces_of`. `default` are the interfaces that it listens on.
        machine: The machine's addresses.

    Raises:
        OSError: the host is no name of an address, or the machine has none.
        InterfaceUnknown: as `interfaces_of`.
    """
    chosen = interfaces_of(choice, machine=machine)
    address = ipaddress.ip_address(_resolve(host))
    everywhere = _sorted((each for addresses in machine().values() for each in addresses), version=4)
    if not address.is_unspecified:
        interfaces = chosen or (everywhere if tuple(choice) == ("all",) else [str(address)])
        return Place(interfaces=tuple(interfaces), addresses=(str(address),))
    if not (chosen or everywhere):
        raise OSError("this machine has no address")
    return Place(interfaces=tuple(chosen or everywhere), addresses=tuple(_outside(chosen or everywhere)))


class Advertiser:
    """One announcement, kept true while the machine's addresses change, in threads of its own.

    Where it can't be made (no network, no permission, an id that is taken), a warning says so, the server serves on,
    and it is tried again.

    Args:
        announcement: What is told.
        host: Where the server listens.
        port: Of gRPC.
        interfaces: Where it is told: see `interfaces_of`.
        machine: The machine's addresses.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        announcement: Announcement,
        *,
        host: str,
        port: int,
        interfaces: Sequence[str] = ("default",),
        machine: Callable[[], Addresses] = machine_addresses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._announcement = announcement
        self._registered = announcement
        self._host = host
        self._port = port
        self._interfaces = tuple(interfaces)
        self._machine = machine
        self._clock = clock
        self._lock = threading.Lock()
        self._withdrawn = threading.Event()
        self._zeroconf: Zeroconf | None = None
        self._place: Place | None = None
        self._retry_at_s = -math.inf
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="mdns", daemon=True)

    def start(self) -> None:
        """Begins to announce; returns at once. It takes a second or two."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """Withdraws the announcement and waits until it is withdrawn, at most so long."""
        self._withdrawn.set()
        thread = threading.Thread(target=self._drop, name="mdns-withdraw", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            _log.warning("mDNS: the announcement could not be withdrawn within %.1f s", timeout_s)

    def tell(self, announcement: Announcement) -> None:
        """From the next look on something else is told, in place of what was, by the same name."""
        self._announcement = announcement

    def look(self) -> None:
        """Announces where the machine has other addresses than when it last did. Never raises.

        Called by the thread every `POLL_S`.
        """
        try:
            place = place_of(self._host, self._interfaces, machine=self._machine)
        except (OSError, ValueError) as error:
            place = None
            self._tell_failure(error)
        announced = self._zeroconf is not None
        if place is not None and place == self._place and (announced or self._clock() < self._retry_at_s):
            if announced and self._registered != self._announcement:
                self._update(place)
            return
        self._drop()
        self._place = place
        if place is not None:
            self._announce(place)

    def _run(self) -> None:
        while not self._withdrawn.is_set():
            self.look()
            self._withdrawn.wait(POLL_S)

    def _announce(self, place: Place) -> None:
        self._retry_at_s = self._clock() + RETRY_S
        try:
            self._refuse_taken(place)
            zeroconf = Zeroconf(interfaces=list(place.interfaces), ip_version=place.ip_version)
            with self._lock:
                self._zeroconf = zeroconf
            if self._withdrawn.is_set():
                self._drop()
                return
            self._registered = self._announcement
            zeroconf.register_service(self._info(place))
        except Exception as error:  # noqa: BLE001  whatever the network lacks, the server serves on
            self._drop()
            if not self._withdrawn.is_set():
                self._tell_failure(error)
        else:
            self._told = ""
            _log.info("mDNS: announced as %s at %s", self._announcement.instance_name, ", ".join(place.addresses))

    def _update(self, place: Place) -> None:
        self._registered = self._announcement
        with self._lock:
            zeroconf = self._zeroconf
        try:
            if zeroconf is not None:
                zeroconf.update_service(self._info(place))
        except Exception as error:  # noqa: BLE001  as in `_announce`
            self._tell_failure(error)

    def _refuse_taken(self, place: Place) -> None:
        """Asks whether somebody else has the name, from a port that nobody else listens on.

        What zeroconf asks as it registers is answered to port 5353, which all programs of a machine share: the kernel
        hands such an answer to any one of them.

        Raises:
            NonUniqueNameException: somebody answers to it.
        """
        with Zeroconf(interfaces=list(place.interfaces), ip_version=place.ip_version, unicast=True) as asker:
            if ServiceInfo(SERVICE_TYPE, self._announcement.instance_name).request(asker, _ASK_MS):
                raise NonUniqueNameException

    def _drop(self) -> None:
        """Withdraws what is announced, if anything is."""
        with self._lock:
            zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            with contextlib.suppress(Exception):
                zeroconf.unregister_all_services()
            zeroconf.close()

    def _tell_failure(self, error: Exception) -> None:
        """Warns once of one and the same failure."""
        text = _text(error)
        if text != self._told:
            self._told = text
            _log.warning("mDNS: the server is not announced, devices must be told its address: %s", text)

    def _info(self, place: Place) -> ServiceInfo:
        return ServiceInfo(
            SERVICE_TYPE,
            self._announcement.instance_name,
            port=self._port,
            parsed_addresses=list(place.addresses),
            properties=self._announcement.to_txt(),
            server=f"{self._announcement.server_id}.local.",
        )


def _sorted(addresses: Iterable[str], *, version: int) -> list[str]:
    """Those of one IP version, in an order that doesn't depend on the machine's mood."""
    found = {each for each in map(ipaddress.ip_address, addresses) if each.version == version}
    return [str(each) for each in sorted(found, key=int)]


def _outside(addresses: Sequence[str]) -> Sequence[str]:
    """Those that other machines can reach; where there are none, what there is."""
    found = [ipaddress.ip_address(each) for each in addresses]
    outside = [each for each in found if not each.is_loopback]
    routable = [each for each in outside if not each.is_link_local]
    return [str(each) for each in (routable or outside or found)]


def _resolve(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _text(error: Exception) -> str:
    if isinstance(error, NonUniqueNameException):
        return "another server on this network announces the same id"
    return f"{type(error).__name__}: {error}"
