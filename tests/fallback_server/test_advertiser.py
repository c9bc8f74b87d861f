import os

import pytest
from zeroconf import InterfaceChoice

from fallback_server.advertiser import Advertiser, place_of
from fallback_server.protocol.mdns import Announcement


@pytest.mark.parametrize(
    ("host", "interfaces", "addresses"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"], ["127.0.0.1"]),
        ("10.0.0.7", ["10.0.0.7"], ["10.0.0.7"]),
        ("0.0.0.0", InterfaceChoice.All, ["10.0.0.7"]),
    ],
)
def test_places(host, interfaces, addresses):
    """Loopback is announced on loopback alone; all addresses on all interfaces, without those nobody can reach."""
    place = place_of(host, all_addresses=lambda: ["127.0.0.1", "169.254.1.2", "10.0.0.7"])
    assert (place.interfaces, place.addresses) == (interfaces, addresses)


def test_without_a_network_it_warns_and_goes_on(caplog):
    """An address that is not this machine's can't be announced: a warning, no exception, and a stop that returns."""
    advertiser = Advertiser(Announcement(server_id="a"), host="192.0.2.1", port=1)
    advertiser.start()
    advertiser._thread.join(20)
    assert "mDNS: the server is not announced, devices must be told its address" in caplog.text
    advertiser.stop(timeout_s=5)


def test_an_id_that_is_taken_is_said_to_be(caplog):
    """Two servers with one id: the second is not announced, and its warning says why."""
    caplog.set_level("INFO")
    announcement = Announcement(server_id=f"twice-{os.getpid()}")
    first, second = (Advertiser(announcement, host="127.0.0.1", port=port) for port in (1, 2))
    try:
        first.start()
        first._thread.join(20)
        second.start()
        second._thread.join(20)
    finally:
        first.stop(timeout_s=5)
        second.stop(timeout_s=5)
    assert "another server on this network announces the same id" in caplog.text
