import threading

from edge_runtime.remote.timers import MAX_TIMERS, Timers

WAIT_S = 10
LONG_S = 3600


def test_calls_what_is_due_in_its_order():
    """The sooner is called first, and what raises does not keep the others from being called."""
    timers, order, done = Timers(), [], threading.Event()

    def fail():
        order.append("fails")
        raise RuntimeError("the test wants it so")

    def last():
        order.append("last")
        done.set()

    timers.call(0.05, last)
    timers.call(0.0, fail)
    assert done.wait(WAIT_S)
    assert order == ["fails", "last"]
    timers.close()


def test_closing_calls_what_waits_and_takes_no_more():
    """Whoever waits is not left waiting when the timers are closed."""
    timers, called = Timers(), []
    assert timers.call(LONG_S, lambda: called.append(timers.call(LONG_S, lambda: None)))
    timers.close()
    assert called == [False]
    assert not timers.call(0, lambda: None)


def test_waits_are_bounded():
    """Past the bound a wait is refused."""
    timers = Timers()
    taken = sum(timers.call(LONG_S, lambda: None) for _ in range(MAX_TIMERS + 5))
    assert taken == MAX_TIMERS
    timers.close()
