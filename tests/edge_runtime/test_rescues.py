import threading

import pytest
from support.edge_delegates import COMPILER, build, device
from support.edge_models import publish_scale, rows
from support.far_servers import far_server

from edge_runtime import Runtime
from edge_runtime.routing import watch

STALL_EVERY, STALL_MS, DEADLINE_MS = 40, 4000, 2000


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
def test_a_run_that_stalls_loses_nothing_that_a_server_could_answer(tmp_path):
    """What runs as the device stalls and what waits behind it is answered by the server, within its deadline."""
    publish_scale(tmp_path / "store", 1, 2.0)
    stalling = device(build(tmp_path), delay_ms=20, stall_every=STALL_EVERY, stall_ms=STALL_MS)
    options = {"delegates": [stalling], "cache": None, "watchdog_min_s": 60.0, "batch_sizes": (1,)}
    with far_server() as server, Runtime.open(tmp_path / "store", fallback=server.address, **options) as runtime:
        model = runtime.model("scale")
        model.predict(rows(1), policy="only_server")
        replies, errors = [], []

        def ask():
            try:
                replies.extend(model.predict(rows(1), deadline_ms=DEADLINE_MS) for _ in range(STALL_EVERY))
            except Exception as error:  # noqa: BLE001  shown below
                errors.append(error)

        callers = [threading.Thread(target=ask) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert not errors
    assert {reply.reason for reply in replies if reply.place.startswith("server")} & {"hedged", "overloaded"}


def test_a_server_that_hangs_is_overtaken_by_the_device(tmp_path, monkeypatch):
    """Who prefers servers is answered by the device before the deadline, and told why."""
    # The last moment is 9 s before the deadline: a busy machine may be late by far more than a real one is let.
    monkeypatch.setattr(watch, "MOST_SLACK_S", 60.0)
    monkeypatch.setattr(watch, "LENGTH_SHARE", 0.9)
    publish_scale(tmp_path, 1, 2.0)
    with far_server() as server, Runtime.open(tmp_path, fallback=server.address, threads=1, cache=None) as runtime:
        model = runtime.model("scale")
        assert model.predict(rows(1), policy="prefer_server").reason == "policy"
        server.hold.clear()
        reply = model.predict(rows(1), policy="prefer_server", deadline_ms=10_000)
    assert (reply.place, reply.reason) == ("device:cpu", "server-late")
    assert [one.outcome for one in reply.tried] == ["cancelled", "answered"]
