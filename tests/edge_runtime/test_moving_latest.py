"""A server whose latest version, or a label's, takes other inputs than the one before."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from support.model_servers import serving

from edge_runtime import EdgeRuntimeError, InvalidInput, Runtime
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import (
    GET_MODEL_METADATA,
    PREDICT,
    SIGNATURE_DEF_FIELD,
    SIGNATURE_DEF_TYPE_URL,
)
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2

QUIET = {"threads": 1, "poll_interval_s": 3600.0}


class Moving:
    """Serves `m`, whose input `x` has `width` columns and whose only signature has the name `signature`."""

    def __init__(self):
        self.width = 4
        self.signature = "serving_default"
        self.looks = 0

    @property
    def answers(self):
        return {PREDICT: self._predict, GET_MODEL_METADATA: self._metadata}

    def _metadata(self, request):
        self.looks += 1
        shape = tensor_pb2.TensorShapeProto(dim=[{"size": -1}, {"size": self.width}])
        info = tensor_pb2.TensorInfo(name="t", dtype=tensor_pb2.DT_FLOAT, tensor_shape=shape)
        signatures = tensor_pb2.SignatureDefMap()
        signatures.signature_def[self.signature].inputs["x"].CopyFrom(info)
        signatures.signature_def[self.signature].outputs["y"].CopyFrom(info)
        response = pb.GetModelMetadataResponse()
        response.metadata[SIGNATURE_DEF_FIELD].type_url = SIGNATURE_DEF_TYPE_URL
        response.metadata[SIGNATURE_DEF_FIELD].value = signatures.SerializeToString()
        return response

    def _predict(self, request):
        x = tensors.decode(request.inputs["x"])
        if x.shape[1] != self.width or request.model_spec.signature_name != self.signature:
            return grpc.StatusCode.INVALID_ARGUMENT, f"{self.width} columns are wanted"
        response = pb.PredictResponse(outputs={"y": tensors.encode(x * 2)})
        response.model_spec.version.value = self.width
        return response


def predict(model, inputs):
    return model.predict(inputs)


def predict_async(model, inputs):
    return asyncio.run(model.predict_async(inputs))


def predict_many(model, inputs):
    return next(iter(model.predict_many([inputs])))


WAYS = pytest.mark.parametrize("ask", [predict, predict_async, predict_many])


@pytest.fixture
def server():
    return Moving()


@pytest.fixture
def model(server, tmp_path):
    with serving(server.answers) as address, Runtime.open(tmp_path, fallback=address, **QUIET) as runtime:
        yield runtime.model("m")


def columns(width):
    return np.ones((1, width), np.float32)


@WAYS
def test_the_new_inputs_are_taken_at_once(server, model, ask):
    """The first request in the new shape is answered, however new the description of the old one is."""
    assert ask(model, columns(4)).version == 4
    server.width = 6
    assert ask(model, columns(6)).version == 6


@WAYS
def test_a_default_signature_of_another_name_is_found(server, model, ask):
    """What the server refuses, since its default signature has another name now, is asked again under that name."""
    assert ask(model, columns(4)).version == 4
    server.signature = "classify"
    assert ask(model, columns(4)).version == 4


@WAYS
def test_what_does_not_fit_is_refused_still(server, model, ask):
    """After one look that shows nothing new, with the device's words, or the server's where it sees further."""
    ask(model, columns(4))
    before = server.looks
    with pytest.raises(InvalidInput, match=r"'x' must be float32\[-1, 4\]"):
        ask(model, columns(5))
    assert server.looks == before + 1
    server.width = 6
    with pytest.raises(InvalidInput):
        ask(model, columns(4))


def together(count, call):
    """What `call` returns or raises in each of so many threads that begin at once."""
    gate = threading.Barrier(count)

    def one(_):
        gate.wait(30)
        try:
            return call()
        except EdgeRuntimeError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def at_once(model, inputs):
    return together(8, lambda: model.predict(inputs, deadline_ms=30_000))


def at_once_async(model, inputs):
    async def ask():
        calls = (model.predict_async(inputs, deadline_ms=30_000) for _ in range(8))
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [at_once, at_once_async])
def test_the_new_inputs_are_taken_from_all_who_ask_at_once(server, model, ask):
    """And one question is enough for all of them."""
    predict(model, columns(4))
    before = server.looks
    server.width = 6
    assert [getattr(one, "version", one) for one in ask(model, columns(6))] == [6] * 8
    assert server.looks == before + 1


def test_what_does_not_fit_costs_servers_one_question_a_second(server, model):
    """However many requests are refused for it."""
    predict(model, columns(4))
    before = server.looks
    for _ in range(20):
        with pytest.raises(InvalidInput):
            predict(model, columns(5))
    assert server.looks - before < 20
