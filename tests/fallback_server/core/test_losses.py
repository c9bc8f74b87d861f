"""What was loaded dies, does not fit, or is not wanted any more when its turn comes."""

import threading

import pytest
from support.fallback_fakes import FakeExecutor, GatedLoader
from support.fallback_stages import Stage, soon

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import LoadFailed, VersionNotReady
from fallback_server.core.policy import resource_preserving
from fallback_server.core.resources import MemoryBudget
from fallback_server.core.servable import ServableId, State

AVAILABLE, LOADING, END = State.AVAILABLE, State.LOADING, State.END
MB = 1_000_000


@pytest.fixture
def stage(tmp_path):
    with Stage(tmp_path) as stage:
        yield stage


def closed(executor):
    """Waits for an unload thread."""
    gone = threading.Event()
    executor.close, close = lambda: (close(), gone.set()), executor.close
    return gone


def test_a_lost_version_is_loaded_anew_at_once_and_the_others_notice_nothing(stage):
    """AVAILABLE to LOADING to AVAILABLE; a handle keeps what is dead, which is closed when the last one is."""
    stage.aspire(1, 2)
    stage.settle()
    dead = stage.loaders[2].result
    gone = closed(dead)
    handle = stage.manager.acquire("m", 2)
    stage.loaders[2] = GatedLoader(FakeExecutor(factor=22))
    stage.manager.lost(ServableId("m", 2), dead, "signal 6")
    assert stage.states() == {2: LOADING, 1: AVAILABLE}
    with pytest.raises(VersionNotReady, match="version 2 is LOADING"):
        stage.manager.acquire("m", 2)
    with stage.manager.acquire("m") as other:
        assert other.servable.factor == 1
    stage.loaders[2].gate.set()
    stage.until({1: AVAILABLE, 2: AVAILABLE})
    assert handle.servable is dead
    assert not dead.closed
    handle.close()
    assert gone.wait(30)
    with stage.manager.acquire("m", 2) as anew:
        assert anew.servable.factor == 22


def test_a_version_that_dies_again_and_again_is_loaded_ever_more_rarely(stage):
    """At once, then after 0.5 s, 1 s...; at once again when it has answered for a minute."""
    stage.aspire(1)
    stage.settle()
    for delay_s in (0, 0.5, 1):
        loads = stage.loaders[1].loads
        stage.lose(1)
        if delay_s:
            stage.clock.advance(delay_s - 0.01)
            assert stage.manager.tick() == pytest.approx(stage.clock() + 0.01)
            assert stage.states() == {1: LOADING}
            assert stage.loaders[1].loads == loads
            stage.clock.advance(0.01)
            assert stage.manager.tick() is None
        stage.until({1: AVAILABLE})
        assert stage.loaders[1].loads == loads + 1
    stage.clock.advance(60)
    stage.lose(1)
    stage.until({1: AVAILABLE})
    assert stage.loaders[1].loads == 5


def test_what_died_earlier_or_elsewhere_is_ignored(stage):
    """A second word on the same death, one on a servable that was replaced, and one on an unknown version."""
    stage.aspire(1)
    stage.settle()
    first = stage.loaders[1].result
    stage.loaders[1].result = FakeExecutor(factor=5)
    stage.lose(1, first)
    stage.until({1: AVAILABLE})
    stage.lose(1, first)
    stage.manager.lost(ServableId("m", 7), first, "unknown")
    assert stage.states() == {1: AVAILABLE}
    assert stage.loaders[1].loads == 2


def test_a_death_before_the_load_has_returned_is_not_forgotten(stage):
    """The process died between being ready and being taken: loaded anew, instead of answering with a corpse."""
    stage.aspire(1, open_gates=False)
    loader = stage.loaders[1]
    assert loader.begun.wait(30)
    corpse, loader.result = loader.result, FakeExecutor(factor=3)
    fresh, loader.result = loader.result, corpse
    stage.lose(1, corpse)
    after = stage.loaders[1] = GatedLoader(fresh)
    after.gate.set()
    loader.gate.set()
    stage.until({1: AVAILABLE})
    with stage.manager.acquire("m") as handle:
        assert handle.servable is fresh


def test_a_version_that_is_not_wanted_any_more_is_not_loaded_anew(stage):
    """Dead and unwanted is END; but one that stands in for a wanted one that fails is brought back."""
    stage.aspire(1)
    stage.settle()
    stage.loaders[2] = GatedLoader(OSError("no such op"))
    stage.aspire(2)
    stage.until({1: AVAILABLE, 2: END})
    stage.lose(1)
    stage.until({1: AVAILABLE, 2: END})
    assert stage.loaders[1].loads == 2
    stage.lose(1)  # The second in a row: it waits half a second.
    stage.loaders[2] = GatedLoader(FakeExecutor(factor=2))
    stage.aspire(2, mark="mended")
    stage.until({2: AVAILABLE})
    assert stage.loaders[1].loads == 2


def test_a_load_that_does_not_fit_is_refused_with_numbers_and_tried_when_memory_is_freed(tmp_path):
    """END with TensorFlow Serving's text; as often as it takes; the other load's promise counts."""
    free = [1000 * MB]
    budget = MemoryBudget(lambda: free[0], reserve_bytes=50 * MB)
    with Stage(tmp_path, budget=budget, max_num_load_retries=0) as stage:
        for number in (1, 2, 3):
            stage.loaders[number] = GatedLoader(FakeExecutor(factor=number))
            stage.loaders[number].bytes = 500 * MB
        stage.aspire(1, open_gates=False)
        assert stage.loaders[1].begun.wait(30)
        stage.aspire(1, 2, open_gates=False)
        stage.until({1: LOADING, 2: END})
        refused = stage.manager.states("m")[0]
        assert refused.resource_exhausted
        assert refused.error == (
            "Insufficient resources to load servable {name: m version: 2}: it needs about 500 MB, 1000 MB are free and "
            "500 MB are promised to other loads; 50 MB are kept in reserve"
        )
        stage.loaders[1].gate.set()
        stage.until({1: AVAILABLE, 2: END})
        free[0] = 500 * MB
        stage.clock.advance(60)
        stage.aspire(1, 2)
        stage.settle()
        assert stage.states() == {1: AVAILABLE, 2: END}
        assert stage.loaders[2].loads == 0
        free[0] = 1000 * MB
        stage.aspire(2)
        stage.clock.advance(60)
        stage.manager.tick()
        stage.until({2: AVAILABLE})
        free[0] = 500 * MB
        stage.aspire(2, 3)
        stage.until({2: AVAILABLE, 3: END})
        free[0] = 1000 * MB
        stage.aspire(3)
        stage.clock.advance(60)
        stage.manager.tick()
        stage.until({3: AVAILABLE})


def test_freed_memory_is_offered_to_another_model_at_once(tmp_path):
    """No retry interval passes between an unload and the load that waited for its memory."""
    free = [500 * MB]
    with Stage(tmp_path, budget=MemoryBudget(lambda: free[0], reserve_bytes=0)) as stage:
        for number in (1, 2):
            stage.loaders[number] = GatedLoader(FakeExecutor())
            stage.loaders[number].bytes = 500 * MB
            stage.loaders[number].gate.set()
        version = AspiredVersion(path=tmp_path, fingerprint=())
        stage.manager.set_aspired({ServableId("m", 1): version})
        stage.until({1: AVAILABLE})
        free[0] = 0
        stage.manager.set_aspired({ServableId("m", 1): version, ServableId("n", 2): version})
        stage.settle()
        assert stage.manager.states("n")[0].state is END
        free[0] = 500 * MB
        stage.manager.set_aspired({ServableId("n", 2): version})
        while not stage.manager.available("n"):
            assert stage.told.wait(30)
            stage.told.clear()


def test_a_load_that_can_never_succeed_is_not_tried_again(stage):
    """The loader says that the same files will fail for ever: only others are tried."""
    stage.loaders[1] = GatedLoader(LoadFailed("no such format"))
    stage.loaders[1].retriable = False
    stage.aspire(1)
    stage.settle()
    stage.clock.advance(600)
    assert stage.manager.tick() is None
    assert stage.loaders[1].loads == 1
    stage.manager.retry("m")
    stage.settle()
    assert stage.loaders[1].loads == 2


def test_files_that_change_during_their_load_are_loaded_anew(stage):
    """What may be half of each is never served."""
    stage.aspire(1, open_gates=False)
    assert stage.loaders[1].begun.wait(30)
    mixed = stage.loaders[1]
    stage.loaders[1] = GatedLoader(FakeExecutor(factor=9))
    stage.aspire(1, mark="other")
    mixed.gate.set()
    stage.until({1: AVAILABLE})
    with stage.manager.acquire("m") as handle:
        assert handle.servable.factor == 9


def test_resources_are_preserved_when_that_is_asked_for(tmp_path):
    """The old version goes first; the new one's load begins once nobody holds the old."""
    with Stage(tmp_path, transition=resource_preserving) as stage:
        stage.aspire(1)
        stage.settle()
        handle = stage.manager.acquire("m")
        stage.aspire(2)
        assert stage.states() == {2: State.START, 1: State.UNLOADING}
        handle.close()
        stage.until({2: AVAILABLE})


def test_watchers_are_told_of_changes_alone(stage):
    """Each change is told once it can be seen; a poll without news tells nothing; a watcher that fails harms none."""
    stage.manager.watch(lambda: 1 / 0)
    seen = []
    end = stage.manager.watch(lambda: seen.append(stage.states()))
    stage.aspire(1)
    soon(lambda: len(seen) == 2)  # Wanted and begun, then loaded.
    assert seen[-1] == {1: AVAILABLE}
    stage.aspire(1)
    with stage.manager.acquire("m"):
        assert len(seen) == 2
    end()
    end()
    stage.aspire()
    stage.until({})
    assert len(seen) == 2


def test_what_is_known_of_all_models(stage):
    """Names, the versions that answer, and what is loaded of them."""
    stage.aspire(1, 2)
    stage.settle()
    assert stage.manager.names() == ("m",)
    assert stage.manager.available("m") == (1, 2)
    assert {number: each.factor for number, each in stage.manager.peek("m").items()} == {1: 1, 2: 2}
    assert stage.manager.available("q") == ()
    assert stage.manager.peek("q") == {}


def test_a_version_that_cannot_be_put_in_place_has_failed(tmp_path):
    """What keeps an archive from being unpacked is the version's error."""
    with Stage(tmp_path) as stage:
        stage.loaders[1] = GatedLoader(FakeExecutor())
        packed = AspiredVersion(path=tmp_path / "1", fingerprint=(), archive=tmp_path / "1.zip")
        stage.manager.set_aspired({ServableId("m", 1): packed})
        stage.settle()
        assert "1.zip can't be unpacked" in stage.manager.states("m")[0].error
        assert stage.loaders[1].loads == 0
