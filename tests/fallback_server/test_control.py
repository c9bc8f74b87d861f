import threading
from pathlib import Path

import pytest
from support.control_stand import ALL, AVAILABLE, END, START, Server, config, serving, specific
from support.fallback_archives import SAVED_MODEL, write
from support.fallback_stages import soon

from fallback_server.core.errors import (
    ConfigRefused,
    InvalidInput,
    LabelRefused,
    ModelNotFound,
    PreconditionFailed,
    VersionNotReady,
)
from fallback_server.core.model_config import ModelConfig
from fallback_server.core.servable import State
from fallback_server.core.target import ModelTarget


@pytest.fixture
def serve(tmp_path):
    """Makes a server; stopped after the test."""
    with serving(tmp_path) as make:
        yield make


def test_versions_labels_and_the_latest(serve, tmp_path):
    """By number, by label, or the highest; what isn't there is named with TensorFlow Serving's texts."""
    server = serve(config(tmp_path, labels={"stable": 2}))
    assert (server.version(), server.version(version=1), server.version(label="stable")) == (3, 1, 2)
    with pytest.raises(InvalidInput, match=r"^Unrecognized servable version label: canary$"):
        server.version(label="canary")
    with pytest.raises(InvalidInput, match=r"^ModelSpec has no name specified\.$"):
        server.version(name="")
    with pytest.raises(ModelNotFound, match=r"Specific\(m, 9\)"):
        server.version(version=9)
    assert server.states(label="stable") == {2: AVAILABLE}
    with pytest.raises(ModelNotFound, match=r"^Could not find version 9 of model m$"):
        server.states(version=9)
    with pytest.raises(ModelNotFound, match=r"^Could not find any versions of model q$"):
        server.states("q")
    with pytest.raises(InvalidInput, match="label: canary"):
        server.states(label="canary")


def test_version_0_names_none_where_there_is_none(serve, tmp_path):
    """OpenVINO's client sends it for the latest; a folder called 0 is one all the same."""
    server = serve(config(tmp_path))
    assert server.version(version=0) == 3
    assert set(server.states(version=0)) == {1, 2, 3}


def test_a_label_of_the_start_waits_for_its_version(serve, tmp_path):
    """Until that is loaded its requests are told to wait; then it answers."""
    server = Server(tmp_path, config(tmp_path, policy=specific(2), labels={"stable": 2}))
    server.gates[2] = threading.Event()
    server.poll(settle=False)
    with pytest.raises(VersionNotReady, match="version 2 is"):
        server.version(label="stable")
    server.gates[2].set()
    assert server.control.wait_idle(timeout_s=30)
    assert server.version(label="stable") == 2
    soon(lambda: server.control.catalog()[0].labels == {"stable": 2})
    server.manager.stop(timeout_s=10)


def test_labels_are_moved_to_available_versions_alone(serve, tmp_path):
    """The refusal is TensorFlow Serving's; a move answers where it pointed before, and takes effect at once."""
    server = serve(config(tmp_path))
    assert server.control.set_label("m", "stable", 1) == 0
    assert server.version(label="stable") == 1
    assert server.control.set_label("m", "stable", 3) == 1
    assert server.version(label="stable") == 3
    text = r"^Request to assign label to version 9 of model m, which is not currently available for inference$"
    with pytest.raises(LabelRefused, match=text):
        server.control.set_label("m", "stable", 9)
    assert server.version(label="stable") == 3
    assert server.control.set_label("m", "stable", None) == 3
    with pytest.raises(InvalidInput, match="label: stable"):
        server.version(label="stable")
    with pytest.raises(ModelNotFound):
        server.control.set_label("q", "stable", 1)
    with pytest.raises(InvalidInput, match="without a name"):
        server.control.set_label("m", "", 1)
    for label in ("x" * 129, "x/y:z\n", "2"):
        with pytest.raises(InvalidInput, match="label"):
            server.control.set_label("m", label, 1)


def test_unused_labels_for_unavailable_versions_where_that_is_allowed(serve, tmp_path):
    """A new label may wait for its version; one in use may still not be moved to nowhere."""
    server = serve(config(tmp_path), allow_labels_for_unavailable=True)
    server.control.set_label("m", "next", 4)
    with pytest.raises(ModelNotFound, match=r"Unrecognized servable version label: next; .*Specific\(m, 4\)"):
        server.version(label="next")
    server.add("m/4")
    server.poll()
    assert server.version(label="next") == 4
    with pytest.raises(LabelRefused):
        server.control.set_label("m", "next", 5)


def test_a_version_that_leaves_takes_its_labels_answers_with_it(serve, tmp_path, caplog):
    """NOT_FOUND, and said once in the log."""
    server = serve(config(tmp_path, policy=specific(1, 2), labels={"stable": 1}))
    server.control.configure([config(tmp_path, policy=specific(2), labels={"stable": 1})])
    server.poll()
    soon(lambda: server.manager.available("m") == (2,))
    with pytest.raises(ModelNotFound, match="Unrecognized servable version label: stable"):
        server.version(label="stable")
    server.poll()
    told = [record for record in caplog.records if "label stable of model m points to version 1" in record.message]
    assert len(told) == 1


def test_a_configuration_brings_versions_with_their_labels(serve, tmp_path):
    """A label moves when its version, which the same configuration brings, is available: no request fails meanwhile."""
    server = serve(config(tmp_path, policy=specific(1), labels={"stable": 1}))
    failures, seen, done = [], set(), threading.Event()

    def call():
        while not done.is_set():
            try:
                seen.add(server.version(label="stable"))
            except Exception as error:  # noqa: BLE001  whatever it is, the test tells it
                failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    for version in (2, 3, 1, 2, 3):
        server.gates[version] = threading.Event()
        server.control.configure([config(tmp_path, policy=specific(version), labels={"stable": version})])
        server.poll(settle=False)
        server.gates.pop(version).set()
        soon(lambda version=version: server.manager.available("m") == (version,))
        soon(lambda version=version: version in seen)
    done.set()
    caller.join()
    assert failures == []
    assert seen == {1, 2, 3}


def test_a_configuration_is_applied_whole_or_not_at_all(serve, tmp_path):
    """A label that can't be, or a set that can't be, changes nothing."""
    server = serve(config(tmp_path, policy=specific(1)))
    before = server.control.configs()
    other = config(tmp_path, "n")
    with pytest.raises(LabelRefused, match="version 9 of model m"):
        server.control.configure([other, config(tmp_path, labels={"stable": 9})])
    with pytest.raises(LabelRefused, match="version 3 of model m"):
        server.control.configure([config(tmp_path, policy=specific(1), labels={"stable": 3})])
    with pytest.raises(ConfigRefused, match="multiple times"):
        server.control.configure([other, other])
    assert server.control.configs() == before
    server.poll()
    assert server.states() == {1: AVAILABLE}


def test_models_come_and_go_with_the_configuration(serve, tmp_path):
    """What is left out is unloaded; what is new is looked for at once; the wait ends when it answers."""
    woken = threading.Event()
    server = serve(config(tmp_path), folders=("m/1", "n/5"))
    server.control.wake = woken.set
    server.control.configure([config(tmp_path, "n", labels={"stable": 5})])
    assert woken.is_set()
    assert not server.control.wait_configured(timeout_s=0)
    server.poll()
    assert server.control.wait_configured(timeout_s=30)
    assert server.control.wait_idle(timeout_s=30)
    assert server.version("n", label="stable") == 5
    soon(lambda: server.states() == {1: END})


def test_reload(serve, tmp_path):
    """The file is read again; where there is none the disk is looked at all the same."""
    found = [config(tmp_path, policy=specific(2))]
    server = serve(config(tmp_path), read_configs=lambda: found)
    assert server.control.reload() == ("m",)
    server.poll()
    soon(lambda: server.manager.available("m") == (2,))
    found.append(config(tmp_path, "relative").__class__(name="r", base_path=Path("r")))
    with pytest.raises(ConfigRefused, match="absolute path"):
        server.control.reload()
    other, woken = serve(config(tmp_path), folders=("x/1",)), threading.Event()
    other.control.wake = woken.set
    assert other.control.reload() == ("m",)
    assert woken.is_set()
    assert not other.control.wait_configured(timeout_s=0)
    other.poll()
    assert other.control.wait_configured(timeout_s=0)


def test_beside_a_repository_no_configuration_is_taken_for_the_complete_set(serve, tmp_path, caplog):
    """Refused, and told, rather than answered while what it leaves out is served; the server's own file is applied."""
    found = [config(tmp_path / "other", "n")]
    server = serve(repository=tmp_path, folders=("m/1", "other/n/2"), read_configs=lambda: found)
    with pytest.raises(PreconditionFailed, match=f"serves whatever is in --model_repository={tmp_path}: it takes no"):
        server.control.configure(found, who="ipv4:10.0.0.7:1")
    assert [record.levelname for record in caplog.records if "refused: this server" in record.message] == ["WARNING"]
    assert server.control.configs() == ()
    server.control.reload()
    server.poll()
    assert (server.version(), server.version("n")) == (1, 2)


def test_a_label_waits_in_a_file_that_is_read_again_as_at_the_start(serve, tmp_path, caplog):
    """It takes no other change down with it; it is warned of once, and shown; over the wire it is refused."""
    ahead = config(tmp_path, labels={"stable": 1, "next": 9})
    found = [ahead]
    server = serve(ahead, read_configs=lambda: found)
    told = "label next of model m waits for version 9, which does not answer"
    assert [record.getMessage() for record in caplog.records if "waits for" in record.message] == [told]
    found[:] = [config(tmp_path, labels={"stable": 9, "later": 8}), config(tmp_path, "n")]
    assert server.control.reload() == ("m", "n")
    for _ in range(3):
        server.poll()
    view = server.control.catalog()[0]
    assert (view.labels, view.waiting_labels) == ({"stable": 1}, {"stable": 9, "later": 8})
    assert server.version(label="stable") == 1
    assert sum("waits for" in record.message for record in caplog.records) == 3
    with pytest.raises(LabelRefused, match="version 9"):
        server.control.configure([config(tmp_path, labels={"other": 9})])
    server.add("m/9")
    server.poll()
    assert server.version(label="stable") == 9


def test_what_a_model_lacks_is_known(serve, tmp_path):
    """For those who wait for it, and for those who look."""
    server = serve(config(tmp_path), config(tmp_path, "later"))
    assert server.control.lack("m") == ""
    text = f"base path {tmp_path}/later can't be read: No such file or directory"
    assert server.control.lack("later") == text
    assert [(view.name, view.note) for view in server.control.catalog()] == [("later", text), ("m", "")]
    assert server.control.wanted() == ("later", "m")
    server.control.unload("m")
    assert server.control.wanted() == ("later",)


def test_the_log_tells_who_has_changed_what(serve, tmp_path, caplog):
    """What was added, removed and changed, labels, splits, rollbacks, loads; what was refused, and why; a line each."""
    caplog.set_level("INFO", "fallback_server.change_log")
    server = serve(config(tmp_path), config(tmp_path, "old"))
    control, who = server.control, "ipv4:10.0.0.7:1234"
    control.configure([config(tmp_path, policy=specific(1, 2, 3)), config(tmp_path, "new")], who=who)
    control.set_label("m", "stable", 2, who=who)
    control.set_traffic("m", {2: 1}, who=who)
    control.rollback("m", who=who)
    control.unload("m", who=who)
    control.load("m", who=who)
    with pytest.raises(ModelNotFound):
        control.unload("q\nERROR all is lost", who=who)
    with pytest.raises(LabelRefused) as refused:
        control.set_label("m", "stable", 9, who=who)
    with pytest.raises(ModelNotFound):
        control.unload("q")
    told = [record.getMessage() for record in caplog.records if record.name == "fallback_server.change_log"]
    assert all(line.endswith(f" (asked for by {who})") for line in told)
    assert [line.removesuffix(f" (asked for by {who})") for line in told] == [
        "configuration: added new; removed old; changed m (version_policy)",
        "label stable of model m: version 2; before: nowhere",
        "model m: requests that name no version: {2: 1.0}; before: {3: 1.0}",
        "model m: rolled back: version 2 -> 1",
        "model m is taken out of service",
        "model m is taken into service, and its failed loads are tried again",
        "unload of model q\\nERROR all is lost: refused: Could not find any versions of model q\\nERROR all is lost",
        f"label stable of model m: version 9: refused: {refused.value}",
    ]


def test_a_base_path_that_has_changed_is_what_is_served(serve, tmp_path):
    """The same number from elsewhere: the old answers until the new is loaded, and whoever waits is told of no less."""
    server = serve(config(tmp_path), folders=("m/2",))
    server.add("n/2")
    old = server.control.acquire(ModelTarget(name="m"))
    server.control.configure([ModelConfig(name="m", base_path=tmp_path / "n", version_policy=ALL)])
    server.poll()
    assert server.control.wait_configured(timeout_s=30)
    assert server.control.wait_idle(timeout_s=30)
    with server.control.acquire(ModelTarget(name="m")) as new:
        assert new.servable is not old.servable
    old.close()
    soon(lambda: old.servable.closed)
    assert server.states() == {2: AVAILABLE}


def test_a_model_is_taken_out_of_service_and_back(serve, tmp_path):
    """Out at once, and through polls; back at once. A failed load is tried again."""
    server = serve(repository=tmp_path, folders=("m/1", "n/1"))
    server.control.unload("m")
    soon(lambda: server.states() == {1: END})
    server.poll()
    assert server.states() == {1: END}
    assert server.version("n") == 1
    server.control.load("m")
    soon(lambda: server.manager.available("m") == (1,))
    for command in (server.control.load, server.control.unload):
        with pytest.raises(ModelNotFound):
            command("q")


def test_index_and_catalog(serve, tmp_path):
    """Every model's every version, also of models without one and of versions that are incomplete."""
    server = serve(config(tmp_path), config(tmp_path, "empty"), folders=("m/1", "m/2", "empty"))
    (tmp_path / "m" / "9").mkdir()
    server.poll()
    assert [(state.servable_id.version, state.state, state.error) for state in server.control.index()] == [
        (9, START, "saved_model.pb is missing"),
        (2, AVAILABLE, None),
        (1, AVAILABLE, None),
    ]
    server.control.set_label("m", "stable", 1)
    empty, full = server.control.catalog()
    assert (empty.name, empty.versions, empty.default_version) == ("empty", (), 0)
    assert (full.name, full.default_version, full.labels) == ("m", 2, {"stable": 1})
    assert [view.servable and view.servable.factor for view in full.versions] == [None, 2, 1]


def test_what_was_unpacked_is_deleted_once_its_version_is_unloaded(serve, tmp_path):
    """Not while a request holds it; and unpacked anew when its archive comes back."""
    server = serve(config(tmp_path), folders=("m",), unpack_dir=tmp_path / "state")
    folder = tmp_path / "state" / "m" / "7"
    write(tmp_path / "m" / "7.zip", SAVED_MODEL)
    server.poll()
    with server.control.acquire(ModelTarget(name="m")):
        (tmp_path / "m" / "7.zip").unlink()
        server.poll(settle=False)
        assert server.states() == {7: State.UNLOADING}
        assert folder.is_dir()
    soon(lambda: server.states() == {7: END})
    server.poll()
    assert not folder.exists()
    write(tmp_path / "m" / "7.zip", SAVED_MODEL)
    server.poll()
    assert server.version() == 7
    assert folder.is_dir()


def test_every_change_is_followed_by_a_look_that_shows_it(serve, tmp_path):
    """Watchers of versions, labels and defaults are told after the change, not before."""
    server = serve(config(tmp_path))
    seen = []
    end = server.control.watch(lambda: seen.append(server.control.catalog()[0]))
    server.control.set_label("m", "stable", 1)
    assert seen[-1].labels == {"stable": 1}
    server.control.set_label("m", "stable", None)
    server.control.rollback("m")
    assert (seen[-1].labels, seen[-1].default_version) == ({}, 2)
    server.add("m/4")
    server.poll()
    soon(lambda: seen[-1].default_version == 4)
    end()
    count = len(seen)
    server.control.rollback("m")
    assert len(seen) == count


def test_what_is_remembered_of_a_repository_ends_with_its_models(serve, tmp_path):
    """Labels of models that are gone for good are not kept for ever."""
    server = serve(repository=tmp_path, folders=("m/1",))
    server.control.set_label("m", "stable", 1)
    assert server.control._router.of("m").labels
    server.manager._table._ended.clear()
    (tmp_path / "m" / "1" / "saved_model.pb").unlink()
    (tmp_path / "m" / "1").rmdir()
    server.poll()
    soon(lambda: server.states() == {1: END})
    server.manager._table._ended.clear()
    server.poll()
    assert not server.control._router.of("m").labels
