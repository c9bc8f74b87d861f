"""Messages of protobuf's wire format put together by hand, plainly and otherwise."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.typed_tensors import arrays, header, typed

from fallback_server.protocol.packed import varint
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode

UNKNOWN = 1000
"""A field number that no message has."""

PLAIN = ["float32", "float64", "complex64", "int16"]
"""Of which the first three are packed as they are in memory."""

RAW = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


def field(number, value, *, spare=0):
    """A length-delimited field; its length may have bytes that it doesn't need."""
    size = bytearray(varint(len(value)))
    for _ in range(spare):
        size[-1] |= 0x80
        size.append(0)
    return varint(number << 3 | 2) + bytes(size) + value


def entry(name, tensor, *, number=2):
    """An entry of a map of tensors; the tensor is a message's bytes."""
    return field(number, field(1, name.encode()) + field(2, tensor))


def tensor_of(array, *, content=True):
    """A TensorProto's bytes."""
    return (encode(array) if content else typed(array)).SerializeToString()


def spec(name="m", **given):
    """A request's model spec, as a field."""
    return field(1, pb.ModelSpec(name=name, **given).SerializeToString())


def shaped(array, rank):
    """The values along the last of some axes."""
    return array.reshape((1,) * (rank - 1) + array.shape) if rank else array


@st.composite
def predict_requests(draw):
    """PredictRequests: half of them valid and written plainly, and others in which things are otherwise."""
    odds = st.integers(0, 9 if draw(st.booleans()) else 0)

    def tensor():
        if draw(odds) > 4:
            return shaped(draw(arrays()), draw(st.integers(0, 3))), draw(st.booleans())
        numbers = draw(st.sampled_from(PLAIN))
        return shaped(draw(hnp.arrays(numbers, 3)), draw(st.integers(0, 3))), numbers == "int16" or draw(st.booleans())

    def input_of(name):
        array, content = tensor()
        data = tensor_of(array, content=content)
        odd = draw(odds)
        if odd == 9:
            return field(2, field(2, data) + field(1, name.encode()))
        after = {6: field(4, array.tobytes()), 7: header(array).SerializeToString(), 8: field(UNKNOWN, array.tobytes())}
        return entry(name, data + after.get(odd, b""))

    chunks = [spec(draw(st.sampled_from(["m", "model"])), signature_name=draw(st.sampled_from(["", "s"])))]
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=draw(odds) < 7))
    chunks += [input_of(name) for name in names]
    for number, text in ((3, st.just(b"y")), (6, st.binary(max_size=6)), (UNKNOWN, st.binary(max_size=6))):
        chunks += [field(number, draw(text), spare=draw(odds) == 9) for _ in range(draw(st.integers(0, 2)))]
    return b"".join(draw(st.permutations(chunks)))


@st.composite
def infer_requests(draw):
    """ModelInferRequests with raw inputs, most of them valid and written plainly."""
    request = oip.ModelInferRequest(model_name="m", model_version=draw(st.sampled_from(["", "1"])))
    if draw(st.booleans()):
        request.id = draw(st.text(max_size=4))
    if draw(st.booleans()):
        request.parameters["timeout"].int64_param = draw(st.integers(0, 2**40))
    if draw(st.booleans()):
        request.outputs.add(name="y")
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from([*RAW, "bool"]))
        numbers = np.frombuffer(draw(st.binary(min_size=16, max_size=16)), np.uint8 if kind == "bool" else kind)
        datatype = kind.upper().replace("FLOAT", "FP")
        request.inputs.add(name=f"x{index}", datatype=datatype, shape=[len(numbers)])
        request.raw_input_contents.append(numbers.tobytes())
    data = request.SerializeToString()
    odd = draw(st.integers(0, 9))
    return data + (field(UNKNOWN, b"later") if odd == 0 else field(3, b"again") if odd == 1 else b"")


@st.composite
def changed(draw, data):
    """A message of the same length: some of its bytes are others."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(out) - 1))
        some = draw(st.binary(min_size=1, max_size=8))[: len(out) - begin]
        out[begin : begin + len(some)] = some
    return bytes(out)
