import dataclasses
import os
import threading

import pytest
from support.clock import FakeClock
from zeroconf import IPVersion, ServiceBrowser, Zeroconf

from fallback_server.advertiser import RETRY_S, Advertiser, InterfaceUnknown, interfaces_of, place_of
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement, apis_of

MACHINE = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["10.0.0.7", "fe80::1"],
    "eth1": ["169.254.1.2"],
    "six": ["2001:db8::1"],
    "down": [],
}
LOOPBACK = {"lo": ["127.0.0.1"]}


def machine():
    return MACHINE


@pytest.mark.parametrize(
    ("host", "choice", "interfaces", "addresses"),
    [
        ("127.0.0.1", "default", ["127.0.0.1"], ["127.0.0.1"]),
        ("localhost", "default", ["127.0.0.1"], ["127.0.0.1"]),
        ("10.0.0.7", "default", ["10.0.0.7"], ["10.0.0.7"]),
        ("10.0.0.7", "all", ["10.0.0.7", "127.0.0.1", "169.254.1.2"], ["10.0.0.7"]),
        ("0.0.0.0", "default", ["10.0.0.7", "127.0.0.1", "169.254.1.2"], ["10.0.0.7"]),
        ("0.0.0.0", "all", ["10.0.0.7", "127.0.0.1", "169.254.1.2"], ["10.0.0.7"]),
        ("0.0.0.0", "eth0", ["10.0.0.7"], ["10.0.0.7"]),
        ("0.0.0.0", "eth1,127.0.0.1", ["169.254.1.2", "127.0.0.1"], ["169.254.1.2"]),
        ("::", "six", ["2001:db8::1"], ["2001:db8::1"]),
    ],
)
def test_places(host, choice, interfaces, addresses):
    """Loopback is announced on loopback alone, all addresses on all interfaces, or on those that are chosen."""
    place = place_of(host, choice.split(","), machine=machine)
    assert (place.interfaces, place.addresses) == (tuple(interfaces), tuple(addresses))


def test_ip_version_is_that_of_the_interfaces():
    """Zeroconf wants to be told."""
    assert place_of("0.0.0.0", machine=machine).ip_version is IPVersion.V4Only
    assert place_of("::", ["six"], machine=machine).ip_version is IPVersion.V6Only
    assert place_of("::", ["six", "eth0"], machine=machine).ip_version is IPVersion.All


@pytest.mark.parametrize("name", ["eth9", "10.0.0.8", "down"])
def test_interfaces_that_are_not_there(name):
    """Named, with those that are."""
    with pytest.raises(InterfaceUnknown, match=f"--mdns_interfaces: {name} is no interface .*; there is down, eth0"):
        interfaces_of([name], machine=machine)


def test_a_machine_without_a_network():
    """No place, and so no announcement."""
    with pytest.raises(OSError, match="this machine has no address"):
        place_of("0.0.0.0", machine=dict)


def test_without_a_network_it_warns_once_and_goes_on(caplog):
    """An address that is not this machine's can't be announced: one warning, no exception, and a stop that returns."""
    clock = FakeClock()
    advertiser = Advertiser(Announcement(server_id="a"), host="192.0.2.1", port=1, clock=clock)
    for _ in range(3):
        advertiser.look()
        clock.advance(RETRY_S)
    assert caplog.text.count("mDNS: the server is not announced, devices must be told its address") == 1
    advertiser.stop(timeout_s=5)


def test_an_id_that_is_taken_is_said_to_be_and_taken_over_when_it_is_free(caplog):
    """Two servers with one id: the second is not announced, its warning says why, and it is once the first has gone."""
    caplog.set_level("INFO")
    clock = FakeClock()
    announcement = Announcement(server_id=f"twice-{os.getpid()}")
    first, second = (Advertiser(announcement, host="127.0.0.1", port=port, clock=clock) for port in (1, 2))
    try:
        first.look()
        second.look()
        assert "another server on this network announces the same id" in caplog.text
        first.stop(timeout_s=5)
        second.look()
        assert caplog.text.count("mDNS: announced as") == 1
        clock.advance(RETRY_S)
        second.look()
        assert caplog.text.count("mDNS: announced as") == 2
    finally:
        first.stop(timeout_s=5)
        second.stop(timeout_s=5)


class Listener:
    """Notes what a browser is told; `changed` is set at every change."""

    def __init__(self):
        self.seen = {}
        self.changed = threading.Condition()

    def add_service(self, zeroconf, type_, name):
        info = zeroconf.get_service_info(type_, name)
        self.note(name, info and (info.port, info.decoded_properties))

    update_service = add_service

    def remove_service(self, zeroconf, type_, name):
        self.note(name, None)

    def note(self, name, what):
        with self.changed:
            self.seen[name] = what
            self.changed.notify_all()

    def wait_for(self, name, what):
        with self.changed:
            assert self.changed.wait_for(lambda: self.seen.get(name) == what, 30), self.seen

    def wait(self, name, *, there):
        with self.changed:
            assert self.changed.wait_for(lambda: (self.seen.get(name) is not None) is there, 30), self.seen
        return self.seen.get(name)


def test_announced_again_where_the_addresses_have_changed_and_withdrawn_at_the_end(caplog):
    """A browser sees it come with all that the TXT record says, and go; a change of addresses makes it anew.

    What is told may change meanwhile, as with a new certificate: the record is another then, and the name the same.
    """
    caplog.set_level("INFO")
    there = dict(LOOPBACK)
    announcement = Announcement(
        server_id=f"one-{os.getpid()}", apis=apis_of(rest_port=8501), tls=True, fingerprint="a" * 64
    )
    advertiser = Advertiser(announcement, host="0.0.0.0", port=7, machine=lambda: there, clock=FakeClock())
    zeroconf, listener = Zeroconf(interfaces=["127.0.0.1"]), Listener()
    browser = ServiceBrowser(zeroconf, SERVICE_TYPE, listener=listener)
    try:
        advertiser.look()
        port, properties = listener.wait(announcement.instance_name, there=True)
        assert (port, properties) == (7, announcement.to_txt())
        renewed = dataclasses.replace(announcement, fingerprint="b" * 64)
        advertiser.tell(renewed)
        advertiser.look()
        listener.wait_for(announcement.instance_name, (7, renewed.to_txt()))
        advertiser.look()
        assert caplog.text.count("mDNS: announced as") == 1
        there["lo"] = ["127.0.0.1", "127.0.0.2"]
        advertiser.look()
        assert caplog.text.count("at 127.0.0.1, 127.0.0.2") == 1
        advertiser.stop(timeout_s=10)
        listener.wait(announcement.instance_name, there=False)
    finally:
        advertiser.stop(timeout_s=5)
        browser.cancel()
        zeroconf.close()


def test_an_interface_that_comes_later_is_announced_on(caplog):
    """A lease that comes after the start: one warning, then the announcement."""
    caplog.set_level("INFO")
    there = {}
    advertiser = Advertiser(
        Announcement(server_id=f"late-{os.getpid()}"),
        host="0.0.0.0",
        port=7,
        interfaces=["lo"],
        machine=lambda: there,
        clock=FakeClock(),
    )
    advertiser.look()
    advertiser.look()
    assert caplog.text.count("--mdns_interfaces: lo is no interface") == 1
    there.update(LOOPBACK)
    advertiser.look()
    advertiser.stop(timeout_s=10)
    assert "mDNS: announced as" in caplog.text


def test_a_stop_right_after_the_start_returns():
    """Whatever the thread is at, nothing stays announced."""
    advertiser = Advertiser(Announcement(server_id=f"short-{os.getpid()}"), host="127.0.0.1", port=1)
    advertiser.start()
    advertiser.stop(timeout_s=10)
    advertiser._thread.join(30)
    assert not advertiser._thread.is_alive()
    assert advertiser._zeroconf is None
