import threading

import pytest
from support.clock import FakeClock

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

    now_s, called, done = time.monotonic(), [], threading.Event()
    supervisor.at(now_s + 0.02, lambda: (called.append("later"), done.set()))
    supervisor.at(now_s - 1.0, lambda: called.append("earlier"))
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


def test_stick_that_leaves_the_bus_for_a_moment_is_not_gone():
    """One that is missing at a single look, as while its firmware is loaded, is neither gone nor back."""
    one = Supervisor(FakeClock(), lambda: (stick("1-1"),))
    one.watch(object())
    assert one.compare(frozenset()) == (frozenset(), frozenset())
    assert one.compare(frozenset({"usb 1-1"})) == (frozenset(), frozenset())
    one.close()


def test_stick_that_was_pulled_out_is_gone_once_and_back_once():
    """Gone after some looks in a row, told once; back at the first look that sees it, told once."""
    one = Supervisor(FakeClock(), lambda: (stick("1-1"), stick("2-1")))
    one.watch(object())
    gone = [one.compare(frozenset({"usb 1-1"}))[0] for _ in range(GONE_LOOKS + 2)]
    assert gone == [frozenset()] * (GONE_LOOKS - 1) + [frozenset({"usb 2-1"})] + [frozenset()] * 2
    both = frozenset({"usb 1-1", "usb 2-1"})
    assert one.compare(both) == (frozenset(), frozenset({"usb 2-1"}))
    assert one.compare(both) == (frozenset(), frozenset())
    one.close()


def test_absence_is_looked_at_when_a_run_failed():
    """A place that is known is looked for at once; one that is not known is never absent."""
    one = Supervisor(FakeClock(), lambda: (stick("1-1"),))
    assert one.is_absent("usb 2-1")
    assert not one.is_absent("usb 1-1")
    assert not one.is_absent("")
