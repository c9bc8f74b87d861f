import socket
import threading

import pytest
from zeroconf import IPVersion, ServiceInfo, Zeroconf

from edge_runtime.remote.discovery import Discovery, best_address
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

WAIT_S = 20


class Recorder:
    """An endpoint table that keeps what it was told, and lets a test wait for it."""

    def __init__(self):
        self.found = {}
        self.changed = threading.Condition()

    def add(self, found):
        with self.changed:
            self.found[found.key] = found.address
            self.changed.notify_all()

    def remove(self, key):
        with self.changed:
            self.found.pop(key, None)
            self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            return self.changed.wait_for(lambda: condition(self.found), WAIT_S)


def service(announcement, port, properties=None):
    return ServiceInfo(
        SERVICE_TYPE,
        announcement.instance_name,
        port=port,
        addresses=[socket.inet_aton("127.0.0.1")],
        properties=announcement.to_txt() if properties is None else properties,
        server=f"{announcement.server_id}.local.",
    )


@pytest.mark.slow
def test_servers_come_and_go_by_real_mdns():
    """Over real mDNS on loopback a server is found, one that speaks TLS is passed over, and a withdrawal is seen."""
    table = Recorder()
    good, tls, odd = Announcement("test-good"), Announcement("test-tls", tls=True), Announcement("test-odd")
    announcer = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    discovery = Discovery(table)
    try:
        announcer.register_service(service(tls, 9))
        announcer.register_service(service(odd, 9, {"proto": "many"}))
        announcer.register_service(service(good, 8511))
        assert table.wait(lambda found: found.get(good.instance_name) == "127.0.0.1:8511")
        announcer.unregister_service(announcer.registry.async_get_info_name(good.instance_name))
        assert table.wait(lambda found: good.instance_name not in found)
        assert table.found == {}
    finally:
        discovery.close()
        announcer.close()


@pytest.mark.parametrize(
    ("addresses", "best"),
    [
        (["127.0.0.1", "10.0.0.7"], "10.0.0.7:8500"),
        (["fe80::1%eth0", "10.0.0.7"], "10.0.0.7:8500"),
        (["::1"], "[::1]:8500"),
        (["127.0.0.1"], "127.0.0.1:8500"),
        ([], None),
    ],
)
def test_best_address(addresses, best):
    """IPv4 comes before IPv6, and what others can reach before loopback."""
    assert best_address(addresses, 8500) == best
