import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.complete import needs
from support.dtype_models import echoes
from support.rest_stand import NumpyExecutor, halves, several, standing, strings

from fallback_server.access.guard import Guard, rules_without_file
from fallback_server.core.errors import LoadFailed
from fallback_server.transport.rest.rest_guard import RestGuard

CLIENTS = Path(sys.prefix) / "share" / "clients" / "bin" / "python"
SCRIPTS = Path(__file__).parents[3] / "support" / "clients"

needs_client = needs(CLIENTS.exists(), "tritonclient")


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    other = NumpyExecutor(
        one=({"x": (-1,)}, {"y": (-1,)}, lambda x: {"y": x * np.float32(np.nan)}),
        two=({"x": (-1,)}, {"y": ((-1,), object)}, lambda x: {"y": strings(*[b"\xff" for _ in x])}),
    )
    models = {
        ("half", 1): halves(0.5),
        ("half", 3): halves(1.5),
        ("several", 1): several(),
        ("other", 1): other,
        ("broken", 1): LoadFailed("no saved_model.pb"),
    }
    with standing(models, tmp_path_factory.mktemp("model")) as stand:
        stand.models.labels = {("half", "stable"): 1}
        yield stand


@pytest.fixture(scope="module")
def client(stand):
    with httpx.Client(base_url=stand.url, timeout=30) as client:
        yield client


def tensor(name, data, shape, datatype="FP32", **parameters):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}


def client_says(script, *arguments):
    run = subprocess.run(
        [CLIENTS, SCRIPTS / script, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@needs_client
def test_tritonclient_works(stand):
    """Every call that tritonclient has for inference, metadata, health and the repository, binary and JSON."""
    seen = client_says("triton_http.py", f"127.0.0.1:{stand.port}")
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, [True, False])
    assert seen["server"]["name"] == "edge-fallback-server"
    assert {"name": "s", "datatype": "BYTES", "shape": [-1]} in seen["metadata"]["inputs"]
    assert seen["half_True"] == seen["half_False"] == seen["gzip"] == [[1.5, 3.0], [4.5, 6.0]]
    assert seen["version_1"] == [[0.5, 1.0], [1.5, 2.0]]
    expected = {"id": "r1", "model_name": "half", "model_version": "3"}
    assert seen["response_True"] == seen["response_False"] == expected
    assert seen["text_True"] == seen["text_False"] == ["hi!", "yo!"]
    assert seen["twice_True"] == seen["twice_False"] == [2.0, 4.0]
    assert seen["refused"][0] == "400"
    assert "expected float32 [-1, 2], got float32 [1, 3]" in seen["refused"][1]
    assert [verb for verb, name in stand.models.loaded if name == "half"] == ["load", "unload"]
    extensions = ["model_repository", "model_configuration", "statistics", "binary_tensor_data", "parameters"]
    assert seen["server"]["extensions"] == extensions
    assert seen["metadata"]["platform"] == seen["config"]["platform"] == "tensorflow_savedmodel"
    assert seen["config"]["max_batch_size"] == 64
    assert {item["name"]: (item["data_type"], item["dims"]) for item in seen["config"]["input"]} == {
        "a": ("TYPE_FP32", []),
        "s": ("TYPE_STRING", []),
    }
    first, third = seen["statistics"]
    assert (first["version"], third["version"]) == ("1", "3")
    assert seen["statistics_of_version"] == [first]
    assert {stats["name"] for stats in seen["statistics_of_all"]} == {"half", "other", "several"}
    assert third["inference_stats"]["success"]["count"] >= 3
    assert third["inference_stats"]["success"]["ns"] > third["inference_stats"]["compute_infer"]["ns"] > 0
    assert seen["no_statistics"][0] == "404"
    assert {code for code, _ in seen["absent"].values()} == {"501"}
    assert "GET /v2/logging is not supported" in seen["absent"]["log"][1]
    assert seen["load_with"][0] == "501"
    assert {"name": "half", "version": "3", "state": "READY", "reason": ""} in seen["index"]
    (broken,) = [item for item in seen["index"] if item["name"] == "broken"]
    assert (broken["state"], broken["reason"]) == ("UNAVAILABLE", "LoadFailed: no saved_model.pb")


@pytest.mark.slow
@needs_client
def test_every_datatype_goes_and_comes(tmp_path):
    """As bytes and in the JSON, with empty strings and tensors of no elements; wrong sizes are refused."""
    with standing({("m", 1): echoes()}, tmp_path) as stand:
        seen = client_says("triton_dtypes.py", "http", f"127.0.0.1:{stand.port}", "m")
    assert (seen["differ"], seen["still"]) == ([], [[1]])
    assert seen["tried"] > 150
    assert [code for code, _ in seen["wrong"]] == ["400"] * 4


def test_half_floats_have_a_json_form_too(tmp_path):
    """Triton has none; here their numbers are taken and given, and refused where they don't fit."""
    with standing({("m", 1): echoes(["FP16", "BF16"])}, tmp_path) as stand, httpx.Client(base_url=stand.url) as client:
        for datatype in ("FP16", "BF16"):
            body = {"inputs": [tensor("x", [1.5, 2], [1, 2], datatype)], "parameters": {"signature_name": datatype}}
            (output,) = client.post("/v2/models/m/infer", json=body).json()["outputs"]
            assert (output["datatype"], output["data"]) == (datatype, [1.5, 2.0])
            body["inputs"][0]["data"][0] = 1e39
            assert client.post("/v2/models/m/infer", json=body).status_code == 400


def test_paths_that_are_not_here_are_refused_by_name(client):
    """Triton's clients hear which of its calls it was; what no server has is not found."""
    for path, lack in (
        ("/v2/systemsharedmemory/status", "tensors in shared memory"),
        ("/v2/cudasharedmemory/region/r/status", "tensors in shared memory"),
        ("/v2/trace/setting", "traces to set"),
        ("/v2/models/half/trace/setting", "traces to set"),
        ("/v2/logging", "log that can be set from outside"),
        ("/v2/models/half/versions/1/generate_stream", "generated texts"),
    ):
        answer = client.get(path)
        assert answer.status_code == 501
        assert answer.json() == {"error": f"GET {path} is not supported: this server has no {lack}"}
    assert client.get("/v2/nonsense").status_code == 404


def test_a_load_with_parameters_is_refused(stand, client):
    """A configuration or files that come with it would be passed over; nothing is loaded."""
    before = list(stand.models.loaded)
    answer = client.post("/v2/repository/models/half/load", json={"parameters": {"config": "{}"}})
    assert (answer.status_code, answer.json()["error"]) == (501, 'load parameters are not supported: {"config":"{}"}')
    assert stand.models.loaded == before


def test_orders_are_read(stand, client):
    """What is no JSON, or says nothing that is known, is refused before anything is done."""
    before = list(stand.models.loaded)
    for order in ("models/half/load", "models/half/unload", "index"):
        answer = client.post(f"/v2/repository/{order}", content=b"{garbage")
        assert answer.status_code == 400
        assert "JSON Parse error" in answer.json()["error"]
    for order, body, code, text in (
        ("models/half/load", {"parameters": []}, 400, "'parameters' must be an object, got []"),
        ("models/half/unload", {"parameters": "x"}, 400, "'parameters' must be an object, got \"x\""),
        ("models/half/unload", {"parameters": {"force": True}}, 501, "unload parameters are not supported: force"),
        (
            "models/half/unload",
            {"parameters": {"unload_dependents": 1}},
            400,
            "unload_dependents must be true or false",
        ),
        ("index", {"ready": "yes"}, 400, "'ready' must be true or false, got \"yes\""),
    ):
        answer = client.post(f"/v2/repository/{order}", json=body)
        assert (answer.status_code, answer.json()["error"]) == (code, text)
    assert stand.models.loaded == before
    answer = client.post("/v2/repository/models/half/unload", json={"parameters": {"unload_dependents": True}})
    assert answer.status_code == 200
    assert stand.models.loaded.pop() == ("unload", "half")
    assert stand.models.loaded == before


def test_a_model_may_be_called_stats(client):
    """The path is that of all models' statistics; the model's own are below its name."""
    assert "model_stats" in client.get("/v2/models/stats").json()
    assert client.get("/v2/models/stats/stats").status_code == 404


def test_json_tensors_may_be_flat_or_nested(client):
    """What counts is the shape; a version that is no number is a label."""
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        body = {"inputs": [tensor("x", data, [2, 2])]}
        answer = client.post("/v2/models/half/versions/stable/infer", json=body).json()
        assert answer == {
            "model_name": "half",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 1.0, 1.5, 2.0]}],
        }


def test_a_signature_may_be_named(client):
    """The protocol has no place for it but a parameter; a model without a default one needs it."""
    body = {"inputs": [tensor("x", [1], [1])], "parameters": {"signature_name": "one", "anything": 5}}
    assert client.post("/v2/models/other/infer", json=body).text.endswith('"data":[NaN]}]}')
    del body["parameters"]
    answer = client.post("/v2/models/other/infer", json=body)
    assert answer.status_code == 400
    assert "a request must name one of one, two in its parameter signature_name" in answer.json()["error"]


REFUSED = [
    ({}, 400, "the request has no inputs"),
    ({"inputs": 1}, 400, "'inputs' must be a list of objects"),
    ({"inputs": [tensor("x", [1], [2])]}, 400, "input 'x': 1 values for the 2 elements of shape [2]"),
    ({"inputs": [tensor("x", ["a"], [1])]}, 400, "input 'x': JSON Value: \"a\" Type: String is not of"),
    ({"inputs": [tensor("x", [1], [1], "FP33")]}, 400, "input 'x': datatype 'FP33' is none of"),
    ({"inputs": [tensor("x", [1], ["a"])]}, 400, "input 'x': the shape must be a list of integers"),
    ({"inputs": [tensor("x", [1], [1])] * 2}, 400, "input 'x' is given twice"),
    ({"inputs": [tensor("x", [1], [1], binary_data_size=4)]}, 400, "input 'x': binary_data_size is 4, and 0 bytes"),
    ({"inputs": [tensor("x", [1], [1], shared_memory_region="r")]}, 501, "parameter shared_memory_region: tensors in"),
    ({"parameters": {"sequence_id": 1}}, 501, "parameter sequence_id: sequences of requests"),
    ({"parameters": {"timeout": "x"}}, 400, "'timeout' must be microseconds"),
    ({"parameters": {"priority": "high"}}, 400, "parameter priority must be a whole number of at least 0, got str"),
    ({"parameters": 5}, 400, "'parameters' must be an object"),
    ({"id": 5}, 400, "'id' must be a string"),
    ({"inputs": [tensor("x", [1, 2], [1, 2])], "outputs": [{"name": "z"}]}, 400, "output tensor alias not found"),
]


@pytest.mark.parametrize(("body", "code", "text"), REFUSED)
def test_what_is_not_understood_is_refused(client, body, code, text):
    """The text names the input, what came and what was expected."""
    answer = client.post("/v2/models/half/infer", json=body)
    assert (answer.status_code, answer.json()["error"][: len(text)]) == (code, text)


def test_the_length_of_the_json_part_must_be_in_the_body(client):
    """What follows it must be what the inputs say."""
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {}}]}).encode()
    for header, content, text in (
        ("x", body, "Inference-Header-Content-Length is 'x'"),
        (str(len(body) + 1), body, "and the body has"),
        (str(len(body)), body, "neither data nor binary_data_size"),
    ):
        headers = {"Inference-Header-Content-Length": header}
        answer = client.post("/v2/models/half/infer", content=content, headers=headers)
        assert answer.status_code == 400
        assert text in answer.json()["error"]
    whole = json.dumps({"inputs": [tensor("x", [1, 2], [1, 2])]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(whole))}
    answer = client.post("/v2/models/half/infer", content=whole + b"abc", headers=headers)
    assert answer.json()["error"] == "3 bytes are left in the body after all inputs"


def test_strings_that_are_no_text_must_be_asked_for_as_bytes(client):
    """JSON has no form for them in this protocol."""
    body = {"inputs": [tensor("x", [1], [1])], "parameters": {"signature_name": "two"}}
    answer = client.post("/v2/models/other/infer", json=body)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "output 'y' has strings that are no UTF-8: ask for it as binary data",
    )
    body["parameters"]["binary_data_output"] = True
    answer = client.post("/v2/models/other/infer", json=body)
    assert answer.content.endswith(b"\x01\0\0\0\xff")


def test_a_callers_timeout_bounds_the_request(client):
    """A microsecond is over before anything runs."""
    body = {"inputs": [tensor("x", [1, 2], [1, 2])], "parameters": {"timeout": 1}}
    assert client.post("/v2/models/half/infer", json=body).status_code == 504


@pytest.mark.parametrize(("said", "header", "priority"), [(1, "low", 1), (3, "", -1), (2, "high", 1), (0, "", 0)])
def test_a_priority_is_the_parameters_or_else_the_headers(stand, client, said, header, priority, monkeypatch):
    """As over gRPC: 1 is the highest, 3 the lowest, and what says nothing leaves it to the header."""
    seen = []
    predict = stand.plane.predict
    monkeypatch.setattr(
        stand.plane, "predict", lambda calls, settle: (seen.append(calls[0].priority), predict(calls, settle))
    )
    body = {"inputs": [tensor("x", [1, 2], [1, 2])], "parameters": {"priority": said}}
    assert client.post("/v2/models/half/infer", json=body, headers={"x-priority": header}).status_code == 200
    assert seen == [priority]


def test_readiness_is_the_http_code(stand, client):
    """Of the server, of a model and of a version; an unknown model is not found."""
    stand.call(stand.server.set_serving(serving=False))
    assert client.get("/v2/health/ready").status_code == 503
    stand.call(stand.server.set_serving(serving=True))
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/broken/ready").status_code == 503
    assert client.get("/v2/models/none/ready").status_code == 404
    assert client.get("/v2/models/half/versions/3/ready").json() == {"name": "half", "ready": True}


def test_the_index_may_leave_out_what_is_not_ready(client):
    """As Triton's does."""
    names = {item["name"] for item in client.post("/v2/repository/index", json={"ready": True}).json()}
    assert names == {"half", "several", "other"}


def test_a_model_that_could_not_be_loaded_is_told_so(client):
    """Load answers when nothing of the model is on its way any more."""
    answer = client.post("/v2/repository/models/broken/load", content=b"{}")
    assert answer.status_code == 503
    assert "no saved_model.pb" in answer.json()["error"]


def test_remote_control_may_be_refused(tmp_path):
    """Then nobody who can connect takes a model away."""
    guard = RestGuard(Guard(rules_without_file(certified=False, control=False)))
    with standing({("half", 1): halves()}, tmp_path, guard=guard) as stand:
        for verb in ("load", "unload"):
            answer = httpx.post(f"{stand.url}/v2/repository/models/half/{verb}", content=b"{}")
            assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert stand.models.loaded == []


def test_the_body_of_an_order_is_small(tmp_path):
    """It is read in the event loop."""
    with standing({}, tmp_path) as stand:
        for path in ("index", "models/half/load", "models/half/unload"):
            answer = httpx.post(f"{stand.url}/v2/repository/{path}", content=b" " * (2**18 + 1))
            assert (answer.status_code, answer.json()["error"].endswith("at most 262144 are allowed")) == (413, True)


def test_outputs_as_classifications_are_refused(tmp_path):
    """In a sentence."""
    output = {"name": "y", "parameters": {"classification": 2}}
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], "outputs": [output]}
    with standing({("half", 1): halves()}, tmp_path) as stand:
        answer = httpx.post(f"{stand.url}/v2/models/half/infer", json=document)
    assert (answer.status_code, answer.json()["error"]) == (
        501,
        "parameter classification: outputs as classifications are not supported",
    )
