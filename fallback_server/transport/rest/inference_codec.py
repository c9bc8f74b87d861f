"""Open Inference requests and replies: JSON, with tensors in it or, as raw bytes, behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fallback_server.core.errors import InvalidInput, Unimplemented
from fallback_server.dataplane import PredictReply
from fallback_server.protocol.open_inference import check_shape, datatype_of, numpy_dtype, raw_view, read_raw
from fallback_server.protocol.tensors import Buffer, TensorCodecError
from fallback_server.transport.model_facts import (
    CLIENT_PARAMETER,
    REFUSED_PARAMETERS,
    SIGNATURE_PARAMETER,
    priority_of,
)
from fallback_server.transport.rest.json_arrays import Array, Json, read_array, shown
from fallback_server.transport.rest.json_codec import column, dump, parse
from fallback_server.transport.targets import natural_number

HEADER_LENGTH = "Inference-Header-Content-Length"
"""How many bytes of a body are JSON, where raw tensors follow."""

_MAX_TIMEOUT_US = 2**63 - 1
"""What gRPC's field can hold: JSON's numbers may be larger than floats can be."""

_BINARY_SIZE = "binary_data_size"


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """An output that is asked for, and whether as raw bytes."""

    name: str
    binary: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class InferRequest:
    """What a body asks.

    Attributes:
        id: Given back as it came; empty for none.
        signature: Its name; empty for the default.
        inputs: By name.
        outputs: Those wanted; none for all.
        binary: Whether outputs that say nothing of it are raw bytes.
        timeout_s: How long the caller waits; None where it doesn't say.
        client_key: Who calls; empty where it doesn't say.
        priority: See `PredictCall`; 0 where it doesn't say.
    """

    id: str
    signature: str
    inputs: Mapping[str, Array]
    outputs: Sequence[Output]
    binary: bool
    timeout_s: float | None
    client_key: bytes
    priority: int


def read_request(body: bytearray, header_length: str | None) -> InferRequest:
    """A body as a request. Raw tensors are views of it.

    Args:
        body: JSON, and behind it raw tensors.
        header_length: How many bytes of it are JSON, as the header says it; None for all.

    Raises:
        InvalidInput: it is none.
        Unimplemented: it asks for what this server doesn't do.
    """
    view = memoryview(body)
    end = json_bytes(body, header_length)
    document = parse(body, end)
    parameters = _parameters(document)
    binary = parameters.get("binary_data_output", False) is True
    return InferRequest(
        timeout_s=_timeout_s(parameters),
        priority=priority_of(parameters),
        id=_text(document, "id"),
        signature=_text(parameters, SIGNATURE_PARAMETER),
        inputs=_inputs(document, view[end:]),
        outputs=[_output(item, binary=binary) for item in _objects(document, "outputs")],
        binary=binary,
        client_key=_text(parameters, CLIENT_PARAMETER).encode(errors="replace"),
    )


def json_bytes(body: bytearray, header_length: str | None) -> int:
    """How many bytes of a body are JSON.

    Raises:
        InvalidInput: the header says what can't be.
    """
    if header_length is None:
        return len(body)
    number = natural_number(header_length) if header_length.isascii() and header_length.isdecimal() else None
    if number is None or number > len(body):
        raise InvalidInput(f"{HEADER_LENGTH} is {header_length!r}, and the body has {len(body)} bytes")
    return number


def write_reply(reply: PredictReply, request: InferRequest) -> tuple[bytes, list[Buffer]]:
    """A reply as JSON, and the raw tensors that follow it.

    Raises:
        InvalidInput: an output's dtype has no form in the protocol.
    """
    binary = {output.name: output.binary for output in request.outputs}
    outputs: list[dict[str, Any]] = []
    raw: list[Buffer] = []
    for name, array in reply.outputs.items():
        try:
            output: dict[str, Any] = {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
            if binary.get(name, request.binary):
                raw.append(raw_view(array))
                output["parameters"] = {_BINARY_SIZE: len(raw[-1])}
            else:
                output["data"] = _data(name, array)
        except TensorCodecError as error:
            raise InvalidInput(f"output {name!r}: {error}") from error
        outputs.append(output)
    document: dict[str, Any] = {
        "model_name": reply.servable_id.name,
        "model_version": str(reply.servable_id.version),
        "outputs": outputs,
    }
    if request.id:
        document["id"] = request.id
    return dump(document), raw


def _data(name: str, array: Array) -> Json:
    """An output's numbers in one list, in row-major order; strings as text."""
    if array.dtype.kind == "O":
        try:
            return [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
        except UnicodeDecodeError as error:
            raise InvalidInput(f"output {name!r} has strings that are no UTF-8: ask for it as binary data") from error
    return column("", array.reshape(-1))


def _inputs(document: Mapping[str, Json], raw: memoryview) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    items = _objects(document, "inputs")
    if not items:
        raise InvalidInput("the request has no inputs")
    begin = 0
    for item in items:
        name = _text(item, "name")
        if name in inputs:
            raise InvalidInput(f"input {name!r} is given twice")
        size = _parameters(item).get(_BINARY_SIZE)
        if size is not None and (type(size) is not int or not 0 <= size <= len(raw) - begin):
            raise InvalidInput(
                f"input {name!r}: {_BINARY_SIZE} is {shown(size)}, and {len(raw) - begin} bytes are left in the body"
            )
        try:
            inputs[name] = _input(item, None if size is None else raw[begin : begin + size])
        except (TensorCodecError, InvalidInput) as error:
            raise InvalidInput(f"input {name!r}: {error}") from error
        begin += size or 0
    if begin != len(raw):
        raise InvalidInput(f"{len(raw) - begin} bytes are left in the body after all inputs")
    return inputs


def _input(item: Mapping[str, Json], raw: memoryview | None) -> Array:
    datatype, shape = _text(item, "datatype"), item.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise InvalidInput(f"the shape must be a list of integers, got {shown(shape)}")
    if raw is not None:
        return read_raw(raw, datatype, shape)
    if "data" not in item:
        raise InvalidInput(f"neither data nor {_BINARY_SIZE}")
    dtype = numpy_dtype(datatype)
    count = check_shape(shape)
    array = read_array(item["data"], dtype)
    if array.size != count:
        raise InvalidInput(f"{array.size} values for the {count} elements of shape {shape}")
    return array.reshape(shape)


def _output(item: Mapping[str, Json], *, binary: bool) -> Output:
    asked = _parameters(item).get("binary_data", binary)
    return Output(name=_text(item, "name"), binary=asked is True)


def _objects(document: Mapping[str, Json], key: str) -> list[dict[str, Json]]:
    items = document.get(key, [])
    if not isinstance(items, list) or any(not isinstance(item, dict) for item in items):
        raise InvalidInput(f"{key!r} must be a list of objects, got {shown(items)}")
    return items


def _text(document: Mapping[str, Json], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise InvalidInput(f"{key!r} must be a string, got {shown(value)}")
    return value


def _parameters(document: Mapping[str, Json]) -> dict[str, Json]:
    """Parameters that are not known are passed over, as the protocol wants it."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInput(f"'parameters' must be an object, got {shown(parameters)}")
    for name, what in REFUSED_PARAMETERS.items():
        if parameters.get(name):
            raise Unimplemented(f"parameter {name}: {what} are not supported")
    return parameters


def _timeout_s(parameters: Mapping[str, Json]) -> float | None:
    timeout_us = parameters.get("timeout")
    if timeout_us is None:
        return None
    if type(timeout_us) is not int or timeout_us < 0:
        raise InvalidInput(f"'timeout' must be microseconds, at least 0, got {shown(timeout_us)}")
    return min(timeout_us, _MAX_TIMEOUT_US) / 1e6 if timeout_us else None
