"""Models that only a server's metadata tell of: the first axis of what they answer may be no rows."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_models import rows
from support.far_servers import LONG_S, WAIT_S, far_server, row_request
from support.model_servers import serving
from support.prompt_client import PromptClient

from edge_runtime import ServerFailed
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.lanes import MAX_BARE_IN_FLIGHT
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb


class Finder:
    """Answers one box for each unit of `x[0, 0]`, whatever rows the request has."""

    def __init__(self):
        self.calls = []
        self.hold = threading.Event()
        self.hold.set()

    def predict(self, request):
        x = tensors.decode(request.inputs["x"])
        self.calls.append(len(x))
        self.hold.wait(WAIT_S)
        boxes = np.full((int(x[0, 0]), 4), x[0, 0], np.float32)
        response = pb.PredictResponse(outputs={"boxes": tensors.encode(boxes)})
        response.model_spec.version.value = 1
        return response


@pytest.fixture
def client():
    clock = FakeClock(time.monotonic())
    made = PromptClient(EndpointTable(lambda address: Endpoint(address, clock)), clock=clock, timeout_s=LONG_S)
    yield made
    made.close()


@pytest.fixture
def finder(client):
    found = Finder()
    with serving({PREDICT: found.predict}) as address:
        client.endpoints.add(Found(key=address, address=address))
        yield found


def boxes(future):
    return future.result(WAIT_S).outputs["boxes"]


def test_boxes_are_given_as_they_are(client, finder):
    """However many there are, of a request of one row or of several."""
    for count in (3, 1, 0, 7):
        assert boxes(client.submit(row_request(count, guessed=True))).shape == (count, 4)
    assert boxes(client.submit(row_request(5, count=2, guessed=True))).shape == (5, 4)


@pytest.mark.parametrize("before", [None, 1, 2])
def test_requests_for_boxes_go_alone(client, finder, before):
    """Nobody knows whose box is whose: each goes by itself, also where the first answers looked like rows."""
    if before is not None:
        boxes(client.submit(row_request(before, guessed=True)))
    finder.hold.clear()
    asked = {count: client.submit(row_request(count, guessed=True)) for count in range(2, 20)}
    finder.hold.set()
    for count, future in asked.items():
        assert np.all(boxes(future) == count)
        assert len(boxes(future)) == count
    alone = len(finder.calls)
    assert alone >= len(asked)
    again = [client.submit(row_request(count, guessed=True)) for count in range(30)]
    assert [len(boxes(future)) for future in again] == list(range(30))
    assert finder.calls[alone:] == [1] * 30


def test_what_answers_by_rows_goes_together(client):
    """One answer with the request's rows, and those that wait leave as one call."""
    with far_server() as server:
        client.endpoints.add(Found(key=server.address, address=server.address))
        server.hold.clear()
        asked = [client.submit(row_request(i, guessed=True)) for i in range(50)]
        server.hold.set()
        for i, future in enumerate(asked):
            np.testing.assert_array_equal(future.result(WAIT_S).outputs["y"], rows(1, i) * 2)
        assert len(server.calls) <= MAX_BARE_IN_FLIGHT + 3


def test_a_package_knows_better(client, finder):
    """Where the version is installed here its signature says that outputs have rows: others are no answer."""
    with pytest.raises(ServerFailed, match="the request has 1 rows"):
        client.submit(row_request(3)).result(WAIT_S)
