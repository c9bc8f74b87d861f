import threading

import pytest
from support.clock import FakeClock
from support.loops import until

from devices import EdgeTpu
from edge_runtime.crew.supervisor import GONE_LOOKS, Supervisor

WAIT_S = 20.0


def stick(address):
    return EdgeTpu(bus="usb", address=address, hardware_id="18d1:9302", node=None)


@pytest.fixture
def supervisor():
    import time

    one = Supervisor(time.monotonic, lambda: ())
    yield one
    one.close()


def test_calls_when_it_is_time_and_earlier_ones_first(supervisor):
    """Timers run in the order of their instants, whatever the order in which they were set."""
    import time

    now_s, called, done, both = time.monotonic(), [], threading.Event(), threading.Event()
    supervisor.at(now_s - 2.0, lambda: both.wait(WAIT_S))
    supervisor.at(now_s + 0.02, lambda: (called.append("later"), done.set()))
    supervisor.at(now_s - 1.0, lambda: called.append("earlier"))
    both.set()
    assert done.wait(WAIT_S)
    assert called == ["earlier", "later"]


def test_a_call_that_fails_harms_no_other(supervisor, caplog):
    """What a call raises is logged, and the next one runs."""
    done = threading.Event()
    supervisor.start(lambda: 1 / 0)
    supervisor.start(done.set)
    assert done.wait(WAIT_S)
    supervisor.close()
    assert "ZeroDivisionError" in caplog.text


def test_closed_one_calls_nothing():
    """After closing, timers and jobs are forgotten."""
    import time

    one, called = Supervisor(time.monotonic, lambda: ()), []
    one.close()
    one.at(0.0, lambda: called.append("timer"))
    one.start(lambda: called.append("job"))
    one.close()
    assert called == []


class Bus:
    """What is attached, and who is told of it."""

    def __init__(self, *addresses):
        self.addresses = addresses
        self.told = []

    def __call__(self):
        return tuple(map(stick, self.addresses))

    def seen(self, present, gone, back):
        self.told.append((sorted(gone), sorted(back)))


def look(supervisor):
    """A look at the bus, and the telling that follows from it."""
    supervisor._look()
    until(lambda: not supervisor._telling)


def test_stick_that_leaves_the_bus_for_a_moment_is_not_gone():
    """One that is missing at a single look, as while its firmware is loaded, is neither gone nor back."""
    bus = Bus("1-1")
    one = Supervisor(FakeClock(), bus)
    one.watch(bus)
    for addresses in ((), ("1-1",)):
        bus.addresses = addresses
        look(one)
    one.close()
    assert bus.told == []


def test_stick_that_stays_away_is_gone_and_comes_back():
    """One that is missing at several looks in a row is gone, told once; back at the first look that sees it."""
    bus = Bus("1-1", "2-1")
    one = Supervisor(FakeClock(), bus)
    one.watch(bus)
    bus.addresses = ("1-1",)
    for _ in range(GONE_LOOKS - 1):
        look(one)
    assert bus.told == []
    for _ in range(3):
        look(one)
    assert bus.told == [(["usb 2-1"], [])]
    bus.addresses = ("1-1", "2-1")
    for _ in range(2):
        look(one)
    one.close()
    assert bus.told == [(["usb 2-1"], []), ([], ["usb 2-1"])]


def test_who_came_while_a_stick_was_away_for_a_moment_hears_of_it():
    """What is told follows from what each watcher was shown: an absence that is none for others may be news to one."""
    bus, late = Bus("1-1"), Bus()
    one = Supervisor(FakeClock(), bus)
    one.watch(bus)
    bus.addresses = ()
    one.watch(late)
    look(one)
    bus.addresses = ("1-1",)
    for _ in range(2):
        look(one)
    one.close()
    assert (bus.told, late.told) == ([], [([], ["usb 1-1"])])


def test_a_stick_that_leaves_while_it_is_asked_for_is_told_when_it_is_back():
    """What the list lacks, since it took a second to make, has not been shown to anybody."""
    bus, asked = Bus(), []

    def in_order():
        asked.append(1)
        if len(asked) == 2:
            bus.addresses = ()
        return bus()

    one = Supervisor(FakeClock(), bus, in_order)
    one.watch(bus)
    for _ in range(2):
        bus.addresses = ("1-1",)
        look(one)
    one.close()
    assert bus.told == [([], ["usb 1-1"])]


def test_a_watcher_that_fails_hears_of_it_again_and_so_do_the_others(caplog):
    """What one could not go by, for want of memory, is told at the next look; the other is told once."""
    bus, other = Bus(), Bus()
    one = Supervisor(FakeClock(), bus)
    failing = Bus()
    failing.seen = lambda *_: failing.told.append(1) or (1 / 0 if len(failing.told) == 1 else None)
    one.watch(failing)
    one.watch(other)
    bus.addresses = ("1-1",)
    for _ in range(3):
        look(one)
    one.close()
    assert (len(failing.told), len(other.told)) == (2, 1)
    assert "ZeroDivisionError" in caplog.text


def test_an_enumeration_that_hangs_holds_up_no_timer():
    """Asking in the library's order may hang: timers are called meanwhile."""
    import time

    bus, asked, hanging, called = Bus(), [], threading.Event(), threading.Event()

    def in_order():
        asked.append(1)
        if len(asked) > 1:
            hanging.wait(3 * WAIT_S)
        return bus()

    one = Supervisor(time.monotonic, bus, in_order)
    one.watch(bus)
    bus.addresses = ("1-1",)
    until(lambda: len(asked) > 1)
    one.at(time.monotonic(), called.set)
    assert called.wait(WAIT_S)
    hanging.set()
    one.close()


@pytest.mark.parametrize("how", ["refused", "stillborn"])
def test_a_moment_without_threads_delays_and_ends_nothing(how, supervisor, monkeypatch):
    """Jobs and timers for which no thread could be started, or never came to life, are done when there is one again."""
    import time

    start, hanging, done = threading.Thread.start, threading.Event(), [threading.Event() for _ in range(3)]
    failed = []

    def fail(thread):
        if not thread.name.startswith("edge-crew-job"):
            return start(thread)
        failed.append(thread)
        if how == "refused":
            raise RuntimeError("can't start new thread")
        return hanging.wait(WAIT_S)

    monkeypatch.setattr("edge_runtime.crew.supervisor.AGAIN_S", 0.01)
    supervisor.attend()
    until(lambda: supervisor._thread)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert supervisor.start(done[0].set)
        supervisor.at(time.monotonic(), done[1].set)
        until(lambda: len(failed) > 4)
        assert not any(one.is_set() for one in done)
    assert all(one.wait(WAIT_S) for one in done[:2])
    supervisor.at(time.monotonic(), done[2].set)
    assert done[2].wait(WAIT_S)
    hanging.set()


def test_a_supervisor_whose_own_thread_could_not_be_started_has_one_at_the_next_need(supervisor, monkeypatch):
    """Timers that were set without a thread are called when there is one."""
    done = [threading.Event(), threading.Event()]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: 1 / 0)
        supervisor.at(0.0, done[0].set)
        until(lambda: supervisor._short)
    supervisor.at(0.0, done[1].set)
    assert all(one.wait(WAIT_S) for one in done)


def test_absence_is_looked_at_when_a_run_failed():
    """A place that is known is looked for at once; one that is not known is never absent."""
    one = Supervisor(FakeClock(), lambda: (stick("1-1"),))
    assert one.is_absent("usb 2-1")
    assert not one.is_absent("usb 1-1")
    assert not one.is_absent("")
