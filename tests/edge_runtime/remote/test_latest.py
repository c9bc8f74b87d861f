"""Servers that have different versions: which of them answers for the latest, and for a label."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from support.far_servers import LONG_S, WAIT_S, row_request
from support.model_servers import serving

from edge_runtime.remote.catalog import read_update
from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

AVAILABLE = 30


def catalog(*versions):
    """What a server says of `scale`: the last version is its latest, and has the label."""
    served = [edge.Version(version=version, state=AVAILABLE) for version in versions]
    model = edge.Model(name="scale", versions=served, default_version=versions[-1], labels={"stable": versions[-1]})
    return read_update(edge.CatalogUpdate(models=[model]))


def answers_as(version, down=()):
    def predict(request):
        if version in down:
            return grpc.StatusCode.UNAVAILABLE, "it is ill"
        response = pb.PredictResponse(outputs={"y": tensors.encode(tensors.decode(request.inputs["x"]))})
        response.model_spec.version.value = version
        return response

    return {PREDICT: predict}


@contextmanager
def client_of(*latest, down=()):
    """A client of servers whose latest versions are these; those in `down` fail."""
    with ExitStack() as stack:
        client = RemoteClient(
            EndpointTable(lambda address: Endpoint(address, time.monotonic)), clock=time.monotonic, timeout_s=LONG_S
        )
        stack.callback(client.close)
        for version in latest:
            address = stack.enter_context(serving(answers_as(version, down)))
            client.endpoints.add(Found(key=address, address=address))
            endpoint = next(one for one in client.endpoints.all() if one.address == address)
            endpoint.told(catalog(1, version), time.monotonic() + LONG_S)
        client.endpoints.news()
        yield client


@pytest.mark.parametrize("label", [None, "stable"])
def test_the_newest_of_all_servers_is_the_latest(label):
    """Whichever server is sooner, a request without a version is answered by the newest that any of them has."""
    with client_of(1, 3, 2) as client:
        asked = [client.submit(row_request(i, version=None, label=label)) for i in range(20)]
        assert {one.result(WAIT_S).version for one in asked} == {3}
        one = client.submit(row_request(1, version=None, label=label)).result(WAIT_S)
        assert one.version == 3


def test_an_older_latest_answers_where_the_newest_can_not():
    """It is asked after it, and the reply says which version it was."""
    with client_of(1, 3, 2, down={3}) as client:
        for i in range(8):
            assert client.submit(row_request(i, version=None)).result(WAIT_S).version == 2


def test_a_copy_goes_to_no_older_version():
    """What is under way at the newest is not overtaken by an older answer."""
    with client_of(1, 3) as client:
        wanted = Wanted("scale", None, None, 0)
        endpoint, turn = client.endpoints.acquire(wanted)
        assert client.endpoints.acquire(wanted, {endpoint.address}, copy=True) is None
        assert client.endpoints.acquire(wanted, {endpoint.address}) is not None
        endpoint.call(turn, PREDICT, pb.PredictRequest(), time.monotonic() + WAIT_S, lambda _: None).cancel()
