import asyncio
import contextlib
import io

import numpy as np
import pytest
from support.edge_models import publish_scale, rows

from edge_runtime import EdgeRuntimeError, EngineFailed, InvalidInput, Runtime

QUIET = {"threads": 1, "poll_interval_s": 3600.0}


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path, 1, 2.0)
    return tmp_path


def test_priorities(store):
    """Both priorities are answered by every way to ask."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        for priority in ("high", "normal"):
            assert model.predict(rows(1), priority=priority).outputs["y"][0, 1] == 2.0
            assert asyncio.run(model.predict_async(rows(1), priority=priority)).outputs["y"][0, 1] == 2.0
            assert next(model.predict_many([rows(1)], priority=priority)).outputs["y"][0, 1] == 2.0


@pytest.mark.parametrize("priority", ["urgent", 0, None])
def test_unknown_priorities_are_refused(store, priority):
    """A priority that there is not is the caller's error, told by every way to ask."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        with pytest.raises(InvalidInput, match="'high' or 'normal'"):
            model.predict(rows(1), priority=priority)
        with pytest.raises(InvalidInput, match="'high' or 'normal'"):
            asyncio.run(model.predict_async(rows(1), priority=priority))
        with pytest.raises(InvalidInput, match="'high' or 'normal'"):
            model.predict_many([rows(1)], priority=priority)


def by_predict(model, inputs, **asked):
    model.predict(inputs, **asked)


def by_predict_async(model, inputs, **asked):
    asyncio.run(model.predict_async(inputs, **asked))


def by_predict_many(model, inputs, **asked):
    list(model.predict_many([inputs], **asked))


def by_stream(model, inputs, **asked):
    with model.stream() as stream:
        stream.predict(inputs, **asked)


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": "urgent"},
        {"policy": "nowhere"},
        {"unsure": 7},
        {"signature": "none"},
        {"deadline_ms": -1},
        {"inputs": np.ones((1, 1), np.int8)},
    ],
)
@pytest.mark.parametrize("way", [by_predict, by_predict_async, by_predict_many, by_stream])
def test_whatever_a_request_is_refused_for_is_counted(store, way, wrong):
    """Once, as a request that failed."""
    asked = {"inputs": rows(1), **wrong}
    if way is by_stream and not wrong.keys() <= {"inputs", "deadline_ms"}:
        pytest.skip("a stream takes no such thing")
    if way is by_predict_many and "deadline_ms" in wrong:
        pytest.skip("offline work has no deadline")
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        with pytest.raises(InvalidInput):
            way(model, **asked)
        (counted,) = runtime.stats().models
        assert counted.errors == {"InvalidInput": 1}


@pytest.mark.parametrize("known", [True, False])
def test_progress_is_shown(store, known):
    """A progress bar counts the answers, with the total where the requests have a length."""
    series = [rows(1, i) for i in range(30)]
    shown = io.StringIO()
    with Runtime.open(store, **QUIET) as runtime, contextlib.redirect_stderr(shown):
        replies = list(runtime.model("scale").predict_many(series if known else iter(series), progress=True))
    assert [float(reply.outputs["y"][0, 0]) for reply in replies] == [2.0 * i for i in range(30)]
    assert "scale" in shown.getvalue()
    assert ("30/30" in shown.getvalue()) is known


@pytest.mark.parametrize("row_s", [1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 200])
def test_many_in_order_however_they_are_run(store, row_s, count, monkeypatch):
    """In the caller's thread, in bulks or one by one: the answers are the same, in order, for any number."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        monkeypatch.setattr(type(model.target.router), "bulk_row_s", row_s)
        values = [float(reply.outputs["y"][0, 0]) for reply in model.predict_many(rows(1, i) for i in range(count))]
    assert values == [2.0 * i for i in range(count)]


def test_many_of_any_shape(store):
    """Requests of several rows are answered beside those of one, each with its own rows."""
    series = [rows(1 + i % 5, i) for i in range(60)]
    with Runtime.open(store, batch_sizes=[1, 2, 4], **QUIET) as runtime:
        for x, reply in zip(series, runtime.model("scale").predict_many(series), strict=True):
            np.testing.assert_array_equal(reply.outputs["y"], x * 2)


def failing_once(engine):
    """The engine's next run of several rows fails; a list that has something in it from then on."""
    original, failed = engine.run, []

    def run(signature, inputs, limit_s=None):
        if not failed and len(inputs["x"]) > 1:
            failed.append(True)
            raise EngineFailed("once")
        return original(signature, inputs, limit_s)

    engine.run = run
    return failed


@pytest.mark.parametrize("priority", ["high", "normal"])
def test_what_many_asks_again_keeps_its_priority(store, priority, monkeypatch):
    """A request of a series that failed with others is asked again with the priority of the series."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        seen, original = [], model.target.router.infer
        monkeypatch.setattr(model.target.router, "infer", lambda one: (seen.append(one.priority), original(one))[1])
        failing_once(model.target.router._device.slots[0].engine)
        assert len(list(model.predict_many((rows(1, i) for i in range(40)), priority=priority))) == 40
    assert set(seen) == {0 if priority == "high" else 1}


def test_many_asks_again_for_what_failed_with_others(store):
    """A run that fails costs its requests a second one, not an error."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        (slot, *_) = model.target.router._device.slots
        failed = failing_once(slot.engine)
        values = [float(reply.outputs["y"][0, 0]) for reply in model.predict_many(rows(1, i) for i in range(40))]
    assert failed
    assert values == [2.0 * i for i in range(40)]


def test_many_that_is_abandoned_frees_its_requests(store):
    """Whoever stops listening leaves nothing behind in the queue."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        replies = model.predict_many(rows(1, i) for i in range(1000))
        next(replies)
        replies.close()
        while model.target.router._device.load.queued_requests:
            pass
        assert model.predict(rows(1)).outputs["y"][0, 1] == 2.0


def _outcome(ask):
    try:
        return ask()
    except EdgeRuntimeError as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("version", "value", "kind"),
    [(9, rows(1), "VersionNotAvailable"), (1, np.zeros((1, 99), np.float32), "InvalidInput")],
)
def test_what_fails_before_it_goes_anywhere_is_counted(store, version, value, kind):
    """A version whose signatures no server tells, and inputs that don't fit: once each, by every way to ask."""
    with Runtime.open(store, fallback=["127.0.0.1:1"], **QUIET) as runtime:
        model = runtime.model("scale", version=version)
        asked = (
            lambda: model.predict(value),
            lambda: asyncio.run(model.predict_async(value)),
            lambda: list(model.predict_many([value])),
        )
        assert [_outcome(ask) for ask in asked] == [kind] * 3
        counted = {(one.model, one.version): one.errors for one in runtime.stats().models}
        assert counted["scale", version] == {kind: 3}
