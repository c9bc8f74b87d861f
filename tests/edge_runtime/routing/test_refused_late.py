"""Who would wait for too long on the device, and has no server to hope for, is told at once."""

import math

import pytest
from support.gated_engines import Setup
from support.places import FakeRemote

from edge_runtime import Overloaded
from edge_runtime.routing.router import Router


@pytest.fixture
def setup():
    setup = Setup(max_queued_requests=100)
    yield setup
    setup.close()


def router(setup, remote=None):
    return Router(setup.batcher, remote, installed=list, clock=setup.clock)


def flooded(setup, count, *, left_s, remote=None, **options):
    """How many of so many requests are taken while an engine of 10 ms a row is busy."""
    setup.occupy()
    device = router(setup, remote)
    for taken in range(count):
        try:
            device.submit(setup.request(deadline_s=setup.clock() + left_s, **options))
        except Overloaded:
            return taken
    return count


def test_as_many_wait_as_fill_their_time_well(setup):
    """Of 50 ms at most 35 are to be filled: by one half of what runs, those that wait, and the own run."""
    taken = flooded(setup, 50, left_s=0.05)
    assert 2 <= taken <= 12
    with pytest.raises(Overloaded, match=r"the device's queue is too long.* and 50 ms are left"):
        router(setup).infer(setup.request(deadline_s=setup.clock() + 0.05))
    assert setup.batcher.load.queued_requests == taken


@pytest.mark.parametrize("expected_s", [None, 19.0], ids=["none may be asked", "the line is too slow"])
@pytest.mark.parametrize("wait", [False, True], ids=["submit", "infer"])
def test_servers_that_are_of_no_use_are_as_none(setup, expected_s, wait):
    """As many wait as without servers, whether the caller waits or not, and none is sent where nothing can arrive."""
    remote = FakeRemote(setup.clock, expected_s=expected_s)
    assert 2 <= flooded(setup, 50, left_s=0.05, remote=remote) <= 12
    device = router(setup, remote)
    ask = device.infer if wait else device.submit
    with pytest.raises(Overloaded, match="the device's queue is too long"):
        ask(setup.request(deadline_s=setup.clock() + 0.05))
    assert not remote.asked


def test_what_stays_on_the_device_by_its_policy_has_no_servers(setup):
    """However good they are."""
    remote = FakeRemote(setup.clock, expected_s=0.001)
    assert 2 <= flooded(setup, 50, left_s=0.05, remote=remote, policy="only_device") <= 12
    assert not remote.asked


def test_a_server_that_may_be_in_time_after_all_is_waited_for_and_one_that_was_late_is_asked_now_and_then(setup):
    """Nobody is refused whom a server may save by luck; of those that are lost one finds out what it takes now."""
    remote = FakeRemote(setup.clock, expected_s=0.07)
    assert flooded(setup, 50, left_s=0.05, remote=remote) == 50
    assert remote.asked
    late = FakeRemote(setup.clock, expected_s=0.3)
    device = router(setup, late)
    device.submit(setup.request(deadline_s=setup.clock() + 0.05))
    assert len(late.asked) == 1
    with pytest.raises(Overloaded):
        device.submit(setup.request(deadline_s=setup.clock() + 0.05))


def test_who_has_time_is_not_refused(setup):
    """All of fifty."""
    assert flooded(setup, 50, left_s=10.0) == 50


@pytest.mark.parametrize("left_s", [None, 0.05])
def test_whoever_overtakes_is_let_in(setup, left_s):
    """The earliest deadline comes first, whoever waits; without one, one waits as long as it takes."""
    setup.occupy()
    device = router(setup)
    for _ in range(40):
        device.submit(setup.request(deadline_s=None if left_s else setup.clock() + 10.0))
    device.submit(setup.request(deadline_s=None if left_s is None else setup.clock() + left_s))


def test_an_empty_queue_takes_anybody(setup):
    """However little time is left: what is measured may be wrong."""
    setup.occupy()
    router(setup).submit(setup.request(deadline_s=setup.clock() + 1e-6))
    assert setup.batcher.load.queued_requests == 1


def test_who_is_last_is_known_by_priority_and_deadline(setup):
    """None where none waits; equal ones come behind those before them."""
    assert not setup.batcher.is_last(setup.request())
    setup.occupy()
    setup.batcher.submit(setup.request(deadline_s=200.0))
    assert setup.batcher.is_last(setup.request(deadline_s=200.0))
    assert setup.batcher.is_last(setup.request(deadline_s=math.inf))
    assert setup.batcher.is_last(setup.request())
    assert not setup.batcher.is_last(setup.request(deadline_s=199.0))
    assert not setup.batcher.is_last(setup.request(deadline_s=300.0, priority=0))
