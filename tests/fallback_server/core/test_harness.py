import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fallback_fakes import FakeExecutor

from fallback_server.core.harness import Harness, IllegalTransition
from fallback_server.core.servable import ServableId, State
from fallback_server.core.source import AspiredVersion

STEPS = {
    "begin_load": lambda harness: harness.begin_load(),
    "loaded": lambda harness: harness.loaded(FakeExecutor()),
    "load_failed": lambda harness: harness.load_failed("no", retry_at_s=None),
    "abandon": lambda harness: harness.abandon(),
    "retry": lambda harness: harness.retry(),
    "begin_unload": lambda harness: harness.begin_unload(),
    "unloaded": lambda harness: harness.unloaded(),
    "acquire": lambda harness: harness.acquire(),
    "release": lambda harness: harness.release(),
}


def make(tmp_path="/m"):
    return Harness(ServableId("m", 1), AspiredVersion(path=tmp_path, fingerprint=()))


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=40))
def test_any_order_of_steps_keeps_the_invariants(names):
    """Whatever is called in whatever order, a held version stays loaded and an error exists in END alone."""
    harness = make()
    held = 0
    for name in names:
        before = harness.state
        try:
            STEPS[name](harness)
        except IllegalTransition:
            assert harness.state is before
            continue
        held += {"acquire": 1, "release": -1}.get(name, 0)
        assert held >= 0
        if held:
            assert harness.state in (State.AVAILABLE, State.UNLOADING)
            assert harness.servable is not None
        assert harness.quiescent == (harness.state is State.UNLOADING and held == 0)
        assert harness.error is None or harness.state is State.END


def test_unload_waits_for_holders():
    """A version that is held can't be declared unloaded, and can't be held anew once its unload has begun."""
    harness = make()
    harness.begin_load()
    harness.loaded(FakeExecutor())
    harness.acquire()
    harness.begin_unload()
    with pytest.raises(IllegalTransition, match="still held"):
        harness.unloaded()
    with pytest.raises(IllegalTransition, match="can't be held"):
        harness.acquire()
    harness.release()
    harness.unloaded()
    assert harness.state is State.END
