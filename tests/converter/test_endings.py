import signal
import threading

import pytest

from converter.endings import PATIENCE_S, Ended, Endings

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers():
    """What each signal does without anybody's doing; put back afterwards."""
    plain = {one: signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL for one in SIGNALS}
    before = {one: signal.signal(one, handler) for one, handler in plain.items()}
    yield plain
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize(
    ("number", "said", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "ended by SIGTERM", 143), (signal.SIGHUP, "SIGHUP", 129)],
)
def test_each_unwinds_like_ctrl_c(number, said, code):
    """With the exit code that a shell has for it."""
    with Endings() as endings:
        endings.unwind()
        with pytest.raises(Ended, match=said):
            signal.raise_signal(number)
    assert isinstance(Ended(), KeyboardInterrupt)
    assert (endings.received, endings.exit_code) == (number, code)


def test_a_second_one_does_not_break_off_the_unwinding():
    """Until so much time has passed that the first must have been lost."""
    now_s = [0.0]
    with Endings(lambda: now_s[0]) as endings:
        endings.unwind()
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGHUP)
        now_s[0] = PATIENCE_S / 2
        signal.raise_signal(signal.SIGTERM)
        assert endings.exit_code == 129
        now_s[0] = PATIENCE_S
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGINT)


def test_afterwards_everything_is_as_before(handlers):
    """Whoever calls the command from Python keeps their handlers."""
    with Endings():
        assert all(signal.getsignal(one) is not handler for one, handler in handlers.items())
    assert {one: signal.getsignal(one) for one in SIGNALS} == handlers


def test_what_is_ignored_or_handled_stays_so():
    """`nohup` ignores SIGHUP; another program's handler is its own."""
    mine = lambda _number, _frame: None  # noqa: E731
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, mine)
    with Endings():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is mine


def test_in_another_thread_nothing_is_changed(handlers):
    """Only the main thread may set handlers."""
    seen = []

    def use():
        with Endings():
            seen.append({one: signal.getsignal(one) for one in SIGNALS})

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [handlers]
