"""Servers that fall silent with requests in flight: another one answers these by their deadlines."""

import signal
import time

import pytest
from support.fault_load import Load
from support.fault_scenes import device, places
from support.fault_servers import fault_server

pytestmark = pytest.mark.slow

DEADLINES_S = (2.0, 2.5)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two servers of one version."""
    with fault_server(tmp_path_factory.mktemp("one")) as one, fault_server(tmp_path_factory.mktemp("two")) as other:
        yield one, other


@pytest.mark.parametrize(
    ("versions", "threads"), [((), 4), ((), 16), ((1,), 16)], ids=["absent, few", "absent, many", "installed, many"]
)
def test_of_two_servers_one_is_stopped_with_requests_in_flight(tmp_path, two, fault_seed, fault_s, versions, threads):
    """None is lost there, however many there were: what has two seconds is asked of the other long before its end."""
    silent, _ = two
    with (
        device(tmp_path, tuple(one.address for one in two), *versions) as runtime,
        Load(
            places(runtime.model("lite"), []), fault_seed, version=1, deadlines_s=DEADLINES_S, threads=threads
        ) as load,
    ):
        load.await_answers(400)
        silent.server.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(max(fault_s, DEADLINES_S[1]))
            load.await_answers(20)
        finally:
            silent.server.process.send_signal(signal.SIGCONT)
        load.back()
        assert not load.stop().refused
