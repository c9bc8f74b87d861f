import asyncio
import math
import socket

import grpc
import pytest
from support.grpc_stand import loaded
from support.model_servers import model_statuses, serving

from edge_runtime.remote.bounds import MAX_BYTES, MAX_FIELDS
from edge_runtime.remote.survey import SeenVersion, survey
from fallback_server.protocol.methods import CATALOG_GET, DESCRIBE_PACKAGE, GET_MODEL_METADATA, PREDICT
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

TIMEOUT_S = 10.0


def asked(address, *names):
    return survey(address, names, timeout_s=TIMEOUT_S)


def test_a_server_of_ours_tells_all_that_it_serves(tmp_path):
    """Over the real server: its id, its models with states, labels, default and package, and the way there and back."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            stand.control.labels["stable"] = 1
            stand.control.lacks["m"] = "something is amiss"
            stand.control.changed()
            return await asyncio.to_thread(asked, f"127.0.0.1:{stand.port}")

    seen = asyncio.run(story())
    assert (seen.kind, seen.server_id, seen.said) == ("catalog", "s1", "")
    (version,) = seen.models["m"]
    assert (version.version, version.state, version.labels, version.default) == (1, "AVAILABLE", ("stable",), True)
    assert (version.package, version.preprocessing, version.queued_rows, version.wait_ms) == ("f1", "p1", 0, None)
    assert seen.notes == ("m: something is amiss",)
    assert 0 < seen.round_trip_ms < TIMEOUT_S * 1e3


def test_a_tensorflow_serving_is_asked_for_each_model_by_name():
    """It is told that it doesn't list them, which of those that were asked for it has, and which it hasn't."""
    with serving(model_statuses(digits=(2, 3))) as address:
        seen, unasked = asked(address, "digits", "faces", "digits"), asked(address)
    assert seen.kind == unasked.kind == "tensorflow-serving"
    assert seen.models == {
        "digits": (SeenVersion(version=3, state="AVAILABLE"), SeenVersion(version=2, state="AVAILABLE"))
    }
    assert seen.said == "it does not list its models; it has no faces"
    assert (unasked.models, unasked.said) == ({}, "it does not list its models; name those to ask for with --model")
    assert seen.round_trip_ms > 0


def test_a_server_without_model_states_is_told_as_one_all_the_same():
    """PredictionService is all that requests need: what is known of it is its latest version, or not even that."""

    def metadata(request):
        if request.model_spec.name != "digits":
            return grpc.StatusCode.NOT_FOUND, "no such model"
        return pb.GetModelMetadataResponse(model_spec=pb.ModelSpec(name="digits", version={"value": 7}))

    predict = {PREDICT: lambda _: (grpc.StatusCode.NOT_FOUND, "")}
    with serving({**predict, GET_MODEL_METADATA: metadata}) as address:
        seen = asked(address, "digits", "faces")
    assert (seen.kind, seen.models) == ("tensorflow-serving", {"digits": (SeenVersion(version=7, state="AVAILABLE"),)})
    assert seen.said.endswith("only the latest version is seen; it has no faces")
    with serving(predict) as address:
        bare = asked(address, "digits")
    assert (bare.kind, bare.models) == ("tensorflow-serving", {})
    assert "it answers Predict" in bare.said
    assert min(seen.round_trip_ms, bare.round_trip_ms) > 0


def test_what_speaks_grpc_and_serves_no_models_is_told_as_such():
    """Neither ours nor TensorFlow Serving."""
    with serving({DESCRIBE_PACKAGE: lambda _: (grpc.StatusCode.NOT_FOUND, "")}) as address:
        seen = asked(address)
    assert (seen.kind, seen.models) == ("other", {})
    assert "neither edge.v1 nor TensorFlow Serving" in seen.said


def test_nobody_is_told_with_the_reason():
    """Where nothing listens, where somebody listens who is no gRPC server, and where the answer is a fault."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"127.0.0.1:{listener.getsockname()[1]}"
        seen = survey(silent, (), timeout_s=0.2)
        assert (seen.kind, seen.round_trip_ms) == ("silent", None)
    seen = asked(silent)
    assert (seen.kind, seen.said.startswith("can't be reached")) == ("silent", True)
    with serving({CATALOG_GET: lambda _: (grpc.StatusCode.INTERNAL, "it is ill")}) as address:
        assert asked(address).said == "internal: it is ill"


@pytest.mark.parametrize("state", [30, 77])
def test_states_of_a_later_server_are_numbers(state):
    """Nothing that a server says ends the survey."""
    update = edge.CatalogUpdate(models=[edge.Model(name="m", versions=[edge.Version(version=1, state=state)])])
    with serving({CATALOG_GET: lambda _: update, **model_statuses()}) as address:
        (version,) = asked(address).models["m"]
    assert version.state == {30: "AVAILABLE", 77: "77"}[state]


def test_no_server_is_listened_to_without_end():
    """What is too long, or lists too much, is not read; and figures that are none are not known."""
    odd = edge.CatalogUpdate(
        models=[{"name": "m", "versions": [{"version": 1, "expected_wait_ms": math.nan, "queued_rows": -3}]}]
    )
    many = edge.CatalogUpdate(models=[{"versions": [{}] * (MAX_FIELDS + 1)}])
    for update, said in ((edge.CatalogUpdate(server_id="x" * MAX_BYTES), "larger than max"), (many, "lists more than")):
        with serving({CATALOG_GET: lambda _, update=update: update}) as address:
            seen = asked(address)
        assert (seen.kind, seen.models) == ("silent", {})
        assert said in seen.said
    with serving({CATALOG_GET: lambda _: odd, **model_statuses()}) as address:
        (version,) = asked(address).models["m"]
    assert (version.wait_ms, version.queued_rows) == (None, 0)
