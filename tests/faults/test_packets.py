"""Two hosts and a wire that treats their packets badly, under load: each request is answered right or told in time."""

import time

import pytest
from support.edge_models import publish_scale
from support.fault_child import FaultChild
from support.fault_load import BACK_S, PATIENT_S
from support.fault_servers import fault_server
from support.packet_wire import Wire, two_hosts

pytestmark = pytest.mark.slow

TOLD = {"DeadlineExceeded", "ServerFailed", "VersionNotAvailable"}

BAD = {
    "100 ms": Wire(delay_s=0.05),
    "1 % loss": Wire(delay_s=0.005, loss=0.01),
    "20 % loss": Wire(delay_s=0.005, loss=0.2),
    "reordering": Wire(delay_s=0.01, reordered=0.3, doubled=0.1),
    "64 kbit/s": Wire(bytes_s=8000),
    "a cut": Wire(cut=True),
}


@pytest.fixture
def hosts(fault_seed):
    with two_hosts(fault_seed) as made:
        yield made


@pytest.fixture
def server(tmp_path, hosts):
    flags = (f"--host={hosts.far_address}", "--insecure")
    with fault_server(tmp_path, *flags, before=hosts.before("far")) as running:
        yield running


@pytest.fixture
def device(tmp_path, hosts, fault_seed):
    """Makes a device on the near host, under load."""
    made = []

    def make(fallback, *versions, **load):
        for version in versions:
            publish_scale(tmp_path / "store", version, float(version), model="lite")
        (tmp_path / "store").mkdir(exist_ok=True)
        options = {
            "fallback": fallback,
            "policy": "prefer_server",
            "delegates": ["cpu"],
            "threads": 1,
            "cache": None,
            "insecure": True,
        }
        made.append(FaultChild(tmp_path / "store", options, load, fault_seed, before=hosts.before("near")))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("versions", [(), (1,)], ids=["absent", "installed"])
def test_whatever_the_wire_does_to_packets(hosts, server, device, fault_s, versions):
    """One after the other, and each time the server answers within five seconds; who has the version answers always."""
    load = {"version": 1, "deadlines_s": PATIENT_S if versions else (0.2, 2.0)}
    asking = device(f"{hosts.far_address}:{server.server.port}", *versions, **load)
    asking.ask("await", 20, 60, "server")
    for wire in BAD.values():
        hosts.wire = wire
        time.sleep(fault_s)
        hosts.wire = Wire()
        asking.ask("await", 10, BACK_S, "server")
    assert set(asking.ask("stop")) <= (set() if versions else TOLD)


def test_a_host_that_comes_back_at_another_address(hosts, tmp_path, device):
    """It is announced anew, and asked there; an old announcement and lost ones cost a device no request."""
    flags = ("--host=0.0.0.0", "--insecure", "--mdns")
    with fault_server(tmp_path, *flags, before=hosts.before("far")) as server:
        asking = device("mdns", 1, version=1, deadlines_s=PATIENT_S)
        asking.ask("await", 20, 60, "server")
        hosts.wire = Wire(without_udp=True)
        asking.ask("await", 20, 60, "server")
        server.server.kill()
        hosts.move("far", hosts.far_address, "10.88.0.3")
        server.start()
        asking.ask("await", 20, 60, "device")
        hosts.wire = Wire()
        asking.ask("await", 20, 60, "server")
        assert asking.ask("stop") == {}
