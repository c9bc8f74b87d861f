"""Classify and regress requests: JSON objects become serialized tf.Examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fallback_server.classification import Examples
from fallback_server.core.errors import InvalidInput
from fallback_server.protocol.proto import example_pb2 as pb
from fallback_server.transport.rest.json_arrays import Json, decode_b64, is_b64, read_array, shown, type_name
from fallback_server.transport.rest.json_codec import parse, signature_name

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_INT64 = np.iinfo(np.int64)
_FLOAT = np.dtype(np.float32)


def read_request(body: bytearray) -> tuple[str, Examples]:
    """The signature that a classify or regress request names, empty for none, and its examples.

    Raises:
        InvalidInput: it is no such request.
    """
    document = parse(body)
    return signature_name(document), read_examples(document)


def read_examples(document: Mapping[str, Json]) -> Examples:
    """The examples of a request, serialized, each after the context where there is one.

    So a feature that both have is the example's: of two values for one key, protobuf takes the later.

    Raises:
        InvalidInput: no examples, a value that no feature can hold, or a context that would be repeated too often.
    """
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise InvalidInput(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise InvalidInput(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise InvalidInput(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    return Examples([_example(value) for value in examples], context)


def _example(value: Json) -> bytes:
    if not isinstance(value, dict):
        raise InvalidInput(f"Example must be JSON object but got JSON {type_name(value)}")
    example = pb.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)
    return example.SerializeToString()


def _add(value: Json, name: str, feature: pb.Feature) -> None:
    """Appends a value; the first one decides what the feature holds: bytes, floats or integers."""
    if isinstance(value, str):
        _of_kind(feature, "bytes_list", name)
        try:
            feature.bytes_list.value.append(value.encode())
        except UnicodeEncodeError as error:
            raise InvalidInput(f"Feature: {name} has a string with half of a surrogate pair") from error
    elif is_b64(value):
        _of_kind(feature, "bytes_list", name)
        feature.bytes_list.value.append(decode_b64(value))
    elif isinstance(value, int):
        _of_kind(feature, "int64_list", name)
        if not _INT64.min <= value <= _INT64.max:
            raise InvalidInput(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.append(int(value))
    elif isinstance(value, float):
        _of_kind(feature, "float_list", name)
        feature.float_list.value.append(float(read_array(value, _FLOAT).item()))
    else:
        raise InvalidInput(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _of_kind(feature: pb.Feature, kind: str, name: str) -> None:
    has = feature.WhichOneof("kind")
    if has not in {None, kind}:
        raise InvalidInput(f"Unexpected element type in feature: {name} expecting type: {_KINDS[has or kind]}")
