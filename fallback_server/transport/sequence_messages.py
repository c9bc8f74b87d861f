"""The messages of edge.v1.Sequence to and from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fallback_server.dataplane import PredictReply
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.tensors import CUTTABLE, Array, Buffer, encode_parts
from fallback_server.transport.large import LARGE_BYTES, assemble, cut_map, field_parts
from fallback_server.transport.messages import read_inputs, write_spec
from fallback_server.transport.rpc import parse

_REQUEST_INPUTS = 2
_RESPONSE_OUTPUTS = 2
_RESPONSE_STATE = 3
"""Field numbers of SequenceRequest and SequenceResponse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRequest:
    """A request, read.

    Attributes:
        message: Without what large tensors hold.
        inputs: By name.
    """

    message: pb.SequenceRequest
    inputs: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True, slots=True)
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
        return sum(array.nbytes for arrays in (self.outputs, self.state) for array in arrays.values())


def read_step(data: bytes, *, max_tensor_bytes: int) -> StepRequest:
    """A serialized SequenceRequest. The arrays of large tensors read the bytes in place.

    Args:
        data: The message.
        max_tensor_bytes: The most that its tensors may take together.

    Raises:
        InvalidInput: no SequenceRequest, or tensors that can't be read, or are too many or too large.
    """
    contents: Mapping[str, Mapping[int, Buffer]] = {}
    if len(data) >= LARGE_BYTES:
        data, contents = cut_map(data, field=_REQUEST_INPUTS, cut=CUTTABLE)
    message = parse(methods.RUN_SEQUENCE, data)
    return StepRequest(message=message, inputs=read_inputs(message.inputs, contents, max_tensor_bytes))


def write_step(reply: StepReply) -> bytes:
    """A reply as a serialized SequenceResponse; its arrays go as `tensor_content`."""
    rest = pb.SequenceResponse(step=reply.step)
    if reply.first is not None:
        write_spec(rest.model_spec, reply.first)
    parts: list[Buffer] = []
    for number, arrays in ((_RESPONSE_OUTPUTS, reply.outputs), (_RESPONSE_STATE, reply.state)):
        for name, array in arrays.items():
            entry = [*field_parts(1, [name.encode()]), *field_parts(2, encode_parts(array, typed=False))]
            parts += field_parts(number, entry)
    return assemble([*parts, rest.SerializeToString()])
