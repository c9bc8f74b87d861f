"""Clients of edge.v1.Sequence."""

import grpc
import numpy as np

from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.tensors import decode, encode


def request(*, model="", version=0, label="", signature="", reset=False, end=False, return_state=False, **inputs):
    """A request; with a model, the first of a stream."""
    message = pb.SequenceRequest(reset=reset, end=end, return_state=return_state)
    if model:
        message.model_spec.name = model
        message.model_spec.signature_name = signature
        if version:
            message.model_spec.version.value = version
        if label:
            message.model_spec.version_label = label
    for name, array in inputs.items():
        message.inputs[name].CopyFrom(encode(array))
    return message


class Stream:
    """One stream over grpc.aio."""

    def __init__(self, channel, **options):
        self.call = channel.stream_stream(
            methods.RUN_SEQUENCE.path,
            request_serializer=pb.SequenceRequest.SerializeToString,
            response_deserializer=pb.SequenceResponse.FromString,
        )(**options)

    async def send(self, **options):
        await self.call.write(request(**options))

    async def read(self):
        """The answer; None at the end."""
        message = await self.call.read()
        return None if message is grpc.aio.EOF else message

    async def step(self, **options):
        """The outputs of a step."""
        await self.send(**options)
        return outputs(await self.read())

    async def ended(self):
        """The status with which it ends."""
        code = await self.call.code()
        return code, await self.call.details()


def outputs(message):
    return {name: decode(proto) for name, proto in message.outputs.items()}


def state(message):
    return {name: decode(proto) for name, proto in message.state.items()}


def row(*values):
    """One row of two."""
    return np.array([values], np.float32)
