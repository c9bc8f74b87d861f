"""A version that stands elsewhere by now, one whose files were changed, and loads that nobody wants any more."""

import threading

import pytest
from support.fallback_fakes import FakeExecutor, GatedLoader
from support.fallback_stages import Stage, soon

from fallback_server.core.errors import LoadFailed
from fallback_server.core.policy import resource_preserving
from fallback_server.core.servable import State

AVAILABLE, LOADING, UNLOADING, START, END = State.AVAILABLE, State.LOADING, State.UNLOADING, State.START, State.END


@pytest.fixture
def stage(tmp_path):
    with Stage(tmp_path, num_load_threads=2) as stage:
        yield stage


def answer(stage, version=None):
    with stage.manager.acquire("m", version) as handle:
        return handle.servable.factor


def moved(stage, number, result):
    """Has a version stand elsewhere; returns what loads it there."""
    stage.path = stage.path / "elsewhere"
    loader = stage.loaders[number] = GatedLoader(result)
    stage.aspire(number, open_gates=False)
    return loader


def state(stage):
    return stage.manager.states("m")[0]


def test_a_version_that_has_moved_answers_until_it_is_loaded_from_its_new_place(stage, caplog):
    """No request is without an answer; what was loaded first is freed when nobody holds it; the log tells of it."""
    caplog.set_level("INFO")
    stage.aspire(2)
    stage.settle()
    old = stage.loaders[2].result
    handle = stage.manager.acquire("m")
    loader = moved(stage, 2, FakeExecutor(factor=5))
    assert loader.begun.wait(30)
    assert (answer(stage), state(stage).state, state(stage).successor) == (2, AVAILABLE, LOADING)
    assert f"it is served from {stage.path.parent} while {stage.path} is loaded" in state(stage).note
    assert not stage.manager.wait_idle(timeout_s=0)
    loader.gate.set()
    stage.settle()
    assert (answer(stage), state(stage).successor, state(stage).note) == (5, None, "")
    assert not old.closed
    handle.close()
    soon(lambda: old.closed)
    assert stage.states() == {2: AVAILABLE}
    assert f"is served from {stage.path} instead of {stage.path.parent}" in caplog.text


def test_a_move_that_fails_leaves_the_answer_and_says_why(stage):
    """It is tried again as any load; and gone back from, it is forgotten."""
    stage.aspire(2)
    stage.settle()
    loader = moved(stage, 2, LoadFailed("no such op"))
    loader.gate.set()
    stage.settle()
    assert (answer(stage), state(stage).state, state(stage).error, state(stage).successor) == (2, AVAILABLE, None, END)
    assert state(stage).note.endswith("can't be loaded: LoadFailed: no such op")
    loader.result = FakeExecutor(factor=5)
    stage.clock.advance(60)
    stage.manager.tick()
    stage.settle()
    assert answer(stage) == 5
    loader = moved(stage, 2, FakeExecutor(factor=7))
    assert loader.begun.wait(30)
    stage.path = stage.path.parent
    stage.aspire(2, open_gates=False)
    assert loader.stopped
    stage.settle()
    assert (answer(stage), state(stage).note) == (5, "")


def test_a_version_that_dies_while_its_new_place_is_loaded_comes_back_as_it_was(stage):
    """From where it stood; and where that fails, what is loaded elsewhere is all there is."""
    stage.aspire(2)
    stage.settle()
    old = stage.loaders[2].result
    elsewhere = moved(stage, 2, FakeExecutor(factor=5))
    assert elsewhere.begun.wait(30)
    again = stage.loaders[2] = GatedLoader(FakeExecutor(factor=2))
    again.gate.set()
    elsewhere.on_lost(old, "signal 9")
    stage.until({2: AVAILABLE})
    assert answer(stage) == 2
    stage.loaders[2] = GatedLoader(LoadFailed("gone"))
    stage.loaders[2].gate.set()
    elsewhere.on_lost(again.result, "signal 9")
    stage.clock.advance(1)
    stage.manager.tick()
    stage.until({2: LOADING})
    elsewhere.gate.set()
    stage.until({2: AVAILABLE})
    assert answer(stage) == 5


def test_a_version_that_is_wanted_again_while_it_is_unloaded_is_on_its_way(stage):
    """Whoever waits for its load does not take it for one that is gone, however long its last holder keeps it."""
    stage.aspire(2)
    stage.settle()
    with stage.manager.acquire("m"):
        stage.aspire()
        stage.until({2: UNLOADING})
        assert state(stage).successor is None
        stage.aspire(2)
        assert (state(stage).state, state(stage).successor) == (UNLOADING, START)
    stage.until({2: AVAILABLE})
    assert state(stage).successor is None


def test_where_resources_are_preserved_a_version_that_has_moved_goes_first(tmp_path):
    """Its memory is free before the new place is loaded."""
    with Stage(tmp_path, transition=resource_preserving) as stage:
        stage.aspire(2)
        stage.settle()
        old = stage.loaders[2].result
        loader = moved(stage, 2, FakeExecutor(factor=5))
        assert loader.begun.wait(30)
        assert old.closed
        assert stage.states() == {2: LOADING}
        loader.gate.set()
        stage.settle()
        assert answer(stage) == 5


def test_files_changed_in_place_and_a_death_are_no_secret(stage, caplog):
    """It is loaded anew from what is there, since it would answer nobody else; with an error in the log, and a note."""
    stage.aspire(2)
    stage.settle()
    stage.aspire(2, mark="other")
    assert state(stage).note.startswith("its files changed on disk after it was loaded; it is served as loaded")
    old = stage.loaders[2].result
    stage.loaders[2].result = FakeExecutor(factor=5)
    stage.lose(2, old)
    stage.until({2: AVAILABLE})
    assert answer(stage) == 5
    assert "was loaded anew from what they are now, and may answer otherwise" in state(stage).note
    told = [record for record in caplog.records if "may answer otherwise than before" in record.getMessage()]
    assert [record.levelname for record in told] == ["ERROR"]


def test_files_that_are_back_as_they_were_are_as_loaded(stage):
    """The note goes, and comes again with the next change; after a death it stays: what was loaded is not known."""
    stage.aspire(2)
    stage.settle()
    for _ in range(2):
        stage.aspire(2, mark="other")
        assert state(stage).note
        stage.aspire(2)
        assert state(stage).note == ""
    stage.lose(2)
    stage.until({2: AVAILABLE})
    assert state(stage).note == ""
    stage.aspire(2, mark="other")
    stage.aspire(2)
    assert "before or after its process died" in state(stage).note


def test_a_change_that_is_seen_only_after_a_death_is_told_too(stage, caplog):
    """Nobody can tell what was loaded: as an error, since the answers may have changed."""
    stage.aspire(2)
    stage.settle()
    stage.lose(2)
    stage.until({2: AVAILABLE})
    stage.aspire(2, mark="other")
    assert "before or after its process died" in state(stage).note
    assert [record.levelname for record in caplog.records if "before or after" in record.getMessage()] == ["ERROR"]


def test_a_load_that_hangs_is_ended_when_its_version_is_not_wanted_any_more(stage, caplog):
    """Without an error in the log; its thread is free for others, and the version can be wanted again."""
    caplog.set_level("INFO")
    stage.aspire(1, open_gates=False)
    hung = stage.loaders[1]
    assert hung.begun.wait(30)
    del stage.loaders[1]
    stage.aspire()
    stage.until({})
    assert hung.stopped
    assert state(stage).error is None
    assert "the load of {name: m version: 1} is given up: the version is not wanted any more" in caplog.text
    assert "ERROR" not in {record.levelname for record in caplog.records}
    stage.aspire(1)
    stage.settle()
    assert stage.states() == {1: AVAILABLE}


def test_a_load_that_hangs_is_ended_when_its_files_are_mended(stage):
    """What it read is half of each in any case."""
    stage.aspire(1, open_gates=False)
    hung = stage.loaders[1]
    assert hung.begun.wait(30)
    del stage.loaders[1]
    stage.aspire(1, mark="mended")
    stage.settle()
    assert hung.stopped
    assert stage.states() == {1: AVAILABLE}


def test_a_load_that_was_replaced_goes_on_until_another_answers_or_needs_its_thread(stage):
    """While versions come faster than they load, the first gets to its end; the one begun last makes way."""
    loaders = []
    for number in (1, 2):
        stage.aspire(number, open_gates=False)
        assert stage.loaders[number].begun.wait(30)
        loaders.append(stage.loaders[number])
    assert not loaders[0].stopped
    stage.aspire(3, open_gates=False)
    assert [loader.stopped for loader in loaders] == [False, True]
    assert stage.loaders[3].begun.wait(30)
    stage.loaders[3].gate.set()
    stage.until({3: AVAILABLE})
    assert loaders[0].stopped


def test_a_load_that_was_given_up_before_its_thread_was_free_never_begins(tmp_path):
    """It was wanted, and is not any more."""
    with Stage(tmp_path, num_load_threads=1) as stage:
        stage.aspire(1, open_gates=False)
        assert stage.loaders[1].begun.wait(30)
        stage.aspire(1, 2, open_gates=False)
        stage.aspire(1, open_gates=False)
        stage.loaders[1].gate.set()
        stage.until({1: AVAILABLE})
        assert stage.loaders[2].loads == 0


def test_what_is_on_the_way_is_known_by_model(stage):
    """And waited for by model."""
    stage.aspire(1, open_gates=False)
    (one,) = stage.manager.on_the_way()
    assert (one.name, one.version) == ("m", 1)
    assert stage.manager.on_the_way({"q"}) == frozenset()
    assert stage.manager.wait_idle(timeout_s=0, names={"q"})
    assert not stage.manager.wait_idle(timeout_s=0, names={"m"})


def test_a_loss_is_told(stage):
    """So that the disk is looked at."""
    told = threading.Event()
    stage.manager.on_loss = told.set
    stage.aspire(1)
    stage.settle()
    stage.lose(1)
    assert told.is_set()
