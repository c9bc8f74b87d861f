"""The servers of a runtime, and its end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from support.edge_models import rows
from support.model_servers import serving

from edge_runtime import Runtime, RuntimeClosed
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
