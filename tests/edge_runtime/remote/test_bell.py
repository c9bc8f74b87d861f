"""What the main thread wakes others with, where a signal's handler may raise at any point."""

from __future__ import annotations

import threading
import time

from support.interrupted import interrupted_at

from edge_runtime.remote.bell import Bell
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.freshness import Freshness
from edge_runtime.remote.timers import Timers

WAIT_S = 30
LONG_S = 3600.0
FOLDERS = ("/edge_runtime/remote/", "/threading.py")


def check_beside(what):
    """It ends, in a thread of its own: a lock that is never let go would hold it for ever."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def interrupt_everywhere(call, check):
    """Checks after an interrupt at each point of the call."""
    point, more = 0, True
    while more:
        point += 1
        more = interrupted_at(point, call, *FOLDERS)
        check_beside(check)
    assert point > 2


def test_it_wakes_who_sleeps_and_who_is_about_to():
    """However often it was rung, once."""
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)
    threading.Timer(0.01, bell.ring).start()
    assert bell.wait(WAIT_S)


def test_an_interrupt_in_asking_for_a_wait_stops_no_timer():
    """The next wait is taken and called, whoever asks for it."""
    timers = Timers()

    def called():
        done = threading.Event()
        assert timers.call(0.0, done.set)
        assert done.wait(WAIT_S)

    interrupt_everywhere(lambda: timers.call(LONG_S, lambda: None), called)
    timers.close()


def test_an_interrupt_in_rousing_stops_no_look():
    """Whoever rouses next is heard."""
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    freshness = Freshness(table, clock=time.monotonic)
    freshness.start()
    interrupt_everywhere(table.rouse, table.rouse)
    check_beside(table.close)
    assert "0 servers" in repr(freshness)
