"""Whether an address is this machine's own, so that what is sent there leaves it for nobody to read."""

from __future__ import annotations

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether a name or address means the loopback alone. A name that is none of this moment's is not."""
    found = addresses_of(host)
    return bool(found) and all(map(is_own, found))


def addresses_of(host: str) -> tuple[str, ...]:
    """The addresses of a name, each once, in the system's order; an address is its own. None of a name that is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else ()
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def is_own(address: str) -> bool:
    """Whether a numeric address is of the loopback."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
