import os
import signal
import threading

import numpy as np
import pytest
from support import edge_delegates
from support.echo_models import add_segment
from support.edgetpu_models import scale_signature, segment_models
from support.loops import until

from converter.artifact import Signature, TensorSpec
from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.file_tensors import file_tensors
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.pipeline import PipelineSession
from edge_runtime.engine.process import WorkerProcess
from edge_runtime.engine.supervised import ThreadSession
from edge_runtime.errors import EngineLost

LIMIT_S = 60.0
SIGNATURE = Signature(
    name="serving_default",
    inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 4)),),
)


def x(value):
    return {"x": np.full((1, 4), value, np.float32)}


class Segment:
    """x + 1 -> y under given names, as told: counts, waits, fails, is lost; notes the order of what came."""

    slots = 1

    def __init__(self, takes, gives):
        def tensor(name):
            return TensorSpec(name=name, dtype="float32", shape=(1, 4))

        self.tensors = Signature(name="", inputs=(tensor(takes),), outputs=(tensor(gives),))
        self.takes, self.gives = takes, gives
        self.seen, self.fault = [], {}
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def run(self, signature, inputs, limit_s=None):
        value = float(inputs[self.takes][0, 0])
        self.seen.append(value)
        assert self.gate.wait(LIMIT_S)
        if error := self.fault.get(value):
            raise error
        return {self.gives: inputs[self.takes] + 1}

    def close(self):
        self.closed = True


@pytest.fixture
def chain():
    """Three segments, and the pipeline over them."""
    segments = [Segment("x", "a"), Segment("a", "b"), Segment("b", "y")]
    return segments, PipelineSession(segments, (SIGNATURE,), subject="digits/3")


class Callers:
    """Threads that run a value each, in that order of arrival at the first device."""

    def __init__(self, pipeline, first):
        self.pipeline, self.first = pipeline, first
        self.results, self.threads = {}, []

    def call(self, value):
        def run():
            try:
                self.results[value] = self.pipeline.run("serving_default", x(value), LIMIT_S)["y"][0, 0]
            except EngineFailed as error:
                self.results[value] = error

        before = sum(len(stage._queue) for stage in self.pipeline._stages)
        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()
        until(lambda: sum(len(stage._queue) for stage in self.pipeline._stages) > before)

    def join(self):
        for thread in self.threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_requests_keep_their_order_and_overlap(chain):
    """While the last device is busy others work ahead; all come through in the order in which they came."""
    (first, second, last), pipeline = chain
    last.gate.clear()
    callers = Callers(pipeline, first)
    values = [float(value) for value in range(10, 10 + pipeline.slots)]
    for value in values:
        callers.call(value)
    until(lambda: len(second.seen) == len(values))
    assert last.seen == [values[0] + 2]
    assert "callers at each device: 0, 0, 7" in repr(pipeline)
    last.gate.set()
    callers.join()
    assert callers.results == {value: value + 3 for value in values}
    assert first.seen == values
    assert second.seen == [value + 1 for value in values]
    assert last.seen == [value + 2 for value in values]


def test_slots_say_how_many_may_be_inside(chain):
    """One at each device, and two between neighbours."""
    assert chain[1].slots == 7
    assert PipelineSession([Segment("x", "y")], (SIGNATURE,), subject="digits/3").slots == 1


def test_a_failure_costs_its_own_request(chain):
    """A run that fails on a device fails its caller; those before and behind it come through."""
    (first, second, _), pipeline = chain
    second.fault[21.0] = EngineFailed("odd")
    first.gate.clear()
    callers = Callers(pipeline, first)
    for value in (10.0, 20.0, 30.0):
        callers.call(value)
    first.gate.set()
    callers.join()
    assert (callers.results[10.0], callers.results[30.0]) == (13, 33)
    assert str(callers.results[20.0]) == "odd"


def test_a_lost_device_loses_all_inside(chain):
    """Who waits for any device is told at once, with the cause, and so is whoever comes later."""
    (first, second, last), pipeline = chain
    second.fault[11.0] = EngineLost("the stick is gone", "vanished")
    last.gate.clear()
    callers = Callers(pipeline, first)
    for value in (1.0, 2.0):
        callers.call(value)
    until(lambda: len(pipeline._stages[2]._queue) == 2)
    second.gate.clear()
    for value in (10.0, 20.0):
        callers.call(value)
    second.gate.set()
    until(lambda: len(callers.results) == 3)
    errors = [callers.results[value] for value in (2.0, 10.0, 20.0)]
    assert [error.cause for error in errors] == ["vanished"] * 3
    assert all("the stick is gone" in str(error) for error in errors)
    last.gate.set()
    callers.join()
    assert callers.results[1.0] == 4
    with pytest.raises(EngineLost, match=r"digits/3: the pipeline has lost a device: the stick is gone"):
        pipeline.run("serving_default", x(1), LIMIT_S)
    assert all(not stage._queue for stage in pipeline._stages)


def test_closing_tells_who_waits(chain):
    """A pipeline that is closed closes its sessions, and nobody waits in it any more."""
    segments, pipeline = chain
    segments[0].gate.clear()
    callers = Callers(pipeline, segments[0])
    for value in (1.0, 2.0):
        callers.call(value)
    pipeline.close()
    until(lambda: 2.0 in callers.results)
    assert all(segment.closed for segment in segments)
    segments[0].gate.set()
    callers.join()
    assert [callers.results[value].cause for value in (1.0, 2.0)] == ["vanished"] * 2
    assert "lost" in repr(pipeline)


def test_an_interrupted_caller_gives_up_its_place(chain):
    """An exception of any kind in a caller that waits does not stop those behind it."""
    (first, _, _), pipeline = chain
    first.fault[1.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run("serving_default", x(1), LIMIT_S)
    assert pipeline.run("serving_default", x(2), LIMIT_S)["y"][0, 0] == 5


def test_segments_must_be_known():
    """Sessions that do not say what they take and give, or several signatures, are refused."""
    segment = Segment("x", "y")
    with pytest.raises(PackageRefused, match="one signature, not 2"):
        PipelineSession([segment], (SIGNATURE, SIGNATURE), subject="digits/3")
    segment.tensors = None
    with pytest.raises(PackageRefused, match="the tensors of 1 segments are not known"):
        PipelineSession([segment], (SIGNATURE,), subject="digits/3")
    assert not segment.closed


def test_real_files_with_a_skipped_segment():
    """Real interpreters: the last segment takes what the first gave and the model's own input."""
    files = [add_segment(("x", "x"), "a"), add_segment(("a", "a"), "b"), add_segment(("b", "x"), "y")]
    sessions = []
    for number, content in enumerate(files):
        one = InterpreterSession(SessionSpec(subject=f"sum/1, {number}"), content)
        sessions.append(ThreadSession(one, "cpu", file_tensors(content, "sum/1")))
    pipeline = PipelineSession(sessions, (SIGNATURE,), subject="sum/1")
    np.testing.assert_array_equal(pipeline.run("serving_default", x(2), LIMIT_S)["y"], x(10)["x"])
    pipeline.close()


@pytest.mark.slow
@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
def test_segments_on_edge_tpus_of_their_own(tmp_path, monkeypatch):
    """A cut model over two worker processes answers as a whole, and is lost with either of them."""
    library = str(edge_delegates.build_edgetpu(tmp_path))
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(lock_dir=tmp_path))
    workers = [WorkerProcess(f"edgetpu:usb:{number}") for number in range(2)]
    sessions = [
        worker.open(
            SessionSpec(
                subject=f"scale/1, segment {number}",
                delegate="edgetpu",
                device=f"edgetpu:usb:{number}",
                library=library,
                options={"device": f"usb:{number}"},
            ),
            content,
            LIMIT_S,
        )
        for number, (worker, content) in enumerate(zip(workers, segment_models(2.0, 2), strict=True))
    ]
    pipeline = PipelineSession(sessions, (scale_signature("int8", batch=1),), subject="scale/1")
    found = {}

    def call(value):
        found[value] = pipeline.run("serving_default", {"x": np.full((1, 4), value, np.int8)}, LIMIT_S)["y"].tolist()

    threads = [threading.Thread(target=call, args=(value,)) for value in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: [[2 * value] * 4] for value in range(1, 9)}
    os.kill(workers[1].pid, signal.SIGKILL)
    with pytest.raises(EngineLost, match="SIGKILL"):
        pipeline.run("serving_default", {"x": np.ones((1, 4), np.int8)}, LIMIT_S)
    pipeline.close()
    for worker in workers:
        worker.close()
