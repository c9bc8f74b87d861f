"""Random lives of versions: whatever is wanted, fails, dies, is held and let go, in whatever order."""

import functools
import threading
import time
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import ModelNotFound, NotReady, PreconditionFailed
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.model_config import ModelConfig
from fallback_server.core.router import Router
from fallback_server.core.servable import ServableId, State
from fallback_server.core.target import ModelTarget

VERSIONS = range(1, 5)
PATH = Path("/m")


class Part(FakeExecutor):
    """What a load gave: knows whether it may be used."""

    def __init__(self, version):
        super().__init__(factor=version)
        self.dead = False


class PlannedLoader:
    """Waits for its turn, then does what the plan says."""

    retriable = True

    def __init__(self, life, servable_id, path, on_lost):
        self.life, self.servable_id, self.on_lost = life, servable_id, on_lost
        self.key = (servable_id.version, path)
        self.stopped = False

    def estimated_bytes(self):
        return 0

    def load(self):
        ending = threading.Event()
        turn = {"event": ending, "fails": False, "loader": self}
        with self.life.lock:
            if self.stopped:
                raise OSError("stopped")
            self.life.loading[self.key] = turn
        assert ending.wait(60)
        if turn["fails"]:
            raise OSError("no such op")
        part = Part(self.servable_id.version)
        self.life.parts[self.servable_id.version] = (part, self.on_lost)
        return part

    def stop(self):
        with self.life.lock:
            self.stopped = True
            turn = self.life.loading.get(self.key)
            if turn is None or turn["loader"] is not self:
                return
            del self.life.loading[self.key]
        turn["fails"] = True
        turn["event"].set()


class Life(RuleBasedStateMachine):
    """A manager and a router of one model, with loads that end when the machine says so."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.lock = threading.Lock()
        self.loading, self.parts, self.held = {}, {}, []
        self.wanted, self.marks = set(), dict.fromkeys(VERSIONS, 0)
        self.paths = dict.fromkeys(VERSIONS, PATH)
        self.told = 0
        self.shown = {}
        self.manager = Manager(
            make_loader=functools.partial(PlannedLoader, self),
            options=ManagerOptions(num_load_threads=4, max_num_load_retries=1, load_retry_interval_s=10),
            clock=self.clock,
        )
        self.router = Router(self.manager, [ModelConfig(name="m", base_path=PATH, labels={"stable": 2})])
        self.manager.watch(self.router.follow)
        self.manager.watch(self.look)

    def look(self):
        self.told += 1
        self.shown = self.states()

    def states(self):
        return {state.servable_id.version: state.state for state in self.manager.states("m")}

    def settle(self):
        """Waits until threads have done what they were told: only loads that wait for their turn are left."""
        end_s = time.monotonic() + 30
        while not self.is_settled():
            assert time.monotonic() < end_s, self.states()
            time.sleep(0.0005)

    def is_settled(self):
        with self.manager._lock:
            harnesses = list(self.manager._table)
            busy = [
                harness
                for harness in harnesses
                if (harness.state is State.UNLOADING and harness.quiescent)
                or (harness.under_way and (harness.servable_id.version, harness.aspired.path) not in self.loading)
            ]
            # A load whose turn has ended, and whose thread has not told yet.
            under_way = {(each.servable_id.version, each.aspired.path) for each in harnesses if each.under_way}
            told = self.loading.keys() <= under_way
        return not busy and told

    def aspire(self):
        self.manager.set_aspired(
            {
                ServableId("m", version): AspiredVersion(
                    path=self.paths[version], fingerprint=((str(self.marks[version]), 0, 0),)
                )
                for version in self.wanted
            }
        )
        self.settle()

    @rule(wanted=st.sets(st.sampled_from(VERSIONS), max_size=2))
    def want(self, wanted):
        had = self.manager.available("m")
        self.wanted = wanted
        self.aspire()
        if had and wanted:
            assert self.manager.available("m"), "availability was not preserved"

    @rule(version=st.sampled_from(VERSIONS))
    def change_files(self, version):
        self.marks[version] += 1
        self.aspire()

    @rule(version=st.sampled_from(VERSIONS), place=st.sampled_from("abc"))
    def move(self, version, place):
        had = self.manager.available("m")
        self.paths[version] = PATH / place
        self.aspire()
        assert set(had) & self.wanted <= set(self.manager.available("m")), "a move took an answer away"

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    def end_a_load(self, data, fails):
        self.end(data.draw(st.sampled_from(sorted(self.loading))), fails=fails)

    @precondition(lambda self: self.loading)
    @rule()
    def end_all_loads(self):
        for key in sorted(self.loading):
            if key in self.loading:
                self.end(key, fails=False)

    def end(self, key, *, fails):
        had = self.manager.available("m")
        turn = self.loading.pop(key)
        turn["fails"] = fails
        before = self.told
        turn["event"].set()
        end_s = time.monotonic() + 30
        while self.told == before:
            assert time.monotonic() < end_s
            time.sleep(0.0005)
        self.settle()
        if had and self.wanted:
            assert self.manager.available("m"), "availability was not preserved"

    @rule(version=st.sampled_from(VERSIONS))
    def die(self, version):
        if version in self.parts:
            part, on_lost = self.parts.pop(version)
            part.dead = True
            on_lost(part, "signal 9")
            self.settle()

    @rule(seconds=st.sampled_from([0.5, 10, 70]))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.manager.tick()
        self.settle()

    @rule(version=st.one_of(st.none(), st.sampled_from(VERSIONS)), label=st.sampled_from([None, "stable"]))
    def hold(self, version, label):
        target = ModelTarget(name="m", version=version, label=None if version else label)
        try:
            handle = self.router.acquire(target)
        except (ModelNotFound, NotReady):
            if target.label is None:
                assert version not in self.manager.available("m")
            return
        assert handle.servable_id.version == handle.servable.factor
        assert version in (None, handle.servable.factor)
        assert not handle.servable.dead
        self.held.append(handle)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data):
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).close()
        self.settle()

    @rule(label=st.sampled_from(["", "stable"]))
    def roll_back(self, label):
        available = self.manager.available("m")
        try:
            done = self.router.rollback("m", label)
        except PreconditionFailed:
            return
        assert done.to_version in available
        target = ModelTarget(name="m", label=done.label or None)
        with self.router.acquire(target) as handle:
            assert handle.servable_id.version == done.to_version

    @invariant()
    def no_held_version_is_closed(self):
        assert not any(handle.servable.closed for handle in self.held)

    @invariant()
    def what_answers_is_loaded(self):
        for version, part in self.manager.peek("m").items():
            assert part.factor == version
            assert not part.closed
            assert not part.dead

    @invariant()
    def the_last_word_to_watchers_was_the_newest(self):
        end_s = time.monotonic() + 30
        while self.shown != self.states():
            assert time.monotonic() < end_s, (self.shown, self.states())
            time.sleep(0.0005)

    @invariant()
    def tables_are_bounded(self):
        table = self.manager._table
        assert sum(1 for _ in table) <= 2 * len(VERSIONS)
        assert not self.manager._died_early or self.loading
        assert len(self.manager._promises._promised) <= 2 * len(VERSIONS)

    def teardown(self):
        for handle in self.held:
            handle.close()
        self.manager.set_aspired({})
        end_s = time.monotonic() + 30
        while set(self.states().values()) - {State.END}:
            for turn in list(self.loading.values()):
                turn["event"].set()
            assert time.monotonic() < end_s, self.states()
            time.sleep(0.0005)
        assert self.manager.stop(timeout_s=10)
        assert all(part.closed for part, _ in self.parts.values())


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
