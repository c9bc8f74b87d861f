"""JSON documents as TensorFlow Serving's REST interface has them: NaN and the infinities in both directions.

Floats are written in the shortest form that reads back as the same number of their own dtype: a float32 of 0.2 is
`0.2`, and never looks like an integer.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from fallback_server.core.errors import InvalidInput
from fallback_server.dataplane import DEFAULT_SIGNATURE
from fallback_server.executors.base import Signature, TensorSpec
from fallback_server.transport.rest.json_arrays import Array, Json, RowRefused, dtype_name, is_b64, read_array, shown

B64_SUFFIX = "_bytes"
"""Strings of an output that is named so are bytes, and written as base64."""

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_TEXT_ITEMS = 2**16
"""As many numbers are written at a time: Python's lock is held for that long, some milliseconds."""

_TOKENS = (b"NaN", b"Infinity")
_NO_MEMORY = "Not enough memory"
"""How the parser's text begins where not the document is at fault."""

_MAY_BE_TOO_LARGE = re.compile(rb"[eE]\+?\d{3}|\d{200}")
"""In all numbers that no double holds, and in few others: to look at each takes twice as long."""

_SURROGATES = re.compile(rb"\\u[dD][89a-fA-F]")


class _TooLarge(ValueError):
    """A number that no double holds."""


class Malformed(InvalidInput):
    """No JSON, or none that says for which signature it is."""


def parse(body: bytes | bytearray, end: int | None = None) -> dict[str, Json]:
    """A request's body: one JSON object.

    Args:
        body: It may be followed by something else.
        end: Where the JSON ends; None where the body does.

    Raises:
        Malformed: it is none.
    """
    if not body or end == 0:
        raise Malformed("JSON Parse error: The document is empty")
    document, fault = _parse(body if end is None else memoryview(body)[:end])
    if fault:
        if all(body.find(token, 0, end) < 0 for token in _TOKENS):
            raise Malformed(fault)
        document = _parse_with_tokens(bytes(memoryview(body)[:end]))
    if not isinstance(document, dict):
        raise Malformed(f"JSON Value: {shown(document)} Is not object")
    return document


def _parse(data: bytes | bytearray | memoryview) -> tuple[Json, str]:
    """The document, or what is wrong with it. Not the error: that holds all of the text once more."""
    try:
        return orjson.loads(data), ""
    except orjson.JSONDecodeError as error:
        if error.msg.startswith(_NO_MEMORY):
            raise MemoryError from None
        return None, f"JSON Parse error: {error.msg} at offset: {error.pos}"


def _parse_with_tokens(data: bytes) -> Json:
    """The standard library's parser: it is slower, and knows NaN, Infinity and -Infinity."""
    try:
        document = json.loads(data.decode(), parse_float=_finite if _MAY_BE_TOO_LARGE.search(data) else None)
        if _SURROGATES.search(data):
            # Halves of a pair are no text; the other parser refuses them itself.
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        fault = "a string has half of a surrogate pair"
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at offset: {error.pos}"
    except RecursionError:
        fault = "nested too deep"
    except _TooLarge:
        fault = "number is infinity when parsed as double"
    except ValueError:  # no UTF-8, or an integer of thousands of digits
        fault = "no UTF-8, or a number that is too long"
    else:
        return document
    raise Malformed(f"JSON Parse error: {fault}")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _TooLarge
    return number


def signature_name(document: Mapping[str, Json]) -> str:
    """The signature that a request names; empty for none.

    Raises:
        Malformed: it is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise Malformed(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictRequest:
    """What the body of a predict request asks.

    Attributes:
        signature: Its name; empty for the default.
        inputs: By name.
        rows: Whether they came by rows (`instances`) rather than by columns.
    """

    signature: str
    inputs: dict[str, Array]
    rows: bool


def read_predict(body: bytes | bytearray, signatures: Mapping[str, Signature]) -> PredictRequest:
    """A predict request's body, by the signature that it names.

    Raises:
        Malformed: it is none.
        InvalidInput: it names no signature, or a value doesn't fit the signature's dtype.
        Unimplemented: no JSON value stands for an input's dtype.
    """
    document = parse(body)
    name = signature_name(document)
    signature = signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        raise InvalidInput(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
    inputs, rows = read_inputs(document, signature)
    return PredictRequest(signature=name, inputs=inputs, rows=rows)


def check(body: bytes | bytearray) -> None:
    """Whether a body is a predict request, for whatever signature.

    Raises:
        Malformed: it is none.
    """
    signature_name(parse(body))


def read_inputs(document: Mapping[str, Json], signature: Signature) -> tuple[dict[str, Array], bool]:
    """A predict request's inputs, by name, and whether they came by rows (`instances`) rather than by columns.

    Raises:
        InvalidInput: neither or both keys, or a value that doesn't fit the signature's dtype.
        Unimplemented: no JSON value stands for an input's dtype.
    """
    if "instances" in document and "inputs" in document:
        raise InvalidInput(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if not signature.inputs:
        raise InvalidInput(f"Failed to get input map for signature: {signature.name}")
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise InvalidInput(f"JSON Value: {shown(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise InvalidInput(f"JSON Value: {shown(document)} No values in 'instances' array")
        return _by_rows(instances, signature.inputs), True
    if "inputs" in document:
        return _by_columns(document["inputs"], signature.inputs), False
    raise InvalidInput("Missing 'inputs' or 'instances' key")


def _by_columns(value: Json, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if not isinstance(value, dict) or is_b64(value):
        if len(specs) > 1:
            raise InvalidInput(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, spec),) = specs.items()
        return {name: read_array(value, spec.dtype)}
    for name in specs:
        if name not in value:
            raise InvalidInput(f"Missing named input: {name} in 'inputs' object.")
    return {name: read_array(value[name], spec.dtype) for name, spec in specs.items()}


def _by_rows(instances: list[Json], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    named = _is_named(instances[0])
    if not named and len(specs) > 1:
        raise InvalidInput(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for index, instance in enumerate(instances):
        if _is_named(instance) != named:
            expected = "object but got list" if named else "value/list but got object"
            raise InvalidInput(f"Expecting {expected} at item {index} of input list")
        if named and instance.keys() != specs.keys():
            raise InvalidInput(_wrong_keys(index, instance, specs))
    if not named:
        ((name, spec),) = specs.items()
        return {name: _rows(instances, spec, key="")}
    return {
        name: _rows([instance[name] for instance in instances], spec, key=f" key: {name}")
        for name, spec in specs.items()
    }


def _is_named(instance: Json) -> bool:
    return isinstance(instance, dict) and not is_b64(instance)


def _wrong_keys(index: int, instance: dict[str, Json], specs: Mapping[str, TensorSpec]) -> str:
    extra = sorted(instance.keys() - specs.keys())
    if extra:
        return (
            f"Failed to process element: {index} key: {extra[0]} of 'instances' list. "
            f"Error: INVALID_ARGUMENT: JSON object: does not have named input: {extra[0]}"
        )
    return (
        f"Failed to process element: {index} of 'instances' list. JSON object: {shown(instance)} "
        f"keys must be equal to: {','.join(sorted(specs))}"
    )


def _rows(values: list[Json], spec: TensorSpec, *, key: str) -> Array:
    try:
        return read_array(values, spec.dtype, rows=True)
    except RowRefused as error:
        raise InvalidInput(
            f"Failed to process element: {error.row}{key} of 'instances' list. Error: INVALID_ARGUMENT: {error.text}"
        ) from error


def write_outputs(outputs: Mapping[str, Array], *, rows: bool) -> bytes:
    """A prediction's outputs as `{"predictions": ...}` by rows, or `{"outputs": ...}` by columns.

    Raises:
        InvalidInput: by rows, the outputs have not all as many; or a dtype has no JSON form.
    """
    if not outputs:
        raise InvalidInput("Cannot convert empty tensor map to JSON")
    if rows:
        return dump({"predictions": _predictions(outputs)})
    values = {name: column(name, array) for name, array in outputs.items()}
    return dump({"outputs": values if len(values) > 1 else next(iter(values.values()))})


def _predictions(outputs: Mapping[str, Array]) -> Json:
    count = -1
    for name, array in outputs.items():
        if not array.shape:
            raise InvalidInput(f"Tensor name: {name} has no shape information ")
        if count not in {-1, array.shape[0]}:
            raise InvalidInput(f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {count}")
        count = array.shape[0]
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return column(name, array)
    columns = [_row_values(name, array) for name, array in outputs.items()]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _row_values(name: str, array: Array) -> Sequence[Json]:
    """An output's rows, each as what `dump` takes."""
    if array.ndim > 1 or array.dtype.kind == "O":
        return [column(name, array[index, ...]) for index in range(len(array))]  # the dots keep scalars arrays
    return _fragments(_plain(array))


def column(name: str, array: Array) -> Json:
    """An output as what `dump` takes: nested lists in the array's shape.

    Raises:
        InvalidInput: the dtype has no JSON form.
    """
    array = np.asarray(array)
    if array.dtype.kind == "O":
        return _string_lists(array, as_bytes=name.endswith(B64_SUFFIX))
    array = _plain(array)
    if not array.ndim:
        return orjson.Fragment(_text(array.reshape(1))[1:-1])
    if array.size > _TEXT_ITEMS or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return orjson.Fragment(_text(array))
    return array


def dump(value: Json) -> bytes:
    """JSON, without white space."""
    return orjson.dumps(value, option=_OPTIONS)


def write_classes(results: Sequence[Sequence[tuple[str, float]]]) -> bytes:
    """Classify's answer: for each example its [label, score] pairs. Scores are float32."""
    scores = iter(_fragments(np.array([score for row in results for _, score in row], np.float32)))
    return dump({"results": [[[label, next(scores)] for label, _ in row] for row in results]})


def write_regressions(values: Sequence[float]) -> bytes:
    """Regress's answer: for each example its value, a float32."""
    return dump({"results": column("", np.array(values, np.float32))})


def _plain(array: Array) -> Array:
    """In a layout and dtype that has a JSON form."""
    if array.dtype.name == "bfloat16":
        return np.ascontiguousarray(array.astype(np.float32))
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"Failed to write JSON value for tensor type: {dtype_name(array.dtype)}")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def _fragments(array: Array) -> list[Json]:
    """Each number of a one-dimensional array."""
    return [orjson.Fragment(text) for text in _text(array)[1:-1].split(b",")] if len(array) else []


def _text(array: Array) -> bytes:
    """A numeric array as JSON, with a token for each number that JSON has none for; a large one by and by."""
    if array.size > _TEXT_ITEMS:
        if len(array) == 1:
            return b"[%s]" % _text(array[0])
        rows = max(1, _TEXT_ITEMS * len(array) // array.size)
        return b"[%s]" % b",".join(_text(array[begin : begin + rows])[1:-1] for begin in range(0, len(array), rows))
    text = orjson.dumps(array, option=_OPTIONS)
    if array.dtype.kind != "f":
        return text
    odd = array[~np.isfinite(array)]
    if not odd.size:
        return text
    # orjson writes each as null, and nothing else here is one: they come in the same order.
    tokens = ["NaN" if value != value else "Infinity" if value > 0 else "-Infinity" for value in odd.tolist()]  # noqa: PLR0124
    parts = text.split(b"null")
    return b"".join(part + token.encode() for part, token in zip(parts, [*tokens, ""], strict=True))


def _string_lists(array: Array, *, as_bytes: bool) -> Json:
    flat = [_string(value, as_bytes=as_bytes) for value in array.reshape(-1).tolist()]
    if not array.ndim:
        return flat[0]
    full = np.empty(len(flat), object)
    full[:] = flat
    return full.reshape(array.shape).tolist()


def _string(value: bytes | str, *, as_bytes: bool) -> Json:
    """Text where it is text; what is no UTF-8 has no JSON form but base64."""
    data = value.encode() if isinstance(value, str) else value
    if not as_bytes:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(data).decode()}
