"""Requests and replies to and from the wire's messages."""

from __future__ import annotations

from typing import Any

from converter.artifact import VARIABLE, Signature, TensorSpec
from edge_runtime.types import InferRequest, Reply
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import SIGNATURE_DEF_FIELD
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2


def predict_request(request: InferRequest) -> pb.PredictRequest:
    """The Predict message: tensors as `tensor_content`."""
    return pb.PredictRequest(
        model_spec=_spec(request.model, request.version, request.label, request.signature),
        inputs={name: tensors.encode(array) for name, array in request.inputs.items()},
    )


def metadata_request(model: str, version: int | None, label: str | None) -> pb.GetModelMetadataRequest:
    """Asks for the signatures."""
    return pb.GetModelMetadataRequest(model_spec=_spec(model, version, label, ""), metadata_field=[SIGNATURE_DEF_FIELD])


def reply(request: InferRequest, response: pb.PredictResponse, address: str, now_s: float) -> Reply:
    """The reply that a response stands for.

    Raises:
        ValueError: the server answered as another version than was asked for, or sent tensors that can't be read.
    """
    version = response.model_spec.version.value
    if request.version is not None and version != request.version:
        raise ValueError(f"asked for version {request.version}, the server answered as version {version}")
    return Reply(
        outputs={name: tensors.decode(proto) for name, proto in response.outputs.items()},
        version=version,
        place=f"server:{address}",
        reason=request.reason,
        latency_ms=(now_s - request.start_s) * 1e3,
    )


def signatures(response: pb.GetModelMetadataResponse) -> dict[str, Signature]:
    """The signatures by name, inputs and outputs in their names' order; those without inputs are left out.

    Raises:
        ValueError: the metadata can't be read.
    """
    map_ = tensor_pb2.SignatureDefMap()
    map_.ParseFromString(response.metadata[SIGNATURE_DEF_FIELD].value)
    return {
        name: _signature(name, definition)
        for name, definition in map_.signature_def.items()
        if definition.inputs and definition.outputs
    }


def _spec(model: str, version: int | None, label: str | None, signature: str) -> pb.ModelSpec:
    spec = pb.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    elif label is not None:
        spec.version_label = label
    return spec


def _signature(name: str, definition: tensor_pb2.SignatureDef) -> Signature:
    inputs = tuple(_tensor(key, info) for key, info in sorted(definition.inputs.items()))
    outputs = tuple(_tensor(key, info) for key, info in sorted(definition.outputs.items()))
    batched = all(spec.shape and spec.shape[0] == VARIABLE for spec in (*inputs, *outputs))
    return Signature(name=name, inputs=inputs, outputs=outputs, batch_axis=0 if batched else None)


def _tensor(name: str, info: Any) -> TensorSpec:
    shape = tuple(max(int(dim.size), VARIABLE) for dim in info.tensor_shape.dim)
    return TensorSpec(name=name, dtype=tensors.dtype_name(info.dtype), shape=shape)
