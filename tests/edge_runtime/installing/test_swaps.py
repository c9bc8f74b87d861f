"""A running runtime whose store changes while it answers."""

import contextlib
import threading
import time

import pytest
from support.edge_models import publish_scale, rows
from support.edge_stores import fake_trial

from edge_runtime import Runtime
from edge_runtime.installing.install import install
from edge_runtime.installing.inventory import inventory
from edge_runtime.store import lease, uses
from edge_runtime.store.removal import remove
from edge_runtime.store.store import Store

LIMIT_S = 60.0


@pytest.fixture
def packages(tmp_path):
    for version in (1, 2, 3):
        publish_scale(tmp_path / "packages", version, float(version))
    publish_scale(tmp_path / "other", 3, 30.0)
    return tmp_path


@pytest.fixture
def store(packages):
    root = packages / "store"
    for version in (1, 2):
        install(packages / "packages" / "scale" / str(version), root, trial=fake_trial)
    return Store(root)


def wait_until(true):
    until_s = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.01)


@contextlib.contextmanager
def answering(model):
    """Threads that ask all the time; gives the versions and factors that answered, and what failed."""
    answers, errors, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                reply = model.predict(rows(1, 1), deadline_ms=30_000)
                answers.append((reply.version, float(reply.outputs["y"][0, 0])))
            except Exception as error:  # noqa: BLE001  whatever it is, the test says so
                errors.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers, errors
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT_S)


def seen(answers, version, factor):
    """Whether that answers now: twice as many of the last answers as there are threads."""
    return len(answers) > 8 and set(answers[-8:]) == {(version, factor)}


@pytest.mark.slow
def test_no_request_is_dropped_while_versions_come_and_go(store, packages):
    """Use, rollback, install, replace and removal under load: every request is answered, by a version that was there.

    What no request needs any more is not open any more.
    """
    store.label("scale", "stable", 1)
    root = store.path
    with Runtime.open(root, threads=1, poll_interval_s=0.01) as runtime:
        labelled, latest = runtime.model("scale", label="stable"), runtime.model("scale")
        with answering(labelled) as (by_label, failed), answering(latest) as (by_latest, failed_too):
            wait_until(lambda: seen(by_label, 1, 1.0) and seen(by_latest, 2, 2.0))
            store.label("scale", "stable", 2)
            wait_until(lambda: seen(by_label, 2, 2.0))
            wait_until(lambda: not lease.is_open(root / "scale" / "1"))
            store.roll_back("scale")
            wait_until(lambda: seen(by_label, 1, 1.0))
            install(packages / "packages" / "scale" / "3", root, trial=fake_trial)
            wait_until(lambda: seen(by_latest, 3, 3.0))
            install(packages / "other" / "scale" / "3", root, replace=True, trial=fake_trial)
            wait_until(lambda: seen(by_latest, 3, 30.0))
            remove(store, "scale", 3, force=True)
            wait_until(lambda: seen(by_latest, 2, 2.0))
            assert [one.open for one in inventory(store)] == [True, True]
            remove(store, "scale", 1, force=True)
            wait_until(lambda: len(by_label) > 1 and by_label[-1] == (1, 1.0))
        assert (failed, failed_too) == ([], [])
        assert set(by_label) == {(1, 1.0), (2, 2.0)}
        assert set(by_latest) == {(2, 2.0), (3, 3.0), (3, 30.0)}
        assert {key[1] for key in runtime._versions.keys} == {1, 2}
    assert not any(one.open for one in inventory(store))


def test_a_runtime_writes_down_what_it_uses(store):
    """At the loading and the unloading of a version; what it did not load was never used."""
    folder = store.path / "scale"
    with Runtime.open(store.path, threads=1, poll_interval_s=3600.0) as runtime:
        runtime.model("scale").predict(rows(1))
        loaded_s = uses.used_s(folder, 2)
    assert loaded_s < uses.used_s(folder, 2)
    assert uses.used_s(folder, 1) is None


def test_a_version_that_can_not_be_loaded_is_not_held_open(store):
    """Its lease ends with the failure."""
    (store.path / "scale" / "2" / "variants" / "float32.tflite").write_bytes(b"")
    with Runtime.open(store.path, threads=1, poll_interval_s=3600.0) as runtime:
        assert runtime.model("scale").version == 1
        assert [one.open for one in inventory(store)] == [True, False]
