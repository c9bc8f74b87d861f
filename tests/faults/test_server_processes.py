"""A server whose processes die or are told to end, under load: every request is answered right or told in time."""

import itertools
import signal
import time

import pytest
from support.fault_load import PATIENT_S, Load
from support.fault_scenes import device, places, since
from support.fault_servers import fault_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_killed_costs_the_device_no_request(tmp_path, fault_seed, draw, fault_s, workers):
    """Its own engine answers meanwhile, by the same version; within five seconds of its return the server does."""
    with (
        fault_server(tmp_path, f"--workers={workers}") as server,
        device(tmp_path, server.address, 1) as runtime,
    ):
        seen = []
        with Load(places(runtime.model("lite"), seen), fault_seed, version=1, deadlines_s=PATIENT_S) as load:
            load.await_answers(20, place=lambda: "server" in since(seen, 0))
            time.sleep(draw.uniform(0, 0.3))
            server.server.kill()
            killed_s = time.monotonic()
            time.sleep(fault_s)
            load.await_answers(20, place=lambda: since(seen, killed_s + 0.5))
            assert since(seen, killed_s + 0.5) == {"device"}
            server.start()
            back_s = time.monotonic()
            load.back(lambda: "server" in since(seen, back_s))
            account = load.stop()
        assert not account.refused, str(account)


def test_without_the_version_a_device_tells_what_it_can_not_answer(tmp_path, fault_seed, fault_s):
    """While the only server is gone each request is told so by name; it is asked again within five seconds."""
    with fault_server(tmp_path) as server, device(tmp_path, server.address) as runtime:
        with Load(places(runtime.model("lite"), []), fault_seed) as load:
            load.await_answers()
            server.server.kill()
            time.sleep(fault_s)
            server.start()
            load.back()
            account = load.stop()
        assert set(account.refused) <= {"DeadlineExceeded", "ServerFailed", "VersionNotAvailable"}


@pytest.mark.parametrize("model", ["lite", "own"])
def test_clients_of_a_server_that_is_killed_are_told(tmp_path, fault_seed, draw, fault_s, model):
    """What was in flight is UNAVAILABLE, and once it listens again it answers within five seconds."""
    with fault_server(tmp_path, own=True) as server, Load(server.ask(model), fault_seed, version=1) as load:
        load.await_answers()
        time.sleep(draw.uniform(0, 0.3))
        server.server.kill()
        time.sleep(fault_s)
        server.start()
        load.back()
        assert set(load.stop().refused) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND"}


def test_a_worker_that_is_killed_takes_its_own_connections_with_it(tmp_path, fault_seed, draw):
    """Each of two that share the port, one after the other: others answer, and all are answered again."""
    with fault_server(tmp_path, "--workers=3") as server:
        turns = itertools.cycle([server.ask() for _ in range(6)])

        def ask(rows, deadline_s):
            return next(turns)(rows, deadline_s)

        with Load(ask, fault_seed, threads=6, version=1) as load:
            load.await_answers()
            for number in (signal.SIGKILL, signal.SIGABRT):
                draw.choice(server.processes("fallback_server.workers.worker_main")).send_signal(number)
                time.sleep(draw.uniform(0.1, 0.5))
            load.back(lambda: len(server.processes("fallback_server.workers.worker_main")) == 2)
            assert set(load.stop().refused) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


def test_a_models_process_that_aborts_again_and_again_harms_no_other_model(tmp_path, fault_seed, fault_s):
    """Its requests are told, others see nothing of it, and it is back within five seconds of the last abort."""
    with (
        fault_server(tmp_path, own=True) as server,
        Load(server.ask("lite"), fault_seed, version=1, deadlines_s=PATIENT_S) as others,
        # A run that ends its process has failed by its own doing: INTERNAL says so, and others' are UNAVAILABLE.
        Load(server.ask("own"), fault_seed + 1, version=1, also=("INTERNAL",)) as load,
    ):
        load.await_answers()
        (server.faults / "abort").touch()
        time.sleep(fault_s)
        (server.faults / "abort").unlink()
        load.back()
        assert set(load.stop().refused) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND", "INTERNAL"}
        assert not others.stop().refused
        assert "AVAILABLE" in server.states("own")[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_told_to_end_finishes_what_it_took(tmp_path, fault_seed, draw, workers):
    """Requests in flight are answered, those that come after are UNAVAILABLE, and it ends without an error."""
    with fault_server(tmp_path, f"--workers={workers}", own=True) as server:
        (server.faults / "slow").write_text("0.6")
        with Load(server.ask("own"), fault_seed, version=1, threads=8, deadlines_s=(15, 18)) as load:
            load.await_answers(8)
            time.sleep(draw.uniform(0, 0.3))
            flying = set(load.ledger.open())
            time.sleep(0.5)  # They have come to the server by then.
            told_s = time.monotonic()
            server.server.terminate()
            assert server.server.wait() == 0, "".join(server.server.log)
            account = load.stop()
        assert set(account.refused) == {"UNAVAILABLE"}
        failed = {number for number, one in load.ledger.since(told_s) if number in flying and hasattr(one, "name")}
        assert not failed, f"in flight when it was told, and not answered: {failed}"
        assert not [line for line in server.server.log if " ERROR " in line or "Traceback" in line]


def test_a_device_leaves_a_server_that_ends_without_a_lost_request(tmp_path, fault_seed):
    """Its engine answers from then on; no request is told of the change."""
    with fault_server(tmp_path) as server, device(tmp_path, server.address, 1) as runtime:
        seen = []
        with Load(places(runtime.model("lite"), seen), fault_seed, version=1, deadlines_s=PATIENT_S) as load:
            load.await_answers(20, place=lambda: "server" in since(seen, 0))
            server.server.terminate()
            assert server.server.wait() == 0
            ended_s = time.monotonic()
            load.await_answers(20, place=lambda: since(seen, ended_s + 0.2))
            assert since(seen, ended_s + 0.2) == {"device"}
            assert not load.stop().refused


def test_two_servers_one_of_which_is_killed_by_turns(tmp_path, fault_seed, draw):
    """A device that has no version of its own is answered by the other, also while the one that returned is tried."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        fault_server(tmp_path / "one") as one,
        fault_server(tmp_path / "two") as two,
        device(tmp_path, (one.address, two.address)) as runtime,
        Load(places(runtime.model("lite"), []), fault_seed, version=1, deadlines_s=PATIENT_S) as load,
    ):
        load.await_answers()
        for server in (one, two, one):
            time.sleep(draw.uniform(0.1, 0.4))
            server.server.kill()
            load.back()
            server.start()
            load.back(lambda: "open" not in runtime.servers.values())
        account = load.stop()
    assert not account.refused, str(account)
