"""What a server answers is held against what the installed package says of its outputs."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from support.edge_cascades import publish_cascade
from support.edge_models import publish_scale, rows
from support.far_servers import row_request
from support.model_servers import serving

from converter.artifact import TensorSpec
from edge_runtime import Runtime, ServerFailed
from edge_runtime.remote import codec
from edge_runtime.remote.faults import Unfit
from edge_runtime.types import InferRequest
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb

Y = TensorSpec(name="y", dtype="float32", shape=(-1, 4))
TEXT = TensorSpec(name="y", dtype="string", shape=(-1,))
QUIET = {"threads": 1, "poll_interval_s": 3600.0}

WRONG = {
    "name": lambda x: {"z": x},
    "shape": lambda x: {"y": np.ones((len(x), 7), np.float32)},
    "rank": lambda x: {"y": x[..., np.newaxis]},
    "dtype": lambda x: {"y": x.astype(np.int64)},
    "strings": lambda x: {"y": np.full(x.shape, b"a", object)},
}


def response(outputs, version=1):
    message = pb.PredictResponse(outputs={name: tensors.encode(array) for name, array in outputs.items()})
    message.model_spec.version.value = version
    return message


def read(outputs, *promised, count=2, batched=True, version=1):
    request = InferRequest(
        model="scale",
        version=1,
        signature="s",
        inputs={"x": rows(count)},
        rows=count,
        start_s=0.0,
        batched=batched,
        promised=promised,
    )
    return codec.reply(request, response(outputs, version), "s:1", 0.0).outputs


def server(outputs, version=1):
    """A server that answers every `x` with what the function makes of it."""
    return serving({PREDICT: lambda request: response(outputs(tensors.decode(request.inputs["x"])), version)})


@pytest.mark.parametrize("outputs", WRONG.values(), ids=WRONG)
def test_other_outputs_than_promised_are_no_answer(outputs):
    """A name, dtype, rank or size that the package's signature doesn't have."""
    with pytest.raises(Unfit, match="installed package"):
        read(outputs(rows(2)), Y)


def test_an_answer_must_say_its_version():
    """TensorFlow Serving's always do; what one without is of nobody knows."""
    answer = response({"y": rows(2)})
    answer.model_spec.ClearField("version")
    request = row_request(count=2)
    with pytest.raises(Unfit, match="asked for version 1, the server doesn't say as which version it answered"):
        codec.reply(request, answer, "s:1", 0.0)
    assert codec.reply(replace(request, version=None), answer, "s:1", 0.0).version == 0


def test_outputs_that_are_promised_are_handed_over_alone():
    """What the package doesn't have nobody has asked for."""
    assert set(read({"y": rows(2), "more": np.float32(1)}, Y)) == {"y"}


@pytest.mark.parametrize(
    ("spec", "outputs", "batched"),
    [
        (TensorSpec(name="y", dtype="float32", shape=(1, 4)), {"y": rows(2)}, True),
        (TensorSpec(name="y", dtype="float32", shape=()), {"y": rows(2)}, False),
        (TEXT, {"y": np.array([b"a", b"bc"], object)}, True),
    ],
    ids=["joined rows of a file that takes one", "a shape that is found out in the run", "strings"],
)
def test_what_a_spec_leaves_open_is_let_pass(spec, outputs, batched):
    """The rows are those that were asked for; a file's spec may know of one row, or of no shape at all."""
    assert read(outputs, spec, batched=batched)["y"].shape == outputs["y"].shape


@pytest.mark.parametrize("policy", ["prefer_server", "only_server"])
@pytest.mark.parametrize("outputs", WRONG.values(), ids=WRONG)
def test_an_unfit_answer_is_that_servers_fault(tmp_path, outputs, policy):
    """The device answers, or the error says which server gave what."""
    publish_scale(tmp_path, 1, 2.0)
    with server(outputs) as address, Runtime.open(tmp_path, fallback=address, **QUIET) as runtime:
        model = runtime.model("scale")
        if policy == "only_server":
            with pytest.raises(ServerFailed, match=f"{address}: unfit answer: .*installed package"):
                model.predict(rows(1), policy=policy)
            return
        reply = model.predict(rows(1), policy=policy)
    np.testing.assert_array_equal(reply.outputs["y"], rows(1) * 2)
    assert (reply.place, reply.reason) == ("device:cpu", "server-failed")
    assert reply.tried[0].place == f"server:{address}"
    assert "unfit answer" in reply.tried[0].outcome


def test_the_next_server_is_asked(tmp_path):
    """Where one answers otherwise another may do better."""
    publish_scale(tmp_path, 1, 2.0)
    with (
        server(WRONG["shape"]) as bad,
        server(lambda x: {"y": x * 3}) as good,
        Runtime.open(tmp_path, fallback=[bad, good], policy="only_server", **QUIET) as runtime,
    ):
        model = runtime.model("scale")
        for _ in range(10):
            np.testing.assert_array_equal(model.predict(rows(1)).outputs["y"], rows(1) * 3)


@pytest.mark.parametrize(
    "outputs", [*WRONG.values(), lambda x: {"y": np.full(x.shape, np.nan, np.float32)}], ids=[*WRONG, "no numbers"]
)
@pytest.mark.parametrize("count", [1, 3])
def test_an_unfit_answer_is_not_preferred_to_an_unsure_one(tmp_path, outputs, count):
    """The device's stands: also where all rows were sent, and nothing has to be put together."""
    publish_cascade(tmp_path)
    unsure = np.full((count, 4), 0.25, np.float32)
    with server(outputs) as address, Runtime.open(tmp_path, fallback=address, cascade="on", **QUIET) as runtime:
        reply = runtime.model("scale").predict(unsure)
    np.testing.assert_array_equal(reply.outputs["y"], unsure)
    assert reply.reason == "local"
    assert [one.outcome.split(":")[0] for one in reply.tried] == ["unsure", "failed", "answered"]
