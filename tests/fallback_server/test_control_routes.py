import shutil
import threading

import pytest
from support.control_stand import config, serving, specific
from support.fallback_stages import soon

from fallback_server.core.errors import (
    ConfigRefused,
    InvalidInput,
    ModelNotFound,
    PreconditionFailed,
)
from fallback_server.core.model_config import Shadow
from fallback_server.core.routes import Hold
from fallback_server.core.servable import ServableId, State


@pytest.fixture
def serve(tmp_path):
    """Makes a server; stopped after the test."""
    with serving(tmp_path) as make:
        yield make


def test_what_an_operator_did_outlives_a_configuration_that_does_not_speak_of_it(serve, tmp_path, caplog):
    """Other versions or shadows undo no rollback, split or label; other labels or another split do, and that is told.

    So a configuration file that is polled never undoes a rollback in silence.
    """
    server = serve(config(tmp_path, labels={"stable": 3}), folders=("m/1", "m/2", "m/3", "n/1"))
    server.control.rollback("m")
    server.control.set_label("m", "canary", 1)
    for changed in (
        {"labels": {"stable": 3}},
        {"labels": {"stable": 3}, "policy": specific(1, 2, 3)},
        {"labels": {"stable": 3}, "shadow": Shadow(version=1, share=1)},
    ):
        server.control.configure([config(tmp_path, **changed), config(tmp_path, "n")])
        server.poll()
        assert (server.version(), server.version(label="stable"), server.version(label="canary")) == (2, 2, 1)
    assert "ends" not in caplog.text
    server.control.configure([config(tmp_path, labels={"stable": 1})])
    assert (server.version(), server.version(label="stable")) == (2, 1)
    with pytest.raises(InvalidInput):
        server.version(label="canary")
    told = "model m: the rollback from version 3 to 2 ends: the configuration says otherwise now"
    assert [record.getMessage() for record in caplog.records if "ends" in record.message] == [told]
    server.control.configure([config(tmp_path, labels={"stable": 1}, traffic={3: 1})])
    assert (server.version(key=b"k"), server.version(label="stable")) == (3, 1)
    server.control.set_traffic("m", {1: 1})
    server.control.configure([config(tmp_path, labels={"stable": 1}, traffic={3: 1}, policy=specific(1, 3))])
    assert server.version(key=b"k") == 1


def test_rollback_of_the_default(serve, tmp_path):
    """The next lower version answers at once, again the next; until a version comes that is higher than all."""
    server = serve(config(tmp_path))
    done = server.control.rollback("m")
    assert (done.from_version, done.to_version, done.label) == (3, 2, "")
    assert server.version() == 2
    (view,) = server.control.catalog()
    assert (view.default_version, view.hold) == (2, Hold(version=2, above=3))
    assert server.control.rollback("m").to_version == 1
    with pytest.raises(PreconditionFailed, match=r"has no earlier version to go back to; available: 1, 2, 3$"):
        server.control.rollback("m")
    assert server.version() == 1
    assert server.version(version=3) == 3
    assert server.control.rollback("m", undo=True).to_version == 2
    assert server.version() == 2
    server.add("m/4")
    server.poll()
    assert server.version() == 4
    assert server.control.catalog()[0].hold is None


def test_a_new_version_ends_the_rollback_and_leaves_nothing_to_take_back(serve, tmp_path):
    """It answers before and after, and `stable` goes to no version that was withdrawn."""
    server = serve(config(tmp_path, labels={"stable": 3}))
    server.control.rollback("m")
    server.control.rollback("m")
    server.add("m/4")
    server.poll()
    with pytest.raises(PreconditionFailed, match="no rollback that can be taken back"):
        server.control.rollback("m", undo=True)
    assert (server.version(), server.version(label="stable")) == (4, 1)


def test_a_load_under_way_does_not_undo_a_rollback(serve, tmp_path, caplog):
    """The version after it does, and the log says so."""
    server = serve(config(tmp_path))
    server.gates[4] = threading.Event()
    server.add("m/4")
    server.poll(settle=False)
    soon(lambda: server.states()[4] is State.LOADING)
    server.control.rollback("m")
    server.gates[4].set()
    soon(lambda: server.states()[4] is State.AVAILABLE)
    assert server.version() == 2
    assert "ends" not in caplog.text
    server.add("m/5")
    server.poll()
    assert server.version() == 5
    told = "model m: the rollback to version 2 ends: version 5 is newer than all there were"
    soon(lambda: "ends" in caplog.text)  # Who loaded it tells of it once it is served.
    assert [record.getMessage() for record in caplog.records if "ends" in record.message] == [told]


def test_one_rollback_takes_back_label_split_and_default(serve, tmp_path):
    """After it every way leads to the older version; undone, each way leads where it did."""
    server = serve(config(tmp_path, labels={"stable": 2}, traffic={2: 50, 3: 50}))
    server.control.set_label("m", "stable", 3)
    keys = [b"client-%d" % number for number in range(50)]
    before = [server.version(key=key) for key in keys]
    done = server.control.rollback("m")
    assert (done.from_version, done.to_version) == (3, 2)
    assert {server.version(key=key) for key in keys} | {server.version(), server.version(label="stable")} == {2}
    assert server.control.catalog()[0].traffic == {}
    server.add("m/4")
    server.poll()
    assert {server.version(key=key) for key in keys} == {2}
    server.control.rollback("m", undo=True)
    assert [server.version(key=key) for key in keys] == before
    assert server.version(label="stable") == 3
    with pytest.raises(PreconditionFailed, match="no rollback that can be taken back"):
        server.control.rollback("m", undo=True)


def test_rollback_of_a_label(serve, tmp_path):
    """One that is named goes back alone: to where it pointed, then to the next lower version."""
    server = serve(config(tmp_path))
    server.control.set_label("m", "stable", 2)
    server.control.set_label("m", "stable", 3)
    done = server.control.rollback("m", "stable")
    assert (done.from_version, done.to_version, done.label) == (3, 2, "stable")
    assert server.control.rollback("m", "stable").to_version == 1
    with pytest.raises(PreconditionFailed, match="label stable of model m, at version 1"):
        server.control.rollback("m", "stable")
    assert server.version() == 3
    server.control.set_label("m", "stable", 3)
    with pytest.raises(PreconditionFailed, match="no rollback that can be taken back"):
        server.control.rollback("m", undo=True)
    with pytest.raises(InvalidInput, match="label: canary"):
        server.control.rollback("m", "canary")
    with pytest.raises(ModelNotFound):
        server.control.rollback("q")


def test_an_operator_splits_the_traffic(serve, tmp_path):
    """Among versions that are available; cleared, the highest answers; it ends a rollback."""
    server = serve(config(tmp_path))
    move = server.control.set_traffic("m", {1: 3, 2: 1, 3: 0})
    assert (move.before, move.after) == ({3: 1.0}, {1: 0.75, 2: 0.25})
    assert {server.version(key=b"client-%d" % number) for number in range(50)} == {1, 2}
    assert server.control.catalog()[0].traffic == {1: 3, 2: 1, 3: 0}
    server.control.rollback("m")
    assert server.control.set_traffic("m", {}).before == {1: 1.0}
    assert server.version() == 3
    text = "^Request to send traffic to version 9 of model m, which is not currently available for inference$"
    with pytest.raises(PreconditionFailed, match=text):
        server.control.set_traffic("m", {1: 1, 9: 1})
    with pytest.raises(ConfigRefused, match="no version has a weight over 0"):
        server.control.set_traffic("m", {1: 0})
    with pytest.raises(ModelNotFound):
        server.control.set_traffic("q", {1: 1})
    assert server.version() == 3


def test_no_warning_of_labels_where_a_model_goes_on_purpose(serve, tmp_path, caplog):
    """At the server's end, out of service and back, and with its folder: the label's version is missed by nobody."""
    server = serve(config(tmp_path, labels={"stable": 2}), repository=tmp_path, folders=("m/1", "m/2", "n/1"))
    server.control.set_label("n", "stable", 1)
    server.control.unload("m")
    soon(lambda: server.manager.available("m") == ())
    server.control.load("m")
    soon(lambda: server.manager.available("m") == (1, 2))
    shutil.rmtree(tmp_path / "n")
    server.poll()
    soon(lambda: server.manager.available("n") == ())
    server.manager.set_aspired({})
    assert server.manager.stop(timeout_s=30)
    assert "does not answer" not in caplog.text


def test_traffic_is_split_by_client_and_a_rollback_ends_that(serve, tmp_path):
    """One client gets one version; without a key each request is drawn; a version that is gone gets nothing."""
    server = serve(config(tmp_path, traffic={1: 50, 2: 50}))
    versions = {number: server.version(key=b"client-%d" % number) for number in range(100)}
    assert set(versions.values()) == {1, 2}
    assert versions == {number: server.version(key=b"client-%d" % number) for number in range(100)}
    server.draws = iter([0.49, 0.51])
    assert [server.version(), server.version()] == [1, 2]
    assert server.version(version=3) == 3
    assert server.control.catalog()[0].traffic == {1: 50, 2: 50}
    server.control.rollback("m")
    assert {server.version(key=b"client-%d" % number) for number in range(100)} == {1}
    assert server.control.catalog()[0].traffic == {}


def test_shadow(serve, tmp_path):
    """A share of the requests runs on a second version too; where that is not there, nothing happens."""
    server = serve(config(tmp_path, shadow=Shadow(version=2, share=0.5)), config(tmp_path, "n"), folders=("m/1", "m/2"))
    server.draws = iter([0.4, 0.6, 0.4])
    with server.control.shadow("m", 1) as handle:
        assert handle.servable_id == ServableId("m", 2)
    assert server.control.shadow("m", 1) is None
    assert server.control.shadow("m", 2) is None
    assert server.control.shadow("n", 1) is None
    server.control.configure([config(tmp_path, policy=specific(1), shadow=Shadow(version=2, share=1))])
    server.poll()
    soon(lambda: server.manager.available("m") == (1,))
    server.draws = iter([0.4])
    assert server.control.shadow("m", 1) is None
