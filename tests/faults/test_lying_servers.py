"""Servers that forge what they say that they have, or whose answer it is: no other version's answer is handed over."""

import grpc
import pytest
from support.fault_load import PATIENT_S, Load
from support.fault_scenes import device, places
from support.fault_servers import fault_server
from support.model_servers import serving

from fallback_server.protocol import tensors
from fallback_server.protocol.methods import (
    CATALOG_GET,
    GET_MODEL_METADATA,
    PREDICT,
    SIGNATURE_DEF_FIELD,
    SIGNATURE_DEF_TYPE_URL,
)
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2

pytestmark = pytest.mark.slow

AVAILABLE = 30


def catalog(*versions):
    """Of `lite`; the last is its latest."""
    served = [edge.Version(version=version, state=AVAILABLE) for version in versions]
    model = edge.Model(name="lite", versions=served, default_version=versions[-1])
    return {CATALOG_GET: lambda _: edge.CatalogUpdate(server_id="forger", models=[model])}


def answers_as(version):
    def predict(request):
        y = tensors.decode(request.inputs["x"]) * version
        response = pb.PredictResponse(outputs={"y": tensors.encode(y)})
        response.model_spec.version.value = version
        return response

    return {PREDICT: predict}


def metadata_of(version):
    """Those of a version whose input has another name."""

    def metadata(_):
        map_ = tensor_pb2.SignatureDefMap()
        shape = tensor_pb2.TensorShapeProto(dim=[{"size": -1}, {"size": 4}])
        info = tensor_pb2.TensorInfo(name="t", dtype=tensor_pb2.DT_FLOAT, tensor_shape=shape)
        map_.signature_def["serving_default"].inputs["other"].CopyFrom(info)
        map_.signature_def["serving_default"].outputs["y"].CopyFrom(info)
        response = pb.GetModelMetadataResponse()
        response.model_spec.version.value = version
        response.metadata[SIGNATURE_DEF_FIELD].type_url = SIGNATURE_DEF_TYPE_URL
        response.metadata[SIGNATURE_DEF_FIELD].value = map_.SerializeToString()
        return response

    return {GET_MODEL_METADATA: metadata}


def finds_nothing(_):
    return grpc.StatusCode.NOT_FOUND, "there is none"


LIES = {
    "says it has it, and finds nothing": catalog(1) | {PREDICT: finds_nothing, GET_MODEL_METADATA: finds_nothing},
    "answers as another": catalog(1) | answers_as(9),
    "answers as another, and tells of that": catalog(1) | answers_as(9) | metadata_of(9),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Has versions 1 and 2."""
    with fault_server(tmp_path_factory.mktemp("honest")) as server:
        server.publish(2)
        yield server


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("versions", [(), (1,)], ids=["absent", "installed"])
def test_who_asks_for_a_version_gets_that(tmp_path, honest, fault_seed, lie, versions):
    """However much a forger says that it has it: each request is answered by who does."""
    with serving(lie) as forger, device(tmp_path, (forger, honest.address), *versions) as runtime:
        ask = places(runtime.model("lite", version=1), seen := [])
        with Load(ask, fault_seed, version=1, deadlines_s=PATIENT_S) as load:
            load.await_answers(200, place=lambda: any(place == f"server:{honest.address}" for _, place in list(seen)))
            assert not load.stop().refused
    assert not any(place == f"server:{forger}" for _, place in seen)


def test_who_asks_for_the_latest_is_left_with_an_older_for_seconds_at_most(tmp_path, honest, fault_seed):
    """The forger says that it has the newest, and answers as the oldest, which its replies say."""
    with serving(catalog(1, 9) | answers_as(1)) as forger, device(tmp_path, (forger, honest.address)) as runtime:
        ask = places(runtime.model("lite"), seen := [])

        def latest():
            return {place for _, place in seen[-100:]}

        with Load(ask, fault_seed, deadlines_s=PATIENT_S) as load:
            load.await_answers(1, place=lambda: f"server:{forger}" in latest())
            load.await_answers(100, place=lambda: latest() == {f"server:{honest.address}"})
            assert not load.stop().refused
