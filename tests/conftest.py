"""For all tests."""

import os
import random
import signal
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

ABSENT = str(Path(__file__).parent / "support" / "absent")

TOGETHER = {
    # They announce servers on loopback, and look for some, or flood it: they would see each other's.
    "edge_runtime/remote/test_discovery.py": "announcing",
    "edge_runtime/test_servers_command.py": "announcing",
    "edge_runtime/test_spoofing.py": "announcing",
    "fallback_server/test_advertiser.py": "announcing",
    "fallback_server/test_lifecycle.py": "announcing",
    "integration/test_bare_install.py": "announcing",
    "integration/test_first_light.py": "announcing",
    # They share a net, which takes ten seconds to train.
    "converter/test_conversions.py": "trained",
    "converter/test_trained_variants.py": "trained",
}
"""Files of tests that one process has to itself, by what they have in common."""


FAULT_SEED = pytest.StashKey[int]()
"""Of what the suite of faults draws."""


def pytest_addoption(parser):
    """What a user may choose of the suite of faults."""
    group = parser.getgroup("faults", "tests/faults")
    group.addoption("--fault-seed", type=int, help="of what is drawn there; without, another one each time")
    group.addoption(
        "--fault-seconds", type=float, default=0.5, help="how long each fault lasts there, in seconds (%(default)s)"
    )


def pytest_configure(config):
    """Programs that tests start take signals as from a shell, also where these tests run in the background.

    `nohup` and `&` have signals ignored, which is inherited; a handler is not, so this process still passes them over.
    """
    for one in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(one) is signal.SIG_IGN:
            signal.signal(one, lambda _number, _frame: None)
    given = config.getoption("--fault-seed")
    config.stash[FAULT_SEED] = random.SystemRandom().randrange(10**9) if given is None else given


@pytest.fixture
def fault_seed(request):
    """Of what this test draws: of `--fault-seed`, which is shown where it fails, and its own name."""
    given = request.config.stash[FAULT_SEED]
    print(f"again by --fault-seed={given}")  # noqa: T201
    return zlib.crc32(f"{given} {request.node.name}".encode())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where several processes test, each has whole files, which share their servers, and what is `TOGETHER`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split("::", 1)[0]
            return TOGETHER.get(path.removeprefix("tests/"), path)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def tensorflow():
    """A process that imports TensorFlow once, which takes longer than most tests, and forks whoever makes models."""
    from converter.isolation import ForkServer
    from converter.pipeline import PRELOAD

    with ForkServer(PRELOAD) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def _start_without_what_users_have_not():
    """Programs that tests start find no library that is here for examples and figures alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ABSENT, prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """No test writes into the user's cache, nor do the programs that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
