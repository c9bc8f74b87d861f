"""A network that delays, loses, resets, falls silent and comes back, between a device and real servers, under load."""

import time

import pytest
from support.fault_load import PATIENT_S, Load, OfServer
from support.fault_scenes import device, places, since
from support.fault_servers import fault_server
from support.faulty_line import Faults, faulty_line

pytestmark = pytest.mark.slow

TOLD = {"DeadlineExceeded", "ServerFailed", "VersionNotAvailable"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with fault_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def line(server, fault_seed):
    with faulty_line(server.address, fault_seed) as made:
        yield made


BAD = {
    "a way of 100 ms": Faults(delay_s=0.05, jitter_s=0.02),
    "1 % loss": Faults(delay_s=0.005, loss=0.01),
    "20 % loss": Faults(delay_s=0.005, loss=0.2),
    "resets": Faults(reset=0.02),
    "64 kbit/s": Faults(bytes_s=8000),
    "everything at once": Faults(delay_s=0.02, jitter_s=0.05, loss=0.05, reset=0.01, bytes_s=8000),
}


@pytest.mark.parametrize("faults", BAD.values(), ids=BAD)
def test_whatever_the_line_does_a_device_with_the_version_answers(tmp_path, line, fault_seed, fault_s, faults):
    """By the server where it is in time and by itself where not; over a line that is well the server does again."""
    with device(tmp_path, line.address, 1) as runtime:
        seen = []
        ask = places(runtime.model("lite"), seen)
        with Load(ask, fault_seed, version=1, deadlines_s=PATIENT_S) as load:
            load.await_answers(20, place=lambda: "server" in since(seen, 0))
            line.faults = faults
            time.sleep(fault_s)
            load.await_answers(20)
            line.faults = Faults()
            healed_s = time.monotonic()
            load.back(lambda: "server" in since(seen, healed_s))
            assert not load.stop().refused


@pytest.mark.parametrize("faults", BAD.values(), ids=BAD)
def test_without_the_version_each_request_is_answered_or_told_in_time(tmp_path, line, fault_seed, fault_s, faults):
    """Only a server has it: what the line makes late is told at its deadline, by name."""
    with device(tmp_path, line.address) as runtime, Load(places(runtime.model("lite"), []), fault_seed) as load:
        load.await_answers()
        line.faults = faults
        time.sleep(fault_s)
        line.faults = Faults()
        load.back()
        assert set(load.stop().refused) <= TOLD


@pytest.mark.parametrize("faults", [Faults(silent=True), Faults(deaf=True)], ids=["partition", "half-open"])
@pytest.mark.parametrize("versions", [(), (1,)], ids=["absent", "installed"])
def test_a_line_on_which_nothing_comes_back(tmp_path, line, fault_seed, fault_s, faults, versions):
    """For `--fault-seconds` three times over: who has the version answers, who has not tells so at each deadline."""
    with device(tmp_path, line.address, *versions) as runtime:
        seen = []
        deadlines_s = (2.0, 4.0) if versions else (0.2, 2.0)
        with Load(places(runtime.model("lite"), seen), fault_seed, version=1, deadlines_s=deadlines_s) as load:
            load.await_answers(20, place=lambda: "server" in since(seen, 0))
            line.faults = faults
            silent_s = time.monotonic()
            if versions:
                load.await_answers(10, place=lambda: "device" in since(seen, silent_s))
            time.sleep(3 * fault_s)
            line.faults = Faults()
            healed_s = time.monotonic()
            load.back(lambda: "server" in since(seen, healed_s))
            # Of what hangs with the server the device is asked at the last moment, which a busy machine may miss.
            assert set(load.stop().refused) <= ({"DeadlineExceeded"} if versions else TOLD)


def test_connections_that_are_reset_again_and_again(tmp_path, line, fault_seed, draw, fault_s):
    """What was in flight is asked again within its deadline: no request is lost."""
    with (
        device(tmp_path, line.address, 1) as runtime,
        Load(places(runtime.model("lite"), []), fault_seed, version=1, deadlines_s=PATIENT_S) as load,
    ):
        load.await_answers()
        end_s = time.monotonic() + fault_s
        while time.monotonic() < end_s:
            time.sleep(draw.uniform(0.02, 0.3))
            line.reset()
        load.back()
        assert not load.stop().refused


def test_clients_of_the_servers_over_a_line_that_fails(server, line, fault_seed, fault_s):
    """Who speaks gRPC to it without our client is answered or told too, and is as well served afterwards."""
    asking = OfServer(line.address)
    with Load(asking, fault_seed, version=1) as load:
        load.await_answers()
        for faults in (BAD["resets"], Faults(silent=True), BAD["everything at once"]):
            line.faults = faults
            time.sleep(fault_s / 2)
        line.faults = Faults()
        line.reset()  # Whoever has no keepalive learns of a partition when TCP does; our client asks anew by itself.
        load.back()
        assert set(load.stop().refused) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    asking.close()


def test_an_address_behind_which_another_server_stands_now(tmp_path, server, line, fault_seed):
    """The same address goes on to a server with a newer version: requests are answered by it, and none is told."""
    (tmp_path / "other").mkdir()
    with fault_server(tmp_path / "other") as other, device(tmp_path, line.address) as runtime:
        other.publish(2)
        with Load(places(runtime.model("lite"), []), fault_seed, deadlines_s=PATIENT_S) as load:
            load.await_answers()
            moved_s = time.monotonic()
            line.target = other.address
            line.reset()
            load.back(lambda: 2 in {getattr(one, "version", 0) for _, one in load.ledger.since(moved_s)})
            assert not load.stop().refused


@pytest.mark.parametrize("lie", ["slow", "silent"])
def test_of_two_servers_the_one_whose_line_is_bad_is_left(tmp_path, server, line, fault_seed, fault_s, lie):
    """It says that it is idle, and answers late or never: requests go to the other, those too that it had."""
    (tmp_path / "other").mkdir()
    with (
        fault_server(tmp_path / "other") as other,
        device(tmp_path, (line.address, other.address)) as runtime,
        Load(places(runtime.model("lite"), []), fault_seed, version=1, deadlines_s=PATIENT_S) as load,
    ):
        load.await_answers()
        line.faults = Faults(delay_s=1.0) if lie == "slow" else Faults(silent=True)
        load.await_answers(50)
        time.sleep(fault_s)
        line.faults = Faults()
        load.back()
        assert not load.stop().refused
