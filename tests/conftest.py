"""For all tests."""

import os
import signal

import pytest


def pytest_configure():
    """Programs that tests start take signals as from a shell, also where these tests run in the background.

    `nohup` and `&` have signals ignored, which is inherited; a handler is not, so this process still passes them over.
    """
    for one in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(one) is signal.SIG_IGN:
            signal.signal(one, lambda _number, _frame: None)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """No test writes into the user's cache, nor do the programs that tests start."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
