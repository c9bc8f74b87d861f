"""Open Inference messages to and from what the data plane takes and gives. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from fallback_server.core.errors import InvalidInput, Unimplemented
from fallback_server.dataplane import PredictCall, PredictReply
from fallback_server.executors.base import Array
from fallback_server.predict_call import Likeness
from fallback_server.protocol import layout, methods
from fallback_server.protocol.layout import NotPlainError
from fallback_server.protocol.open_inference import datatype_of, raw_view, read_contents, read_raw
from fallback_server.protocol.packed import varint
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.protocol.tensors import Buffer, TensorCodecError
from fallback_server.transport.counting import Refused, counted
from fallback_server.transport.large import LARGE_BYTES, assemble, cut_repeated, field_parts
from fallback_server.transport.model_facts import (
    CLIENT_PARAMETER,
    REFUSED_PARAMETERS,
    SIGNATURE_PARAMETER,
    entry_point,
    priority_of,
)
from fallback_server.transport.rpc import parse
from fallback_server.transport.targets import read_target
from fallback_server.transport.templates import (
    MAX_OF_ONE_KEY,
    MAX_WRITTEN_BYTES,
    ReadTemplate,
    ReadTemplates,
    Table,
    WriteTemplate,
    WriteTemplates,
    learn_to_read,
    learn_to_write,
)

TIMEOUT_PARAMETER = "timeout"
"""In microseconds; 0 for none."""

_ID = 3
_ID_TAG = varint(_ID << 3 | 2)
_RAW_INPUTS = 7
_RAW_OUTPUTS = 6
"""Field numbers of ModelInferRequest and ModelInferResponse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferCall:
    """A request.

    Attributes:
        call: What is asked of the data plane.
        id: Given back as it came.
        timeout_s: How long the caller waits by its own word; None where it says nothing.
    """

    call: PredictCall
    id: str
    timeout_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class InferReply:
    """An answer, and the request's id."""

    reply: PredictReply
    id: str


_REQUESTS: ReadTemplates[InferCall] = Table(of_one_key=MAX_OF_ONE_KEY)
_REPLIES: WriteTemplates = Table()
"""What has been learnt, of messages alone: whose they were makes no difference."""


def read_infer(
    data: bytes, refused: Refused | None = None, *, templates: ReadTemplates[InferCall] = _REQUESTS
) -> InferCall:
    """A serialized ModelInferRequest. The arrays of many raw tensors read its bytes in place.

    Args:
        data: The message.
        refused: Is told of what is refused.
        templates: Of messages like it, and where it is learnt.

    Raises:
        InvalidInput: no ModelInferRequest, or a tensor that can't be read.
        Unimplemented: it asks for what this server doesn't do.
    """
    for template in templates.kept.get(len(data), ()):
        inputs = template.arrays(data)
        known = template.rest
        text = b"" if template.text is None else data[template.text.begin : template.text.end]
        if inputs is not None and text.isascii():  # Others may be no text at all.
            call = PredictCall(
                target=known.call.target,
                signature=known.call.signature,
                inputs=inputs,
                output_filter=known.call.output_filter,
                client_key=known.call.client_key,
                entry_point=entry_point,
                priority=known.call.priority,
                like=known.call.like,
            )
            return InferCall(call=call, id=text.decode() if text else known.id, timeout_s=known.timeout_s)
    asked = read_whole_infer(data, refused)
    if len(data) < LARGE_BYTES and templates.wants():
        templates.keep(len(data), learn_infer(data, asked))
    return asked


def learn_infer(data: bytes, asked: InferCall) -> ReadTemplate[InferCall] | None:
    """The template of a ModelInferRequest with raw inputs; None where it has none. Its id may differ.

    Args:
        data: The message.
        asked: What it reads as.
    """
    try:
        found = layout.fields(data)
        raw = layout.values(found, _RAW_INPUTS)
        ids = layout.values(found, _ID)
    except NotPlainError:
        return None
    call = asked.call
    if len(raw) != len(call.inputs):
        return None
    known = PredictCall(
        target=call.target,
        signature=call.signature,
        output_filter=tuple(call.output_filter),
        client_key=call.client_key,
        priority=call.priority,
        like=Likeness(),
    )
    spans = dict(zip(call.inputs, raw, strict=True))
    own = ids[0] if len(ids) == 1 else None
    # Each has its own id, of any size.
    rest = InferCall(call=known, id=asked.id if own is None else "", timeout_s=asked.timeout_s)
    return learn_to_read(data, call.inputs, spans, own, rest)


def read_whole_infer(data: bytes, refused: Refused | None = None) -> InferCall:
    """As `read_infer`, by protobuf."""
    with counted(refused) as reading:
        contents: Mapping[int, Buffer] = {}
        if len(data) >= LARGE_BYTES:
            data, contents = cut_repeated(data, field=_RAW_INPUTS)
        request = parse(methods.MODEL_INFER, data)
        reading.name = request.model_name
        return _read(request, contents)


def _read(request: pb.ModelInferRequest, contents: Mapping[int, Buffer]) -> InferCall:
    parameters = read_parameters(request.parameters)
    for tensor in request.inputs:
        read_parameters(tensor.parameters)
    for output in request.outputs:
        read_parameters(output.parameters)
    call = PredictCall(
        target=read_target(request.model_name, request.model_version),
        signature=_text(parameters, SIGNATURE_PARAMETER),
        inputs=_inputs(request, contents),
        output_filter=[output.name for output in request.outputs],
        client_key=_text(parameters, CLIENT_PARAMETER).encode(),
        entry_point=entry_point,
        priority=priority_of(parameters),
    )
    return InferCall(call=call, id=request.id, timeout_s=_timeout_s(parameters))


def read_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    """Parameters by name. Those that nobody here knows are passed over later, as other servers do.

    Raises:
        Unimplemented: one changes what is asked, and is not supported.
    """
    values: dict[str, object] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(parameter, choice)
        if name in REFUSED_PARAMETERS and values[name]:
            raise Unimplemented(f"parameter {name}: {REFUSED_PARAMETERS[name]} are not supported")
    return values


def repository_parameters(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> dict[str, object]:
    """The parameters of an order to load or unload, by name."""
    chosen = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    return {name: choice and getattr(parameters[name], choice) for name, choice in chosen.items()}


def write_infer(answered: InferReply) -> bytes:
    """A serialized ModelInferResponse with raw outputs.

    Raises:
        InvalidInput: an output's dtype has no form in the protocol.
    """
    return assemble(infer_parts(answered))


def infer_parts(answered: InferReply, *, templates: WriteTemplates = _REPLIES) -> list[Buffer]:
    """As `write_infer`, in pieces that follow each other.

    Args:
        answered: The answer.
        templates: Of answers like it, and where it is learnt.
    """
    reply = answered.reply
    answered_by = reply.servable_id
    key: tuple[Hashable, ...] = (answered_by.name, answered_by.version)
    for name, array in reply.outputs.items():
        key += (name, array.dtype, array.shape)
    for template in templates.kept.get(key, ()):
        return _parts_by(template, answered)
    parts = infer_whole_parts(answered)
    if infer_bytes(answered) <= MAX_WRITTEN_BYTES and templates.wants():
        templates.keep(key, learn_infer_reply(answered))
    return parts


def _parts_by(template: WriteTemplate, answered: InferReply) -> list[Buffer]:
    return template.parts([_id_field(answered.id), *[array.tobytes() for array in answered.reply.outputs.values()]])


def _id_field(text: str) -> bytes:
    """What a ModelInferResponse has of the request's id."""
    if not text:
        return b""
    own = text.encode()
    return b"".join((_ID_TAG, varint(len(own)), own))


def learn_infer_reply(answered: InferReply) -> WriteTemplate | None:
    """The template of a ModelInferResponse; None where it has none. Its id may differ."""
    without = assemble(infer_whole_parts(InferReply(reply=answered.reply, id="")))
    try:
        found = layout.fields(without)
        raw = layout.values(found, _RAW_OUTPUTS)
    except NotPlainError:
        return None
    before = max((field.value.end for field in found if field.number < _ID), default=0)
    template = learn_to_write(without, list(answered.reply.outputs.values()), raw, gap=before)
    if template is None or b"".join(_parts_by(template, answered)) != assemble(infer_whole_parts(answered)):
        return None
    return template


def infer_whole_parts(answered: InferReply) -> list[Buffer]:
    """As `infer_parts`, by protobuf."""
    reply = answered.reply
    response = pb.ModelInferResponse(
        model_name=reply.servable_id.name, model_version=str(reply.servable_id.version), id=answered.id
    )
    # The protocol's place for what has no other: here, that nothing more comes for this request.
    response.parameters["triton_final_response"].bool_param = True
    raw: list[Buffer] = []
    for name, array in reply.outputs.items():
        try:
            response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
            raw += field_parts(_RAW_OUTPUTS, [raw_view(array)])
        except TensorCodecError as error:
            raise InvalidInput(f"output {name!r}: {error}") from error
    return [response.SerializeToString(), *raw]


def infer_bytes(answered: InferReply) -> int:
    """About how many bytes an answer has on the wire."""
    return sum(array.nbytes for array in answered.reply.outputs.values())


def write_stream_infer(answered: InferReply) -> bytes:
    """As `write_infer`, in a ModelStreamInferResponse."""
    return assemble(field_parts(2, infer_parts(answered)))


def write_stream_error(request_id: str, text: str) -> bytes:
    """A ModelStreamInferResponse for a request that failed."""
    response = pb.ModelStreamInferResponse(error_message=text)
    response.infer_response.id = request_id
    return response.SerializeToString()


def _inputs(request: pb.ModelInferRequest, contents: Mapping[int, Buffer]) -> dict[str, Array]:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidInput(f"{len(raws)} raw_input_contents for {len(request.inputs)} inputs: each must have its own")
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in inputs:
            raise InvalidInput(f"input {tensor.name!r} is given twice")
        if raws and tensor.HasField("contents"):
            raise InvalidInput(f"input {tensor.name!r} has contents beside the request's raw_input_contents")
        try:
            if raws:
                inputs[tensor.name] = read_raw(contents.get(index) or raws[index], tensor.datatype, tensor.shape)
            else:
                inputs[tensor.name] = read_contents(tensor.contents, tensor.datatype, tensor.shape)
        except TensorCodecError as error:
            raise InvalidInput(f"input {tensor.name!r}: {error}") from error
    return inputs


def _text(parameters: Mapping[str, object], name: str) -> str:
    value = parameters.get(name, "")
    if not isinstance(value, str):
        raise InvalidInput(f"parameter {name} must be a string, got {value!r}")
    return value


def _timeout_s(parameters: Mapping[str, object]) -> float | None:
    value = parameters.get(TIMEOUT_PARAMETER, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInput(f"parameter {TIMEOUT_PARAMETER} must be a number of microseconds, got {value!r}")
    return value / 1e6 if value else None
