"""A signal's handler may raise at any point of the main thread's way through the router."""

from __future__ import annotations

import numpy as np
import pytest
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server
from support.far_servers import until
from support.interrupted import interrupted_at

from edge_runtime import Runtime
from edge_runtime.routing import router, watch

FOLDERS = ("/edge_runtime/routing/", "/edge_runtime/remote/", "/concurrent/futures/", "/threading.py")
QUIET = {"threads": 1, "poll_interval_s": 3600.0}
LONG_MS = 20_000.0
FEW = 400


@pytest.mark.parametrize("policy", ["prefer_server", "prefer_device"])
def test_interrupted_anywhere(tmp_path, monkeypatch, policy):
    """The next request is answered, and no call, no race and no timer is left behind."""
    monkeypatch.setattr(router, "MIN_OWN_S", 0.0)  # So that a small model's requests are looked after.
    monkeypatch.setattr(watch, "MIN_OWN_S", 0.0)
    publish_scale(tmp_path, 1, 2.0)
    with scale_server({1: 2.0}) as server, Runtime.open(tmp_path, fallback=server.address, **QUIET) as runtime:
        model = runtime.model("scale")

        def ask(start=0.0):
            return model.predict(rows(1, start), policy=policy, deadline_ms=LONG_MS)

        ask()
        point, more = 0, True
        while more:
            point += 1
            assert point < FEW
            more = interrupted_at(point, ask, *FOLDERS)
            np.testing.assert_array_equal(ask(3.0).outputs["y"], rows(1, 3.0) * 2)
        assert point > 3
        until(lambda: all(one.in_flight == 0 for one in runtime.stats().endpoints))
