"""The servers of a runtime, and its end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from support.edge_models import rows
from support.edge_servers import scale_server
from support.model_servers import serving

from edge_runtime import Runtime, RuntimeClosed, VersionNotAvailable
from edge_runtime.config import ModelOptions, RuntimeOptions
from edge_runtime.servers import Servers
from fallback_server.protocol.methods import GET_MODEL_METADATA

WAIT_S = 30
QUIET = {"threads": 1, "poll_interval_s": 3600.0}


@pytest.mark.parametrize("deadline_ms", [None, 60_000.0])
def test_a_question_for_signatures_at_closing_is_told_of_it(tmp_path, deadline_ms):
    """It is no fault of the server that its connection is closed under the question."""
    asked, go_on = threading.Event(), threading.Event()

    def metadata(_):
        asked.set()
        go_on.wait(WAIT_S)
        return grpc.StatusCode.INTERNAL, "too late"

    with serving({GET_MODEL_METADATA: metadata}) as address, ThreadPoolExecutor(1) as pool:
        runtime = Runtime.open(tmp_path, fallback=address, **QUIET)
        model = runtime.model("m", version=1)
        answer = pool.submit(model.predict, rows(1), deadline_ms=deadline_ms)
        assert asked.wait(WAIT_S)
        runtime.close()
        error = answer.exception(WAIT_S)
        go_on.set()
    assert isinstance(error, RuntimeClosed)
    assert "m/1" in str(error)


@pytest.mark.parametrize("runtimes", [False, True])
def test_a_model_says_whether_its_late_calls_have_copies(tmp_path, runtimes):
    """Also those from one server to another; what it doesn't say the runtime does."""
    models = {"on": ModelOptions(hedge=True), "off": ModelOptions(hedge=False), "same": ModelOptions(weight=2.0)}
    options = RuntimeOptions(store=tmp_path, fallback="127.0.0.1:1", hedge=runtimes, models=models)
    with closing(Servers(options, time.monotonic)) as servers:
        for name in ("on", "off", "same", "other"):
            assert servers.remote.hedged(name) is options.of(name).hedge


def test_a_server_that_died_is_told_of_as_long_as_it_is_away(tmp_path):
    """Statistics and errors say that nobody answers there, and for how long, also where no request fails there."""
    with scale_server({1: 2.0}) as server, Runtime.open(tmp_path, fallback=server.address, **QUIET) as runtime:
        model = runtime.model("scale", version=1)
        assert model.predict(rows(1)).place == f"server:{server.address}"
        assert runtime.stats().endpoints[0].unreachable_s is None
        server.stop()
        end_s = time.monotonic() + WAIT_S
        said = ""
        while "not asked, unreachable for" not in said:
            assert time.monotonic() < end_s, said
            with pytest.raises(VersionNotAvailable) as caught:
                model.predict(rows(1))
            said = caught.value.asked[server.address]
            time.sleep(0.02)
        (found,) = runtime.stats().endpoints
        assert found.unreachable_s > 0
        assert found.state != "closed"
        assert runtime.servers[server.address] != "closed"
