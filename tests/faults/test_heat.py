"""A device that gets hot and cools down under load: what it is predicted to be late with a server answers."""

import time

import pytest
from support.climates import clock, heat
from support.devices_roots import FakeRoot
from support.edge_models import publish_scale
from support.fault_child import RECENT_S
from support.fault_load import Load
from support.fault_scenes import places, since
from support.fault_servers import fault_server

from edge_runtime import Runtime
from edge_runtime.config import read_options

pytestmark = pytest.mark.slow

DEADLINES_S = (2.0, 3.0)

TIMES = 1_000_000
"""By so much the clock is lower on a hot board: the model takes microseconds, and is to take seconds."""


@pytest.fixture
def any_clock(monkeypatch):
    """Lets files say any clock: a small model takes long only at one that is not possible."""
    monkeypatch.setattr("devices.frequency._LEAST_MHZ", 0)
    monkeypatch.setattr("edge_runtime.climate.MOST_FACTOR", 1e12)


@pytest.mark.usefixtures("any_clock")
def test_heat_that_comes_and_goes_costs_no_request(tmp_path, fault_seed):
    """Work goes to the server as the clock drops, and is back within five seconds when the board has cooled."""
    root = FakeRoot(tmp_path / "root")
    root.machine("aarch64", model="Raspberry Pi 4 Model B Rev 1.4")
    publish_scale(tmp_path / "store", 1, 1.0, model="lite")

    def weather(times, celsius):
        clock(root, allowed=1800 / times)
        heat(root, celsius)
        return time.monotonic()

    weather(1, 50)
    with fault_server(tmp_path) as server:
        given = {"threads": 1, "cache": None, "delegates": ("cpu",), "batch_sizes": (1,), "fallback": server.address}
        seen = []
        with (
            Runtime(read_options(tmp_path / "store", given), root=root.path) as runtime,
            Load(places(runtime.model("lite"), seen), fault_seed, version=1, deadlines_s=DEADLINES_S) as load,
        ):
            load.await_answers(20, place=lambda: "device" in since(seen, 0))
            for _ in range(2):
                hot_s = weather(TIMES, 85)
                load.await_answers(20, place=lambda hot_s=hot_s: "server" in since(seen, hot_s))
                weather(1, 50)
                load.back(lambda: since(seen, time.monotonic() - RECENT_S) == {"device"})
            assert not load.stop().refused
