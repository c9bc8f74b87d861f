"""A data plane over two versions of a model whose runs take no time, stepped by the test."""

import threading
from pathlib import Path

import numpy as np
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, GatedLoader
from support.fallback_versions import PlainVersions

from fallback_server.core.errors import ServerError
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId
from fallback_server.core.source import AspiredVersion
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane, PredictCall
from fallback_server.package_info import PackageInfo
from fallback_server.predict_call import Likeness
from fallback_server.served_model import ServedModel

PACKAGE = PackageInfo(fingerprint="f", preprocessing_fingerprint="p")
NOW_S = FakeClock().now_s
POISON = 13.0


class Shadowed(PlainVersions):
    """As they are; every second request of version 2 is shadowed by version 1, where that is wanted."""

    wanted = False
    asked = 0

    def standing(self, target):
        return None if self.wanted else super().standing(target)

    def shadow(self, name, answered):
        self.asked += 1
        if not self.wanted or answered == 1 or self.asked % 2:
            return None
        return self._manager.acquire(name, 1)


class Stand:
    """A data plane over versions 1 and 2 of `m`, whose runs take no time, stepped by the test."""

    def __init__(self, options, newest=None):
        self.clock = FakeClock()
        self.options = options
        self.executors = {1: FakeExecutor(factor=1), 2: newest or FakeExecutor(factor=2, poison=POISON)}
        self.manager = Manager(make_loader=self._loader, options=ManagerOptions())
        version = AspiredVersion(path=Path(), fingerprint=())
        self.manager.set_aspired({ServableId("m", number): version for number in self.executors})
        assert self.manager.wait_idle(timeout_s=10)
        self.versions = Shadowed(self.manager)
        self.observed = []
        self.answers = {}
        self.plane = DataPlane(
            versions=self.versions,
            options=options,
            clock=self.clock,
            observe=lambda call, version, answer, took_s: self.observed.append((version, told(answer), took_s)),
        )

    def serve(self, *numbers):
        """Has these versions served and no others."""
        version = AspiredVersion(path=Path(), fingerprint=())
        self.manager.set_aspired({ServableId("m", number): version for number in numbers})
        assert self.manager.wait_idle(timeout_s=10)

    def state(self, number):
        return next(each.state for each in self.manager.states("m") if each.servable_id.version == number)

    def _loader(self, servable_id, *_):
        model = ServedModel(servable_id, self.executors[servable_id.version], self.options, PACKAGE, clock=self.clock)
        loader = GatedLoader(model)
        loader.gate.set()
        return loader

    def settle(self, answers):
        for call, answer in answers:
            assert call not in self.answers
            self.answers[call] = answer

    def queued(self, call):
        self.plane.predict([call], self.settle, here=True)
        return self._stepped(call)

    def now(self, call):
        answer = self.plane.now(call, self.settle)
        if answer is not None:
            assert call not in self.answers
            self.answers[call] = answer
        return self._stepped(call)

    def _stepped(self, call):
        self._run()
        if call not in self.answers:  # It waits for company.
            self.clock.advance(0.001)
            self._run()
        return self.answers.pop(call)

    def _run(self):
        while self.plane.scheduler.step():
            pass

    def work(self):
        """What the versions say that they have done, and that nobody holds them."""
        self.clock.advance(0.001)
        self._run()  # Shadows may wait still.
        found = []
        for number in self.executors:
            with self.manager.acquire("m", number) as handle:
                servable = handle.servable
                found.append((servable.statistics.figures(), counted(servable.statistics.work())))
                found.append((servable.queued_rows(), handle._harness.holders))
        return found

    def close(self):
        assert self.manager.stop(timeout_s=5)


def counted(work):
    return {name: getattr(work, name) for name in ("answered", "failed", "runs", "rows", "requests", "sizes")}


def told(answer):
    if isinstance(answer, ServerError):
        return type(answer).__name__, str(answer)
    outputs = {name: array.tolist() for name, array in answer.outputs.items()}
    return outputs, answer.servable_id, answer.signature


def asked_of(version=None, **options):
    return PredictCall(
        target=ModelTarget(name="m", version=version), inputs={"x": np.ones((1, 2), np.float32)}, **options
    )


def ready_for(stand, **options):
    """What is ready after some requests, and a request of the kind."""
    like = Likeness()
    for _ in range(3):
        stand.now(asked_of(like=like, **options))
    assert like.ready is not None
    return asked_of(like=like, **options)


class Gated(FakeExecutor):
    """Waits for its gate at each run."""

    def __init__(self):
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def run(self, name, inputs):
        self.entered.set()
        assert self.gate.wait(30)
        return super().run(name, inputs)
