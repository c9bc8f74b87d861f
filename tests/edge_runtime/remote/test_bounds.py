import math

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from support.model_servers import serving

from edge_runtime.remote.bounds import MAX_BYTES, MAX_FIELDS, MAX_WAIT_MS, read, wait_ms
from edge_runtime.remote.catalog import read_update
from edge_runtime.remote.line import Line
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import CATALOG_GET, GET_MODEL_STATUS, PREDICT
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

WAIT_S = 30


def catalog(models, versions, labels=0):
    update = edge.CatalogUpdate(server_id="s1", revision=7)
    for index in range(models):
        model = update.models.add(name=f"model-{index}", default_version=1)
        for version in range(versions):
            model.versions.add(version=version + 1, state=30, package_fingerprint="sha256:" + "0" * 64)
        model.labels.update({f"l{label}": 1 for label in range(labels)})
    return update


def asked(address, method, message):
    line = Line(address)
    try:
        return line.start(method, message, WAIT_S, ()).result()
    finally:
        line.close()


def test_a_large_catalog_is_read_whole():
    """Thousands of models with several versions are within the bounds."""
    update = catalog(4096, 3, labels=2)
    assert read(CATALOG_GET, update.SerializeToString()) == update


@pytest.mark.parametrize(
    ("method", "data"),
    [
        (CATALOG_GET, b"\x1a\x00" * (MAX_FIELDS + 1)),
        (CATALOG_GET, edge.CatalogUpdate(models=[{"versions": [{}] * (MAX_FIELDS + 1)}]).SerializeToString()),
        (CATALOG_GET, catalog(2, MAX_FIELDS // 2).SerializeToString()),
        (GET_MODEL_STATUS, b"\x0a\x00" * (MAX_FIELDS + 1)),
    ],
)
def test_what_lists_too_much_is_not_read(method, data):
    """Two bytes of an answer are a hundred of memory: many small entries are refused before they are read."""
    assert read(method, data) is None


@given(st.binary(max_size=64), st.integers(0, 2**12))
def test_whatever_comes_is_read_or_refused(data, zeros):
    """A count of malformed fields ends; what it makes of them the reader says."""
    for method in (CATALOG_GET, GET_MODEL_STATUS):
        try:
            read(method, data + b"\x22\x80\x80\x02" + bytes(2**15) + b"\x1a\x00" * zeros + data)
        except DecodeError:
            continue


def test_a_larger_answer_is_refused_before_it_is_read_and_a_prediction_is_not():
    """The call whose catalog or status is too long ends; Predict's answers are as long as their tensors."""
    tensor = np.zeros(MAX_BYTES // 4 + 1, np.float32)
    answers = {
        CATALOG_GET: lambda _: edge.CatalogUpdate(server_id="x" * MAX_BYTES),
        GET_MODEL_STATUS: lambda _: pb.GetModelStatusResponse(
            model_version_status=[{"status": {"error_message": "x" * MAX_BYTES}}]
        ),
        PREDICT: lambda _: pb.PredictResponse(outputs={"y": tensors.encode(tensor)}),
    }
    with serving(answers) as address:
        for method, request in (
            (CATALOG_GET, edge.CatalogRequest()),
            (GET_MODEL_STATUS, pb.GetModelStatusRequest()),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                asked(address, method, request)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert asked(address, PREDICT, pb.PredictRequest()).nbytes > MAX_BYTES


def test_a_server_that_lists_too_much_has_said_nothing():
    """Its answer is there, without a message: the call itself went well, and no thread stumbles."""
    entries = edge.CatalogUpdate(models=[{"versions": [{}] * (MAX_FIELDS + 1)}])
    with serving({CATALOG_GET: lambda _: entries}) as address:
        received = asked(address, CATALOG_GET, edge.CatalogRequest())
    assert (received.message, received.nbytes) == (None, entries.ByteSize())
    with pytest.raises(ValueError, match="lists too much"):
        read_update(received.message)


@pytest.mark.parametrize(
    ("said", "meant"),
    [(0.0, 0.0), (1.5, 1.5), (-1.0, 0.0), (math.nan, 0.0), (math.inf, MAX_WAIT_MS), (1e308, MAX_WAIT_MS)],
)
def test_a_wait_is_a_number_that_can_be_reckoned_with(said, meant):
    """NaN and less than nothing say nothing; what is endless is an hour."""
    assert wait_ms(said) == meant
