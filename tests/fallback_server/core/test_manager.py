import threading

import pytest
from support.fallback_fakes import FakeExecutor, GatedLoader
from support.fallback_stages import Stage, soon

from fallback_server.core.errors import ModelNotFound, VersionNotReady
from fallback_server.core.manager import ManagerOptions
from fallback_server.core.servable import ServableId, State
from fallback_server.core.table import MAX_REMEMBERED


@pytest.fixture
def stage(tmp_path):
    with Stage(tmp_path) as stage:
        yield stage


def test_the_latest_answers_unless_one_is_named(stage):
    """Without a version the highest that is loaded is held; with one, that."""
    stage.aspire(1, 2)
    stage.settle()
    with stage.manager.acquire("m") as handle:
        assert handle.servable_id == ServableId("m", 2)
    with stage.manager.acquire("m", 1) as handle:
        assert handle.servable.factor == 1


def test_a_loading_version_says_so_and_an_unknown_one_is_not_found(stage):
    """Loading is temporary and names the state; unknown is not."""
    stage.aspire(1, open_gates=False)
    assert stage.loaders[1].begun.wait(10)
    with pytest.raises(VersionNotReady, match=r"Specific\(m, 1\); version 1 is LOADING"):
        stage.manager.acquire("m", 1)
    with pytest.raises(VersionNotReady, match=r"Latest\(m\); version 1 is LOADING"):
        stage.manager.acquire("m")
    with pytest.raises(ModelNotFound, match=r"^Servable not found for request: Specific\(m, 5\)$"):
        stage.manager.acquire("m", 5)
    with pytest.raises(ModelNotFound, match=r"^Servable not found for request: Latest\(half\)$"):
        stage.manager.acquire("half")


def test_the_old_version_answers_while_the_new_one_loads(stage):
    """A replaced version goes only when its successor answers."""
    stage.aspire(1)
    stage.settle()
    stage.aspire(2, open_gates=False)
    assert stage.loaders[2].begun.wait(10)
    with stage.manager.acquire("m") as handle:
        assert handle.servable_id.version == 1
    stage.loaders[2].gate.set()
    stage.until({2: State.AVAILABLE})
    assert stage.states() == {2: State.AVAILABLE, 1: State.END}
    assert stage.loaders[1].result.closed


def test_unload_waits_for_the_last_handle(stage):
    """A version in use is UNLOADING, closed only when its last handle is; closing a handle twice counts once."""
    stage.aspire(1)
    stage.settle()
    first, second = stage.manager.acquire("m"), stage.manager.acquire("m")
    stage.aspire()
    assert stage.states() == {1: State.UNLOADING}
    with pytest.raises(VersionNotReady, match="UNLOADING"):
        stage.manager.acquire("m")
    first.close()
    first.close()
    assert stage.states() == {1: State.UNLOADING}
    assert not stage.loaders[1].result.closed
    second.close()
    stage.until({})
    assert stage.loaders[1].result.closed


def test_a_request_that_never_ends_holds_a_version_for_so_long_alone(stage, caplog):
    """Meanwhile the state says what it waits for; then what runs is ended, and its holder lets go."""
    stage.aspire(1)
    stage.settle()
    handle = stage.manager.acquire("m")
    stage.aspire()
    (state,) = stage.manager.states("m")
    assert state.note == "it is unloaded once the 1 requests are answered that it still has"
    due_s = stage.manager.tick()
    assert due_s == stage.clock() + ManagerOptions().max_unload_wait_s
    stage.clock.advance(due_s - stage.clock() - 1)
    stage.manager.tick()
    assert not stage.loaders[1].result.closed
    stage.clock.advance(1)
    assert stage.manager.tick() is None
    soon(lambda: stage.loaders[1].result.closed)
    assert stage.states() == {1: State.UNLOADING}
    assert "version: 1} is held by 1 requests 300 s after it was to be unloaded" in caplog.text
    handle.close()
    stage.until({})


def test_a_version_that_comes_back_while_it_unloads_is_loaded_again(stage):
    """Aspired again before its memory went: it is loaded anew."""
    stage.aspire(1)
    stage.settle()
    handle = stage.manager.acquire("m")
    stage.aspire()
    stage.aspire(1)
    handle.close()
    stage.until({1: State.AVAILABLE})
    assert stage.loaders[1].loads == 2


def test_a_failed_load_is_told_retried_a_bounded_number_of_times_and_harms_nobody(tmp_path):
    """END with its error; attempts at the stated interval until they are used up; the other version answers."""
    stage = Stage(tmp_path, max_num_load_retries=2, load_retry_interval_s=60)
    stage.loaders[2] = GatedLoader(OSError("no such op"))
    stage.aspire(1, 2)
    stage.settle()
    assert stage.manager.states("m")[0].error == "OSError: no such op"
    with stage.manager.acquire("m") as handle:
        assert handle.servable_id.version == 1
    stage.aspire(1, 2)
    assert stage.loaders[2].loads == 1
    for attempt in (2, 3, 3, 3):
        stage.clock.advance(60)
        stage.aspire(1, 2)
        stage.settle()
        assert stage.loaders[2].loads == attempt
    assert stage.states() == {2: State.END, 1: State.AVAILABLE}
    assert stage.manager.stop(timeout_s=5)


def test_a_failed_load_is_tried_at_once_when_its_files_change(stage):
    """What was half copied is loaded when the copy is whole, however many attempts were used."""
    stage.loaders[1] = GatedLoader(OSError("half"))
    stage.aspire(1)
    stage.settle()
    stage.loaders[1] = GatedLoader(FakeExecutor())
    stage.aspire(1, mark="whole")
    stage.settle()
    assert stage.states() == {1: State.AVAILABLE}


def test_a_loaded_version_that_changes_on_disk_is_served_as_loaded(stage, caplog):
    """A version is immutable: one warning, no reload."""
    stage.aspire(1)
    stage.settle()
    stage.aspire(1, mark="other")
    stage.aspire(1, mark="other")
    assert stage.loaders[1].loads == 1
    assert [record.levelname for record in caplog.records if "changed on disk" in record.message] == ["WARNING"]


def test_a_version_not_wanted_any_more_when_its_load_ends_is_unloaded(stage):
    """What a load gives that could not be stopped in time is closed."""
    loader = stage.loaders[1] = GatedLoader(FakeExecutor())
    asked = threading.Event()
    loader.stop = asked.set
    stage.aspire(1, open_gates=False)
    assert loader.begun.wait(10)
    stage.aspire()
    assert asked.is_set()
    loader.gate.set()
    stage.until({})
    soon(lambda: loader.result.closed)


def test_loads_run_side_by_side_and_one_that_hangs_holds_up_no_other(stage):
    """A load that never ends leaves the other load threads to the other versions."""
    stage.aspire(1, open_gates=False)
    assert stage.loaders[1].begun.wait(10)
    stage.aspire(2)
    stage.aspire(1, 2, open_gates=False)
    stage.until({1: State.LOADING, 2: State.AVAILABLE})
    assert not stage.manager.wait_idle(timeout_s=0)


def test_unloaded_versions_are_remembered_up_to_a_bound(stage):
    """What was unloaded stays visible as END; the oldest are forgotten."""
    for number in range(1, MAX_REMEMBERED + 3):
        stage.aspire(number)
        stage.until({number: State.AVAILABLE})
    stage.aspire()
    stage.until({})
    states = stage.states()
    assert len(states) == MAX_REMEMBERED
    assert min(states) == 3


def test_handles_under_threads(stage):
    """Many threads that hold and let go while versions change never see a closed servable."""
    stage.aspire(1)
    stage.settle()
    wrong = []
    done = threading.Event()

    def use():
        while not done.is_set():
            with stage.manager.acquire("m") as handle:
                if handle.servable.closed:
                    wrong.append(handle.servable_id)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 30):
        stage.aspire(number)
        stage.until({number: State.AVAILABLE})
    done.set()
    for thread in threads:
        thread.join(10)
    assert not wrong


@pytest.mark.parametrize("name", ["num_load_threads", "num_unload_threads"])
def test_options_name_what_they_refuse(name):
    """A refusal says the name, the bound and the value."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ManagerOptions(**{name: 0})
