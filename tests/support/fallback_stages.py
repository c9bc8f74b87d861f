"""A manager with loaders that a test holds in its hands."""

import threading
import time

from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, GatedLoader

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId, State


class Stage:
    """A manager whose loaders wait for their gates."""

    def __init__(self, tmp_path, **options):
        self.clock = FakeClock()
        self.loaders = {}
        self.path = tmp_path
        parts = {key: options.pop(key) for key in ("budget", "transition", "prepare") if key in options}
        self.manager = Manager(
            make_loader=self.make_loader,
            options=ManagerOptions(**({"num_load_threads": 4} | options)),
            clock=self.clock,
            **parts,
        )
        self.told = threading.Event()
        self.manager.watch(self.told.set)

    def make_loader(self, servable_id, _, on_lost):
        loader = self.loaders[servable_id.version]
        loader.on_lost = on_lost
        return loader

    def aspire(self, *numbers, mark="", open_gates=True):
        for number in numbers:
            loader = self.loaders.setdefault(number, GatedLoader(FakeExecutor(factor=number)))
            if open_gates:
                loader.gate.set()
        version = AspiredVersion(path=self.path, fingerprint=((mark, 0, 0),))
        self.manager.set_aspired({ServableId("m", number): version for number in numbers})

    def settle(self):
        assert self.manager.wait_idle(timeout_s=10)

    def states(self):
        return {state.servable_id.version: state.state for state in self.manager.states("m")}

    def until(self, expected):
        """Waits for the states of all versions that are not gone, by nothing but what watchers are told."""
        while self.live() != expected:
            assert self.told.wait(30), self.live()
            self.told.clear()

    def live(self):
        states = self.manager.states("m")
        return {
            state.servable_id.version: state.state
            for state in states
            if state.state is not State.END or state.error is not None
        }

    def lose(self, number, servable=None):
        """The version's process dies, as its loader's callback tells."""
        loader = self.loaders[number]
        loader.on_lost(loader.result if servable is None else servable, "signal 6")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for loader in self.loaders.values():
            loader.gate.set()
        self.manager.stop(timeout_s=5)


def soon(condition):
    """Waits for what another thread brings about."""
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)
