"""What comes over REST: bodies of both protocols, packed ones, and the numbers and names in paths."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from fuzz.target import Target
from support.fallback_fakes import signature

from fallback_server.core.errors import InvalidInput, ServerError, Unimplemented
from fallback_server.core.servable import ServableId
from fallback_server.dataplane import PredictReply
from fallback_server.executors.base import Signature
from fallback_server.transport.rest import examples, inference_codec, json_codec
from fallback_server.transport.rest.unpacking import Encoding, Unpacker

_DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool", "object")

SIGNATURES: Mapping[str, Signature] = {
    **{name: signature({"x": ((-1,), np.dtype(name))}, {"y": ((-1,), np.dtype(name))}, name=name) for name in _DTYPES},
    "serving_default": signature({"x": (-1, 2)}, {"y": (-1, 2)}),
    "two": signature({"a": ((-1,), object), "b": (-1, 2)}, {"y": (-1,)}, name="two"),
}

_REFUSALS = (InvalidInput, Unimplemented)


def _read_predict(data: bytes) -> None:
    request = json_codec.read_predict(bytearray(data), SIGNATURES)
    assert request.inputs
    for rows in (False, True):
        try:
            written = json_codec.write_outputs(request.inputs, rows=rows)
        except ServerError:
            continue
        json_codec.parse(written)


def _predict_seeds() -> list[bytes]:
    documents = [
        {"instances": [[1, 2.5], [3, 4]]},
        {"instances": [{"x": [1, 2]}], "signature_name": "serving_default"},
        {"inputs": {"x": [[1, 2]]}},
        {"inputs": [[1.5, float("nan")], [float("inf"), 1e30]]},
        {"signature_name": "two", "inputs": {"a": ["s", {"b64": "AAE="}], "b": [[1, 2], [3, 4]]}},
        {"signature_name": "two", "instances": [{"a": "s", "b": [1, 2]}]},
        *({"signature_name": name, "inputs": [1, 0]} for name in _DTYPES[:-2]),
        {"signature_name": "bool", "inputs": [True, False]},
        {"signature_name": "object", "inputs": ["a", {"b64": "/w=="}]},
    ]
    return [json.dumps(document).encode() for document in documents]


def _read_examples(data: bytes) -> None:
    _, given = examples.read_request(bytearray(data))
    assert len(given)


def _example_seeds() -> list[bytes]:
    documents = [
        {"examples": [{"x": [1.5, 2], "y": "text", "z": 7}], "signature_name": "s"},
        {"context": {"c": {"b64": "AAE="}}, "examples": [{"x": []}, {}]},
    ]
    return [json.dumps(document).encode() for document in documents]


def _read_infer(data: bytes) -> None:
    """What the header says of the JSON's length comes first, in a line of its own; without one there is no header."""
    head, line, rest = data.partition(b"\n")
    body, length = (rest, head.decode("latin-1")) if line else (data, None)
    request = inference_codec.read_request(bytearray(body), length)
    reply = PredictReply(
        servable_id=ServableId("m", 1), signature="serving_default", outputs={"y": next(iter(request.inputs.values()))}
    )
    text, raw = inference_codec.write_reply(reply, request)
    json_codec.parse(text)
    assert all(memoryview(each).nbytes >= 0 for each in raw)


def _infer_seeds() -> list[bytes]:
    numbers = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2]}
    strings = {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    plain = {"inputs": [numbers, strings], "id": "7", "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    more = {"parameters": {"timeout": 10, "priority": 1, "binary_data_output": True}, "inputs": [numbers]}
    binary = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "s", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        ]
    }
    head = json.dumps(binary).encode()
    return [
        json.dumps(plain).encode(),
        json.dumps(more).encode(),
        b"%d\n%s%s" % (len(head), head, np.ones(2, np.float32).tobytes() + b"\1\0\0\0a"),
    ]


def _read_packed(data: bytes) -> None:
    """A byte says by what encoding, and another how much comes at a time."""
    encoding = (Encoding.GZIP, Encoding.DEFLATE)[data[0] & 1] if data else Encoding.GZIP
    step = data[1] + 1 if len(data) > 1 else 1
    unpacker, room = Unpacker(encoding), 2**20
    for begin in range(2, len(data), step):
        unpacker.feed(data[begin : begin + step])
        while unpacker.pending:
            room -= len(unpacker.read(min(room, 2**14)))
            if room <= 0:
                raise InvalidInput("too large")
    unpacker.end()


def _packed_seeds() -> list[bytes]:
    text = json.dumps({"instances": [[1, 2]] * 50}).encode()
    bare = zlib.compressobj(wbits=-15)
    return [
        b"\0\xff" + gzip.compress(text) + gzip.compress(b""),
        b"\1\x05" + zlib.compress(text),
        b"\1\xff" + bare.compress(text) + bare.flush(),
        b"\0\xff" + gzip.compress(bytes(2**20)),
    ]


_WORDS = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"-0.0", b"9" * 400),
    *(
        b"9223372036854775808",
        b"65520.0",
        b"[" * 1500,
        b'{"a":' * 1500,
        b"\\ud800",
        b"\\u0000",
        b"\xff",
        b"\xed\xa0\x80",
    ),
    *(b'"b64"', b'"instances"', b'"inputs"', b'"signature_name"', b'"context"', b'"examples"', b'"shape"', b'"data"'),
    *(b'"parameters"', b'"binary_data_size"', b'"datatype"', b'"BYTES"', b'"FP16"', b'"BF16"', b"[[]]", b"4294967296"),
    *(b'{"b64":"!"}', b'"timeout":', b'"priority":', b"1" * 5000, b"0.1e-5000"),
)
_MODULES = ("fallback_server.transport.rest", "fallback_server.protocol.open_inference")

TARGETS: Sequence[Target] = (
    Target(
        name="rest_predict",
        read=_read_predict,
        refusals=_REFUSALS,
        seeds=_predict_seeds,
        words=(*_WORDS, *(b'"%s"' % name.encode() for name in _DTYPES)),
        modules=_MODULES,
        max_bytes=2**15,
    ),
    Target(
        name="rest_examples",
        read=_read_examples,
        refusals=_REFUSALS,
        seeds=_example_seeds,
        words=_WORDS,
        modules=_MODULES,
        max_bytes=2**15,
    ),
    Target(
        name="rest_infer",
        read=_read_infer,
        refusals=_REFUSALS,
        seeds=_infer_seeds,
        words=_WORDS,
        modules=_MODULES,
        max_bytes=2**15,
    ),
    Target(
        name="rest_packed",
        read=_read_packed,
        refusals=_REFUSALS,
        seeds=_packed_seeds,
        modules=_MODULES,
    ),
)
"""All of them."""
