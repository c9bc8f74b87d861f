"""TensorFlow Serving's messages to and from what the data plane takes and gives."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from fallback_server.core.errors import InvalidInput
from fallback_server.core.servable import ServableId, ServableState
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, PredictReply
from fallback_server.late_inputs import LateInputs
from fallback_server.predict_call import Likeness
from fallback_server.protocol import layout, methods
from fallback_server.protocol.layout import NotPlainError
from fallback_server.protocol.methods import SIGNATURE_DEF_FIELD, SIGNATURE_DEF_TYPE_URL
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto.tensor_pb2 import TensorProto
from fallback_server.protocol.tensors import (
    CUTTABLE,
    MAX_FILLED_BYTES,
    Array,
    Buffer,
    Filled,
    TensorCodecError,
    encode_parts,
    read,
)
from fallback_server.transport.counting import Refused, counted
from fallback_server.transport.faults import fault_of_state
from fallback_server.transport.large import LARGE_BYTES, assemble, cut_map, field_parts
from fallback_server.transport.rpc import parse
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

_REQUEST_INPUTS = 2
_REQUEST_CLIENT_ID = 6
_RESPONSE_OUTPUTS = 1
"""Field numbers of PredictRequest and PredictResponse."""

MAX_NAMES = 1024
"""Inputs of a request, and outputs that it asks for: models have a few, and each takes time before all are compared."""

_WHOLE: Mapping[int, Buffer] = {}
"""What was cut out of a tensor that came whole."""

_REQUESTS: ReadTemplates[PredictCall] = Table(of_one_key=MAX_OF_ONE_KEY)
_REPLIES: WriteTemplates = Table()
"""What has been learnt, of messages alone: whose they were makes no difference."""

_PACKED_WEIGHT = 8
"""Integers are packed one by one: that takes ten times as long as to copy them, and longer."""

Request = (
    pb.PredictRequest
    | pb.ClassificationRequest
    | pb.RegressionRequest
    | pb.InferenceTask
    | pb.GetModelMetadataRequest
    | pb.GetModelStatusRequest
    | edge.SequenceRequest
)


def read_target(request: Request) -> ModelTarget:
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


def read_predict(
    data: bytes,
    *,
    max_tensor_bytes: int,
    refused: Refused | None = None,
    templates: ReadTemplates[PredictCall] = _REQUESTS,
) -> PredictCall:
    """A serialized PredictRequest as a call. The arrays of many read its bytes in place, and can't be written to.

    What the message has in few values takes no memory before the call runs: see `LateInputs`.

    Args:
        data: The message.
        max_tensor_bytes: The most that its tensors may take together.
        refused: Is told of what is refused.
        templates: Of messages like it, and where it is learnt.

    Raises:
        InvalidInput: no PredictRequest, no model spec, or tensors that can't be read, or are too many or too large.
    """
    for template in templates.kept.get(len(data), ()):
        inputs = template.arrays(data)
        if inputs is not None and template.tensor_bytes <= max_tensor_bytes:
            known = template.rest
            client = template.text
            return PredictCall(
                target=known.target,
                signature=known.signature,
                inputs=inputs,
                output_filter=known.output_filter,
                client_key=known.client_key if client is None else data[client.begin : client.end],
                like=known.like,
            )
    call = read_whole_predict(data, max_tensor_bytes=max_tensor_bytes, refused=refused)
    if len(data) < LARGE_BYTES and templates.wants():
        templates.keep(len(data), learn_predict(data, call))
    return call


def find_predict(
    data: bytes, *, max_tensor_bytes: int, templates: ReadTemplates[PredictCall] = _REQUESTS
) -> tuple[PredictCall, Mapping[str, Array]] | None:
    """A serialized PredictRequest that is answered without being looked at: one that it is like, and its own inputs.

    None for any other. Who asks is not told: it makes no difference there.

    Args:
        data: The message.
        max_tensor_bytes: As of `read_predict`; likewise the last.
        templates: Of messages like it.
    """
    for template in templates.kept.get(len(data), ()):
        known = template.rest
        if known.like is None or known.like.ready is None or template.tensor_bytes > max_tensor_bytes:
            continue
        inputs = template.arrays(data)
        if inputs is not None:
            return known, inputs
    return None


def learn_predict(data: bytes, call: PredictCall) -> ReadTemplate[PredictCall] | None:
    """The template of a PredictRequest; None where it has none. Whose request it is may differ.

    Args:
        data: The message.
        call: What it reads as.
    """
    if isinstance(call.inputs, LateInputs):
        return None
    try:
        found = layout.fields(data)
        tensors = layout.tensor_map(data, found, _REQUEST_INPUTS)
        clients = layout.values(found, _REQUEST_CLIENT_ID)
    except NotPlainError:
        return None
    spans = {name: layout.payload(tensor, call.inputs[name]) for name, tensor in tensors.items()}
    client = clients[0] if len(clients) == 1 else None
    known = PredictCall(
        target=call.target,
        signature=call.signature,
        output_filter=tuple(call.output_filter),
        client_key=call.client_key if client is None else b"",  # Each has its own, of any size.
        like=Likeness(),
    )
    there = {name: span for name, span in spans.items() if span is not None}
    return learn_to_read(data, call.inputs, there, client, known)


def read_whole_predict(data: bytes, *, max_tensor_bytes: int, refused: Refused | None = None) -> PredictCall:
    """As `read_predict`, by protobuf."""
    with counted(refused) as reading:
        contents: Mapping[str, Mapping[int, Buffer]] = {}
        if len(data) >= LARGE_BYTES:
            data, contents = cut_map(data, field=_REQUEST_INPUTS, cut=CUTTABLE)
        request = parse(methods.PREDICT, data)
        reading.name = request.model_spec.name
        target = read_target(request)
        if len(wanted := request.output_filter) > MAX_NAMES:
            raise InvalidInput(f"output_filter has {len(wanted)} names, at most {MAX_NAMES} are allowed")
        return PredictCall(
            target=target,
            signature=request.model_spec.signature_name,
            inputs=read_inputs(request.inputs, contents, max_tensor_bytes),
            output_filter=list(wanted),
            client_key=request.client_id,
        )


def read_inputs(
    protos: Mapping[str, TensorProto], contents: Mapping[str, Mapping[int, Buffer]], max_bytes: int
) -> Mapping[str, Array]:
    """A request's inputs, some of which may come late: see `LateInputs`.

    Args:
        protos: By name.
        contents: What was cut out of them, by their names and the fields' numbers.
        max_bytes: The most that they may take together.

    Raises:
        InvalidInput: they can't be read, or are too many or too large.
    """
    if len(protos) > MAX_NAMES:
        raise InvalidInput(f"the request has {len(protos)} inputs, at most {MAX_NAMES} are allowed")
    inputs: dict[str, Array] = {}
    late: dict[str, Filled] = {}
    left_bytes = max_bytes
    for name, proto in protos.items():
        try:
            tensor = read(proto, max_bytes=max_bytes, cut=contents.get(name, _WHOLE))
        except TensorCodecError as error:
            raise InvalidInput(f"tensor parsing error: {name}: {error}") from error
        if isinstance(tensor, Filled):
            late[name] = tensor
            tensor = tensor.stand_in
        inputs[name] = tensor
        left_bytes -= tensor.nbytes
    if left_bytes < 0:
        raise InvalidInput(f"the inputs take {max_bytes - left_bytes} bytes, at most {max_bytes} are allowed")
    return _late(inputs, late) if late else inputs


def _late(inputs: Mapping[str, Array], filled: Mapping[str, Filled]) -> Mapping[str, Array]:
    """The inputs, of which some have fewer values than elements."""
    filled_bytes = sum(tensor.filled_bytes for tensor in filled.values())
    if filled_bytes > MAX_FILLED_BYTES:
        raise InvalidInput(
            f"{len(filled)} inputs with fewer values than elements claim {filled_bytes} bytes: "
            f"at most {MAX_FILLED_BYTES} bytes are filled up"
        )
    makers = {name: tensor.whole for name, tensor in filled.items() if len(tensor.values) > 1}
    if not makers:
        return inputs
    strings = [filled[name].values for name in makers if inputs[name].dtype.kind == "O"]
    return LateInputs(inputs, makers, more_bytes=sum(sum(map(len, values)) for values in strings))


def write_predict(reply: PredictReply, *, typed: bool, templates: WriteTemplates = _REPLIES) -> bytes:
    """A reply as a serialized PredictResponse; its model spec says which version and signature answered.

    Args:
        reply: What was answered.
        typed: Whether the arrays go as typed values, or else as `tensor_content`.
        templates: Of replies like it, and where it is learnt.
    """
    answered_by = reply.servable_id
    key: tuple[Hashable, ...] = (typed, answered_by.name, answered_by.version, reply.signature)
    own: list[bytes] = []
    for name, array in reply.outputs.items():
        key += (name, array.dtype, array.shape)
        if array.nbytes <= MAX_WRITTEN_BYTES and array.dtype.kind != "O":
            own.append(array.tobytes())
    for template in templates.kept.get(key, ()):
        return b"".join(template.parts(own))
    data = write_whole_predict(reply, typed=typed)
    if len(data) <= MAX_WRITTEN_BYTES and templates.wants():
        templates.keep(key, learn_reply(data, reply))
    return data


def learn_reply(data: bytes, reply: PredictReply) -> WriteTemplate | None:
    """The template of a PredictResponse; None where it has none."""
    try:
        tensors = layout.tensor_map(data, layout.fields(data), _RESPONSE_OUTPUTS)
    except NotPlainError:
        return None
    arrays = list(reply.outputs.values())
    spans = [layout.payload(tensors[name], array) for name, array in reply.outputs.items()]
    return learn_to_write(data, arrays, spans)


def write_whole_predict(reply: PredictReply, *, typed: bool) -> bytes:
    """As `write_predict`, by protobuf."""
    rest = pb.PredictResponse()
    write_spec(rest.model_spec, reply)
    parts: list[Buffer] = []
    for name, array in reply.outputs.items():
        entry = [*field_parts(1, [name.encode()]), *field_parts(2, encode_parts(array, typed=typed))]
        parts += field_parts(_RESPONSE_OUTPUTS, entry)
    return assemble([*parts, rest.SerializeToString()])


def reply_weight(reply: PredictReply, *, typed: bool) -> int:
    """How many bytes could be copied in about the time that it takes to write a reply."""
    weight = 0
    for array in reply.outputs.values():
        weight += array.nbytes * (_PACKED_WEIGHT if typed and array.dtype.kind not in "fc" else 1)
    return weight


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
    response.model_spec.name = servable_id.name
    response.model_spec.version.value = servable_id.version
    packed = response.metadata[SIGNATURE_DEF_FIELD]
    packed.type_url = SIGNATURE_DEF_TYPE_URL
    packed.value = signature_defs
    return response


def write_states(states: Iterable[ServableState]) -> pb.GetModelStatusResponse:
    """The states of a model's versions. A version's error is in its status."""
    response = pb.GetModelStatusResponse()
    for state in states:
        status = pb.StatusProto()
        if (fault := fault_of_state(state)) is not None:
            status = pb.StatusProto(error_code=fault.code.value[0], error_message=state.error)
        response.model_version_status.add(
            version=state.servable_id.version,
            state=pb.ModelVersionStatus.State.Value(state.state.name),
            status=status,
        )
    return response


def write_spec(spec: pb.ModelSpec, reply: PredictReply) -> None:
    """Who answered."""
    spec.name = reply.servable_id.name
    spec.version.value = reply.servable_id.version
    spec.signature_name = reply.signature
