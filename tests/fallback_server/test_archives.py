import pytest
from support.control_stand import AVAILABLE, serving
from support.fallback_archives import SAVED_MODEL, write

from fallback_server.core.target import ModelTarget


@pytest.fixture
def server(tmp_path):
    """Serves `m` out of the archive m/7.tar.gz; stopped after the test."""
    with serving(tmp_path) as make:
        (tmp_path / "m").mkdir()
        write(tmp_path / "m" / "7.tar.gz", SAVED_MODEL)
        yield make(repository=tmp_path, folders=())


def servable(server):
    with server.control.acquire(ModelTarget(name="m", version=7)) as handle:
        return handle.servable


def states(server):
    return [(state.state, state.note, state.successor) for state in server.control.states(ModelTarget(name="m"))]


@pytest.fixture
def poll_early(server, monkeypatch):
    """Polls once as if what stands on disk had been written just now, and once when it has rested."""

    def poll_early():
        with monkeypatch.context() as patch:
            patch.setattr(server.control._source, "_wall_clock", lambda: 0.0)
            server.poll()
        server.poll()

    return poll_early


def test_an_archive_that_is_only_renamed_stays_the_version_that_is_loaded(server, poll_early, tmp_path, caplog):
    """Not loaded a second time, and no warning that its files have changed; with it under its new name it goes."""
    loaded = servable(server)
    (tmp_path / "m" / "7.tar.gz").rename(tmp_path / "m" / "7.tgz")
    poll_early()
    assert servable(server) is loaded
    assert states(server) == [(AVAILABLE, "", None)]
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    (tmp_path / "m" / "7.tgz").unlink()
    server.poll()
    server.poll()
    assert server.manager.available("m") == ()
    assert not (tmp_path / "m" / "7").exists()


def test_an_archive_under_another_name_and_of_other_contents_is_loaded(server, poll_early, tmp_path, caplog):
    """Also where it is seen while it may still be being written; it is loaded once, and no change is told."""
    loaded = servable(server)
    write(tmp_path / "m" / "7.tgz", SAVED_MODEL | {"more": b"more"})
    (tmp_path / "m" / "7.tar.gz").unlink()
    poll_early()
    server.poll()
    assert servable(server) is not loaded
    assert states(server) == [(AVAILABLE, "", None)]
    assert (tmp_path / "m" / "7" / "more").exists()
    assert not [record for record in caplog.records if "changed" in record.getMessage()]


@pytest.mark.parametrize("name", ["7.tar.gz", "7.tgz"])
def test_an_archive_that_is_replaced_under_its_name_is_served_at_the_next_load(server, tmp_path, name):
    """Until then the version answers as it was loaded, out of the old folder, and its state says so."""
    loaded = servable(server)
    (tmp_path / "m" / "7.tar.gz").rename(tmp_path / "m" / name)
    server.poll()
    new = write(tmp_path / "new.tar.gz", SAVED_MODEL | {"more": b"more"})
    new.replace(tmp_path / "m" / name)
    server.poll()
    server.poll()
    assert servable(server) is loaded
    ((state, note, _),) = states(server)
    assert state is AVAILABLE
    assert note.startswith("its files changed on disk after it was loaded; it is served as loaded")
    assert not (tmp_path / "m" / "7" / "more").exists()
    with serving(tmp_path) as make:
        again = make(repository=tmp_path, folders=())
        assert states(again) == [(AVAILABLE, "", None)]
        assert (tmp_path / "m" / "7" / "more").exists()
