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
    assert called == [None]
    assert not timers.call(0, lambda: None)


def test_waits_are_bounded():
    """Past the bound a wait is refused."""
    timers = Timers()
    taken = sum(timers.call(LONG_S, lambda: None) is not None for _ in range(MAX_TIMERS + 5))
    assert taken == MAX_TIMERS
    timers.close()


def test_what_was_cancelled_is_not_called_and_takes_no_place():
    """A request that was answered leaves nothing behind of a deadline that is far off, however many there are."""
    timers, called = Timers(), []
    for _ in range(3 * MAX_TIMERS):
        timer = timers.call(LONG_S, lambda: called.append(True))
        assert timer is not None
        timer.cancel()
        assert timer.what is None
    timers.close()
    assert called == []


def test_a_sooner_one_is_called_while_a_later_one_is_waited_for():
    """The thread that sleeps until a far instant is woken for a nearer one."""
    timers, done = Timers(), threading.Event()
    timers.call(LONG_S, lambda: None)
    timers.call(LONG_S * 2, lambda: None)
    timers.call(0.01, done.set)
    assert done.wait(WAIT_S)
    timers.close()


def test_an_instant_beyond_all_waiting_keeps_nobody_from_being_called():
    """A deadline of a million years is waited for as long as the system can, and then again."""
    timers = Timers()
    assert timers.call(1e12, lambda: None) is not None
    called = threading.Event()
    assert timers.call(0.01, called.set) is not None
    assert called.wait(30)
    timers.close()
