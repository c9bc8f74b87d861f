"""TensorFlow Serving's messages to and from what the data plane takes and gives."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from fallback_server.core.errors import InvalidInput
from fallback_server.core.servable import ServableId, ServableState
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, PredictReply
from fallback_server.protocol.methods import SIGNATURE_DEF_FIELD, SIGNATURE_DEF_TYPE_URL
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import TensorCodecError, decode, encode

_LOAD_FAILED_CODE = int(grpc.StatusCode.INTERNAL.value[0])


def read_target(request: pb.PredictRequest | pb.GetModelMetadataRequest | pb.GetModelStatusRequest) -> ModelTarget:
    """Which version a request means.

    Raises:
        InvalidInput: it has no model spec.
    """
    if not request.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec")
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return ModelTarget(
        name=spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def read_predict(request: pb.PredictRequest, *, deadline_s: float | None, max_tensor_bytes: int) -> PredictCall:
    """A PredictRequest as a call.

    Raises:
        InvalidInput: no model spec, or a tensor that can't be read.
    """
    inputs = {}
    target = read_target(request)
    for name, tensor in request.inputs.items():
        try:
            inputs[name] = decode(tensor, max_bytes=max_tensor_bytes)
        except TensorCodecError as error:
            raise InvalidInput(f"tensor parsing error: {name}: {error}") from error
    return PredictCall(
        target=target,
        signature=request.model_spec.signature_name,
        inputs=inputs,
        output_filter=list(request.output_filter),
        deadline_s=deadline_s,
    )


def write_predict(reply: PredictReply) -> pb.PredictResponse:
    """A reply as a PredictResponse; its model spec says which version and signature answered."""
    response = pb.PredictResponse(outputs={name: encode(array) for name, array in reply.outputs.items()})
    _write_spec(response.model_spec, reply.servable_id)
    response.model_spec.signature_name = reply.signature
    return response


def check_metadata_fields(fields: Iterable[str]) -> None:
    """Only the signatures can be asked for, and something must be.

    Raises:
        InvalidInput: anything else.
    """
    names = list(fields)
    if not names:
        raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
    for name in names:
        if name != SIGNATURE_DEF_FIELD:
            raise InvalidInput(f"Metadata field {name} is not supported")


def write_metadata(servable_id: ServableId, signature_defs: bytes) -> pb.GetModelMetadataResponse:
    """The signatures, packed under the name that TensorFlow Serving's clients unpack."""
    response = pb.GetModelMetadataResponse()
    _write_spec(response.model_spec, servable_id)
    packed = response.metadata[SIGNATURE_DEF_FIELD]
    packed.type_url = SIGNATURE_DEF_TYPE_URL
    packed.value = signature_defs
    return response


def write_states(states: Iterable[ServableState]) -> pb.GetModelStatusResponse:
    """The states of a model's versions. A version's error is in its status."""
    response = pb.GetModelStatusResponse()
    for state in states:
        status = pb.StatusProto()
        if state.error is not None:
            status = pb.StatusProto(error_code=_LOAD_FAILED_CODE, error_message=state.error)
        response.model_version_status.add(
            version=state.servable_id.version,
            state=pb.ModelVersionStatus.State.Value(state.state.name),
            status=status,
        )
    return response


def _write_spec(spec: pb.ModelSpec, servable_id: ServableId) -> None:
    spec.name = servable_id.name
    spec.version.value = servable_id.version
