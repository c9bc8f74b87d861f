"""Unsure answers, from what an application asks to a server's real gRPC and back."""

import asyncio

import numpy as np
import pytest
from support.edge_cascades import publish_cascade
from support.edge_models import publish_scale
from support.edge_servers import scale_server

from edge_runtime import InvalidInput, ModelOptions, Runtime

QUIET = {"threads": 1, "poll_interval_s": 3600.0}
FACTOR = 3.0
"""What the server's model makes of a row; the device's leaves it as it is."""

SURE, UNSURE = [0.9, 0.1, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1]


def x(*rows):
    return np.array(rows, np.float32)


@pytest.fixture
def store(tmp_path):
    publish_cascade(tmp_path)
    return tmp_path


def ask(model, rows, way, **more):
    if way == "predict":
        return model.predict(rows, **more)
    if way == "predict_async":
        return asyncio.run(model.predict_async(rows, **more))
    return next(model.predict_many([rows], **more))


WAYS = pytest.mark.parametrize("way", ["predict", "predict_async", "predict_many"])


@WAYS
def test_unsure_answers_are_asked_for_again(store, way):
    """By every way to ask, where the runtime has the cascade on; sure ones stay."""
    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, cascade="on", **QUIET) as r:
        model = r.model("scale")
        kept, sent = ask(model, x(SURE), way), ask(model, x(UNSURE), way)
        assert (kept.place, kept.reason) == ("device:cpu", "local")
        assert (sent.place, sent.reason) == (f"server:{server.address}", "unsure")
        np.testing.assert_array_equal(sent.outputs["y"], x(UNSURE) * np.float32(FACTOR))
        assert [one.outcome for one in sent.tried] == ["unsure", "answered"]
        assert server.asked == [(1, 1)]


@WAYS
def test_a_request_can_say_so_itself(store, way):
    """`unsure=` wins over the runtime's option, both ways, and takes a threshold of its own."""
    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        model = runtime.model("scale")
        given = [None, "off", 0.3, "on", 0.95]
        reasons = [ask(model, x(UNSURE), way, unsure=unsure).reason for unsure in given]
        assert reasons == ["local", "local", "local", "unsure", "unsure"]
        assert ask(model, x(SURE), way, unsure=0.95).reason == "unsure"


@WAYS
@pytest.mark.parametrize("unsure", ["maybe", 1.5, -0.1, True, float("nan")])
def test_what_says_nothing_is_refused(store, way, unsure):
    """It is the caller's error, told by every way to ask, also where no server is."""
    with Runtime.open(store, **QUIET) as runtime, pytest.raises(InvalidInput, match="unsure must be 'on', 'off' or a"):
        ask(runtime.model("scale"), x(UNSURE), way, unsure=unsure)


def test_a_model_can_have_its_own(store):
    """An option of the model's wins over the runtime's."""
    options = {"cascade": "on", "models": {"scale": ModelOptions(cascade="off")}}
    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, **options, **QUIET) as r:
        assert r.model("scale").predict(x(UNSURE)).reason == "local"


def test_of_a_batch_the_unsure_rows_go(store):
    """One call has them, and they come back where they were."""
    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, cascade="on", **QUIET) as r:
        rows = x(SURE, UNSURE, SURE, UNSURE, UNSURE)
        reply = r.model("scale").predict(rows)
        factors = np.array([1, FACTOR, 1, FACTOR, FACTOR], np.float32)
        np.testing.assert_array_equal(reply.outputs["y"], rows * factors[:, np.newaxis])
        assert server.asked == [(1, 3)]


def test_many_unsure_answers_come_in_order(store):
    """A series' answers are the device's and the server's, each in its place."""
    rows = [x(UNSURE if i % 3 else SURE) + np.float32(i * 1e-4) for i in range(60)]
    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, cascade="on", **QUIET) as r:
        for i, (row, reply) in enumerate(zip(rows, r.model("scale").predict_many(rows), strict=True)):
            np.testing.assert_array_equal(reply.outputs["y"], row * np.float32(FACTOR if i % 3 else 1))
            assert reply.reason == ("unsure" if i % 3 else "local")


def test_many_unsure_answers_are_asked_for_together(store):
    """While some calls are under way the others of a series wait for each other; and no more are read than may be."""
    read = []

    def rows(server):
        for number in range(120):
            read.append(number)
            if number == 40:
                server.hold.set()
            yield x(UNSURE)

    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, cascade="on", **QUIET) as r:
        model = r.model("scale")
        model.predict(x(UNSURE))
        server.asked.clear()
        server.hold.clear()
        replies = model.predict_many(rows(server))
        assert next(replies).reason == "unsure"
        assert len(read) <= 64
        assert [reply.reason for reply in replies] == ["unsure"] * 119
        assert sum(count for _, count in server.asked) == 120
        assert len(server.asked) <= 60


@pytest.mark.parametrize("way", ["predict", "predict_async"])
def test_without_a_server_in_time_the_devices_answer_comes(store, way):
    """Before the deadline, while the server keeps the request; the reply tells of the doubt."""
    with scale_server({1: FACTOR}) as server, Runtime.open(store, fallback=server.address, cascade="on", **QUIET) as r:
        model = r.model("scale")
        ask(model, x(UNSURE), way)
        server.hold.clear()
        reply = ask(model, x(UNSURE), way, deadline_ms=300.0)
        server.hold.set()
        assert (reply.place, reply.reason) == ("device:cpu", "local")
        np.testing.assert_array_equal(reply.outputs["y"], x(UNSURE))
        assert [one.outcome for one in reply.tried] == ["unsure", "late", "answered"]


def test_an_application_can_give_what_the_package_does_not(tmp_path):
    """A package without a threshold, and one of the application's: the output is the one that can be class scores."""
    publish_scale(tmp_path, 1, 1.0)
    with (
        scale_server({1: FACTOR}) as server,
        Runtime.open(tmp_path, fallback=server.address, cascade=0.8, **QUIET) as r,
    ):
        model = r.model("scale")
        assert [model.predict(x(row)).reason for row in (SURE, UNSURE)] == ["local", "unsure"]
        assert model.predict(x(UNSURE), unsure="on").reason == "local"


def test_without_servers_the_cascade_is_no_matter(store):
    """There is nobody to ask, and nothing fails for it."""
    with Runtime.open(store, cascade="on", **QUIET) as runtime:
        assert runtime.model("scale").predict(x(UNSURE)).tried[0].outcome == "answered"
