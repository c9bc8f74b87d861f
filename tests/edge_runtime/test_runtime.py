import asyncio
import re
import shutil
import threading
import urllib.request

import numpy as np
import pytest
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server

from converter.artifact import InputPreprocess, Preprocess
from edge_runtime import (
    DeadlineExceeded,
    InvalidConfig,
    InvalidInput,
    PackageRefused,
    Runtime,
    RuntimeClosed,
    VersionNotAvailable,
)

QUIET = {"threads": 1, "poll_interval_s": 3600.0}
"""The store is looked at by `refresh()` only, so that a test decides when."""


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path, 1, 2.0)
    return tmp_path


@pytest.fixture
def runtime(store):
    with Runtime.open(store, **QUIET) as opened:
        yield opened


def test_answers_on_the_device(runtime):
    """The ten lines of the README: a store, a model, an answer with version, place and reason."""
    reply = runtime.model("scale").predict(rows(3), deadline_ms=5000)
    np.testing.assert_array_equal(reply.outputs["y"], rows(3) * 2)
    assert (reply.version, reply.place, reply.reason) == (1, "device:cpu", "local")
    assert 0 < reply.latency_ms < 5000


def test_follows_the_latest_and_keeps_pins(store, runtime):
    """A followed model goes over to a version that is installed later; a pinned one stays."""
    followed, pinned = runtime.model("scale"), runtime.model("scale", version=1)
    publish_scale(store, 2, 3.0)
    runtime.refresh()
    assert followed.predict(rows(1)).version == 2
    assert pinned.predict(rows(1)).version == 1
    assert {key[:2] for key in runtime._versions.keys} == {("scale", 1), ("scale", 2)}


def test_old_version_leaves_memory(store, runtime):
    """A version that nobody uses any more is unloaded."""
    model = runtime.model("scale")
    publish_scale(store, 2, 3.0)
    runtime.refresh()
    assert {key[:2] for key in runtime._versions.keys} == {("scale", 2)}
    assert model.predict(rows(1)).version == 2


def test_rollback_by_removing_the_latest(store, runtime):
    """When the latest version is taken away, the one before it answers."""
    publish_scale(store, 2, 3.0)
    model = runtime.model("scale")
    assert model.predict(rows(1)).version == 2
    shutil.rmtree(store / "scale" / "2")
    runtime.refresh()
    assert model.predict(rows(1)).version == 1


def test_label_is_followed(store, runtime):
    """A labelled model answers with the version that the label points to, and moves with it."""
    publish_scale(store, 2, 3.0)
    runtime._store.label("scale", "stable", 1)
    model = runtime.model("scale", label="stable")
    assert model.predict(rows(1)).version == 1
    runtime._store.label("scale", "stable", 2)
    runtime.refresh()
    assert model.predict(rows(1)).version == 2


def test_switch_under_traffic_loses_nothing(store):
    """While threads predict, a new version takes over: every answer is one version's, whole, and none is missing."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        stop, wrong, seen = threading.Event(), [], set()

        def ask(start):
            while not stop.is_set():
                x = rows(1, start)
                reply = model.predict(x)
                seen.add(reply.version)
                if not np.array_equal(reply.outputs["y"], x * {1: 2, 2: 3, 3: 4}[reply.version]):
                    wrong.append(reply)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for version in (2, 3):
            publish_scale(store, version, version + 1.0)
            runtime.refresh()
        while 3 not in seen:
            assert all(thread.is_alive() for thread in threads)
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_damaged_latest_is_passed_over_when_followed_and_refused_when_pinned(store, runtime, caplog):
    """A damaged new version never replaces a good one, the log says so once, and asking for it is an error."""
    model = runtime.model("scale")
    publish_scale(store, 2, 3.0, content=b"no model")
    runtime.refresh()
    runtime.refresh()
    assert model.predict(rows(1)).version == 1
    assert sum("passed over" in record.message for record in caplog.records) == 1
    with pytest.raises(Exception, match=r"float32\.tflite") as caught:
        runtime.model("scale", version=2)
    assert type(caught.value).__name__ == "EngineFailed"


def test_altered_package_is_refused(store, runtime):
    """A package whose bytes were changed is refused with a named error."""
    file = next((store / "scale" / "1" / "variants").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(PackageRefused, match="bytes, the manifest says"):
        runtime.model("scale", version=1)


def test_variant_can_be_named(store):
    """A variant that the user names runs instead of the chosen one; one that the package lacks is refused."""
    with Runtime.open(store, variant="float32", **QUIET) as runtime:
        assert runtime.model("scale").predict(rows(1)).version == 1
    with (
        Runtime.open(store, variant="int8", **QUIET) as runtime,
        pytest.raises(PackageRefused, match="variant 'int8' was asked for, which the package lacks; there are float32"),
    ):
        runtime.model("scale")


def test_unknown_version_without_fallback(runtime):
    """Without a server an unknown version or model is an error at once, with what is installed."""
    with pytest.raises(VersionNotAvailable, match=r"version 7 is not available. Installed: 1\. Servers asked: none"):
        runtime.model("scale", version=7)
    with pytest.raises(VersionNotAvailable, match=r"'other': latest version .* Installed: none"):
        runtime.model("other")


@pytest.mark.parametrize("pins", [{"version": 1, "label": "x"}, {"version": 0}, {"version": -3}])
def test_impossible_pins_are_refused(runtime, pins):
    """A version and a label together, or a version below 1, is refused."""
    with pytest.raises(InvalidConfig):
        runtime.model("scale", **pins)


@pytest.mark.parametrize("deadline_ms", [0, -1, float("nan"), float("inf")])
def test_impossible_deadlines_are_refused(runtime, deadline_ms):
    """A deadline that is no positive time is refused with its value."""
    with pytest.raises(InvalidInput, match="deadline_ms must be above 0"):
        runtime.model("scale").predict(rows(1), deadline_ms=deadline_ms)


def test_unknown_signature(runtime):
    """An unknown signature is refused, and the known ones are named."""
    with pytest.raises(InvalidInput, match=r"'train' is unknown; there are \['serving_default'\]"):
        runtime.model("scale").predict(rows(1), signature="train")


def test_missing_version_is_answered_by_the_server_as_that_version(store):
    """A version that only the server has is answered there, as that version, and the reply says so."""
    with scale_server({1: 2.0, 2: 3.0}) as server, Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        reply = runtime.model("scale", version=2).predict(rows(2), deadline_ms=5000)
        assert (reply.version, reply.place, reply.reason) == (2, f"server:{server.address}", "version-missing")
        np.testing.assert_array_equal(reply.outputs["y"], rows(2) * 3)
        with pytest.raises(VersionNotAvailable, match="Servable not found"):
            runtime.model("scale", version=9).predict(rows(1), deadline_ms=5000)
        with pytest.raises(InvalidInput, match=r"scale/2.*'x' must be float32\[-1, 4\]"):
            runtime.model("scale", version=2).predict(rows(1).astype(np.int32))


def test_version_installed_later_comes_home(store):
    """A version that the server answered is answered on the device once it is installed."""
    with scale_server({2: 3.0}) as server, Runtime.open(store, fallback=[server.address], **QUIET) as runtime:
        model = runtime.model("scale", version=2)
        assert model.predict(rows(1)).place.startswith("server:")
        publish_scale(store, 2, 3.0)
        runtime.refresh()
        assert model.predict(rows(1)).place == "device:cpu"


def test_dead_server_is_an_error_within_the_deadline(store):
    """With the server gone a missing version is a named error in time, and the device answers its own."""
    with scale_server({2: 3.0}) as gone:
        pass
    with Runtime.open(store, fallback=gone.address, **QUIET) as runtime:
        with pytest.raises((VersionNotAvailable, DeadlineExceeded), match=gone.address):
            runtime.model("scale", version=2).predict(rows(1), deadline_ms=2000)
        assert runtime.model("scale").predict(rows(1)).version == 1


def test_hanging_server_is_an_error_within_the_deadline(store):
    """A server that never answers costs the deadline and no more."""
    with scale_server({2: 3.0}) as server, Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        model = runtime.model("scale", version=2)
        model.predict(rows(1))
        server.hold.clear()
        with pytest.raises(DeadlineExceeded, match="within 200"):
            model.predict(rows(1), deadline_ms=200)


def test_predict_async(store):
    """Many awaited requests are each answered with their own rows."""

    async def ask(model):
        return await asyncio.gather(*(model.predict_async(rows(1, i), deadline_ms=20_000) for i in range(200)))

    with Runtime.open(store, **QUIET) as runtime:
        replies = asyncio.run(ask(runtime.model("scale")))
    for i, reply in enumerate(replies):
        np.testing.assert_array_equal(reply.outputs["y"], rows(1, i) * 2)


def test_predict_async_by_the_server(store):
    """A version that only the server has can be awaited too."""
    with scale_server({2: 3.0}) as server, Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        model = runtime.model("scale", version=2)
        reply = asyncio.run(model.predict_async(rows(1), deadline_ms=5000))
        assert (reply.version, reply.reason) == (2, "version-missing")


def test_predict_many_keeps_order_and_reads_lazily(store):
    """Many requests come back in order, and no more of them are read ahead than are under way."""
    read = []

    def source():
        for i in range(500):
            read.append(i)
            yield rows(1, i)

    with Runtime.open(store, max_queued_requests=16, **QUIET) as runtime:
        replies = runtime.model("scale").predict_many(source())
        np.testing.assert_array_equal(next(replies).outputs["y"], rows(1, 0) * 2)
        assert len(read) <= 65
        for i, reply in enumerate(replies, start=1):
            np.testing.assert_array_equal(reply.outputs["y"], rows(1, i) * 2)
    assert len(read) == 500


def test_labels_and_preprocessing_travel_with_the_version(tmp_path):
    """Labels and preprocessing come out of the package of the version that answers."""
    preprocess = Preprocess(inputs={"x": InputPreprocess(scale=0.5, mean=(1.0,))})
    publish_scale(tmp_path, 1, 2.0, labels=("a", "b", "c", "d"), preprocess=preprocess)
    with Runtime.open(tmp_path, **QUIET) as runtime:
        model = runtime.model("scale")
        assert model.labels == ("a", "b", "c", "d")
        x = model.preprocess(np.full((1, 4), 10, np.uint8))
        assert x.tolist() == [[4.0] * 4]
        assert x.dtype == np.float32
        with pytest.raises(InvalidInput, match=r"one input out of \['x'\], got 'z'"):
            model.preprocess(x, input="z")
        with pytest.raises(InvalidInput, match=r"can't be preprocessed: .* got None"):
            model.preprocess(None)


def test_closed_runtime(store):
    """After close every call is a named error, and closing again does nothing."""
    runtime = Runtime.open(store, **QUIET)
    model = runtime.model("scale")
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeClosed):
        model.predict(rows(1))
    with pytest.raises(RuntimeClosed):
        runtime.model("scale")


def test_watcher_finds_a_new_version(store):
    """Without being told, a followed model goes over to a version that is installed."""
    with Runtime.open(store, threads=1, poll_interval_s=0.01) as runtime:
        model = runtime.model("scale")
        publish_scale(store, 2, 3.0)
        while model.predict(rows(1)).version != 2:
            pass


def test_metrics_are_served_where_the_options_say(store):
    """With `metrics` a runtime can be scraped as long as it is open; an address that is taken is refused."""
    with Runtime.open(store, metrics="127.0.0.1:0", **QUIET) as runtime:
        runtime.model("scale").predict(rows(1))
        address = runtime._metrics.address
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with pytest.raises(InvalidConfig, match=address), Runtime.open(store, metrics=address, **QUIET):
            pass
    assert re.search(r'^edge_requests_total\{.*model="scale".*\} 1', text, re.MULTILINE), text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10)


def test_stats_tell_of_every_version(store):
    """`stats` counts what was answered and what failed, by version, with queue and engines of what is loaded."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        model.predict(rows(1))
        list(model.predict_many([rows(1)] * 5))
        asyncio.run(model.predict_async(rows(2)))
        with pytest.raises(DeadlineExceeded):
            model.predict(rows(1), deadline_ms=1e-6)
        (one,) = runtime.stats().models
    assert (one.model, one.version) == ("scale", 1)
    assert [(each.place, each.reason, each.requests) for each in one.answered] == [("device:cpu", "local", 7)]
    assert one.errors == {"DeadlineExceeded": 1}
    assert one.queue is not None
    assert [each.report.state for each in one.engines] == ["ready"]
