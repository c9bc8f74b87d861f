import asyncio

import numpy as np
import pytest
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server
from support.forks import forked

from edge_runtime import InvalidInput, Runtime, ServerFailed, VersionNotAvailable
from edge_runtime.config import ModelOptions

QUIET = {"threads": 1, "poll_interval_s": 3600.0}
X = rows(1)

WAYS = {
    "predict": lambda model, **asked: model.predict(X, **asked),
    "predict_async": lambda model, **asked: asyncio.run(model.predict_async(X, **asked)),
    "predict_many": lambda model, **asked: list(model.predict_many([X] * 3, **asked))[-1],
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def ask(request):
    return request.param


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path, 1, 2.0)
    return tmp_path


@pytest.fixture(scope="module")
def server():
    with scale_server({1: 20.0}) as running:
        yield running


def test_of_a_request(store, server, ask):
    """By every way to ask, a request's policy wins over the runtime's; the factor tells who answered."""
    with Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        model = runtime.model("scale")
        for policy, factor, reason in [
            (None, 2, "local"),
            ("only_server", 20, "policy"),
            ("only_device", 2, "local"),
            ("prefer_server", 20, "policy"),
            ("prefer_device", 2, "local"),
        ]:
            reply = ask(model, policy=policy)
            np.testing.assert_array_equal(reply.outputs["y"], X * factor)
            assert reply.reason == reason
            assert [(one.place, one.outcome) for one in reply.tried] == [(reply.place, "answered")]


def test_of_a_model_and_of_the_runtime(store, server):
    """A model's policy wins over the runtime's, and a request's over both."""
    publish_scale(store, 1, 2.0, model="other")
    options = {"policy": "only_server", "models": {"scale": ModelOptions(policy="only_device")}}
    with Runtime.open(store, fallback=server.address, **options, **QUIET) as runtime:
        assert runtime.model("scale").predict(X).reason == "local"
        assert runtime.model("scale").predict(X, policy="prefer_server").reason == "policy"
        with pytest.raises(ServerFailed):
            runtime.model("other").predict(X)
        assert runtime.model("other").predict(X, policy="prefer_device").reason == "local"


def test_unknown_ones_are_refused(store, ask):
    """A policy that there is not is the caller's error."""
    with Runtime.open(store, **QUIET) as runtime, pytest.raises(InvalidInput, match="'only_server', got 'cloud'"):
        ask(runtime.model("scale"), policy="cloud")


def test_only_device_of_a_version_that_servers_have(store, server, ask):
    """Nobody is asked what its inputs are, and the error says what keeps it here."""
    said = r"Installed: 1\. Servers asked: none\. Its policy keeps it"
    with (
        Runtime.open(store, fallback=server.address, **QUIET) as runtime,
        pytest.raises(VersionNotAvailable, match=said),
    ):
        ask(runtime.model("scale", version=3), policy="only_device")


def test_server_that_is_gone(store, ask, unused_address):
    """`prefer_server` goes on on the device and says that there was no server; `only_server` fails and says who."""
    with Runtime.open(store, fallback=unused_address, **QUIET) as runtime:
        model = runtime.model("scale")
        assert {ask(model, policy="prefer_server").reason for _ in range(5)} <= {"server-failed", "no-server"}
        with pytest.raises(ServerFailed, match=unused_address):
            ask(model, policy="only_server", **({} if ask is WAYS["predict_many"] else {"deadline_ms": 20_000}))


@pytest.fixture
def unused_address():
    with scale_server({1: 1.0}) as server:
        return server.address


def test_a_forked_process_is_told_so_and_asks_no_server(store, server):
    """The connections are the other process's: neither a request nor a question for signatures goes over them."""
    with Runtime.open(store, fallback=server.address, **QUIET) as runtime:
        here, there = runtime.model("scale"), runtime.model("scale", version=7)
        here.predict(X, policy="only_server")
        said = "was opened in another process"
        assert said in forked(lambda: here.predict(X, policy="only_server", deadline_ms=5000).place)
        assert forked(lambda: here.predict(X, deadline_ms=5000).place) == "device:cpu"
        assert said in forked(lambda: there.predict(X, deadline_ms=5000).place)


@pytest.mark.parametrize("unsure", [[1], {}, object(), True, 2, "maybe"])
def test_what_unsure_is_not(store, unsure):
    """Anything but `on`, `off` and a threshold is refused by its value."""
    with Runtime.open(store, **QUIET) as runtime, pytest.raises(InvalidInput, match="unsure must be"):
        runtime.model("scale").predict(X, unsure=unsure)
