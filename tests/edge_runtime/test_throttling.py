"""A real runtime on a fake board whose clock drops: predictions follow, and work goes to a server before it is late."""

import json
import logging
import threading

import numpy as np
import pytest
from support import edge_delegates
from support.climates import clock, heat, wait_until
from support.devices_roots import FakeRoot
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server
from support.edgetpu_models import publish_edgetpu

from edge_runtime import Runtime
from edge_runtime.config import read_options

CPU_S = 5.0
"""What a run is to take on the throttled CPU: more than any deadline here."""


def opened(store, root, **options):
    given = {"threads": 1, "poll_interval_s": 3600.0, "cache": None, "batch_sizes": (1,), **options}
    return Runtime(read_options(store, given), root=root.path)


def costs_of(runtime):
    (loaded,) = runtime._versions.all()
    return loaded.batcher.costs


@pytest.fixture
def root(tmp_path):
    """Gives a Raspberry Pi 4 that is idle and cool."""
    root = FakeRoot(tmp_path / "root")
    root.machine("aarch64", model="Raspberry Pi 4 Model B Rev 1.4")
    clock(root)
    heat(root, 50)
    return root


@pytest.fixture
def any_clock(monkeypatch):
    """Lets files say any clock: a small model takes long only at one that is not possible."""
    monkeypatch.setattr("devices.frequency._LEAST_MHZ", 0)
    monkeypatch.setattr("edge_runtime.climate.MOST_FACTOR", 1e9)


@pytest.mark.usefixtures("any_clock")
def test_a_request_that_would_be_late_on_a_throttled_cpu_goes_to_a_server(tmp_path, root, caplog):
    """With an empty queue: from the look that sees the clock drop, until the one that sees it back."""
    caplog.set_level(logging.INFO, "edge_runtime.thermal")
    publish_scale(tmp_path / "store", 1, 2.0)
    with (
        scale_server({1: 2.0}) as server,
        opened(tmp_path / "store", root, delegates=("cpu",), fallback=server.address) as runtime,
    ):
        model = runtime.model("scale")
        assert model.predict(rows(1), deadline_ms=1000).place == "device:cpu"
        usual_s = costs_of(runtime).seconds(1)
        clock(root, allowed=1800 * usual_s / CPU_S)
        wait_until(lambda: costs_of(runtime).seconds(1) > CPU_S / 2)
        reply = model.predict(rows(1), deadline_ms=1000)
        assert (reply.place, reply.reason) == (f"server:{server.address}", "too-slow")
        np.testing.assert_array_equal(reply.outputs["y"], rows(1) * 2)
        (found,) = runtime.stats().models
        assert (found.queue.queued, found.queue.expired, found.queue.dropped) == (0, 0, 0)
        # Whoever has time is served here, and what that run takes is no surprise in either direction.
        assert model.predict(rows(1)).place == "device:cpu"
        clock(root)
        wait_until(lambda: costs_of(runtime).seconds(1) < CPU_S / 2)
        assert model.predict(rows(1), deadline_ms=1000).place == "device:cpu"
    assert "edge-monitor" not in {thread.name for thread in threading.enumerate()}
    assert [record.edge["event"] for record in caplog.records][:1] == ["throttled"]


@pytest.mark.usefixtures("any_clock")
def test_a_clock_that_dropped_since_the_opening_counts_for_what_is_measured(tmp_path, root):
    """The factor is looked at when the measurement is over: what held before may be over a second old."""
    publish_scale(tmp_path / "store", 1, 2.0)
    with opened(tmp_path / "store", root, delegates=("cpu",)) as runtime:
        clock(root, allowed=0.018)
        runtime.model("scale")
        assert runtime.stats().climate.factors["cpu"] == pytest.approx(1e5)
    book = json.loads((tmp_path / "store/scale/1.profile.json").read_text())
    assert [one["profile"]["seconds"]["1"] < 1e-6 for one in book["entries"]] == [True]


def test_what_is_measured_while_throttled_is_kept_at_full_clock(tmp_path, root):
    """A board that was hot when the version was loaded is not taken for a slow one when it has cooled."""
    publish_scale(tmp_path / "store", 1, 2.0)
    clock(root, allowed=100)
    with opened(tmp_path / "store", root, delegates=("cpu",)) as runtime:
        runtime.model("scale")
        hot_s = costs_of(runtime).seconds(1)
        clock(root)
        wait_until(lambda: runtime.stats().climate.factors["cpu"] == 1.0)
        assert costs_of(runtime).seconds(1) == pytest.approx(hot_s / 18)


def test_the_stats_tell_of_heat(tmp_path, root):
    """Temperatures, what the clock may do, and the factors, as plain values."""
    publish_scale(tmp_path / "store", 1, 2.0)
    root.pci_coral()
    clock(root, allowed=900)
    with opened(tmp_path / "store", root, delegates=("cpu",)) as runtime:
        found = json.loads(json.dumps(runtime.stats().as_dict()))["climate"]
    assert found == {
        "sensors": [
            {"source": "thermal_zone0", "kind": "cpu-thermal", "celsius": 50.0, "trips_celsius": []},
            {"source": "apex_0", "kind": "edgetpu", "celsius": 45.25, "trips_celsius": [85.0, 90.0, 95.0]},
        ],
        "factors": {"cpu": 2.0, "apex_0": 1.0},
        "clock_mhz": [900.0, 1800.0],
        "firmware": None,
    }


@pytest.mark.slow
@pytest.mark.skipif(edge_delegates.COMPILER is None, reason="no C compiler to build the delegate's library with")
def test_a_hot_edge_tpu_sends_its_work_away(tmp_path, root, monkeypatch):
    """A card at its third trip takes eight times as long; what fits in its deadline at 500 MHz does not any more."""
    library = edge_delegates.build_edgetpu(tmp_path)
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(delay_ms=200))
    publish_edgetpu(tmp_path / "store", 1, 2.0)
    root.pci_coral()
    with (
        scale_server({1: 2.0}) as server,
        opened(
            tmp_path / "store",
            root,
            delegates=("edgetpu",),
            edgetpu_library=str(library),
            fallback=server.address,
        ) as runtime,
    ):
        model = runtime.model("scale")
        cool = model.predict(rows(1), deadline_ms=1000)
        assert (cool.place, cool.reason) == ("device:edgetpu:pci:0", "local")
        root.write("sys/class/apex/apex_0/temp", "96000\n")
        wait_until(lambda: costs_of(runtime).seconds(1) > 1.0)
        hot = model.predict(rows(1), deadline_ms=1000)
        assert (hot.place, hot.reason) == (f"server:{server.address}", "too-slow")
