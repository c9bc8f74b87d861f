import threading

import numpy as np
import pytest
from support.edge_models import rows, scale_model, scale_signature
from support.loops import until

from edge_runtime import EngineFailed
from edge_runtime.engine import supervised
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.supervised import ThreadSession, abandoned_threads
from edge_runtime.errors import EngineLost

LIMIT_S = 60.0


class Hanging:
    """A device that hangs at a value below 0 until it is let go; gives back what it was given."""

    slots = 1

    def __init__(self):
        self.let_go = threading.Event()
        self.closed = threading.Event()
        self.threads = set()

    def run(self, signature, inputs, limit_s=None):
        self.threads.add(threading.current_thread().name)
        if inputs["x"].min() < 0:
            self.let_go.wait(LIMIT_S)
        if not inputs["x"].any():
            raise EngineFailed("nothing but zeros")
        return dict(inputs)

    def close(self):
        self.closed.set()


@pytest.fixture
def device():
    one = Hanging()
    yield one
    one.let_go.set()
    until(lambda: abandoned_threads() == 0)


def test_answers_as_the_session_does():
    """A real interpreter gives the same answers from the thread, which ends with the session."""
    spec = SessionSpec(subject="scale/1", signatures=(scale_signature(),))
    session = ThreadSession(InterpreterSession(spec, scale_model(2.0)), "cpu")
    for count in (1, 3, 1):
        found = session.run("serving_default", {"x": rows(count)}, LIMIT_S)["y"]
        np.testing.assert_array_equal(found, rows(count) * 2)
    with pytest.raises(EngineFailed, match="scale/1"):
        session.run("serving_default", {"x": rows(1).astype(np.int8)}, LIMIT_S)
    session.close()
    session.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "edge-device-cpu"]
    with pytest.raises(EngineLost, match="was closed"):
        session.run("serving_default", {"x": rows(1)}, LIMIT_S)


def test_what_hangs_is_left_behind(device):
    """Past its limit a run is lost, and so is the session; its thread is counted until it ends after all."""
    session = ThreadSession(device, "gpu")
    with pytest.raises(EngineLost, match=r"gpu, signature 's': took more than 0.05 s") as caught:
        session.run("s", {"x": np.array([-1])}, 0.05)
    assert caught.value.cause == "stuck"
    assert "stuck" in repr(session)
    assert abandoned_threads() == 1
    with pytest.raises(EngineLost, match="took more than"):
        session.run("s", {"x": np.array([1])}, LIMIT_S)
    session.close()
    assert not device.closed.is_set()
    device.let_go.set()
    assert device.closed.wait(LIMIT_S)
    until(lambda: abandoned_threads() == 0)


def test_a_late_result_is_given_to_nobody(device):
    """After a caller was interrupted, the next one gets the answer to his own question."""
    session = ThreadSession(device, "gpu")
    abandoned = supervised._Run("s", {"x": np.array([-7])})
    session._runs.put(abandoned)
    device.let_go.set()
    assert session.run("s", {"x": np.array([3])}, LIMIT_S)["x"].tolist() == [3]
    session.close()


def test_errors_are_the_callers(device):
    """A failed run fails its caller, with the session's own error, and the next run goes on."""
    session = ThreadSession(device, "gpu")
    with pytest.raises(EngineFailed, match="nothing but zeros"):
        session.run("s", {"x": np.array([0])}, LIMIT_S)
    assert session.run("s", {"x": np.array([3])}, LIMIT_S)["x"].tolist() == [3]
    assert device.threads == {"edge-device-gpu"}
    session.close()
    assert device.closed.is_set()


def test_threads_left_behind_are_bounded(device, monkeypatch):
    """With too many threads stuck no more sessions are made, and the text says what to do."""
    monkeypatch.setattr(supervised, "MAX_ABANDONED_THREADS", 1)
    session = ThreadSession(device, "gpu")
    with pytest.raises(EngineLost):
        session.run("s", {"x": np.array([-1])}, 0.01)
    with pytest.raises(EngineFailed, match=r"1 threads .* isolation=\"process\""):
        ThreadSession(device, "gpu")
    session.close()
