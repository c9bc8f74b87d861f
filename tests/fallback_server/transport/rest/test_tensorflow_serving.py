import json
import subprocess

import httpx
import numpy as np
import pytest
from support.rest_stand import NumpyExecutor, examples, halves, several, standing

from fallback_server.core.errors import LoadFailed


def odd_numbers(x):
    return {"y": np.array([np.nan, np.inf, -np.inf, 0.2], np.float32)[: len(x)]}


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    models = {
        ("half", 1): halves(0.5),
        ("half", 3): halves(1.5),
        ("a/b c", 1): halves(2),
        ("several", 1): several(),
        ("examples", 1): examples(),
        ("odd", 1): NumpyExecutor(serving_default=({"x": (-1,)}, {"y": (-1,)}, odd_numbers)),
        ("broken", 1): LoadFailed("no saved_model.pb"),
    }
    with standing(models, tmp_path_factory.mktemp("model"), metrics_path="/monitoring/prometheus/metrics") as stand:
        stand.models.labels = {("half", "stable"): 1}
        yield stand


@pytest.fixture(scope="module")
def client(stand):
    with httpx.Client(base_url=stand.url, timeout=30) as client:
        yield client


def test_predict_answers_by_rows_and_by_columns(client):
    """Rows give predictions, columns outputs; a version, a label, or the latest answers."""
    rows = client.post("/v1/models/half:predict", json={"instances": [[1, 2], [3, 4.5]]})
    assert (rows.status_code, rows.json()) == (200, {"predictions": [[1.5, 3.0], [4.5, 6.75]]})
    assert rows.headers["content-type"] == "application/json"
    columns = client.post("/v1/models/half/versions/1:predict", json={"inputs": {"x": [[1, 2]]}})
    assert columns.json() == {"outputs": [[0.5, 1.0]]}
    label = client.post("/V1/Models/half/labels/stable:Predict", json={"inputs": [[1, 2]]})
    assert label.json() == {"outputs": [[0.5, 1.0]]}
    assert client.post("/v1/models/a%2Fb%20c:predict", json={"inputs": [[1, 2]]}).json() == {"outputs": [[2.0, 4.0]]}


def test_several_inputs_and_outputs_have_names(client):
    """Strings go in as text or base64, and come out as text, or base64 where the name asks for it."""
    rows = [{"a": 1, "s": "hi"}, {"a": 2.5, "s": {"b64": "eW8="}}]
    answer = client.post("/v1/models/several:predict", json={"instances": rows}).json()
    assert answer == {
        "predictions": [
            {"twice": 2.0, "text": "hi!", "raw_bytes": {"b64": "aGk="}},
            {"twice": 5.0, "text": "yo!", "raw_bytes": {"b64": "eW8="}},
        ]
    }


def test_numbers_that_json_has_not_go_both_ways(client):
    """NaN and the infinities are tokens, and a float32 is as short as it can be."""
    body = b'{"instances": [NaN, Infinity, -Infinity, 1]}'
    answer = client.post("/v1/models/odd:predict", content=body)
    assert answer.text == '{"predictions":[NaN,Infinity,-Infinity,0.2]}'
    assert client.post("/v1/models/half:predict", content=b'{"inputs": [[NaN, 1]]}').text == '{"outputs":[[NaN,1.5]]}'


def test_classify_and_regress_take_examples(client):
    """Each example, with the context before it, is what the model gets."""
    body = {"signature_name": "classify", "context": {"c": 1}, "examples": [{"a": 0.5}, {"b": ["x", "y"]}]}
    answer = client.post("/v1/models/examples:classify", json=body)
    lengths = [row[0][1] for row in answer.json()["results"]]
    assert answer.json() == {"results": [[["length", length], ["other", 0.2]] for length in lengths]}
    body["signature_name"] = "regress"
    assert client.post("/v1/models/examples:regress", json=body).json() == {"results": lengths}


def test_status_and_metadata_are_protobufs_json(client):
    """Numbers of 64 bits are strings, and what has its default value is there too."""
    ok = {"error_code": "OK", "error_message": ""}
    versions = [{"version": number, "state": "AVAILABLE", "status": ok} for number in ("3", "1")]
    assert client.get("/v1/models/half").json() == {"model_version_status": versions}
    assert client.get("/v1/models/half/labels/stable").json() == {"model_version_status": versions[1:]}
    (broken,) = client.get("/v1/models/broken/versions/1").json()["model_version_status"]
    assert broken["state"] == "END"
    assert broken["status"]["error_message"] == "LoadFailed: no saved_model.pb"

    metadata = client.get("/v1/models/half/versions/3/metadata").json()
    assert metadata["model_spec"] == {"name": "half", "signature_name": "", "version": "3"}
    (info,) = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"].values()
    dims = [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
    assert info == {"name": "x:0", "dtype": "DT_FLOAT", "tensor_shape": {"dim": dims, "unknown_rank": False}}


REFUSED = [
    ("POST", "/v1/models/none:predict", b'{"inputs": 1}', 404, "Servable not found for request: Latest(none)"),
    ("POST", "/v1/models/half/versions/9:predict", b'{"inputs": 1}', 404, "Servable not found for request: Specific"),
    ("POST", "/v1/models/half/labels/x:predict", b'{"inputs": 1}', 400, "Unrecognized servable version label: x"),
    ("POST", "/v1/models/half:predict", b"", 400, "JSON Parse error: The document is empty"),
    ("POST", "/v1/models/half:predict", b"{", 400, "JSON Parse error: "),
    ("POST", "/v1/models/half:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
    (
        "POST",
        "/v1/models/half:predict",
        b'{"signature_name": "no", "inputs": 1}',
        400,
        'Serving signature name: "no" not found in signature def',
    ),
    ("POST", "/v1/models/half:predict", b'{"inputs": [1]}', 400, "input 'x': expected float32 [-1, 2]"),
    ("POST", "/v1/models/examples:classify", b'{"examples": [{}]}', 400, "No signature was found with the name: serv"),
    ("POST", "/v1/models/examples:classify", b"{}", 400, "JSON Value: {} When method is classify, key 'examples'"),
    ("GET", "/v1/models/none", None, 404, "Could not find any versions of model none"),
    ("GET", "/v1/models/half/versions/2", None, 404, "Could not find version 2 of model half"),
    ("GET", "/v1/models/half/versions/99999999999999999999", None, 400, "Failed to convert version: 9999"),
    ("GET", "/v1/models/none/metadata", None, 404, "Servable not found for request: Latest(none)"),
    ("GET", "/v1/models", None, 400, "Missing model name in request."),
    ("GET", "/v1/models/half:predict", None, 400, "Malformed request: GET /v1/models/half:predict"),
    ("POST", "/v1/models/half", b"{}", 400, "Malformed request: POST /v1/models/half"),
    ("POST", "/v1/models/half/versions/x:predict", b"{}", 400, "Malformed request: POST /v1/models/half/versions/x"),
    ("GET", "/nowhere", None, 404, "nothing is at /nowhere"),
    ("POST", "/", b"", 405, "/ takes GET, HEAD, not POST"),
]


@pytest.mark.parametrize(("method", "path", "body", "code", "text"), REFUSED)
def test_a_refusal_has_tensorflow_servings_code_and_text(client, method, path, body, code, text):
    """Each is JSON with one key."""
    answer = client.request(method, path, content=body)
    assert (answer.status_code, answer.json()["error"][: len(text)]) == (code, text)
    assert answer.headers["content-type"] == "application/json"


def test_a_large_request_is_read_and_written_in_a_thread(client):
    """What takes long is the same as what does not."""
    rows = np.arange(300_000, dtype=np.float32).reshape(-1, 2)
    body = json.dumps({"inputs": rows.tolist()}).encode()
    assert len(body) > 2**21
    answer = client.post("/v1/models/half/versions/1:predict", content=body)
    np.testing.assert_array_equal(np.array(answer.json()["outputs"], np.float32), rows / 2)


def test_a_compressed_body_is_unpacked(client):
    """As clients of Triton and TensorFlow Serving may send it."""
    import gzip
    import zlib

    body = json.dumps({"inputs": [[2, 4]]}).encode()
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        headers = {"content-encoding": encoding}
        answer = client.post("/v1/models/half/versions/1:predict", content=packed, headers=headers)
        assert answer.json() == {"outputs": [[1.0, 2.0]]}
    answer = client.post("/v1/models/half:predict", content=b"nothing", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    answer = client.post("/v1/models/half:predict", content=b"nothing", headers={"content-encoding": "br"})
    assert answer.status_code == 415


def test_curl_walks_the_interface(stand):
    """The client that TensorFlow Serving's own guide uses."""
    run = ["curl", "-s", "-d", '{"instances": [[1, 2]]}', f"{stand.url}/v1/models/half:predict"]
    assert json.loads(subprocess.run(run, capture_output=True, check=True).stdout) == {"predictions": [[1.5, 3.0]]}


def test_requests_are_counted_as_tensorflow_serving_counts_them(client):
    """By model and code; by model, API and entry point, in microseconds."""
    client.post("/v1/models/half:predict", json={"inputs": [[1, 2]]})
    text = client.get("/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in text
    latency = ':tensorflow:serving:request_latency_count{model_name="half",API="predict",entrypoint="REST"}'
    assert latency in text
