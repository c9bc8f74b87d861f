import queue
import threading
import time

import pytest

from fallback_server.transport.native import receivers
from fallback_server.transport.native.receivers import Receivers

WAIT_S = 30


class Source:
    """Lists of events, until `close`; `working` counts the threads that wait for one."""

    def __init__(self):
        self.lists = queue.Queue()
        self.waiting = 0
        self.most = 0

    def receive(self):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        events = self.lists.get()
        self.waiting -= 1
        return events

    def close(self):
        self.lists.put(None)


class Worker:
    """Works off events; those that are an Event are waited for."""

    def __init__(self):
        self.seen = queue.Queue()

    def take(self, events, may_run):
        for event in events:
            self.seen.put((event, may_run, threading.current_thread().name))
            if isinstance(event, threading.Event):
                assert event.wait(WAIT_S)

    def next(self):
        return self.seen.get(timeout=WAIT_S)


@pytest.fixture
def stand():
    source, worker = Source(), Worker()
    made = Receivers(source.receive, worker.take, held_up_s=0.002)
    made.start()
    yield source, worker
    made.close()
    source.close()


def test_one_thread_receives_and_works_off(stand):
    """Lists are worked off in their order, by the thread that received them."""
    source, worker = stand
    for number in range(50):
        source.lists.put([number])
    seen = [worker.next() for _ in range(50)]
    assert [event for event, _, _ in seen] == list(range(50))
    assert source.most == 1


def test_a_receiver_that_hangs_stops_nobody(stand):
    """As many as hang, another one receives; the last of the threads is told to run nothing itself."""
    source, worker = stand
    gates = [threading.Event() for _ in range(receivers.MAX_THREADS - 1)]
    for gate in gates:
        source.lists.put([gate])
        event, may_run, _ = worker.next()
        assert (event, may_run) == (gate, True)
    source.lists.put(["after"])
    event, may_run, _ = worker.next()
    assert (event, may_run) == ("after", False)
    for gate in gates:
        gate.set()
    end_s = time.monotonic() + WAIT_S
    while True:  # Until those that were held up have ended.
        source.lists.put(["again"])
        if worker.next()[1]:
            break
        assert time.monotonic() < end_s
        time.sleep(0.005)
    assert source.most == 1


def test_a_fault_in_one_list_leaves_the_next_a_receiver(stand, caplog):
    """It is logged, and that is all."""
    source, worker = stand
    source.lists.put(7)  # No list.
    source.lists.put(["next"])
    assert worker.next()[0] == "next"
    assert "could not be worked off" in caplog.text


def test_a_rest_ends_when_events_come_again(stand):
    """The watch sleeps while nothing comes, and is there when a receiver hangs afterwards."""
    source, worker = stand
    source.lists.put(["one"])
    worker.next()
    end_s = time.monotonic() + WAIT_S
    watch = next(thread for thread in threading.enumerate() if thread.name == "receivers-watch" and thread.is_alive())
    assert watch.is_alive()
    while time.monotonic() < end_s and source.waiting == 0:
        time.sleep(0.005)
    time.sleep(0.002 * receivers._IDLE_LOOKS * 2)
    gate = threading.Event()
    source.lists.put([gate])
    worker.next()
    source.lists.put(["two"])
    assert worker.next()[0] == "two"
    gate.set()
