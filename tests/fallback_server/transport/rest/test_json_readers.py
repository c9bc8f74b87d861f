"""Large JSON, read by real processes: the same arrays, the same refusals, and nothing left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import ml_dtypes
import numpy as np
import orjson
import pytest
from support.fallback_fakes import signature
from support.rest_stand import halves, standing, strings

from fallback_server.classification import Examples
from fallback_server.core.errors import ServerError
from fallback_server.transport.rest import examples, inference_codec, json_codec, pickles
from fallback_server.transport.rest.backend import JSON_BYTES
from fallback_server.transport.rest.json_readers import JsonReaders
from fallback_server.transport.rest.refusals import HttpRefused

ROOT = Path(__file__).parents[4]


def one(dtype):
    found = signature({"x": (-1,)}, {"y": (-1,)}, name="serving_default")
    spec = found.inputs["x"]
    return {
        "serving_default": type(found)(
            name=found.name,
            inputs={"x": type(spec)(name="x", dtype=np.dtype(dtype), shape=(-1, 2))},
            outputs=found.outputs,
        )
    }


RAW = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}'
CALLS = {
    "floats": (json_codec.read_predict, b'{"instances": [[1, 2.5], [3, NaN]]}', (one(np.float32),)),
    "bfloat16": (json_codec.read_predict, b'{"instances": [[1, 2.5]]}', (one(ml_dtypes.bfloat16),)),
    "columns": (json_codec.read_predict, b'{"inputs": [[1, 2]]}', (one(np.int64),)),
    "none": (json_codec.read_predict, b'{"inputs": [[], []]}', (one(np.int64),)),
    "strings": (json_codec.read_predict, b'{"instances": [["\xc3\xa9", ""], [{"b64": "/w=="}, "b"]]}', (one(object),)),
    "lists of two sizes": (json_codec.read_predict, b'{"instances": [[1, 2], [3]]}', (one(np.float32),)),
    "a string": (json_codec.read_predict, b'{"instances": [["a"]]}', (one(np.float32),)),
    "half of a pair": (json_codec.read_predict, rb'{"instances": [["\ud800"]]}', (one(object),)),
    "no JSON": (json_codec.read_predict, b'{"instances": [', (one(np.float32),)),
    "too deep": (json_codec.read_predict, b'{"instances": [NaN, ' + b"[" * 10**5, (one(np.float32),)),
    "no signature": (json_codec.read_predict, b'{"signature_name": "other"}', (one(np.float32),)),
    "no name": (json_codec.check, b'{"signature_name": 5}', ()),
    "examples": (examples.read_request, b'{"examples": [{"a": 1}, {}, {"a": "b"}], "context": {"c": 0.5}}', ()),
    "no examples": (examples.read_request, b'{"examples": []}', ()),
    "raw": (inference_codec.read_request, RAW + bytes(8), (str(len(RAW)),)),
    "too little": (inference_codec.read_request, RAW + bytes(7), (str(len(RAW)),)),
}  # fmt: skip


@pytest.fixture(scope="module")
def readers():
    readers = JsonReaders(at_once=2)
    yield readers
    readers.close()


def outcome(call):
    """What a call gives, in a form that can be compared: its parts, or its error."""
    try:
        return plain(call())
    except ServerError as error:
        return type(error), str(error)


def plain(value):
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes() if value.dtype != object else value.tolist()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if isinstance(value, examples.Examples):
        return list(value)
    names = getattr(type(value), "__slots__", ())
    return {name: plain(getattr(value, name)) for name in names} or value


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_another_process_reads_alike(readers, name):
    """Arrays, strings, examples and raw tensors come back as they are read here, and so do refusals."""
    function, body, arguments = CALLS[name]
    assert outcome(lambda: readers.read(function, bytearray(body), *arguments)) == outcome(
        lambda: function(bytearray(body), *arguments)
    )


@pytest.mark.slow
def test_arrays_that_come_back_may_be_written(readers):
    """As those that are read here."""
    read = readers.read(json_codec.read_predict, bytearray(b'{"instances": [[1, 2]]}'), one(np.float32))
    read.inputs["x"][0, 0] = 5


@pytest.mark.slow
def test_what_takes_too_much_memory_is_refused():
    """At the cost of that body alone, with its size and the bound."""
    readers = JsonReaders(at_once=2, free=lambda: 0)
    body = bytearray(b'{"instances": [' + b"[], " * 8_000_000 + b"[]]}")
    with contextlib.closing(readers):
        with pytest.raises(HttpRefused, match=f"body of {len(body)} bytes takes over 512 MiB to read") as refused:
            readers.read(json_codec.read_predict, body, one(np.float32))
        assert refused.value.status == 413
        assert readers.read(json_codec.check, bytearray(b"{}")) is None


@pytest.mark.slow
def test_a_process_that_was_killed_is_replaced(readers):
    """The next body is read as if nothing had been."""
    readers.read(json_codec.check, bytearray(b"{}"))
    killed = readers._program._process
    os.kill(killed.pid, signal.SIGKILL)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    assert readers.read(json_codec.check, bytearray(b"{}")) is None
    assert killed.returncode == -signal.SIGKILL


PROGRAM = """
import time
from fallback_server.transport.rest import json_codec
from fallback_server.transport.rest.json_readers import JsonReaders
readers = JsonReaders(at_once=2)
readers.read(json_codec.check, bytearray(b"{}"))
print(readers._program._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_they_end_with_a_server_that_is_killed():
    """The kernel sees to it."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as server:
        pid = int(server.stdout.readline())
        server.kill()
    deadline = time.monotonic() + 30
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


@pytest.mark.slow
def test_a_large_body_is_read_in_another_process(tmp_path):
    """Of predict and of infer; a small one, and raw tensors, are read in this one. With the server, all of them end."""
    rows = np.arange(2 * 2**16, dtype=np.float32).reshape(-1, 2)
    text = orjson.dumps({"inputs": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    flat = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": rows.reshape(-1)}
    assert len(text) > JSON_BYTES
    with standing({("half", 1): halves()}, tmp_path) as stand:
        readers = stand.server._backend._readers
        url = f"{stand.url}/v1/models/half:predict"
        assert httpx.post(url, content=b'{"inputs": [[2, 4]]}').json() == {"outputs": [[1, 2]]}
        assert readers._program is None
        assert np.array_equal(httpx.post(url, content=text, timeout=30).json()["outputs"], rows / 2)
        process = readers._program._process
        infer = orjson.dumps({"inputs": [flat]}, option=orjson.OPT_SERIALIZE_NUMPY)
        answer = httpx.post(f"{stand.url}/v2/models/half/infer", content=infer, timeout=30)
        assert np.array_equal(answer.json()["outputs"][0]["data"], rows.reshape(-1) / 2)
        answer = httpx.post(url, content=b" " * JSON_BYTES + b"{", timeout=30)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("JSON Parse error: ")
    assert process.returncode == -signal.SIGKILL


def test_what_the_server_would_have_to_hold_is_bounded_too():
    """Strings take there many times their length: that is counted where they are read, and refused as all else."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        value = strings(*[b"ab"] * 100), Examples([b"ab"] * 100, b"")
        most = 2 * 100 * (2 * 2 + 8 + pickles.STRING_BYTES)
        with pytest.raises(MemoryError):
            pickles.send(ours, value, max_bytes=most)
        pickles.send(ours, value, max_bytes=most + 2000)
        array, each = pickles.receive(theirs, pickles.room)
        assert (array.tolist(), list(each)) == ([b"ab"] * 100, [b"ab"] * 100)
