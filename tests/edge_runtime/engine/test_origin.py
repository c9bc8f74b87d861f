import threading

import numpy as np
import pytest
from support import edge_delegates
from support.edge_models import rows, scale_model, scale_signature
from support.forks import forked
from support.loops import until

from converter.artifact import Signature, TensorSpec
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.origin import Origin
from edge_runtime.engine.pipeline import PipelineSession
from edge_runtime.engine.process import WorkerProcess
from edge_runtime.engine.supervised import ThreadSession

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
SPEC = SessionSpec(subject="scale/1", signatures=(scale_signature(),))
REFUSED = "open a Runtime in each process, after the fork"


def run(session, value=1):
    return session.run("serving_default", {"x": rows(1, value)}, LIMIT_S)["y"].tolist()


def told(function):
    """The error's text."""
    try:
        function()
    except Exception as error:  # noqa: BLE001  it is the answer
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_it_knows_where_it_is():
    """The process that made it and a fork of that are told apart."""
    origin = Origin()
    assert origin.is_here
    assert forked(lambda: [origin.is_here, "another process" in repr(origin)]) == [False, True]


def test_a_worker_is_its_parents():
    """In a forked process whatever is asked of it is refused, closing it ends nothing, and the parent goes on."""
    worker = WorkerProcess("cpu")
    session = worker.open(SPEC, scale_model(2.0), LIMIT_S)

    def in_the_fork():
        said = [told(lambda: run(session, 1000)), told(lambda: worker.open(SPEC, scale_model(3.0), LIMIT_S))]
        session.close()
        worker.close()
        return [
            *said,
            told(lambda: worker.run(1, "scale/1", "", {}, limit_s=1)),
            worker.alive,
            "inherited" in repr(worker),
        ]

    *said, alive, inherited = forked(in_the_fork)
    assert all(one.startswith("EngineLost: scale/1: was opened in another process") for one in said)
    assert all(one.endswith(REFUSED) for one in said)
    assert (alive, inherited) == (False, True)
    assert worker.alive
    np.testing.assert_array_equal(run(session, 5), rows(1, 5) * 2)
    worker.close()


@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
def test_a_fork_amid_a_run_does_not_hang(tmp_path):
    """The lock that the running thread has, and that nobody lets go of in the copy, is not waited for."""
    library = edge_delegates.build(tmp_path)
    options = {"delay_ms": "500"}
    worker = WorkerProcess("external")
    spec = SessionSpec(
        subject="scale/1",
        delegate="external",
        device=edge_delegates.device(library, **options),
        signatures=(scale_signature(batched=False),),
        library=str(library),
        options=options,
    )
    session = worker.open(spec, scale_model(2.0, batched=False), LIMIT_S)
    results = []
    thread = threading.Thread(target=lambda: results.append(run(session, 5)))
    thread.start()
    until(worker._lock.locked)

    def in_the_fork():
        said = told(lambda: run(session, 1000))
        session.close()
        worker.close()
        return said

    assert forked(in_the_fork).endswith(REFUSED)
    thread.join()
    np.testing.assert_array_equal(results[0], rows(1, 5) * 2)
    worker.close()


def test_a_thread_is_its_parents():
    """A session on a thread, which does not run in a forked process, is refused there and goes on in the parent."""
    session = ThreadSession(InterpreterSession(SPEC, scale_model(2.0)), "cpu")

    def in_the_fork():
        said = told(lambda: run(session))
        session.close()
        return said

    assert forked(in_the_fork).endswith(REFUSED)
    np.testing.assert_array_equal(run(session, 5), rows(1, 5) * 2)
    session.close()


def test_a_pipeline_is_its_parents():
    """Callers of the parent that wait in it are not waited for in a forked process, which closes nothing of it."""

    def tensor(name):
        return TensorSpec(name=name, dtype="float32", shape=(1, 4))

    class Held:
        """A segment that keeps who comes until it is let go; waits at most until a limit."""

        slots = 1

        def __init__(self, takes, gives):
            self.tensors = Signature(name="", inputs=(tensor(takes),), outputs=(tensor(gives),))
            self.takes, self.gives, self.go, self.closed = takes, gives, threading.Event(), False

        def run(self, signature, inputs, limit_s=None):
            assert self.go.wait(LIMIT_S)
            return {self.gives: inputs[self.takes] + 1}

        def close(self):
            self.closed = True

    segments = [Held("x", "a"), Held("a", "y")]
    signature = Signature(name="serving_default", inputs=(tensor("x"),), outputs=(tensor("y"),))
    pipeline = PipelineSession(segments, (signature,), subject="digits/3")
    results = []
    thread = threading.Thread(target=lambda: results.append(run(pipeline, 5)))
    thread.start()
    until(lambda: pipeline._stages[0].callers == 1)

    def in_the_fork():
        said = told(lambda: run(pipeline))
        pipeline.close()
        return [said, segments[0].closed]

    said, closed = forked(in_the_fork)
    assert said.endswith(REFUSED)
    assert not closed
    for one in segments:
        one.go.set()
    thread.join()
    np.testing.assert_array_equal(results[0], rows(1, 5) + 2)
