"""Engines whose runs the test lets through one by one, and batchers over them."""

from __future__ import annotations

import threading

import numpy as np
from support.clock import FakeClock
from support.edge_models import rows, scale_signature

from edge_runtime import EngineFailed
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.slot import Slot
from edge_runtime.types import InferRequest

WAIT_S = 10


class GatedEngine:
    """Answers 2x once its gate is open; records the first value of each run's rows, and fails as it is told to."""

    def __init__(self, place="device:cpu"):
        self.place = place
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.runs = []
        self.firsts = []
        self.failure = None
        self.closed = False

    def run(self, signature, inputs, limit_s=None):
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        self.runs.append(len(inputs["x"]))
        self.firsts += [float(value) for value in inputs["x"][:, 0]]
        if self.failure is not None:
            raise self.failure
        if np.isnan(inputs["x"]).any():
            raise EngineFailed("a NaN")
        return {"y": inputs["x"] * 2}

    def shut(self):
        """From now on runs wait at the gate, and `entered` counts them anew."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass

    def close(self):
        self.closed = True


class Setup:
    """A batcher with one slot."""

    def __init__(self, sizes=(1, 2, 4), max_queued_requests=4, seconds=None, **options):
        self.clock = FakeClock()
        self.engine = GatedEngine()
        self.failures = []
        self.pressure = []
        self.batcher = Batcher(
            [scale_signature()],
            version=3,
            max_queued_requests=max_queued_requests,
            max_queued_bytes=2**20,
            clock=self.clock,
            on_failure=lambda slot, error: self.failures.append((slot, error)),
            on_pressure=lambda: self.pressure.append(self.clock()),
            **options,
        )
        self.costs = CostTable(seconds or dict.fromkeys(sizes, 0.01), self.clock)
        self.gate = Gate(1)
        self.slot = Slot(self.engine, self.gate, self.costs)
        self.batcher.add(self.slot)

    def add(self, **options):
        """Another engine on a device of its own; its slot."""
        engine = GatedEngine(options.pop("place", "device:other"))
        gate = options.pop("gate", None) or Gate(1)
        slot = Slot(engine, gate, CostTable({1: 0.01}, self.clock), **options)
        self.batcher.add(slot)
        return slot

    def request(self, count=1, start=0.0, deadline_s=None, priority=1, policy="prefer_device"):
        return InferRequest(
            model="scale",
            version=3,
            signature="serving_default",
            inputs={"x": rows(count, start)},
            rows=count,
            start_s=self.clock(),
            deadline_s=deadline_s,
            priority=priority,
            policy=policy,
        )

    def occupy(self):
        """Keeps the engine busy until the gate opens; the future of the request that does so."""
        self.engine.shut()
        future = self.batcher.submit(self.request())
        assert self.engine.entered.acquire(timeout=WAIT_S)
        return future

    def close(self):
        for slot in self.batcher.slots:
            slot.engine.gate.set()
        self.engine.gate.set()
        self.batcher.close()
