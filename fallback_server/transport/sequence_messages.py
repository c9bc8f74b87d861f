"""The messages of edge.v1.Sequence to and from arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from fallback_server.dataplane import PredictReply
from fallback_server.late_inputs import LateInputs
from fallback_server.protocol import layout, methods
from fallback_server.protocol.layout import NotPlainError
from fallback_server.protocol.packed import varint
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.tensors import CUTTABLE, Array, Buffer, encode_parts
from fallback_server.transport.large import LARGE_BYTES, assemble, cut_map, field_parts
from fallback_server.transport.messages import read_inputs, write_spec
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
_RESPONSE_OUTPUTS = 2
_RESPONSE_STATE = 3
"""Field numbers of SequenceRequest and SequenceResponse."""

_STEP_TAG = varint(4 << 3)

_REQUESTS: ReadTemplates[pb.SequenceRequest] = Table(of_one_key=MAX_OF_ONE_KEY)
_REPLIES: WriteTemplates = Table()
"""What has been learnt, of messages alone: whose they were makes no difference."""


@dataclass(kw_only=True, slots=True)  # Not frozen: that makes one take twice as long, and there are two a step.
class StepRequest:
    """A request, read.

    Attributes:
        message: Without what large tensors hold, or without its inputs. Not to be changed: it is the same object for
            others, whose inputs then have the same names, dtypes and shapes.
        inputs: By name.
    """

    message: pb.SequenceRequest
    inputs: Mapping[str, Array]


@dataclass(kw_only=True, slots=True)  # As above.
class StepReply:
    """What is answered.

    Attributes:
        step: The number of the step.
        outputs: All but the state.
        state: By the inputs that take it; empty where it was not asked for.
        first: Who answers, in the first answer; None in others.
    """

    step: int
    outputs: Mapping[str, Array]
    state: Mapping[str, Array]
    first: PredictReply | None = None

    @property
    def size_bytes(self) -> int:
        """About how many bytes it will have."""
        size = 0
        for arrays in (self.outputs, self.state):
            for array in arrays.values():
                size += array.nbytes
        return size


def read_step(
    data: bytes, *, max_tensor_bytes: int, templates: ReadTemplates[pb.SequenceRequest] = _REQUESTS
) -> StepRequest:
    """A serialized SequenceRequest. The arrays of many read its bytes in place, and can't be written to.

    Args:
        data: The message.
        max_tensor_bytes: The most that its tensors may take together.
        templates: Of messages like it, and where it is learnt.

    Raises:
        InvalidInput: no SequenceRequest, or tensors that can't be read, or are too many or too large.
    """
    for template in templates.kept.get(len(data), ()):
        inputs = template.arrays(data)
        if inputs is not None and template.tensor_bytes <= max_tensor_bytes:
            return StepRequest(message=template.rest, inputs=inputs)
    request = read_whole_step(data, max_tensor_bytes=max_tensor_bytes)
    if len(data) < LARGE_BYTES and templates.wants():
        templates.keep(len(data), learn_step(data, request))
    return request


def read_whole_step(data: bytes, *, max_tensor_bytes: int) -> StepRequest:
    """As `read_step`, by protobuf."""
    contents: Mapping[str, Mapping[int, Buffer]] = {}
    if len(data) >= LARGE_BYTES:
        data, contents = cut_map(data, field=_REQUEST_INPUTS, cut=CUTTABLE)
    message = parse(methods.RUN_SEQUENCE, data)
    return StepRequest(message=message, inputs=read_inputs(message.inputs, contents, max_tensor_bytes))


def learn_step(data: bytes, request: StepRequest) -> ReadTemplate[pb.SequenceRequest] | None:
    """The template of a SequenceRequest; None where it has none.

    Args:
        data: The message.
        request: What it reads as.
    """
    if isinstance(request.inputs, LateInputs):
        return None
    try:
        tensors = layout.tensor_map(data, layout.fields(data), _REQUEST_INPUTS)
    except NotPlainError:
        return None
    spans = {name: layout.payload(tensor, request.inputs[name]) for name, tensor in tensors.items()}
    rest = pb.SequenceRequest()
    rest.CopyFrom(request.message)
    rest.ClearField("inputs")
    return learn_to_read(data, request.inputs, {name: span for name, span in spans.items() if span}, None, rest)


def write_step(reply: StepReply, *, templates: WriteTemplates = _REPLIES) -> bytes:
    """A reply as a serialized SequenceResponse; its arrays go as `tensor_content`.

    Args:
        reply: What is answered.
        templates: Of replies like it, and where it is learnt.
    """
    key: tuple[Hashable, ...] = ()
    own: list[bytes] = []
    for arrays in (reply.outputs, reply.state):
        for name, array in arrays.items():
            key += (name, array.dtype, array.shape)
            if array.nbytes <= MAX_WRITTEN_BYTES and array.dtype.kind != "O":
                own.append(array.tobytes())
        key += ("",)
    for template in templates.kept.get(key, ()):
        return b"".join([*template.parts(own), _rest(reply)])
    parts = _tensor_parts(reply)
    if reply.size_bytes <= MAX_WRITTEN_BYTES and templates.wants():
        templates.keep(key, _learn_tensors(b"".join(parts), reply))
    return assemble([*parts, _rest(reply)])


def write_whole_step(reply: StepReply) -> bytes:
    """As `write_step`, tensor by tensor."""
    return assemble([*_tensor_parts(reply), _rest(reply)])


def _tensor_parts(reply: StepReply) -> list[Buffer]:
    parts: list[Buffer] = []
    for number, arrays in ((_RESPONSE_OUTPUTS, reply.outputs), (_RESPONSE_STATE, reply.state)):
        for name, array in arrays.items():
            entry = [*field_parts(1, [name.encode()]), *field_parts(2, encode_parts(array, typed=False))]
            parts += field_parts(number, entry)
    return parts


def _rest(reply: StepReply) -> bytes:
    """All but the tensors: what every answer has of its own."""
    if reply.first is None:
        return _STEP_TAG + varint(reply.step)
    rest = pb.SequenceResponse(step=reply.step)
    write_spec(rest.model_spec, reply.first)
    return rest.SerializeToString()


def _learn_tensors(data: bytes, reply: StepReply) -> WriteTemplate | None:
    """The template of a reply's tensors; None where they have none."""
    if len(data) > MAX_WRITTEN_BYTES:
        return None
    try:
        found = layout.fields(data)
        outputs = layout.tensor_map(data, found, _RESPONSE_OUTPUTS)
        state = layout.tensor_map(data, found, _RESPONSE_STATE)
    except NotPlainError:
        return None
    spans = [layout.payload(outputs[name], array) for name, array in reply.outputs.items()]
    spans += [layout.payload(state[name], array) for name, array in reply.state.items()]
    return learn_to_write(data, [*reply.outputs.values(), *reply.state.values()], spans)
