"""The runtime over a store that changes, is damaged, or is not what it seems."""

import asyncio
import contextlib
import shutil
import threading

import grpc
import numpy as np
import pytest
from support import edge_delegates
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server

from converter.artifact import install
from edge_runtime import (
    EngineFailed,
    InvalidConfig,
    InvalidInput,
    PackageRefused,
    Runtime,
    RuntimeClosed,
    VersionNotAvailable,
)
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.store.store import Store

QUIET = {"threads": 1, "poll_interval_s": 3600.0}


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path / "store", 1, 2.0)
    return tmp_path / "store"


def answers(model, count=1):
    """The factor by which the model multiplies."""
    return float(model.predict(rows(count, 1)).outputs["y"][0, 0])


def test_what_was_verified_is_what_runs(store, tmp_path):
    """A version that is replaced under a loaded one changes no answer until it is loaded itself, for any batch size."""
    publish_scale(tmp_path / "other", 1, 10.0)
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        assert answers(model) == 2
        install(tmp_path / "other" / "scale" / "1", store, replace=True)
        assert [answers(model, count) for count in (1, 3, 5, 7)] == [2] * 4
        runtime.refresh()
        assert [answers(model, count) for count in (1, 3)] == [10] * 2


def test_an_application_may_go_to_another_directory(store, tmp_path, monkeypatch):
    """A store that was opened by a relative path is followed also from elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Runtime.open("store", **QUIET) as runtime:
        model = runtime.model("scale")
        monkeypatch.chdir(tmp_path / "elsewhere")
        publish_scale(store, 2, 3.0)
        runtime.refresh()
        assert answers(model) == 3


def test_removed_store_stops_nobody(store):
    """When the folder goes away the loaded version answers on, for batch sizes it has not seen yet too."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        shutil.rmtree(store)
        runtime.refresh()
        assert [answers(model, count) for count in (1, 3, 5)] == [2] * 3


def test_a_store_that_is_gone_is_said_to_be(store, caplog):
    """Once, and not that a label points nowhere."""
    Store(store).label("scale", "stable", 1)
    with Runtime.open(store, **QUIET) as runtime:
        models = [runtime.model("scale"), runtime.model("scale", label="stable")]
        shutil.rmtree(store)
        runtime.refresh()
        runtime.refresh()
        assert [answers(model) for model in models] == [2, 2]
    assert caplog.text.count(f"the store {store} is gone; scale/1 goes on") == 1
    assert "points to no" not in caplog.text


def test_a_label_that_is_not_there_is_called_one(store):
    """The error says which there are."""
    Store(store).label("scale", "stable", 1)
    with Runtime.open(store, **QUIET) as runtime:
        with pytest.raises(VersionNotAvailable, match=r"label 'nope' is not available.* Labels: stable -> 1\. The run"):
            runtime.model("scale", label="nope")
        with pytest.raises(VersionNotAvailable, match=r"version 7 is not available"):
            runtime.model("scale", version=7)


def test_half_copied_version_is_taken_when_it_is_whole(store, tmp_path):
    """A version whose files came after its manifest is refused at first and followed once it is complete."""
    source = publish_scale(tmp_path / "other", 2, 3.0).path
    target = store / "scale" / "2"
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        target.mkdir()
        for name in ("manifest.sha256", "manifest.json"):
            shutil.copy(source / name, target / name)
        runtime.refresh()
        assert answers(model) == 2
        shutil.copytree(source / "variants", target / "variants")
        (target / "manifest.json").touch()
        runtime.refresh()
        assert answers(model) == 3


def test_one_models_damage_holds_up_no_other(store, caplog):
    """A labels file that can't be read, or a package that can't, leaves the other models followed, and is said once."""
    publish_scale(store, 1, 5.0, model="a")
    with Runtime.open(store, **QUIET) as runtime:
        broken, sound = runtime.model("a", label=None), runtime.model("scale")
        runtime._store.label("a", "stable", 1)
        labelled = runtime.model("a", label="stable")
        (store / "a" / "labels.json").write_text("{broken")
        publish_scale(store, 2, 6.0, model="a", content=b"no model")
        publish_scale(store, 2, 3.0)
        runtime.refresh()
        runtime.refresh()
        assert (answers(broken), answers(labelled), answers(sound)) == (5, 5, 3)
    assert sum("labels" in record.message for record in caplog.records) == 1


def test_with_damaged_labels_a_model_goes_on_without(store, caplog):
    """What follows the latest answers, and a label is a server's to know; without a server that is refused."""
    (store / "scale" / "labels.json").write_text("{broken")
    with scale_server({2: 3.0}) as server:
        with Runtime.open(store, fallback=server.address, fetch="follow", **QUIET) as runtime:
            assert answers(runtime.model("scale", label=None)) == 2
            assert caplog.text.count("scale goes on without labels: ") == 1
        with Runtime.open(store, fallback=server.address, **QUIET) as runtime:
            reply = runtime.model("scale", version=None, label="stable").target
            assert (reply.label, reply.version) == ("stable", None)
    with Runtime.open(store, **QUIET) as runtime, pytest.raises(InvalidConfig, match=r"labels\.json"):
        runtime.model("scale", label="stable")


def test_damaged_version_is_answered_by_a_server(store):
    """Where the device's own copy can't be loaded, a server that has the version answers, and the reply says why."""
    publish_scale(store, 2, 3.0, content=b"no model")
    with scale_server({2: 3.0}) as server, Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        reply = runtime.model("scale", version=2).predict(rows(1), deadline_ms=5000)
        assert (reply.version, reply.reason) == (2, "version-damaged")
        assert runtime.model("scale").predict(rows(1)).version == 1


def test_swap_while_a_server_fails_loses_no_awaited_request(store):
    """A request that comes back from a failed server after its version was unloaded is answered by the next version."""

    async def ask(runtime, model, server):
        asking = asyncio.create_task(model.predict_async(rows(1), deadline_ms=20_000))
        await asyncio.to_thread(server.reached.wait, 10)
        publish_scale(store, 2, 3.0)
        await asyncio.to_thread(runtime.refresh)
        server.fail_with = grpc.StatusCode.INTERNAL
        server.hold.set()
        return await asking

    with scale_server({1: 2.0}) as server, Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        server.hold.clear()
        model = runtime.model("scale")
        device = model.target.router._device
        device.try_infer = lambda request: None
        device.costs.seconds = lambda count: 1000.0 if count == 1 else 1.0
        reply = asyncio.run(ask(runtime, model, server))
    assert (reply.version, reply.outputs["y"][0, 1]) == (2, 3.0)


def test_closing_while_a_model_loads_leaves_nothing_behind(store, monkeypatch):
    """A model that was being loaded while the runtime closed is refused, and its engine's thread ends."""
    import edge_runtime.versions as module

    loading, go_on, original = threading.Event(), threading.Event(), module.load

    def slow(*arguments):
        loading.set()
        assert go_on.wait(10)
        return original(*arguments)

    monkeypatch.setattr(module, "load", slow)
    runtime = Runtime.open(store, **QUIET)
    outcome = []

    def open_model():
        try:
            outcome.append(runtime.model("scale"))
        except RuntimeClosed as error:
            outcome.append(error)

    opener = threading.Thread(target=open_model)
    opener.start()
    assert loading.wait(10)
    runtime.close()
    go_on.set()
    opener.join(10)
    assert isinstance(outcome[0], RuntimeClosed)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-engine")]


def test_an_interrupted_close_is_finished_by_the_next(store, monkeypatch):
    """Ctrl-C while it closes leaves versions, engines and threads to whoever closes again."""
    publish_scale(store, 1, 3.0, model="other")
    runtime = Runtime.open(store, **QUIET)
    models = [runtime.model("scale"), runtime.model("other")]
    crews = [loaded.crew for loaded in runtime._versions.all()]
    interrupted = []
    close = Batcher.close

    def interrupt(batcher):
        if not interrupted:
            interrupted.append(batcher)
            raise KeyboardInterrupt
        close(batcher)

    monkeypatch.setattr(Batcher, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runtime.close()
    runtime.close()
    for model in models:
        with pytest.raises(RuntimeClosed):
            model.predict(rows(1))
    assert all(not crew.batcher.slots for crew in crews)
    assert runtime._hall.supervisor.closed


def test_second_close_waits_for_the_first(store):
    """Whoever closes last returns when everything is closed, not before."""
    runtime = Runtime.open(store, **QUIET)
    model = runtime.model("scale")
    threads = [threading.Thread(target=runtime.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    runtime.close()
    with pytest.raises(RuntimeClosed):
        model.predict(rows(1))
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "../scale"},
        {"name": "x" * 300},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"name": 3},
        {"name": "scale", "version": "1"},
        {"name": "scale", "version": True},
        {"name": "scale", "version": 1.0},
        {"name": "scale", "version": 2**63},
        {"name": "scale", "label": ""},
        {"name": "scale", "label": "x" * 1000},
        {"name": "../scale", "label": "stable"},
    ],
)
def test_impossible_names_are_refused(store, arguments):
    """A name, version or label that can't be is InvalidConfig, with a server too, and reads nothing outside."""
    with Runtime.open(store, fallback="127.0.0.1:9", **QUIET) as runtime:
        name = arguments.pop("name")
        with pytest.raises(InvalidConfig):
            runtime.model(name, **arguments)


@pytest.mark.parametrize("deadline_ms", ["5", [1], None])
def test_arguments_of_wrong_types_are_named(store, deadline_ms):
    """A deadline or signature of a wrong type is InvalidInput, not a TypeError from within."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        with pytest.raises(InvalidInput):
            model.predict(rows(1), deadline_ms=deadline_ms, signature=["serving_default"])
        with pytest.raises(InvalidInput):
            model.preprocess("no numbers")


def test_unknown_names_fill_no_table(store):
    """Asking for any number of models that are not there leaves nothing behind and closes the door to none."""
    with Runtime.open(store, **QUIET) as runtime:
        for i in range(2000):
            with pytest.raises(VersionNotAvailable):
                runtime.model(f"unknown-{i}")
        assert not runtime._name_locks
        assert answers(runtime.model("scale")) == 2


def test_predict_many_gives_the_answers_before_the_error(store):
    """The error of a bad request comes in its turn: after the answers of all before it."""
    series = [rows(1, i) for i in range(40)] + [np.zeros(3)] + [rows(1)]
    got = []
    with Runtime.open(store, **QUIET) as runtime, pytest.raises(InvalidInput):
        got.extend(runtime.model("scale").predict_many(series))
    assert [float(reply.outputs["y"][0, 0]) for reply in got] == [2.0 * i for i in range(40)]


def test_a_reused_frame_buffer_gives_right_answers(store):
    """A camera loop that refills one array is answered for what the array held when it was handed over."""
    frame = rows(1)

    def frames():
        for i in range(200):
            frame[:] = i
            yield frame

    async def ask(model):
        tasks = []
        for i in range(50):
            frame[:] = i
            tasks.append(asyncio.create_task(model.predict_async(frame)))
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        assert [reply.outputs["y"][0, 0] for reply in model.predict_many(frames())] == [2 * i for i in range(200)]
        assert [reply.outputs["y"][0, 0] for reply in asyncio.run(ask(model))] == [2 * i for i in range(50)]


def test_any_damage_to_a_package_is_a_named_error(store):
    """Bytes of the model file cut at any place, with a manifest that agrees, are an EngineFailed or PackageRefused."""
    from support.edge_models import scale_model

    whole = scale_model(2.0)
    with Runtime.open(store, **QUIET) as runtime:
        for version, end in enumerate(range(0, len(whole), 97), start=10):
            publish_scale(store, version, 2.0, content=whole[:end])
            with contextlib.suppress(EngineFailed, PackageRefused):
                runtime.model("scale", version=version)


@pytest.mark.slow
@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
def test_a_version_that_no_device_runs_does_not_replace_one_that_runs(store, tmp_path, caplog):
    """Also where an accelerator may come back, and a server may have it: the one before goes on, and that is told."""
    library = edge_delegates.device(edge_delegates.build(tmp_path), refuse_model=1)
    options = {"delegates": (library, "cpu"), "fallback": "127.0.0.1:9", "cache": None}
    with Runtime.open(store, **QUIET, **options) as runtime:
        model = runtime.model("scale")
        assert answers(model) == 2
        publish_scale(store, 2, 3.0, content=b"this is no model")
        runtime.refresh()
        assert (model.version, answers(model)) == (1, 2)
        publish_scale(store, 3, 4.0)
        runtime.refresh()
        assert (model.version, answers(model)) == (3, 4)
    (told,) = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert "no device runs it now, and scale/1 runs" in told
