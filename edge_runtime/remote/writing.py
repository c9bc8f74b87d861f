"""Writes large Predict messages: copied once and without Python's lock, for as long as somebody waits for the answer.

protobuf copies an array three times until it is on the wire, and no other thread runs meanwhile. Wire format:
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edge_runtime.types import Arrays
from fallback_server.protocol import tensors
from fallback_server.protocol.packed import Buffer, varint
from fallback_server.protocol.proto import serving_pb2 as pb

LARGE_BYTES = 2**20
"""From here on; what is smaller protobuf writes sooner."""

_AT_ONCE = 2**22
"""Bytes that are copied without a look at the time: a millisecond."""

_INPUTS = 2
_KEY, _VALUE = 1, 2
_LENGTH_DELIMITED = 2


def predict_bytes(spec: pb.ModelSpec, inputs: Arrays, hurry: Callable[[], None]) -> bytes:
    """A serialized PredictRequest.

    Args:
        spec: Which model.
        inputs: By name; not changed meanwhile.
        hurry: Called every some milliseconds; what it raises ends the writing.

    Raises:
        ValueError: an input has no wire form.
    """
    parts: list[Buffer] = [pb.PredictRequest(model_spec=spec).SerializeToString()]
    for name, array in inputs.items():
        hurry()
        entry = [*_field(_KEY, [name.encode()]), *_field(_VALUE, tensors.encode_parts(array))]
        parts += _field(_INPUTS, entry)
    return _joined(parts, hurry)


def _field(number: int, parts: list[Buffer]) -> list[Buffer]:
    return [varint(number << 3 | _LENGTH_DELIMITED) + varint(sum(map(len, parts))), *parts]


def _joined(parts: Iterable[Buffer], hurry: Callable[[], None]) -> bytes:
    pieces = [np.frombuffer(part, np.uint8) for part in parts if len(part)]
    out, target = _new_bytes(sum(len(piece) for piece in pieces))
    at = 0
    for piece in pieces:
        for begin in range(0, len(piece), _AT_ONCE):
            hurry()
            some = piece[begin : begin + _AT_ONCE]
            target[at : at + len(some)] = some
            at += len(some)
    return out


def _new_bytes(size: int) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """New bytes, which gRPC insists on, and an array over them, to be filled before anybody else sees them."""
    create = ctypes.pythonapi.PyBytes_FromStringAndSize
    create.restype, create.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
    address = ctypes.pythonapi.PyBytes_AsString
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object,)
    out: bytes = create(None, size)
    memory = (ctypes.c_ubyte * size).from_address(address(out))
    return out, np.ctypeslib.as_array(memory)
