"""What is refused over REST is counted as the same fault over gRPC is, whoever refuses it."""

import gzip
import socket

import httpx
import pytest
from support.rest_stand import halves, standing

from fallback_server.transport.rest.connections import ConnectionLimits


@pytest.fixture
def stand(tmp_path):
    with standing({("half", 1): halves(), ("half", 2): halves()}, tmp_path, max_body_bytes=5000) as stand:
        yield stand


def counted(stand):
    """Model, version where one was looked at, and code -> how often."""
    stand.metrics.render()  # What was noted is counted when somebody asks.
    found = {}
    for name, cell in stand.metrics._models.items():
        for code, count in cell.codes.items():
            found[name, None, code] = count
        for version, of_version in cell.versions.items():
            for (_, code), count in of_version.codes.items():
                found[name, version, code] = count
    return found


def tensor(**fields):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **fields}]}


BAD = "INVALID_ARGUMENT"
REFUSED = [
    ("/v1/models/none:predict", {"json": {"inputs": [[1, 2]]}}, 404, {("", None, "NOT_FOUND"): 1}),
    ("/v1/models/half/versions/9:predict", {"json": {"inputs": [[1, 2]]}}, 404, {("half", None, "NOT_FOUND"): 1}),
    ("/v1/models/half:predict", {"content": b"{broken"}, 400, {("half", None, BAD): 1}),
    ("/v1/models/half/versions/1:predict", {"json": {"inputs": [["a", 2]]}}, 400, {("half", 1, BAD): 1}),
    ("/v1/models/half:predict", {"json": {"inputs": {"z": [[1, 2]]}}}, 400, {("half", 2, BAD): 1}),
    ("/v1/models/half:predict", {"json": {"signature_name": "z", "inputs": [1]}}, 400, {("half", 2, BAD): 1}),
    ("/v1/models/half:predict", {"json": {"inputs": [[1, 2, 3]]}}, 400, {("half", 2, BAD): 1}),
    ("/v1/models/half:classify", {"content": b"{broken"}, 400, {("half", None, BAD): 1}),
    ("/v1/models/half/versions/99999999999999999999:predict", {"json": {}}, 400, {("half", None, BAD): 1}),
    ("/v1/models/half:predict", {"content": b" " * 6000}, 413, {("half", None, "RESOURCE_EXHAUSTED"): 1}),
    (
        "/v1/models/half:predict",
        {"content": gzip.compress(b"{}"), "headers": {"content-encoding": "br"}},
        415,
        {("half", None, BAD): 1},
    ),
    ("/v2/models/none/infer", {"json": tensor()}, 404, {("", None, "NOT_FOUND"): 1}),
    ("/v2/models/half/infer", {"content": b"{broken"}, 400, {("half", None, BAD): 1}),
    ("/v2/models/half/infer", {"json": tensor(data=["a", 2])}, 400, {("half", None, BAD): 1}),
    ("/v2/models/half/versions/1/infer", {"json": tensor(name="z")}, 400, {("half", 1, BAD): 1}),
]


@pytest.mark.parametrize(("path", "sent", "status", "counts"), REFUSED, ids=range(len(REFUSED)))
def test_every_refusal_is_counted_once(stand, path, sent, status, counts):
    """By model and version as far as they are known, with the code that the fault has over gRPC."""
    stand.metrics.load(model="half", version=1, seconds=0.1, ok=True)
    assert httpx.post(f"{stand.url}{path}", timeout=30, **sent).status_code == status
    of_model = {(name, None, code): count for (name, _, code), count in counts.items()}
    assert counted(stand) == counts | of_model


def test_a_version_answers_for_what_it_refuses(stand):
    """So that one which takes less than the others doesn't look better than they do."""
    for body in (b'{"inputs": [["a", 2]]}', b'{"signature_name": "z", "inputs": [1]}', b'{"inputs": [[1, 2, 3]]}'):
        assert httpx.post(f"{stand.url}/v1/models/half:predict", content=body, timeout=30).status_code == 400
    with stand.manager.acquire("half", 2) as handle:
        assert handle.servable.statistics.figures().errors == {"InvalidInput": 3}


def test_a_body_that_does_not_come_is_counted(tmp_path):
    """As a request whose deadline has passed; 408 says that it is the body which was late."""
    with standing({("half", 1): halves()}, tmp_path, limits=ConnectionLimits(stall_s=0.2)) as stand:
        stand.metrics.load(model="half", version=1, seconds=0.1, ok=True)
        with socket.create_connection(("127.0.0.1", stand.port), 30) as client:
            client.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert counted(stand) == {("half", None, "DEADLINE_EXCEEDED"): 1}
