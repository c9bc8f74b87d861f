"""A small real gRPC server of y = factor * x, whose faults the test chooses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from support.edge_models import WIDTH

from fallback_server.protocol import tensors
from fallback_server.protocol.methods import (
    GET_MODEL_METADATA,
    PREDICT,
    SIGNATURE_DEF_FIELD,
    SIGNATURE_DEF_TYPE_URL,
    UNLIMITED_MESSAGES,
)
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2


class ScaleServer:
    """Serves model `scale`; `factors` says which versions there are and what they answer.

    Attributes:
        fail_with: When set, every Predict ends with this status code.
        answer_as: When set, replies claim this version.
        hold: While cleared, Predict waits.
        reached: Set once a Predict has come.
        asked: The (version, rows) of each Predict that came.
        shown: The tokens that came with them.
    """

    def __init__(
        self, factors: dict[int, float], port: int = 0, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.factors = factors
        self.fail_with: grpc.StatusCode | None = None
        self.answer_as: int | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.reached = threading.Event()
        self.asked: list[tuple[int, int]] = []
        self.shown: list[str | bytes | None] = []
        self._server = grpc.server(ThreadPoolExecutor(8), options=[*UNLIMITED_MESSAGES, ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    PREDICT.service,
                    {PREDICT.name: _handler(PREDICT, self._predict), "GetModelMetadata": self._metadata_handler()},
                )
            ]
        )
        if credentials is None:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self.hold.set()
        self._server.stop(0).wait(5)

    def _metadata_handler(self):
        return _handler(GET_MODEL_METADATA, self._metadata)

    def _version(self, spec: pb.ModelSpec, context: grpc.ServicerContext) -> int:
        version = spec.version.value if spec.HasField("version") else max(self.factors, default=0)
        if spec.name != "scale" or version not in self.factors:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific({spec.name}, {version})"
            )
        return version

    def _predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        self.reached.set()
        self.hold.wait(30)
        if self.fail_with is not None:
            context.abort(self.fail_with, "the test wants it so")
        version = self._version(request.model_spec, context)
        x = tensors.decode(request.inputs["x"])
        self.asked.append((version, len(x)))
        self.shown.append(dict(context.invocation_metadata()).get("authorization"))
        response = pb.PredictResponse(outputs={"y": tensors.encode(x * x.dtype.type(self.factors[version]))})
        response.model_spec.name = "scale"
        response.model_spec.version.value = self.answer_as or version
        return response

    def _metadata(self, request: pb.GetModelMetadataRequest, context: grpc.ServicerContext):
        version = self._version(request.model_spec, context)
        shape = tensor_pb2.TensorShapeProto(dim=[{"size": -1}, {"size": WIDTH}])
        info = tensor_pb2.TensorInfo(name="t", dtype=tensor_pb2.DT_FLOAT, tensor_shape=shape)
        map_ = tensor_pb2.SignatureDefMap()
        map_.signature_def["serving_default"].inputs["x"].CopyFrom(info)
        map_.signature_def["serving_default"].outputs["y"].CopyFrom(info)
        response = pb.GetModelMetadataResponse()
        response.model_spec.version.value = version
        response.metadata[SIGNATURE_DEF_FIELD].type_url = SIGNATURE_DEF_TYPE_URL
        response.metadata[SIGNATURE_DEF_FIELD].value = map_.SerializeToString()
        return response


def _handler(method, behaviour):
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=method.request.FromString, response_serializer=method.response.SerializeToString
    )


@contextmanager
def scale_server(factors: dict[int, float], port: int = 0, credentials: grpc.ServerCredentials | None = None):
    """A ScaleServer for the length of a `with`."""
    server = ScaleServer(factors, port, credentials)
    try:
        yield server
    finally:
        server.stop()
