from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.fallback_fakes import FakeExecutor

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.harness import Harness, IllegalTransition, Loaded
from fallback_server.core.servable import ServableId, State

STEPS = {
    "begin_load": lambda harness: harness.begin_load(),
    "loaded": lambda harness: harness.loaded(FakeExecutor()),
    "load_failed": lambda harness: harness.load_failed("no", retry_at_s=None),
    "abandon": lambda harness: harness.abandon(),
    "retry": lambda harness: harness.retry(),
    "begin_unload": lambda harness: harness.begin_unload(),
    "unloaded": lambda harness: harness.unloaded(),
    "acquire": lambda harness: harness.acquire(),
    "lose": lambda harness: harness.lose(reload_at_s=1.0),
}


def make(on_move=None):
    return Harness(ServableId("m", 1), AspiredVersion(path=Path("/m"), fingerprint=()), on_move=on_move)


@given(st.lists(st.sampled_from([*STEPS, "release", "acquire"]), max_size=40))
@example(["begin_load", "loaded", "acquire", "loaded", "begin_unload"])
def test_any_order_of_steps_keeps_the_invariants(names):
    """A held version stays loaded, an error exists in END alone, a refused step changes nothing, each other is told."""
    told = []
    harness = make(on_move=lambda: told.append(1))
    held = []
    for name in names:
        before, moves = harness.state, len(told)
        try:
            if name == "release":
                held.pop().release() if held else Loaded(None).release()
                result = None
            else:
                result = STEPS[name](harness)
        except IllegalTransition:
            assert (harness.state, len(told)) == (before, moves)
            continue
        assert len(told) - moves == (harness.state is not before)
        if name == "acquire":
            held.append(result)
        if name == "lose":
            assert not harness.holds(result)
            assert result.holders == len(held)
            held = []  # They hold what is dead: no longer this harness's affair.
        if held:
            assert harness.state in (State.AVAILABLE, State.UNLOADING)
            assert all(harness.holds(each) for each in held)
        assert harness.quiescent == (harness.state is State.UNLOADING and not held)
        assert harness.error is None or harness.state is State.END
        assert harness.reload_at_s is None or harness.state is State.LOADING


def test_unload_waits_for_holders():
    """A version that is held can't be declared unloaded, and can't be held anew once its unload has begun."""
    harness = make()
    harness.begin_load()
    harness.loaded(FakeExecutor())
    loaded = harness.acquire()
    harness.begin_unload()
    with pytest.raises(IllegalTransition, match="still held"):
        harness.unloaded()
    with pytest.raises(IllegalTransition, match="can't be held"):
        harness.acquire()
    loaded.release()
    harness.unloaded()
    assert harness.state is State.END


def test_a_lost_version_is_loaded_anew_and_its_holders_keep_what_is_dead():
    """AVAILABLE to LOADING with a load to come; a load that has not begun can neither end nor fail, but be given up."""
    harness = make()
    harness.begin_load()
    harness.loaded(FakeExecutor(factor=1))
    held = harness.acquire()
    dead = harness.lose(reload_at_s=5.0)
    assert dead is held
    for step in (lambda: harness.loaded(FakeExecutor()), lambda: harness.load_failed("no", retry_at_s=None)):
        with pytest.raises(IllegalTransition):
            step()
    harness.begin_load()
    assert harness.reload_at_s is None
    harness.loaded(FakeExecutor(factor=2))
    assert (held.servable.factor, harness.servable.factor) == (1, 2)
    harness.begin_unload()
    assert harness.quiescent, "who holds what is dead keeps nothing else from unloading"


def test_want_of_memory_counts_as_no_attempt():
    """A load that did not fit has not been tried."""
    harness = make()
    harness.begin_load()
    harness.load_failed("no room", retry_at_s=9.0, starved=True)
    assert (harness.attempts, harness.starved, harness.snapshot.resource_exhausted) == (0, True, True)
    harness.retry()
    assert not harness.starved
