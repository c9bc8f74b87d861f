"""What a version does when an Edge TPU comes: opened under the name that it is seen by, whatever was seen first."""

import time

import pytest
from support.devices_roots import FakeRoot
from support.edgetpu_models import publish_edgetpu
from support.loops import until

from devices import EdgeTpu
from edge_runtime import EngineFailed, Runtime
from edge_runtime.config import read_options
from edge_runtime.crew.crew import HOLD_S
from edge_runtime.crew.device import place_of
from edge_runtime.crew.health import FIRST_DELAY_S
from edge_runtime.errors import EngineLost

STICK = EdgeTpu(bus="usb", address="2-1", hardware_id="18d1:9302", node=None)
PLACE = frozenset({place_of(STICK)})
AWAY = EngineLost("no device", "vanished")


class Hands:
    """A crew's clock, timers and jobs in the test's hands, and a CPU that passes for the Edge TPU.

    Attributes:
        now_s: The crew's clock.
        retries_s: In how many seconds something was to be done, at each time that it was asked for.
        outcomes: What an Edge TPU's opening does, one after another: called if it can be, raised if it is an error.
        opened: The names of the Edge TPUs that were opened.
    """

    def __init__(self, crew, monkeypatch):
        self.now_s, self.retries_s, self.outcomes, self.opened = time.monotonic(), [], [], []
        self._first, self._cpu = crew._opener.first, crew._roster.all()[-1]
        monkeypatch.setattr(crew, "_clock", lambda: self.now_s)
        monkeypatch.setattr(crew._supervisor, "at", lambda instant_s, _: self.retries_s.append(instant_s - self.now_s))
        monkeypatch.setattr(crew._supervisor, "start", lambda call: call() or True)
        monkeypatch.setattr(crew._opener, "first", self.first)

    def first(self, devices, variant, layout):
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            outcome()
        self.opened.append(devices[0].string.text)
        return self._first(self._cpu.devices, self._cpu.variant, layout)


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """Gives a version's crew whose Edge TPU was away when it was loaded, and the hands that have it."""
    publish_edgetpu(tmp_path / "store", 3, 2.0)
    root = FakeRoot(tmp_path / "root")
    root.machine("x86_64")
    runtimes = []

    def of(delegate, **options):
        given = {"edgetpu_library": "/nowhere/libedgetpu.so.1", "threads": 1, "poll_interval_s": 3600.0, **options}
        options = read_options(tmp_path / "store", {"delegates": [delegate, "cpu"], **given})
        runtimes.append(Runtime(options, root=root.path))
        runtimes[-1].model("scale")
        crew = runtimes[-1]._versions.all()[0].crew
        until(lambda: crew._roster.all()[0].state == "unhealthy" and not crew._roster.all()[0].opening)
        monkeypatch.setattr(crew._supervisor, "at", lambda *_: None)
        return crew, Hands(crew, monkeypatch)

    yield of
    monkeypatch.undo()
    for runtime in runtimes:
        runtime.close()


def names(crew):
    return [(one.device, one.state) for one in crew.reports]


@pytest.mark.parametrize("delegate", ["edgetpu", "edgetpu:usb:0"])
def test_a_try_that_a_coming_stick_overtakes_is_soon_followed_by_another(crew, delegate):
    """A try begins while the stick is away, and fails after it was told of: long absence or not, it is tried soon."""
    crew, hands = crew(delegate)
    (station, _) = crew._roster.all()
    hands.outcomes = [AWAY] * 9
    for _ in range(9):
        assert not crew._open(station)
    assert hands.retries_s[-1] > 30

    def overtaken():
        hands.outcomes = [EngineFailed("no device")]  # what the new name's own first try gets from the library
        crew.seen((STICK,), frozenset(), PLACE)
        raise EngineFailed("no device")

    hands.outcomes = [overtaken]
    assert not crew._open(station)
    assert hands.retries_s[-1] == pytest.approx(FIRST_DELAY_S)
    hands.outcomes = []
    assert crew._open(crew._roster.all()[0])
    assert hands.opened == ["edgetpu:usb:0"]
    assert names(crew) == [("edgetpu:usb:0", "ready"), ("cpu", "standby")]


def test_a_stick_that_was_opened_before_it_was_seen_is_opened_again_by_its_name(crew):
    """The library has it before sysfs shows it: the unnamed device is let go of before the named one is opened."""
    crew, hands = crew("edgetpu")
    (unnamed, cpu) = crew._roster.all()
    assert crew._open(unnamed)
    assert names(crew) == [("edgetpu", "ready"), ("cpu", "standby")]
    (engine,) = unnamed.slots
    seen = []
    hands.outcomes = [lambda: seen.append((unnamed.devices[0].in_use, [slot.engine for slot in crew.batcher.slots]))]
    crew.seen((STICK,), frozenset(), PLACE)
    assert seen == [(False, [*cpu.slots])]
    assert engine not in [slot.engine for slot in crew.batcher.slots]
    assert hands.opened == ["edgetpu", "edgetpu:usb:0"]
    assert names(crew) == [("edgetpu:usb:0", "ready"), ("cpu", "standby")]


def test_requests_wait_while_a_stick_is_opened_again_by_its_name(crew):
    """Where nothing else could answer, the moment without a device is held open, and not for ever."""
    crew, hands = crew("edgetpu")
    (unnamed, cpu) = crew._roster.all()
    assert crew._open(unnamed)
    crew._lose(cpu, [*cpu.slots], "vanished", "a test")
    hands.outcomes = [EngineFailed("the device is busy")]
    crew.seen((STICK,), frozenset(), PLACE)
    assert names(crew) == [("edgetpu:usb:0", "unhealthy"), ("cpu", "unhealthy")]
    assert crew.batcher._desk.expecting
    hands.now_s += HOLD_S
    crew._hope()
    assert not crew.batcher._desk.expecting


def test_who_stands_in_looks_for_names_before_it_is_tried_again(crew, monkeypatch):
    """Sticks that sysfs hides, so that nobody tells of them, are found at the next try, and used by their names."""
    crew, hands = crew("edgetpu")
    (unnamed, _) = crew._roster.all()
    monkeypatch.setattr(crew._supervisor, "present", lambda: (STICK,))
    assert not crew._open(unnamed)
    assert hands.opened == ["edgetpu:usb:0"]
    assert names(crew) == [("edgetpu:usb:0", "ready"), ("cpu", "standby")]


def test_a_stick_that_has_left_again_when_it_is_told_of_changes_nothing(crew):
    """What is told of is not there any more: no name is given up, and none is made for nothing."""
    crew, _ = crew("edgetpu")
    (unnamed, _) = crew._roster.all()
    assert crew._open(unnamed)
    crew.seen((), frozenset(), PLACE)
    assert names(crew) == [("edgetpu", "ready"), ("cpu", "standby")]
