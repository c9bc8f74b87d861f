"""Servers whose answers are no messages."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from support.far_servers import WAIT_S, until
from support.model_servers import model_statuses

from edge_runtime.remote.catalog import Serves, serves
from edge_runtime.remote.choice import Wanted
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.freshness import Freshness
from edge_runtime.remote.survey import survey
from fallback_server.protocol.methods import CATALOG_GET, GET_MODEL_STATUS, PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb

NONE = b"\xff\xff\xff"


@contextmanager
def garbling(*garbled, **versions):
    """The address of a server that answers these methods with what is no message, and tells of versions by name."""
    status = model_statuses(**versions)[GET_MODEL_STATUS]

    def told(request, context):
        said = status(request)
        return context.abort(*said) if isinstance(said, tuple) else said.SerializeToString()

    answers = {GET_MODEL_STATUS: told, **{method: lambda request, context: NONE for method in garbled}}
    server = grpc.server(ThreadPoolExecutor(4))
    for method, answer in answers.items():
        handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=method.request.FromString)
        handlers = grpc.method_handlers_generic_handler(method.service, {method.name: handler})
        server.add_generic_rpc_handlers([handlers])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(WAIT_S)


@pytest.fixture
def table():
    made = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    Freshness(made, clock=time.monotonic).start()
    yield made
    made.close()


def test_a_catalog_that_is_none_is_said_once_and_models_are_asked_for_by_name(table, caplog):
    """The server is as one without a catalog: one line, no traceback, and what it has is known all the same."""
    with garbling(CATALOG_GET, m=(3,)) as address, caplog.at_level(logging.DEBUG):
        table.add(Found(key=address, address=address))
        (endpoint,) = table.all()
        until(lambda: table.expects(Wanted("m", 3, None, 16)) is not None)
        until(lambda: serves(endpoint.catalog, "m", 3, None) is Serves.YES)
        assert serves(endpoint.catalog, "m", 4, None) is Serves.NO
        table.rouse()
        until(lambda: endpoint.looks > 1)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in warned] == ["edge_runtime.remote.freshness"]
    assert f"server {address}: its catalog can't be read" in warned[0].message
    assert not any(record.exc_info for record in caplog.records)


def test_a_status_that_is_none_says_nothing(table, caplog):
    """Nor does it say that there is no such model."""
    with garbling(CATALOG_GET, GET_MODEL_STATUS) as address:
        table.add(Found(key=address, address=address))
        (endpoint,) = table.all()
        until(lambda: table.expects(Wanted("m", 3, None, 16)) is not None)
        until(lambda: endpoint.catalog is not None)
        assert serves(endpoint.catalog, "m", 3, None) is Serves.UNKNOWN
    assert not any(record.exc_info for record in caplog.records)


def test_an_answer_that_is_none_is_the_servers_fault(caplog):
    """It is told as such, without a traceback, and held against the server."""
    with garbling(PREDICT) as address:
        endpoint = Endpoint(address, time.monotonic)
        for _ in range(3):
            turn = endpoint.try_begin("m", 16)
            call = endpoint.call(turn, PREDICT, pb.PredictRequest(), time.monotonic() + WAIT_S, lambda answer: answer)
            error = call.exception(WAIT_S)
        assert isinstance(error, RemoteFault)
        assert "unreadable answer" in str(error)
        until(lambda: not endpoint.allows)
        endpoint.close()
    assert not any(record.exc_info for record in caplog.records)


def test_a_survey_asks_by_name_too():
    """`edge-run servers` shows what can be read."""
    with garbling(CATALOG_GET, m=(3,)) as address:
        seen = survey(address, ["m"], timeout_s=WAIT_S)
    assert (seen.kind, [one.version for one in seen.models["m"]]) == ("tensorflow-serving", [3])
    assert seen.said == "its catalog can't be read"
