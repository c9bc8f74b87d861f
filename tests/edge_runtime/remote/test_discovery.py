import asyncio
import contextlib
import logging
import socket
import threading
import time

import pytest
from zeroconf import IPVersion, ServiceInfo, Zeroconf
from zeroconf._dns import DNSPointer
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.const import _CLASS_IN, _FLAGS_AA, _FLAGS_QR_RESPONSE, _TYPE_PTR

from edge_runtime.remote.discovery import MAX_PENDING, Discovery
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

pytestmark = pytest.mark.slow

WAIT_S = 20
TTL_S = 120


class Recorder:
    """An endpoint table that keeps what it was told, and lets a test wait for it."""

    def __init__(self):
        self.found = {}
        self.tls = {}
        self.lost = 0
        self.changed = threading.Condition()

    def add(self, sighting):
        with self.changed:
            self.found[sighting.key] = sighting.addresses[0]
            self.tls[sighting.key] = sighting.tls
            self.changed.notify_all()

    def dropped(self, count):
        self.lost += count

    def remove(self, key):
        with self.changed:
            self.found.pop(key, None)
            self.changed.notify_all()

    def wait(self, condition, wait_s=WAIT_S):
        with self.changed:
            return self.changed.wait_for(lambda: condition(self.found), wait_s)


def service(announcement, port, properties=None, address="127.0.0.1"):
    return ServiceInfo(
        SERVICE_TYPE,
        announcement.instance_name,
        port=port,
        addresses=[socket.inet_aton(address)],
        properties=announcement.to_txt() if properties is None else properties,
        server=f"{announcement.server_id}.local.",
    )


def announce_names(zeroconf, names):
    """Announces names and nothing else of them."""
    out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
    for name in names:
        out.add_answer_at_time(DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, TTL_S, name), 0)
    zeroconf.loop.call_soon_threadsafe(zeroconf.async_send, out)


@pytest.fixture
def table():
    return Recorder()


@pytest.fixture
def announcer():
    with contextlib.closing(Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)) as made:
        yield made


@pytest.fixture
def discovery(table):
    with contextlib.closing(Discovery(table)) as made:
        yield made


def test_servers_come_and_go_by_real_mdns(table, announcer, discovery):
    """Over real mDNS on loopback a server is found, one that can't be read is passed over, and a withdrawal is seen."""
    good, tls, odd = Announcement("test-good"), Announcement("test-tls", tls=True), Announcement("test-odd")
    announcer.register_service(service(tls, 9))
    announcer.register_service(service(odd, 9, {"proto": "many"}))
    announcer.register_service(service(good, 8511))
    assert table.wait(lambda found: found.get(good.instance_name) == "127.0.0.1:8511")
    announcer.unregister_service(announcer.registry.async_get_info_name(good.instance_name))
    assert table.wait(lambda found: good.instance_name not in found)
    assert table.found == {tls.instance_name: "127.0.0.1:9"}
    assert table.tls == {tls.instance_name: True, good.instance_name: False}


def test_odd_names_do_not_end_the_browsing(table, announcer, discovery, caplog):
    """Names of other types, with control characters or far too long are passed over, and the next server is found."""
    odd = ["evil._http._tcp.local.", f"e\x01\x1bvil.{SERVICE_TYPE}", f"._sub.{SERVICE_TYPE}", "x.local.", SERVICE_TYPE]
    announce_names(announcer, odd)
    good = Announcement("test-after-odd")
    announcer.register_service(service(good, 8512))
    assert table.wait(lambda found: good.instance_name in found)
    assert discovery._browser.is_alive()
    assert "evil" in caplog.text
    assert "\x1b" not in caplog.text


def test_name_in_other_letters_is_the_same_server(table, announcer, discovery):
    """DNS names that differ in no more than case are one server: a pointer in capitals gives no second one."""
    good = Announcement("test-letters")
    announce_names(announcer, ["TEST-LETTERS._Edge-Fallback._TCP.local."])
    announcer.register_service(service(good, 8513))
    assert table.wait(lambda found: found == {good.instance_name: "127.0.0.1:8513"})
    assert discovery._browser.is_alive()


def test_ghosts_do_not_hold_up_a_server(table, announcer, discovery, caplog):
    """A hundred names without an address cost a real server no time, are bounded, and don't fill the log."""
    for start in range(0, 100, 20):
        announce_names(announcer, [f"ghost-{i}.{SERVICE_TYPE}" for i in range(start, start + 20)])
    good = Announcement("test-real")
    announcer.register_service(service(good, 8514))
    assert table.wait(lambda found: good.instance_name in found, wait_s=2)
    assert len(discovery._pending) <= MAX_PENDING
    assert len([record for record in caplog.records if record.name.startswith("edge_runtime")]) <= 11


def test_closing_with_ghosts_is_quiet(table, announcer, caplog, monkeypatch):
    """Closing while names are being resolved gives them up, without an error in any thread or in the log."""
    caplog.set_level(logging.WARNING)
    for bound in ("_ASK_S", "_CLOSE_S"):  # Whoever waited for either would wait long.
        monkeypatch.setattr(f"edge_runtime.remote.discovery.{bound}", 60.0)
    discovery = Discovery(table)
    announce_names(announcer, [f"ghost-{i}.{SERVICE_TYPE}" for i in range(20)])
    good = Announcement("test-quiet")
    announcer.register_service(service(good, 8515))
    assert table.wait(lambda found: good.instance_name in found)
    assert discovery._pending
    started_s = time.monotonic()
    discovery.close()
    discovery.close()
    assert time.monotonic() - started_s < 30
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "changed",
    [
        {"properties": Announcement("test-change", apis=()).to_txt()},
        {"properties": {"proto": "many"}},
    ],
)
def test_server_that_can_no_longer_be_used_is_removed(table, announcer, discovery, changed):
    """An announcement that offers nothing any more, or becomes invalid, takes the endpoint away that it gave before."""
    good = Announcement("test-change")
    announcer.register_service(service(good, 8516))
    assert table.wait(lambda found: good.instance_name in found)
    announcer.update_service(service(good, 8516, **changed))
    assert table.wait(lambda found: good.instance_name not in found)


def test_discovery_leaves_an_applications_loop_alone(table, announcer):
    """Made and closed inside a running event loop, it neither takes nor blocks that loop."""
    good = Announcement("test-loop")

    async def application():
        discovery = Discovery(table)
        assert discovery._zeroconf.loop is not asyncio.get_running_loop()
        announcer.register_service(service(good, 8517))
        found = table.wait(lambda found: good.instance_name in found)
        discovery.close()
        return found

    assert asyncio.run(application())
