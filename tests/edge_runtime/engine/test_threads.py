import threading

import pytest
from support.loops import until

from edge_runtime.engine.threads import begin, run


class Stillborn(threading.Thread):
    """A thread whose start does not come back, as where memory ends before its first line."""

    let_go = threading.Event()

    def start(self):
        self.let_go.wait()


class Refused(threading.Thread):
    def start(self):
        raise RuntimeError("can't start new thread")


def test_whoever_starts_a_thread_is_not_held_up():
    """A start that hangs holds up nobody, and who waits for the thread is told when it did not come."""
    begin(Stillborn(), lambda error: None)
    with pytest.raises(RuntimeError, match=r"did not run within 0\.01 s"):
        run(Stillborn(), threading.Event(), 0.01)
    Stillborn.let_go.set()


def test_a_refusal_is_told():
    """A system that starts no thread says so, to who waits and to who does not."""
    told = []
    begin(Refused(), told.append)
    until(lambda: told)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(Refused(), threading.Event(), 20.0)


def test_one_that_runs_is_an_ordinary_thread():
    """It has its name, and is gone when it has ended; nothing else is left."""
    started, names = threading.Event(), []
    thread = threading.Thread(target=lambda: (started.set(), names.append(threading.current_thread().name)), name="one")
    run(thread, started, 20.0)
    thread.join()
    assert names == ["one"]
    left = [
        one for one in threading.enumerate() if one is thread or (one.ident == thread.ident and "Dummy" in one.name)
    ]
    assert not left
