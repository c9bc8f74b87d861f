"""Where the native server listens: it takes one address, and gRPC's own listens at all that a name has."""

from __future__ import annotations

import socket

_LOOPBACK = ("127.0.0.1", "::1")
_ALL_OF_IPV4, _ALL = "0.0.0.0", "::"  # noqa: S104  what the operator says


def addresses(host: str) -> list[str]:
    """The addresses at which a server of gRPC's own would listen for a host; a name is looked up, which may take time.

    That for `localhost` are both of loopback, whatever the system's list says, and that for all of IPv4 is all of IPv6
    too, where one socket can be both.

    Args:
        host: A name or an address.

    Raises:
        OSError: there is no such name.
    """
    if host == "localhost":
        return list(_LOOPBACK)
    if host == _ALL_OF_IPV4:
        return [_ALL if socket.has_dualstack_ipv6() else host]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def target(address: str, port: int) -> str:
    """Address and port in one."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def peer_text(peer: str) -> str:
    """Who calls, as gRPC's own server says it: an IPv4 address that came over a socket of IPv6 is one of IPv4."""
    mapped = "ipv6:[::ffff:"
    if not peer.startswith(mapped):
        return peer
    address, _, port = peer.removeprefix(mapped).rpartition("]:")
    return f"ipv4:{address}:{port}"
