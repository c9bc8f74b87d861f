"""What an announcement says that a device can use. Pure."""

from __future__ import annotations

import ipaddress

from fallback_server.protocol.mdns import API_TFS_GRPC, PROTOCOL_VERSION, Announcement


def refusal(announcement: Announcement) -> str:
    """Why a device of this release can't use the server; empty if it can."""
    if announcement.protocol_version > PROTOCOL_VERSION:
        return f"it speaks protocol {announcement.protocol_version}, this device {PROTOCOL_VERSION}"
    if API_TFS_GRPC not in announcement.apis:
        return f"it offers {', '.join(announcement.apis) or 'nothing'}, this device speaks {API_TFS_GRPC}"
    if announcement.tls:
        return "it speaks TLS, this device is not configured for it"
    return ""


def best_address(addresses: list[str], port: int | None) -> str | None:
    """`host:port` of the address to use: IPv4 before IPv6, others before loopback; None if none can be connected to."""
    usable = [text for text in addresses if _is_of_one_host(text)]
    if not usable or not port:
        return None

    def rank(text: str) -> tuple[bool, bool]:
        address = ipaddress.ip_address(text.partition("%")[0])
        return (address.version == 6, address.is_loopback)

    best = min(usable, key=rank)
    return f"[{best}]:{port}" if ":" in best else f"{best}:{port}"


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
