import threading

from fallback_server.core.source import SourceSnapshot
from fallback_server.poller import Poller


class FailingSource:
    """Fails at its first look, as a share may."""

    def __init__(self):
        self.polls = 0
        self.again = threading.Event()

    def poll(self):
        self.polls += 1
        if self.polls == 1:
            raise RuntimeError("the share")
        if self.polls > 3:
            self.again.set()
        return SourceSnapshot(aspired={}, unsettled=frozenset())


class Target:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def set_aspired(self, aspired):
        self.told.append(aspired)

    def wait_idle(self, *, timeout_s):
        del timeout_s
        return True


def test_a_look_that_fails_ends_nothing(caplog):
    """It is logged, nothing is unloaded for it, and the next look is made."""
    source, target, ready = FailingSource(), Target(), threading.Event()
    poller = Poller(source=source, manager=target, wait_s=0.001, on_ready=ready.set)
    poller.start()
    assert ready.wait(10)
    assert source.again.wait(10)
    poller.stop(timeout_s=10)
    assert len(target.told) <= source.polls - 1
    assert "looking for versions failed" in caplog.text
