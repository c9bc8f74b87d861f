import gc
import os
import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from support.echo_models import echo_model, echo_signature
from support.edge_models import rows, scale_model, scale_signature
from support.loops import until

from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.process import WorkerProcess
from edge_runtime.errors import EngineFailed, EngineLost

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
SPEC = SessionSpec(subject="scale/1", signatures=(scale_signature(),))


def descriptors():
    """What this process has open, without what it opens to look."""
    return sorted(str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())


def shared():
    return [one for one in descriptors() if "memfd:edge-" in one]


def test_a_death_is_told_once():
    """Who asked for it is called, once, in the worker's own thread, by a worker that dies while nobody uses it."""
    told = []
    worker = WorkerProcess("cpu", on_death=lambda: told.append((threading.current_thread().name, worker.alive)))
    session = worker.open(SPEC, scale_model(2.0), LIMIT_S)
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: told)
    with pytest.raises(EngineLost, match="SIGKILL"):
        session.run("serving_default", {"x": rows(1)}, LIMIT_S)
    worker.close()
    assert told == [("edge-worker-cpu", False)]


def test_closing_is_no_death():
    """A worker that is closed tells nobody."""
    told = []
    worker = WorkerProcess("cpu", on_death=lambda: told.append(1))
    worker.open(SPEC, scale_model(2.0), LIMIT_S)
    worker.close()
    until(lambda: not [one for one in threading.enumerate() if one.name == "edge-worker-cpu"])
    assert not told


def test_it_may_be_closed_where_its_death_is_told():
    """Whoever is told can close it on the spot, also one that has been in a run."""
    freed = threading.Event()

    def close():
        worker.close()
        freed.set()

    worker = WorkerProcess("cpu", on_death=close)
    worker.open(SPEC, scale_model(2.0), LIMIT_S)
    os.kill(worker.pid, signal.SIGKILL)
    assert freed.wait(LIMIT_S)
    assert worker._socket.fileno() == -1


def test_closing_does_not_wait_for_who_is_told():
    """Who closes it may hold the lock that who is told waits for."""
    lock, entered = threading.Lock(), threading.Event()

    def told():
        entered.set()
        with lock:
            pass

    worker = WorkerProcess("cpu", on_death=told)
    with lock:
        os.kill(worker.pid, signal.SIGKILL)
        assert entered.wait(LIMIT_S)
        worker.close()
        assert worker._socket.fileno() == -1


@pytest.mark.parametrize("dtype", ["float32", "string"])
def test_its_memory_goes_with_it(dtype):
    """Neither sessions nor errors that somebody keeps hold descriptors of a worker that died and was closed."""
    spec = SessionSpec(subject="echo/1", signatures=(echo_signature({"x": (dtype, (-1, 4))}),))
    values = np.array([[b"a", b"b", b"c", b"d"]], object) if dtype == "string" else rows(1)
    gc.collect()
    before = shared()
    gc.disable()
    try:
        worker = WorkerProcess("cpu")
        session = worker.open(spec, echo_model({"x": (dtype, (-1, 4))}), LIMIT_S)
        session.run("serving_default", {"x": values}, LIMIT_S)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(EngineFailed) as caught:
            session.run("serving_default", {"x": values}, 0.01)
        worker.close()
        assert shared() == before
        assert isinstance(caught.value, EngineLost)
    finally:
        gc.enable()


def test_workers_need_no_collection():
    """A worker that was closed and is used no more is gone at once: nothing in it refers to itself."""
    import weakref

    gc.collect()
    gc.disable()
    try:
        worker = WorkerProcess("cpu")
        worker.open(SPEC, scale_model(2.0), LIMIT_S).close()
        worker.close()
        alive = weakref.ref(worker)
        del worker
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("free", [0, 1, 2, 3, 4])
def test_one_that_can_not_be_started_leaves_no_descriptor(free):
    """Where the process has hardly a descriptor left, no worker is made, the error is named, and none is lost."""
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY)]
    try:
        # New descriptors take the lowest numbers: all gaps are filled first.
        while held[-1] < max(int(one.name) for one in Path("/proc/self/fd").iterdir()) - 1:
            held.append(os.open("/dev/null", os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + free, limits[1]))
        with pytest.raises(EngineFailed, match="no worker can be started"):
            WorkerProcess("cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for one in held:
            os.close(one)
    assert descriptors() == before


def test_one_that_is_ended_is_told_as_a_death():
    """Who shares a worker hears that another one has ended it, and why."""
    told = []
    worker = WorkerProcess("cpu", on_death=lambda: told.append(worker.loss))
    session = worker.open(SPEC, scale_model(2.0), LIMIT_S)
    assert session.workers == (worker,)
    assert worker.loss is None
    worker.end("its runs fail", "crashed")
    worker.close()
    until(lambda: told)
    ((text, cause),) = told
    assert text.endswith("was ended: its runs fail")
    assert cause == "crashed"
