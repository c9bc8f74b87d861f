"""A signal's handler may raise after any call of the main thread: these tests raise at every such point."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from support.edge_models import rows
from support.far_servers import LONG_S, WAIT_S, far_server, row_request, until
from support.interrupted import interrupted_at

from edge_runtime import RuntimeClosed, ServerFailed
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found

REMOTE = "/edge_runtime/remote/"
FEW = 200
"""More points than a caller's own way through has."""


class Timeout(Exception):
    """What an application's own handler raises."""


@pytest.fixture
def server():
    with far_server() as running:
        yield running


def client_of(server):
    made = RemoteClient(
        EndpointTable(lambda address: Endpoint(address, time.monotonic)), clock=time.monotonic, timeout_s=LONG_S
    )
    made.endpoints.add(Found(key=server.address, address=server.address))
    return made


@pytest.fixture
def client(server):
    made = client_of(server)
    yield made
    made.close()


def infer(client):
    client.infer(row_request(1))


def submit(client):
    client.submit(row_request(1)).result(WAIT_S)


def cancel(client):
    client.submit(row_request(1)).cancel()


@pytest.mark.parametrize("call", [infer, submit, cancel])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Timeout])
def test_interrupted_anywhere(client, server, call, error):
    """What is raised comes out as it is, the next call is answered, and nothing stays counted as under way."""
    point, more = 0, True
    while more:
        point += 1
        assert point < FEW
        more = interrupted_at(point, lambda: call(client), REMOTE, error=error)
        answer = client.submit(row_request(3)).result(WAIT_S)
        np.testing.assert_array_equal(answer.outputs["y"], rows(1, 3) * 2)
        endpoint = client.endpoints.all()[0]
        until(lambda: "0 waiting, 0 calls under way" in repr(client._coalescer))
        until(lambda endpoint=endpoint: not endpoint.in_flight)
    assert point > 3


def test_describing_is_interrupted_anywhere(client):
    """Nor does a question for signatures leave anything behind, whether it is given up or waited for."""
    point, more = 0, True
    while more:
        point += 1
        assert point < 2 * FEW

        def ask(point=point):
            asked = client.describe("scale", None, None, time.monotonic(), None)
            if point % 2:
                asked.cancel()
            with suppress(ServerFailed, CancelledError):
                asked.result(WAIT_S)

        more = interrupted_at((point + 1) // 2, ask, REMOTE, "/concurrent/futures/", "/threading.py") or point % 2
        with ThreadPoolExecutor(1) as beside:
            again = beside.submit(client.describe, "scale", None, None, time.monotonic(), None)
            assert isinstance(again.result(WAIT_S).exception(WAIT_S), ServerFailed)
        endpoint = client.endpoints.all()[0]
        until(lambda endpoint=endpoint: not endpoint.in_flight)
    assert point > 3


def test_waiting_for_the_first_server_is_interrupted_anywhere():
    """What is raised comes out as it is, and nothing stays taken that who finds a server needs."""
    point, more = 0, True
    while more:
        point += 1
        assert point < FEW
        table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
        more = interrupted_at(point, lambda table=table: table.wait_for_any(1e-3), REMOTE, "/threading.py")
        with ThreadPoolExecutor(1) as beside:
            waits = beside.submit(table.wait_for_any, WAIT_S)
            table.add(Found(key="a:1", address="a:1"))
            assert waits.result(WAIT_S)
        table.close()
    assert point > 3


def test_what_was_handed_over_before_the_end_fails_then(client):
    """No future of the main thread stays unsettled when the client is closed at once, or was closed before."""
    futures = [client.submit(row_request(i)) for i in range(50)]
    client.close()
    futures.append(client.submit(row_request(7)))
    for future in futures:
        future.exception(WAIT_S)
    assert isinstance(futures[-1].exception(WAIT_S), RuntimeClosed)


def test_closing_is_interrupted_anywhere(server):
    """Closed once more, nothing that waited or was under way is left without an end."""
    point, more = 0, True
    while more:
        point += 1
        assert point < FEW
        client = client_of(server)
        server.hold.clear()
        with ThreadPoolExecutor(1) as beside:
            futures = [beside.submit(client.submit, row_request(i)).result(WAIT_S) for i in range(8)]
        more = interrupted_at(point, client.close, REMOTE)
        client.close()
        for future in futures:
            assert isinstance(future.exception(WAIT_S), RuntimeClosed)
        server.hold.set()
    assert point > 3
