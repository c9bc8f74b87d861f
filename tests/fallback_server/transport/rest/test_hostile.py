"""Whatever a client sends, the fault is never the server's: over real HTTP, with paths, headers and bodies made up."""

import json
import math
import urllib.parse

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rest_stand import NumpyExecutor, examples, halves, standing

DTYPES = (np.float32, np.float64, np.float16, np.int8, np.int32, np.int64, np.uint64, np.bool_, object)


def echoes():
    same = {
        np.dtype(dtype).name: ({"x": ((-1,), dtype)}, {"y": ((-1,), dtype)}, lambda x: {"y": x}) for dtype in DTYPES
    }
    both = ({"a": ((-1,), object), "b": (-1, 2)}, {"a": ((-1,), object)}, lambda a, b: {"a": a})
    return NumpyExecutor(serving_default=({"x": (-1, 2)}, {"y": (-1, 2)}, lambda x: {"y": x}), both=both, **same)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    models = {("echo", 1): echoes(), ("half", 1): halves(), ("examples", 1): examples()}
    with (
        standing(models, tmp_path_factory.mktemp("model")) as stand,
        httpx.Client(base_url=stand.url, timeout=30) as client,
    ):
        yield client


RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

LONG = "1" * 5000
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**64, 1 - 2**64, 10**400, -(10**400), 2**1024]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -0.0, 65504.0, 65520.0, 3.5e38]),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["\ud800", "a\udfff", "\0", "x", "y", "FP32", "BYTES", "INT64", "both", "int32", "examples", "b64"]
    ),
    st.text(alphabet=st.characters(categories=["Cs", "Lu"]), max_size=3),
)
KEYS = st.one_of(
    st.sampled_from(
        [
            "instances",
            "inputs",
            "outputs",
            "examples",
            "context",
            "signature_name",
            "parameters",
            "timeout",
            "name",
            "shape",
            "datatype",
            "data",
            "id",
            "b64",
            "x",
            "a",
            "b",
            "binary_data_size",
            "binary_data",
            "binary_data_output",
            "client_id",
            "ready",
            "classification",
            "shared_memory_region",
        ]
    ),
    TEXTS,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


def some(strategy):
    """The key's own kind of value more often than any."""
    return st.one_of(strategy, strategy, strategy, VALUES)


NAMES = st.sampled_from(["x", "a", "b", "y", "inputs", "\ud800"])
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": some(NAMES),
        "datatype": some(
            st.sampled_from(
                ["BOOL", "UINT8", "UINT64", "INT8", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"]
            )
        ),
        "shape": some(st.lists(st.one_of(st.integers(-1, 3), NUMBERS), max_size=3)),
        "data": some(st.lists(st.one_of(NUMBERS, TEXTS, st.booleans()), max_size=4)),
        "parameters": some(st.fixed_dictionaries({}, optional={"binary_data_size": some(NUMBERS)})),
    },
)
SIGNATURES = st.sampled_from(["", "serving_default", "both", "classify", *(np.dtype(dtype).name for dtype in DTYPES)])
ROWS = st.one_of(st.lists(NUMBERS, max_size=3), st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3))
DOCUMENTS = some(
    st.fixed_dictionaries(
        {},
        optional={
            "signature_name": some(SIGNATURES),
            "instances": some(ROWS),
            "inputs": st.one_of(some(ROWS), st.lists(some(TENSORS), max_size=2), st.dictionaries(NAMES, ROWS)),
            "outputs": some(st.lists(st.fixed_dictionaries({}, optional={"name": some(NAMES)}), max_size=2)),
            "examples": some(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3)),
            "context": some(st.dictionaries(KEYS, VALUES, max_size=2)),
            "parameters": some(
                st.fixed_dictionaries(
                    {}, optional={"timeout": some(NUMBERS), "signature_name": SIGNATURES, "client_id": TEXTS}
                )
            ),
            "id": some(TEXTS),
            "z": st.just(math.nan),
        },
    )
)
BODIES = st.one_of(
    DOCUMENTS.map(lambda value: json.dumps(value).encode()),
    DOCUMENTS.map(lambda value: json.dumps(value).encode()),
    st.tuples(DOCUMENTS.map(json.dumps), st.integers(0, 300)).map(lambda pair: pair[0][: pair[1]].encode()),
    st.binary(max_size=60),
    st.sampled_from(
        [b'{"a":' * 2000, b"[" * 10**5, b'{"z":NaN,"a":' + b"[" * 10**5, b'{"a": %s, "z": NaN}' % LONG.encode()]
    ),
)
RUNS = [
    *(f"/v1/models/{model}:{verb}" for model in ("echo", "examples") for verb in ("predict", "classify", "regress")),
    "/v2/models/echo/infer",
    "/v2/models/examples/infer",
    "/v2/repository/index",
    "/v2/repository/models/half/load",
    "/v2/repository/models/half/unload",
]
FAULTS = {200, 400, 404, 405, 413, 415, 501}


def sane(answer):
    """Told in JSON, and no fault of the server's."""
    assert answer.status_code in FAULTS, answer.text
    if answer.request.method != "HEAD" and answer.status_code != 200:
        assert answer.json().keys() == {"error"}


@RELAXED
@given(path=st.sampled_from([*RUNS, *["/v1/models/echo:predict", "/v2/models/echo/infer"] * 3]), body=BODIES)
def test_no_body_is_a_fault_of_the_server(client, path, body):
    """JSON of all kinds, with numbers, names and halves of characters that JSON's writers can't write."""
    sane(client.post(path, content=body))


SEGMENTS = st.one_of(
    st.sampled_from(
        ["v1", "v2", "models", "half", "echo", "versions", "labels", "ready", "stats", "config", "metadata"]
    ),
    st.sampled_from(
        ["1", "0", "-1", "01", LONG, "9223372036854775808", "18446744073709551616", "half:predict", "infer"]
    ),
    st.binary(max_size=6).map(urllib.parse.quote_from_bytes),
    TEXTS.map(lambda text: urllib.parse.quote(text, errors="surrogatepass")),
)


@RELAXED
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "X"]),
    prefix=st.sampled_from(
        [
            "/",
            "http://x",
            "http://x/v1/",
            "/v1/",
            "/v2/",
            "/v1/models/half/versions/",
            "/v1/models/half/labels/",
            "/v2/models/half/versions/",
        ]
    ),
    segments=st.lists(SEGMENTS, max_size=3),
    query=st.sampled_from(["", "?", "?a=%ff"]),
)
def test_no_path_is_a_fault_of_the_server(client, method, prefix, segments, query):
    """Any segments, in any order, with any bytes."""
    target = prefix + "/".join(segments) + query
    sane(client.request(method, "/", content=b"", extensions={"target": target.encode()}))


@RELAXED
@given(
    length=st.one_of(
        st.sampled_from([LONG, "0", "1", "20", "-1", "+1", "1e1", "\u00b2", "0x1", "0" * 9 + "2"]),
        st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=5),
    ),
    encoding=st.sampled_from(["identity", "gzip", "deflate", "br", "gzip, gzip", ",", "\u00e9"]),
    body=BODIES,
)
def test_no_header_is_a_fault_of_the_server(client, length, encoding, body):
    """Those that are read: how much of the body is JSON, how it is packed, and who calls."""
    headers = {"Inference-Header-Content-Length": length, "Content-Encoding": encoding, "X-Client-Id": length}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    sane(client.post("/v2/models/echo/infer", content=body, headers=raw))


PINNED = [
    ("GET", f"/v1/models/half/versions/{LONG}", b"", "Failed to convert version: 111"),
    ("POST", f"/v1/models/half/versions/{LONG}:predict", b"{}", "Failed to convert version: 111"),
    ("GET", f"/v2/models/half/versions/{LONG}", b"", "version 111"),
    (
        "POST",
        "/v1/models/echo:predict",
        b'{"signature_name":"int32","z":NaN,"inputs":[-18446744073709551615]}',
        "JSON Value: a number of 64 bits Type: Number is not of expected type: int32",
    ),
    (
        "POST",
        "/v1/models/half:predict",
        b'{"signature_name":"\\ud800","instances":[NaN]}',
        "JSON Parse error: a string has half of a surrogate pair",
    ),
    (
        "POST",
        "/v1/models/half:predict",
        b'{"instances":[{"\\ud800":NaN}]}',
        "JSON Parse error: a string has half of a surrogate pair",
    ),
    (
        "POST",
        "/v2/models/half/infer",
        b'{"id":"\\udfff","z":NaN}',
        "JSON Parse error: a string has half of a surrogate pair",
    ),
    (
        "POST",
        "/v2/models/half/infer",
        b'{"parameters":{"timeout":Infinity,"z":NaN}}',
        "'timeout' must be microseconds, at least 0, got Infinity",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "text"), PINNED, ids=range(len(PINNED)))
def test_what_python_or_json_can_not_write_is_the_callers_fault(client, method, path, body, text):
    """Each once was a fault of the server's."""
    answer = client.request(method, path, content=body)
    assert (answer.status_code, answer.json()["error"][: len(text)]) == (400, text)


def test_pairs_of_surrogates_are_text(client):
    """Also beside a NaN, where another parser reads."""
    body = b'{"signature_name": "\\ud83d\\ude00", "instances": [NaN]}'
    answer = client.post("/v1/models/half:predict", content=body)
    assert answer.json() == {"error": 'Serving signature name: "\U0001f600" not found in signature def'}


def test_a_timeout_longer_than_floats_can_say_is_long(client):
    """JSON's numbers have no end."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [2, math.nan]}
    body = json.dumps({"parameters": {"timeout": 10**400}, "inputs": [tensor]})
    assert client.post("/v2/models/half/infer", content=body).status_code == 200
