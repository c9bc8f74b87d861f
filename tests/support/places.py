"""For tests of routing: a device and servers whose states and outcomes the test sets."""

from __future__ import annotations

from concurrent.futures import Future

from support.edge_models import rows

from edge_runtime import EngineFailed, Overloaded, Reply, ServerFailed
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.stats import Load
from edge_runtime.types import InferRequest

IDLE = Load(queued_requests=0, queued_rows=0, running_rows=0, engines=1, full=False)
BUSY = Load(queued_requests=100, queued_rows=100, running_rows=1, engines=1, full=False)
FULL = Load(queued_requests=100, queued_rows=100, running_rows=1, engines=1, full=True)
GONE = Load(queued_requests=0, queued_rows=0, running_rows=0, engines=0, full=False)

LACKING = ServerFailed("scale/1", {"s:1": "not found"}, lacking=True)
BROKEN = ServerFailed("scale/1", {"s:1": "boom"}, lacking=False)
SPOILT = EngineFailed("broken")

HANGS = object()
"""An outcome that the test brings about later, by the place's latest future."""


def reply(place, request, clock):
    latency_ms = (clock() - request.start_s) * 1e3
    return Reply(outputs={}, version=1, place=place, reason=request.reason, latency_ms=latency_ms)


def asked(clock, deadline_in_s=None, **fields):
    """A request of one row."""
    return InferRequest(
        model="scale",
        version=1,
        signature="s",
        inputs={"x": rows(1)},
        rows=1,
        start_s=clock(),
        deadline_s=None if deadline_in_s is None else clock() + deadline_in_s,
        **fields,
    )


class _Place:
    """Where requests go: an error, an answer at once (None), or what the test does later (HANGS)."""

    def __init__(self, name, clock, outcome=None, takes_s=0.0):
        self.name = name
        self.clock = clock
        self.outcome = outcome
        self.takes_s = takes_s
        self.asked = []
        self.futures = []

    def submit(self, request):
        self.asked.append(request)
        self.futures.append(future := Future())
        if self.outcome is HANGS:
            return future
        self.clock.advance(self.takes_s)
        self.end(self.outcome)
        return future

    def end(self, outcome=None):
        """The latest request is answered, or fails."""
        future, request = self.futures[-1], self.asked[-1]
        if not future.set_running_or_notify_cancel():
            return
        if outcome is None:
            future.set_result(reply(self.name, request, self.clock))
        else:
            future.set_exception(outcome)


class FakeDevice(_Place):
    """A batcher whose runs take 10 ms."""

    def __init__(self, clock, outcome=None, *, load=IDLE, takes_s=0.010):
        super().__init__("device:cpu", clock, outcome, takes_s)
        self.costs = CostTable({1: 0.010}, clock)
        self.load = load
        self.refusal = None
        self.last = False

    def is_last(self, request):
        return self.last

    def try_infer(self, request):
        return None if self.load is not IDLE else super().submit(request).result()

    def infer(self, request):
        return self.wait(request)

    def wait(self, request):
        return self.submit(request).result()

    def submit(self, request):
        if self.refusal is not None:
            raise self.refusal
        if self.load.full:
            raise Overloaded("full")
        return super().submit(request)


class FakeRemote(_Place):
    """Servers that are expected to take 2 ms; None for those that may not be asked."""

    def __init__(self, clock, outcome=None, *, expected_s=0.002, takes_s=0.005):
        super().__init__("server:s:1", clock, outcome, takes_s)
        self.expected_s = expected_s

    def expects(self, request):
        return self.expected_s

    def awaits(self, request):
        return False

    def unasked(self, request):
        return {}


class FakeLater:
    """Timers that go off when the test says so.

    Attributes:
        waits: The delays that were asked for.
    """

    def __init__(self):
        self.waits = []
        self._what = []

    def call(self, delay_s, what):
        self.waits.append(delay_s)
        self._what.append(what)
        return self

    def cancel(self):
        self._what.pop()

    def go_off(self):
        """The latest one's time has come, unless it was cancelled."""
        if self._what:
            self._what[-1]()
