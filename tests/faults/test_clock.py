"""A machine's clock that is set while requests are under way: all times inside are of the monotonic clock."""

import time
from pathlib import Path

import pytest
from support import edge_delegates
from support.clock_jumps import JumpingClock
from support.edge_models import publish_scale
from support.fault_child import FaultChild
from support.fault_load import BACK_S, PATIENT_S, Load
from support.fault_servers import fault_server
from support.plants import Plant

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")]

HOUR_S = 3600.0

YEAR_S = 365 * 24 * HOUR_S

JUMPS_S = (HOUR_S, -HOUR_S, 30 * 365 * 24 * HOUR_S, 0.0)


@pytest.fixture
def clock(tmp_path):
    return JumpingClock(tmp_path)


def test_a_device_whose_clock_is_set(tmp_path, clock, fault_seed, fault_s):
    """Forth, back, and by decades: no request is early, late, or lost, by its engine and by a server."""
    publish_scale(tmp_path / "store", 1, 1.0, model="lite")
    with fault_server(tmp_path) as server:
        for policy in ("prefer_device", "only_server"):
            options = {"fallback": server.address, "policy": policy, "delegates": ["cpu"], "threads": 1, "cache": None}
            load = {"version": 1, "deadlines_s": PATIENT_S}
            child = FaultChild(tmp_path / "store", options, load, fault_seed, environment=clock.environment)
            try:
                child.ask("await", 20, 60)
                for jump_s in JUMPS_S:
                    clock.jump(jump_s)
                    assert abs(child.ask("time") - time.time() - jump_s) < HOUR_S / 2
                    time.sleep(fault_s / 2)
                    child.ask("await", 10, BACK_S)
                refused, said = child.ask("stop"), child.ask("said")
                # grpcio makes a call's deadline of the wall clock: one that begins in that very instant is over at
                # once, which only who has no engine of its own hears.
                allowed = len(JUMPS_S) if policy == "only_server" else 0
                assert refused.pop("ServerFailed", 0) <= allowed, said
                assert not refused, said
            finally:
                child.close()


def test_a_server_whose_clock_is_set(tmp_path, clock, fault_seed, fault_s, monkeypatch):
    """Requests are answered on, also by a model in a process of its own; a new version is seen, and it ends well."""
    with monkeypatch.context() as patch:
        for name, value in clock.environment.items():
            patch.setenv(name, value)
        running = fault_server(tmp_path, "--workers=2", own=True)
        server = running.__enter__()
    try:
        assert b"CLOCK_JUMPS" in Path(f"/proc/{server.server.process.pid}/environ").read_bytes()
        with (
            Load(server.ask("lite"), fault_seed, deadlines_s=PATIENT_S) as lite,
            Load(server.ask("own"), fault_seed + 1, deadlines_s=PATIENT_S) as own,
        ):
            for number, jump_s in enumerate(JUMPS_S):
                clock.jump(jump_s)
                time.sleep(fault_s / 2)
                server.publish(2 + number)
                began_s = time.monotonic()

                def taken(version=2 + number, since_s=began_s):
                    return version in {getattr(one, "version", 0) for _, one in lite.ledger.since(since_s)}

                lite.back(taken)
                own.await_answers(10, BACK_S)
            assert not lite.stop().refused
            assert not own.stop().refused
        server.server.terminate()
        assert server.server.wait() == 0
        assert [line for line in server.server.log if line.startswith("205")]  # Decades ahead, by its own clock.
    finally:
        running.__exit__(None, None, None)


def test_a_clock_by_which_no_certificate_is_valid(tmp_path, clock, fault_seed):
    """Not yet at its start, then no more: the device answers itself, and the server soon after the clock is right."""
    publish_scale(tmp_path / "store", 1, 1.0, model="lite")
    plant = Plant(tmp_path / "plant")
    tls = {name: str(plant.device / f"{name}.pem") for name in ("ca", "crl", "key")}
    tls["certificate"] = str(plant.device / "cert.pem")
    with fault_server(tmp_path, f"--tls_dir={plant.server}") as server:
        options = {"fallback": server.address, "policy": "prefer_server", "delegates": ["cpu"], "threads": 1}
        load = {"version": 1, "deadlines_s": PATIENT_S}
        clock.jump(-3 * YEAR_S)
        child = FaultChild(
            tmp_path / "store", options | {"cache": None, "tls": tls}, load, fault_seed, environment=clock.environment
        )
        try:
            child.ask("await", 20, 60, "device")
            clock.jump(0.0)
            child.ask("await", 20, BACK_S, "server")
            server.server.kill()
            child.ask("await", 20, 60, "device")
            clock.jump(3 * YEAR_S)
            server.start()
            child.ask("await", 100, 60, "device")
            clock.jump(0.0)
            child.ask("await", 20, BACK_S, "server")
            refused, said = child.ask("stop"), child.ask("said")
            assert not refused, said
        finally:
            child.close()
