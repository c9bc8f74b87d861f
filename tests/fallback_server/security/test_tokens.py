"""What tokens let their bearers do: every API of a real server, and every scope, for each model by itself."""

import os
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.complete import require
from support.secure_servers import Caller, Site
from support.worker_servers import wait_for

from fallback_server.access.tokens import digest_of
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.health import CHECK
from fallback_server.transport.native.choice import installed

pytestmark = pytest.mark.slow

RULES = f"""
[tokens.line-3]
sha256 = "{digest_of("t-line")}"
predict = ["press-*"]

[tokens.screen]
sha256 = "{digest_of("t-screen")}"
status = ["press-*"]

[tokens.release]
sha256 = "{digest_of("t-release")}"
admin = ["press-a", "payroll"]

[tokens.boss]
sha256 = "{digest_of("t-boss")}"
predict = ["*"]
status = ["*"]
admin = ["*"]

[models.payroll]
only = ["boss"]
"""

NOBODY, UNKNOWN, LINE, SCREEN, RELEASE, BOSS = None, "t-wrong", "t-line", "t-screen", "t-release", "t-boss"
EVERYBODY = (NOBODY, UNKNOWN, LINE, SCREEN, RELEASE, BOSS)
HTTP = {"OK": (200,), "UNAUTHENTICATED": (401,), "PERMISSION_DENIED": (403,)}


@pytest.fixture(scope="module", params=[("native", "1"), ("grpcio", "2"), ("native", "2")], ids="-".join)
def server(tmp_path_factory, request):
    transport, workers = request.param
    require(transport != "native" or installed(), "the extra `fast`")
    site = Site(tmp_path_factory.mktemp("site"))
    file = site.path / "access.toml"
    file.write_text(RULES)
    process = site.serve(f"--access_file={file}", f"--transport={transport}", f"--workers={workers}")
    process.file = file
    yield process
    process.close()


def expected(token, *, may):
    if token in may:
        return "OK"
    return "UNAUTHENTICATED" if token in (NOBODY, UNKNOWN) else "PERMISSION_DENIED"


def infer(model):
    contents = oip.InferTensorContents(fp32_contents=[1, 2, 3, 4])
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4], contents=contents)
    return oip.ModelInferRequest(model_name=model, inputs=[tensor])


OIP_BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
PREDICTS = {
    "press-a": (LINE, BOSS),
    "payroll": (BOSS,),
}
SEES = {"press-a": (SCREEN, BOSS), "payroll": (BOSS,)}


@pytest.mark.parametrize("model", ["press-a", "payroll"])
@pytest.mark.parametrize("token", EVERYBODY)
def test_running_a_model(server, token, model):
    """Over TensorFlow Serving's and the Open Inference Protocol's gRPC, unary and as a stream, and REST."""
    code = expected(token, may=PREDICTS[model])
    with Caller(server, token=token) as caller:
        assert caller.predict(model)[0] == code
        assert caller.code(methods.MODEL_INFER, infer(model))[0] == code
        assert caller.rest_predict(model).status_code in HTTP[code]
        assert caller.rest.post(f"/v2/models/{model}/infer", json=OIP_BODY).status_code in HTTP[code]
        stream = caller.channel.stream_stream(
            methods.MODEL_STREAM_INFER.path,
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelStreamInferResponse.FromString,
        )
        begun = stream(iter([infer(model)]), metadata=caller.metadata, timeout=20)
        if token not in (LINE, BOSS):  # Who may run nothing gets no stream.
            assert begun.code().name == code
            return
        (answer,) = begun
        assert answer.error_message.startswith("" if code == "OK" else f"[{code}]")
        assert bool(answer.error_message) == (code != "OK")


@pytest.mark.parametrize("model", ["press-a", "payroll"])
@pytest.mark.parametrize("token", EVERYBODY)
def test_seeing_a_model(server, token, model):
    """Its states, its signatures, its statistics: whoever may not is told the same of one that there is not."""
    code = expected(token, may=SEES[model])
    spec = pb.ModelSpec(name=model)
    with Caller(server, token=token) as caller:
        for method, request in (
            (methods.GET_MODEL_STATUS, pb.GetModelStatusRequest(model_spec=spec)),
            (methods.GET_MODEL_METADATA, pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])),
            (methods.MODEL_READY, oip.ModelReadyRequest(name=model)),
            (methods.MODEL_METADATA, oip.ModelMetadataRequest(name=model)),
            (methods.MODEL_CONFIG, oip.ModelConfigRequest(name=model)),
            (methods.MODEL_STATISTICS, oip.ModelStatisticsRequest(name=model)),
        ):
            assert caller.code(method, request)[0] == code, method.path
        for path in (
            "/v1/models/{}",
            "/v1/models/{}/metadata",
            "/v2/models/{}",
            "/v2/models/{}/ready",
            "/v2/models/{}/stats",
        ):
            assert caller.rest.get(path.format(model)).status_code in HTTP[code], path
        if code != "OK":
            told, absent = (
                caller.code(methods.GET_MODEL_STATUS, pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=name)))
                for name in (model, "none")
            )
            assert told[0] == absent[0] or token == SCREEN
            assert token is None or token not in told[1]


@pytest.mark.parametrize(
    ("token", "names"), [(SCREEN, {"press-a", "press-b"}), (BOSS, {"press-a", "press-b", "payroll"})]
)
def test_lists_leave_out_what_may_not_be_seen(server, token, names):
    """The catalog, its stream, the index and the statistics, over gRPC and REST."""
    with Caller(server, token=token) as caller:
        assert {model.name for model in caller.call(methods.CATALOG_GET, edge.CatalogRequest()).models} == names
        watch = caller.channel.unary_stream(
            methods.CATALOG_WATCH.path,
            request_serializer=edge.CatalogRequest.SerializeToString,
            response_deserializer=edge.CatalogUpdate.FromString,
        )(edge.CatalogRequest(), metadata=caller.metadata, timeout=20)
        assert {model.name for model in next(watch).models} == names
        watch.cancel()
        assert {
            each.name for each in caller.call(methods.REPOSITORY_INDEX, oip.RepositoryIndexRequest()).models
        } == names
        assert {
            each.name for each in caller.call(methods.MODEL_STATISTICS, oip.ModelStatisticsRequest()).model_stats
        } == names
        assert {each["name"] for each in caller.rest.post("/v2/repository/index").json()} == names
        assert {each["name"] for each in caller.rest.get("/v2/models/stats").json()["model_stats"]} == names


@pytest.mark.parametrize("token", [NOBODY, UNKNOWN, LINE, RELEASE])
def test_who_may_see_nothing_gets_no_list(server, token):
    """Nor the names of the calls that there are; what all models did is for who may see them all."""
    code = expected(token, may=())
    with Caller(server, token=token) as caller:
        assert caller.code(methods.CATALOG_GET, edge.CatalogRequest())[0] == code
        assert caller.code(methods.REPOSITORY_INDEX, oip.RepositoryIndexRequest())[0] == code
        assert caller.code(methods.SERVER_METADATA, oip.ServerMetadataRequest())[0] == code
        assert caller.rest.post("/v2/repository/index").status_code in HTTP[code]
        assert caller.rest.get("/v2").status_code in HTTP[code]
        assert caller.rest.get("/monitoring/prometheus/metrics").status_code in HTTP[code]
        assert reflected(caller) == code
        watch = caller.channel.unary_stream(methods.CATALOG_WATCH.path)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(b"", metadata=caller.metadata, timeout=20))
        assert caught.value.code().name == code


def reflected(caller):
    """What reflection's list of services is answered with."""
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    try:
        (answer,) = stub.ServerReflectionInfo(asked, metadata=caller.metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code().name
    return "OK" if answer.list_services_response.service else "nothing"


def test_reflection_is_for_who_may_see_something_and_health_for_everybody(server):
    """A probe needs no token; metrics name every model."""
    with Caller(server) as caller:
        assert caller.code(CHECK, health_pb2.HealthCheckRequest()) == ("OK", "")
        assert caller.code(methods.SERVER_READY, oip.ServerReadyRequest()) == ("OK", "")
        assert caller.rest.get("/v2/health/live").status_code == 200
    with Caller(server, token=SCREEN) as caller:
        assert reflected(caller) == "OK"
        assert caller.rest.get("/monitoring/prometheus/metrics").status_code == 403
    with Caller(server, token=BOSS) as caller:
        assert "edge_fallback_access_refused_total" in caller.rest.get("/monitoring/prometheus/metrics").text


@pytest.mark.parametrize("token", EVERYBODY)
def test_changing_what_is_served(server, token):
    """A model by who may change it; the whole configuration by who may change all."""
    one, whole = expected(token, may=(RELEASE, BOSS)), expected(token, may=(BOSS,))
    label = edge.SetLabelRequest(model="press-a", label="x", version=1)
    with Caller(server, token=token) as caller:
        assert caller.code(methods.SET_LABEL, label)[0] == one
        assert caller.code(methods.SET_TRAFFIC, edge.SetTrafficRequest(model="press-a"))[0] == one
        assert (
            caller.code(methods.REPOSITORY_MODEL_LOAD, oip.RepositoryModelLoadRequest(model_name="press-a"))[0] == one
        )
        assert caller.rest.post("/v2/repository/models/press-a/load").status_code in HTTP[one]
        assert caller.rest.post("/v2/repository/models/payroll/load").status_code in HTTP[whole]
        assert caller.code(methods.SET_LABEL, edge.SetLabelRequest(model="payroll", label="x", version=1))[0] == whole
        code, _ = caller.code(methods.RELOAD, edge.ReloadRequest())
        assert code == whole
        if whole != "OK":
            assert caller.code(methods.RELOAD_CONFIG, pb.ReloadConfigRequest())[0] == whole


@pytest.mark.parametrize("token", [NOBODY, LINE, SCREEN, BOSS])
def test_fetching_a_package_takes_both_scopes(server, token):
    """Who has it has the model, and all that is said of it. There is none here, which is told to who may ask alone."""
    code = {BOSS: "NOT_FOUND"}.get(token, expected(token, may=()))
    with Caller(server, token=token) as caller:
        assert caller.code(methods.DESCRIBE_PACKAGE, edge.PackageRequest(model="press-a"))[0] == code


def test_a_sequence_is_for_who_may_run_its_model(server):
    """It is refused before a state is made."""
    with Caller(server) as caller:
        run = caller.channel.stream_stream(
            methods.RUN_SEQUENCE.path,
            request_serializer=edge.SequenceRequest.SerializeToString,
            response_deserializer=edge.SequenceResponse.FromString,
        )
        asked = edge.SequenceRequest(model_spec=pb.ModelSpec(name="press-a"))
        with pytest.raises(grpc.RpcError) as caught:
            list(run(iter([asked]), timeout=20))
        assert caught.value.code().name == "UNAUTHENTICATED"


def test_a_token_comes_and_goes_without_a_restart(server):
    """By the commands, while the server runs; what an edit breaks changes nothing."""
    words = (sys.executable, "-m", "fallback_server.cli", "token")
    made = subprocess.run(
        [*words, "add", "--file", server.file, "guest", "--predict"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with Caller(server, token=made) as caller:
        wait_for(lambda: caller.predict() == ("OK", ""))
        assert caller.predict("payroll")[0] == "PERMISSION_DENIED"
        whole = server.file.read_text()
        server.file.write_text(whole + "[anonymous\n")
        wait_for(lambda: any("can't be applied" in line for line in server.log))
        assert caller.predict() == ("OK", "")
        server.file.write_text(whole)
        subprocess.run([*words, "remove", "--file", server.file, "guest"], check=True, capture_output=True)
        wait_for(lambda: caller.predict()[0] == "UNAUTHENTICATED")
    assert made not in "".join(server.log)


def test_the_machines_operator_needs_no_token(server):
    """The server has left one for its own user; who looks elsewhere finds nothing, and names a file."""
    words = (sys.executable, "-m", "fallback_server.cli")
    done = subprocess.run(
        [*words, "label", server.address, "payroll", "stable=1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    elsewhere = str(server.file.parent)
    environment = {**os.environ, "XDG_RUNTIME_DIR": elsewhere, "TMPDIR": elsewhere}
    done = subprocess.run(
        [*words, "status", server.address], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "shows nothing" in done.stderr
    token = server.file.parent / "boss.token"
    token.write_text(BOSS)
    token.chmod(0o600)
    environment["EDGE_TOKEN_FILE"] = str(token)
    done = subprocess.run(
        [*words, "status", server.address], capture_output=True, text=True, env=environment, check=True
    )
    assert "payroll" in done.stdout
