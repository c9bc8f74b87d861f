"""Requests and replies to and from the wire's messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from converter.artifact import VARIABLE, PackageError, Signature, TensorSpec
from edge_runtime.remote.faults import Unfit
from edge_runtime.remote.writing import LARGE_BYTES, predict_bytes
from edge_runtime.types import Array, Arrays, InferRequest, Reply
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREPROCESSING_METADATA, SIGNATURE_DEF_FIELD
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
"""Protobuf's own bound."""

_BYTES_PER_BYTE = 8
"""An array takes at most so many bytes for one on the wire: an int64 of one digit. Whatever claims more is filled up
from few values, by which a short message could take all memory; no model server sends that."""

_SHOWN = 500
"""Characters of a foreign text that a message repeats."""


def predict_request(request: InferRequest, hurry: Callable[[], None] = lambda: None) -> pb.PredictRequest | bytes:
    """The Predict message, a large one serialized: tensors as `tensor_content`.

    Args:
        request: What is asked.
        hurry: Called while a large message is written; what it raises ends that.

    Raises:
        ValueError: an input has no wire form, or all of them are more than a message holds.
    """
    size = sum(array.nbytes for array in request.inputs.values())
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"the inputs have {size} bytes, a message holds at most {MAX_MESSAGE_BYTES}")
    spec = _spec(request.model, request.version, request.label, request.signature)
    if size >= LARGE_BYTES:
        return predict_bytes(spec, request.inputs, hurry)
    return pb.PredictRequest(
        model_spec=spec,
        inputs={name: tensors.encode(array) for name, array in request.inputs.items()},
    )


def metadata(request: InferRequest) -> tuple[tuple[str, str], ...]:
    """What goes beside the message: by which preprocessing the inputs were made, where that is known."""
    return ((PREPROCESSING_METADATA, request.fingerprint),) if request.fingerprint else ()


def metadata_request(model: str, version: int | None, label: str | None) -> pb.GetModelMetadataRequest:
    """Asks for the signatures."""
    return pb.GetModelMetadataRequest(model_spec=_spec(model, version, label, ""), metadata_field=[SIGNATURE_DEF_FIELD])


def reply(
    request: InferRequest, response: pb.PredictResponse, address: str, now_s: float, *, requests: int = 1
) -> Reply:
    """The reply that a response stands for. Its arrays are the caller's own, and can be written to.

    Args:
        request: What was sent.
        response: What came.
        address: From whom.
        now_s: When.
        requests: How many were joined in it.

    Raises:
        Unfit: the server answered as another version than was asked for, or lacks an output that the installed package
            has, or gives it another dtype or shape; further outputs are left out.
        ValueError: it sent no outputs or tensors that can't be read, or other rows than the request has. Where only
            metadata say that its outputs have rows, one request's outputs may be anything.
    """
    version = response.model_spec.version.value
    if request.version is not None and not response.model_spec.HasField("version"):
        what = "the server doesn't say as which version it answered"
        raise Unfit(f"asked for version {request.version}, {what}: no model_spec.version, which TensorFlow Serving has")
    if request.version is not None and version != request.version:
        raise Unfit(f"asked for version {request.version}, the server answered as version {version}")
    promised = {spec.name: spec for spec in request.promised}
    if missing := sorted(promised.keys() - response.outputs.keys()):
        has = str(sorted(response.outputs))[:_SHOWN]
        raise Unfit(f"it has the outputs {has}, the installed package also {missing}")
    outputs = {
        name: _array(name, proto) for name, proto in response.outputs.items() if not promised or name in promised
    }
    for name, spec in promised.items():
        _check_promise(spec, outputs[name], batched=request.batched)
    _check_rows(request, outputs, requests)
    return Reply(
        outputs=outputs,
        version=version,
        place=f"server:{address}",
        reason=request.reason,
        latency_ms=(now_s - request.start_s) * 1e3,
    )


def signatures(response: pb.GetModelMetadataResponse, version: int | None = None) -> dict[str, Signature]:
    """The signatures by name, inputs and outputs in their names' order; those that can't be used here are left out.

    Args:
        response: What came.
        version: That was asked for; None for the label's, or the latest.

    Raises:
        Unfit: they are another version's.
        ValueError: the metadata can't be read, or no signature in it can be used.
    """
    of = response.model_spec.version.value
    if version is not None and response.model_spec.HasField("version") and of != version:
        raise Unfit(f"asked for the metadata of version {version}, the server gave those of version {of}")
    map_ = tensor_pb2.SignatureDefMap()
    try:
        map_.ParseFromString(response.metadata[SIGNATURE_DEF_FIELD].value)
    except DecodeError as error:
        raise ValueError(f"metadata that is no signature map: {error}") from error
    usable: dict[str, Signature] = {}
    odd: dict[str, str] = {}
    for name, definition in map_.signature_def.items():
        try:
            usable[name] = _signature(name, definition)
        except (ValueError, PackageError) as error:
            odd[name] = str(error)
    if not usable:
        raise ValueError(f"no usable signature in the metadata: {str(odd)[:_SHOWN] if odd else 'there is none at all'}")
    if odd:
        _log.info("signatures that can't be used from here: %s", str(odd)[:_SHOWN])
    return usable


def _array(name: str, proto: tensor_pb2.TensorProto) -> Array:
    try:
        array = tensors.decode(proto, max_bytes=_BYTES_PER_BYTE * proto.ByteSize())
    except tensors.TensorCodecError as error:
        raise ValueError(f"output {name!r}: {error}") from error
    return array if array.flags.writeable else array.copy()


def _check_promise(spec: TensorSpec, array: Array, *, batched: bool) -> None:
    """An output is as the installed package says, whose rows are another's matter.

    A spec without dimensions says nothing of the shape: LiteRT has the same of one that it finds out as it runs.
    """
    shape = array.shape
    if batched and shape:
        shape = (spec.shape[0], *shape[1:])  # Many may have been joined, also of a file that takes one row.
    if array.dtype != spec.numpy_dtype or not (spec.accepts(shape) or not spec.shape):
        came = f"{array.dtype}{list(array.shape)}"
        raise Unfit(f"output {spec.name!r} is {came}, in the installed package {spec} (-1 is any size)")


def _check_rows(request: InferRequest, outputs: Arrays, requests: int) -> None:
    """Outputs have the request's rows: all of them where it is known to be batched, else where they could have."""
    if not outputs:
        raise ValueError("the answer has no output")
    if request.guessed and requests == 1:
        return
    if not request.batched and (request.rows == 1 or not all(array.ndim for array in outputs.values())):
        return
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != request.rows:
            raise ValueError(f"output {name!r} has shape {list(array.shape)}, the request has {request.rows} rows")


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
    if info.tensor_shape.unknown_rank:
        raise ValueError(f"tensor {name!r} has unknown rank")
    shape = tuple(max(int(dim.size), VARIABLE) for dim in info.tensor_shape.dim)
    return TensorSpec(name=name, dtype=tensors.dtype_name(info.dtype), shape=shape)
