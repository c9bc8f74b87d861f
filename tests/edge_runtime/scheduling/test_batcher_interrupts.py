"""Ctrl-C reaches the main thread between any two steps; these tests let it, thousands of times."""

import random
import signal
import threading
import time

import numpy as np
import pytest
from support.edge_models import rows, scale_model, scale_signature

from converter.artifact import Variant
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.delegates import open_session
from edge_runtime.engine.engine import Engine
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.slot import Slot
from edge_runtime.types import InferRequest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread"
    ),
]

INTERRUPTS = 1500


@pytest.fixture
def interrupts():
    """SIGALRM raises KeyboardInterrupt, as SIGINT does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def setup():
    signature = scale_signature()
    batcher = Batcher([signature], version=1, max_queued_requests=64, max_queued_bytes=2**20, clock=time.monotonic)
    variant = Variant(name="v", file="v.tflite", size_bytes=1, signatures=(signature,))
    session = open_session(SessionSpec(subject="scale/1", signatures=(signature,)), scale_model(2.0))
    slot = Slot(Engine(session, variant, (signature,)), Gate(1, "cpu"), CostTable({1: 1e-5}, time.monotonic))
    batcher.add(slot)
    yield batcher, slot
    batcher.close()


def request(start=0):
    return InferRequest(
        model="scale",
        version=1,
        signature="serving_default",
        inputs={"x": rows(1, start)},
        rows=1,
        batched=True,
        start_s=time.monotonic(),
    )


def interrupted(call, choice):
    """Calls until it is interrupted."""
    try:
        signal.setitimer(signal.ITIMER_REAL, choice.uniform(0.0002, 0.001))
        while True:
            call()
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("others", [0, 2])
def test_interrupted_callers_leave_nothing_taken(setup, interrupts, others):
    """However often and wherever a caller is interrupted, the next one is answered, and nothing stays taken."""
    batcher, slot = setup
    stop, wrong = threading.Event(), []

    def ask(start):
        while not stop.is_set():
            reply = batcher.infer(request(start))
            if not np.array_equal(reply.outputs["y"], rows(1, start) * 2):
                wrong.append(reply)

    threads = [threading.Thread(target=ask, args=(10 * number + 10,)) for number in range(others)]
    for thread in threads:
        thread.start()
    choice = random.Random(7)
    mine = request()
    for _ in range(INTERRUPTS):
        interrupted(lambda: batcher.infer(mine), choice)
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    np.testing.assert_array_equal(batcher.infer(request(3)).outputs["y"], rows(1, 3) * 2)
    assert wrong == []
    stats = batcher.stats()
    assert (stats.queued, stats.queued_rows, stats.running, slot.busy) == (0, 0, 0, False)
    assert (slot.gate._free, slot.gate._waiting, slot.gate._held) == (1, [], {})
