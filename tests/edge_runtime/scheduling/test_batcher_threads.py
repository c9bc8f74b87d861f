"""Threads that the system does not start."""

import threading

import pytest
from support.gated_engines import WAIT_S, Setup

from edge_runtime.errors import EngineFailed


@pytest.fixture
def refusing(monkeypatch):
    """Has so many threads not start."""
    left = [0]
    real = threading.Thread.start

    def start(thread):
        if thread.name.startswith("edge-engine") and left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return left


def test_a_slot_without_a_thread_is_not_taken_into_use(refusing):
    """It is told; another one later gets its thread, requests that wait are answered, and closing waits for nobody."""
    setup = Setup(sizes=(1,))
    refusing[0] = 1
    with pytest.raises(EngineFailed, match="no thread can be started for <Slot"):
        setup.add()
    assert len(setup.batcher.slots) == 1
    other = setup.add()
    assert len(setup.batcher.slots) == 2
    busy = [setup.occupy()]
    other.engine.shut()
    waiting = setup.batcher.submit(setup.request())
    assert other.engine.entered.acquire(timeout=WAIT_S)
    other.engine.gate.set()
    assert waiting.result(WAIT_S).place == "device:other"
    setup.close()
    assert busy[0].result(WAIT_S).place == "device:cpu"
    assert setup.engine.closed
    assert other.engine.closed
