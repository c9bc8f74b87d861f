"""What a version loses and keeps when something of it, or of another version, is lost."""

import os
import threading
import time

import numpy as np
import pytest
from support import edge_delegates
from support.edge_models import publish_scale, rows
from support.forks import forked
from support.loops import until

from edge_runtime import EngineFailed, Runtime
from edge_runtime.config import read_options
from edge_runtime.crew.crew import HOLD_S
from edge_runtime.errors import EngineLost

QUIET = {"poll_interval_s": 3600.0, "threads": 1}


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path / "store", 1, 2.0)
    return tmp_path / "store"


def crew_of(runtime, model="scale"):
    return next(loaded.crew for loaded in runtime._versions.all() if loaded.package.manifest.model == model)


def station_of(runtime, model="scale"):
    return crew_of(runtime, model)._roster.all()[0]


def workers(station):
    return [worker for engine in station.slots for worker in engine.workers]


class Hands:
    """A crew's clock and timers in the test's hands."""

    def __init__(self, crew, monkeypatch):
        self.now_s = time.monotonic()
        monkeypatch.setattr(crew, "_clock", lambda: self.now_s)
        monkeypatch.setattr(crew._supervisor, "at", lambda instant_s, call: None)


def test_a_hold_belongs_to_its_own_loss(store, monkeypatch):
    """Requests wait five seconds from the last loss on, whatever was to end with the one before it."""
    with Runtime.open(store, delegates=["cpu"], **QUIET) as runtime:
        runtime.model("scale")
        crew, station = crew_of(runtime), station_of(runtime)
        hands = Hands(crew, monkeypatch)
        station.isolation = "process"  # as one that can be lost
        for _ in range(2):
            crew._lose(station, [*station.slots], "crashed", "a test")
            hands.now_s += HOLD_S - 0.1
            crew._hope()
            assert crew.batcher._desk.expecting
            assert crew._open(station)
        crew._lose(station, [*station.slots], "crashed", "a test")
        hands.now_s += HOLD_S
        crew._hope()
        assert not crew.batcher._desk.expecting
        assert crew._open(station)
        crew._lose(station, [*station.slots], "vanished", "a test")
        crew._hope()
        assert not crew.batcher._desk.expecting


def test_growing_goes_on_after_a_try_that_failed(store, monkeypatch, caplog):
    """An interpreter that could not be made is made later, and not at once."""
    with Runtime.open(store, delegates=["cpu"], poll_interval_s=3600.0) as runtime:
        runtime.model("scale")
        crew, station = crew_of(runtime), station_of(runtime)
        crew._layout = type(crew._layout)(threads=(1,), grows_to=2)
        hands = Hands(crew, monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(crew._opener, "open", lambda *_, **__: 1 / 0)
            crew._on_pressure()
            until(lambda: not station.growing)
        assert "ZeroDivisionError" in repr(caplog.records[-1].args) or "division by zero" in caplog.text
        crew._on_pressure()
        assert not station.growing
        hands.now_s += 1.0
        crew._on_pressure()
        until(lambda: len(crew.batcher.slots) == 2)
        until(lambda: not station.growing)


def test_engines_that_the_batcher_does_not_take_are_freed_and_tried_again(store, monkeypatch):
    """Where a slot can't be given to the batcher, for want of a thread, the station is tried again."""
    with Runtime.open(store, delegates=["cpu"], **QUIET) as runtime:
        model = runtime.model("scale")
        crew, station = crew_of(runtime), station_of(runtime)
        Hands(crew, monkeypatch)
        crew._lose(station, [*station.slots], "crashed", "a test")
        with monkeypatch.context() as patch:
            patch.setattr(crew.batcher, "add", lambda slot: 1 / 0)
            assert not crew._open(station)
        assert (station.state, station.slots, station.opening) == ("unhealthy", {}, False)
        assert crew._open(station)
        np.testing.assert_array_equal(model.predict(rows(1)).outputs["y"], rows(1) * 2)


def test_a_forked_child_loses_nothing(store):
    """In a copy of the process, where every run fails, no device is taken for lost."""
    with Runtime.open(store, delegates=["cpu"], **QUIET) as runtime:
        runtime.model("scale")
        crew, station = crew_of(runtime), station_of(runtime)
        (slot,) = crew.batcher.slots

        def child():
            crew._on_failure(slot, EngineLost("of another process", "vanished"))
            crew._on_pressure()
            return [station.state, station.growing]

        assert forked(child) == ["ready", False]


@pytest.mark.slow
def test_a_worker_that_dies_takes_its_own_engines_and_no_others(store):
    """CPU engines of other versions, in this process or in workers of their own, go on as if nothing was."""
    for model in ("here", "apart"):
        publish_scale(store, 1, 3.0, model=model)
    own = {"scale": {"isolation": "process"}, "apart": {"isolation": "process"}}
    with Runtime.open(store, delegates=["cpu"], models=own, **QUIET) as runtime:
        models = {name: runtime.model(name) for name in ("scale", "here", "apart")}
        before = {name: list(station_of(runtime, name).slots) for name in models}
        (worker,) = workers(station_of(runtime))
        os.kill(worker.pid, 9)
        until(lambda: station_of(runtime).faults["restarts"] == 1)
        after = {name: list(station_of(runtime, name).slots) for name in models}
        assert before["scale"] != after.pop("scale")
        assert before == {"scale": before["scale"], **after}
        assert {name: dict(station_of(runtime, name).faults) for name in after} == {"here": {"restarts": 0}} | {
            "apart": {"restarts": 0}
        }


@pytest.mark.slow
def test_one_of_several_interpreters_is_replaced_while_the_others_answer(store):
    """A worker of a CPU's that dies is made again; the station is ready all the time."""
    with Runtime.open(store, delegates=["cpu"], isolation="process", engines=2, **QUIET) as runtime:
        model, station = runtime.model("scale"), station_of(runtime)
        first, second = workers(station)
        os.kill(first.pid, 9)
        until(lambda: station.faults["crashed"])
        assert (station.state, workers(station)) == ("ready", [second])
        np.testing.assert_array_equal(model.predict(rows(1)).outputs["y"], rows(1) * 2)
        until(lambda: len(station.slots) == 2)
        until(lambda: len(crew_of(runtime).batcher.slots) == 2)
        assert (station.faults["crashed"], station.faults["restarts"], station.missing) == (1, 1, [])
        assert second in workers(station)


@pytest.mark.slow
@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
def test_two_versions_on_a_device_leave_each_other_the_new_worker(store, tmp_path):
    """When one's runs fail and end their worker, both begin anew in one and the same, and nobody ends that."""
    publish_scale(store, 1, 3.0, model="other")
    armed = tmp_path / "armed"
    device = edge_delegates.device(edge_delegates.build(tmp_path), when_file=armed, fail_every=1)
    with Runtime(read_options(store, {"delegates": [device], **QUIET})) as runtime:
        models = {name: runtime.model(name) for name in ("scale", "other")}
        stations = [station_of(runtime, name) for name in models]
        (old,) = {worker for station in stations for worker in workers(station)}
        armed.touch()
        for _ in range(3):
            with pytest.raises(EngineFailed):
                models["scale"].predict(rows(1))
        armed.unlink()
        until(lambda: all(station.faults["restarts"] == 1 for station in stations))
        (new,) = {worker for station in stations for worker in workers(station)}
        assert new is not old
        assert stations[1].faults["crashed"] == 1
        for _ in range(3):
            for name, factor in (("other", 3), ("scale", 2)):
                np.testing.assert_array_equal(models[name].predict(rows(1)).outputs["y"], rows(1) * factor)
        threading.Event().wait(0.3)  # for whoever would end it
        assert new.alive
        assert [station.faults["restarts"] for station in stations] == [1, 1]


@pytest.mark.slow
def test_closing_leaves_no_process_of_engines_that_were_on_their_way_out(store, monkeypatch):
    """Engines that were withdrawn and not retired, for want of a thread, are freed with the version."""
    with Runtime.open(store, delegates=["cpu"], isolation="process", **QUIET) as runtime:
        runtime.model("scale")
        crew, station = crew_of(runtime), station_of(runtime)
        (worker,) = workers(station)
        monkeypatch.setattr(crew._supervisor, "start", lambda call: False)
        crew._lose(station, [*station.slots], "crashed", "a test")
        assert worker.alive
    assert not worker.alive
