"""Large Predict messages are protobuf's, and are written only while somebody waits."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.clock import FakeClock
from support.far_servers import LONG_S, WAIT_S, far_server, row_request

from edge_runtime import DeadlineExceeded
from edge_runtime.remote import codec
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.writing import LARGE_BYTES
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.status import Fault

COUNT = LARGE_BYTES // 4
LARGE = np.arange(COUNT, dtype=np.float32).reshape(-1, 4)
INPUTS = {
    "plain": LARGE,
    "turned": LARGE.T[::-1],
    "big-endian": LARGE.astype(">f4"),
    "bytes": np.full((2, LARGE_BYTES), 7, np.int8),
    "strings": np.array([b"a", b""] * COUNT, object),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 4), np.int64),
}


@pytest.fixture
def clock():
    return FakeClock(time.monotonic())


@pytest.fixture
def client(clock):
    made = RemoteClient(EndpointTable(lambda address: Endpoint(address, clock)), clock=clock, timeout_s=LONG_S)
    yield made
    made.close()


def test_a_large_message_is_protobufs():
    """Every form of array, of which a server reads what protobuf would have written."""
    written = codec.predict_request(row_request(inputs=INPUTS, label="stable", version=None))
    assert isinstance(written, bytes)
    read = pb.PredictRequest.FromString(written)
    assert (read.model_spec.name, read.model_spec.version_label) == ("scale", "stable")
    assert set(read.inputs) == set(INPUTS)
    for name, array in INPUTS.items():
        np.testing.assert_array_equal(tensors.decode(read.inputs[name]), array)


def test_a_large_request_is_answered(client):
    """Over a real call."""
    with far_server() as server:
        client.endpoints.add(Found(key=server.address, address=server.address))
        reply = client.submit(row_request(inputs={"x": LARGE}, rows=len(LARGE))).result(WAIT_S)
    np.testing.assert_array_equal(reply.outputs["y"], LARGE * 2)


def test_writing_ends_at_the_deadline(client, clock, monkeypatch):
    """Its caller is told without the rest being copied, and nothing is sent."""
    looks = []

    def encoded(array, parts=tensors.encode_parts):
        looks.append(array)
        clock.advance(0.06)
        return parts(array)

    monkeypatch.setattr(tensors, "encode_parts", encoded)
    with far_server() as server:
        client.endpoints.add(Found(key=server.address, address=server.address))
        inputs = dict.fromkeys("abcde", LARGE)
        asked = row_request(inputs=inputs, start_s=clock(), deadline_s=clock() + 0.1)
        with pytest.raises(DeadlineExceeded):
            client.submit(asked).result(WAIT_S)
        assert len(looks) == 2
        assert not server.calls


def test_what_is_late_is_not_copied(client, clock, monkeypatch):
    """A request whose deadline has passed when its turn comes is told so, and not written at all."""
    monkeypatch.setattr(codec, "predict_request", None)
    asked = row_request(start_s=clock(), deadline_s=clock() + 0.1)
    clock.advance(0.2)
    with pytest.raises(DeadlineExceeded):
        client.submit(asked).result(WAIT_S)


def test_a_call_without_time_left_is_not_made(clock):
    """It says nothing of the server."""
    with far_server() as server:
        endpoint = Endpoint(server.address, clock)
        future = endpoint.call(endpoint.try_begin(), PREDICT, b"", clock(), lambda answer: answer)
        error = future.exception(0)
        assert isinstance(error, RemoteFault)
        assert error.fault is Fault.DEADLINE
        assert endpoint.allows
        assert not endpoint.in_flight
        endpoint.close()
        assert not server.calls
