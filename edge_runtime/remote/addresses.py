"""What an announcement says that a device can use. Pure."""

from __future__ import annotations

import ipaddress

from fallback_server.protocol.mdns import API_TFS_GRPC, PROTOCOL_VERSION, Announcement

MAX_ADDRESSES = 4
"""Of one announcement that are looked at: whoever announces another's name adds addresses of its own."""


def refusal(announcement: Announcement) -> str:
    """Why a device of this release can't use the server; empty if it can."""
    if announcement.protocol_version > PROTOCOL_VERSION:
        return f"it speaks protocol {announcement.protocol_version}, this device {PROTOCOL_VERSION}"
    if API_TFS_GRPC not in announcement.apis:
        return f"it offers {', '.join(announcement.apis) or 'nothing'}, this device speaks {API_TFS_GRPC}"
    return ""


def usable_addresses(addresses: list[str], port: int | None) -> tuple[str, ...]:
    """Some `host:port` to connect to, the best first: IPv4 before IPv6, others before loopback."""
    usable = [text for text in dict.fromkeys(addresses) if _is_of_one_host(text)] if port else []

    def rank(text: str) -> tuple[bool, bool]:
        address = ipaddress.ip_address(text.partition("%")[0])
        return (address.version == 6, address.is_loopback)

    best = sorted(usable, key=rank)[:MAX_ADDRESSES]
    return tuple(f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in best)


def _is_of_one_host(text: str) -> bool:
    """Whether an address can be one server's: 0.0.0.0 would be this machine, multicast and broadcast nobody."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return not (address.is_unspecified or address.is_multicast)
        address = address.ipv4_mapped
    # 0.0.0.0/8 is "this network", 240.0.0.0/4 reserved and holds the broadcast address.
    return not (address.packed[0] == 0 or address.is_multicast or address.is_reserved)
