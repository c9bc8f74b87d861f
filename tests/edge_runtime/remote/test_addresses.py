import pytest

from edge_runtime.remote.addresses import MAX_ADDRESSES, refusal, usable_addresses
from fallback_server.protocol.mdns import Announcement


@pytest.mark.parametrize(
    ("addresses", "best"),
    [
        (["127.0.0.1", "10.0.0.7"], "10.0.0.7:8500"),
        (["fe80::1%eth0", "10.0.0.7"], "10.0.0.7:8500"),
        (["::1"], "[::1]:8500"),
        (["127.0.0.1"], "127.0.0.1:8500"),
        ([], None),
        (["0.0.0.0", "10.0.0.7"], "10.0.0.7:8500"),
        (["0.0.0.0"], None),
        (["224.0.0.251", "255.255.255.255", "240.0.0.1", "::", "ff02::fb", "::ffff:0.0.0.0", "no address"], None),
    ],
)
def test_best_address(addresses, best):
    """IPv4 comes before IPv6, what others can reach before loopback, and what no server can have is passed over."""
    assert next(iter(usable_addresses(addresses, 8500)), None) == best


def test_an_address_without_a_port_is_none():
    """A record without a port names no server."""
    assert usable_addresses(["10.0.0.7"], 0) == ()


def test_few_addresses_of_an_announcement_are_used():
    """Whoever announces another's name adds addresses: some are tried, each once."""
    many = ["10.0.0.7", *(f"10.0.1.{number}" for number in range(20)), "10.0.0.7"]
    found = usable_addresses(many, 8500)
    assert found[0] == "10.0.0.7:8500"
    assert len(found) == len(set(found)) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("announcement", "reason"),
    [
        (Announcement("s"), ""),
        (Announcement("s", tls=True), ""),
        (Announcement("s", apis=("rest",)), "it offers rest"),
        (Announcement("s", protocol_version=2), "protocol 2"),
    ],
)
def test_refusal(announcement, reason):
    """What a device of this release can't talk to is refused, and the text says why."""
    assert reason in refusal(announcement)
    assert bool(refusal(announcement)) == bool(reason)
