import base64

import httpx
import pytest
from support import example_models
from support.rest_stand import standing

from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(models, tensorflow, tmp_path_factory):
    output = tmp_path_factory.mktemp("examples")
    tensorflow.run(example_models.main, 200.0, output)
    names = {name: models / name for name in ("scale", "many", "text")}
    return {**names, "examples": output / "examples"}


@pytest.fixture(scope="module")
def client(folders, tmp_path_factory):
    registry = default_registry(SavedModelOptions())
    executors = {(name, 1): registry.open(folder / "1") for name, folder in folders.items()}
    with (
        standing(executors, tmp_path_factory.mktemp("models")) as stand,
        httpx.Client(base_url=stand.url, timeout=60) as client,
    ):
        yield client
    registry.close()


def test_a_saved_model_answers(client):
    """By rows and columns, of every signature, with strings and with dtypes that JSON has not."""
    answer = client.post("/v1/models/scale:predict", json={"instances": [[1, 2, 3.5]]})
    assert answer.json() == {"predictions": [[1.0, 2.0, 3.5]]}
    rows = [{"a": [1, 2], "b": [3, 4]}, {"a": [0.5, 0.5], "b": [1, 1]}]
    answer = client.post("/v1/models/many:predict", json={"instances": rows})
    assert answer.json() == {
        "predictions": [{"sum": [4.0, 6.0], "twice": [6, 8]}, {"sum": [1.5, 1.5], "twice": [2, 2]}]
    }
    answer = client.post("/v1/models/many:predict", json={"signature_name": "gather", "inputs": [2, 0]})
    assert answer.json() == {"outputs": [30.0, 10.0]}
    answer = client.post("/v1/models/text:predict", json={"instances": ["hi", {"b64": "/w=="}]})
    assert answer.json() == {"predictions": ["hi!", {"b64": "/yE="}]}


def test_a_wrong_value_is_refused_before_the_model(client):
    """A float where an integer is expected, and an index that the model itself refuses."""
    answer = client.post("/v1/models/many:predict", json={"signature_name": "gather", "inputs": [0.5]})
    assert answer.json() == {"error": "JSON Value: 0.5 Type: Number is not of expected type: int64"}
    answer = client.post("/v1/models/many:predict", json={"signature_name": "gather", "inputs": [7]})
    assert answer.status_code == 400
    assert client.post("/v1/models/scale:predict", json={"instances": [1]}).status_code == 400


def test_examples_are_classified_and_regressed(client):
    """With a context for all of them; without labels, the scores have empty ones."""
    body = {"context": {"x": [9.0, 9.0]}, "examples": [{"x": [1.5, 2.0]}, {}]}
    answer = client.post("/v1/models/examples:classify", json=body)
    assert answer.json() == {"results": [[["low", 1.5], ["high", 2.5]], [["low", 9.0], ["high", 10.0]]]}
    body["signature_name"] = "scores"
    answer = client.post("/v1/models/examples:classify", json=body)
    assert answer.json()["results"][0] == [["", 1.5], ["", 2.5]]
    body["signature_name"] = "regress"
    assert client.post("/v1/models/examples:regress", json=body).json() == {"results": [3.5, 18.0]}
    answer = client.post("/v1/models/examples:regress", json={"signature_name": "regress", "examples": [{"y": 1}]})
    assert answer.status_code == 400


def test_serialized_examples_may_be_predicted(client):
    """As base64, which is how those who have them send them."""
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    example.features.feature["x"].float_list.value.extend([0.25, 1])
    instances = [{"b64": base64.b64encode(example.SerializeToString()).decode()}]
    answer = client.post("/v1/models/examples:predict", json={"signature_name": "predict", "instances": instances})
    assert answer.json() == {"predictions": [[0.25, 1.25]]}


@pytest.mark.parametrize("name", ["many", "text", "examples"])
def test_metadata_is_what_tensorflow_reads(client, folders, name):
    """TensorFlow Serving's own message parses it, and has the graph's signatures."""
    from google.protobuf import json_format
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2

    saved = saved_model_pb2.SavedModel.FromString((folders[name] / "1" / "saved_model.pb").read_bytes())
    expected = get_model_metadata_pb2.SignatureDefMap(signature_def=saved.meta_graphs[0].signature_def)
    document = client.get(f"/v1/models/{name}/metadata").json()["metadata"]["signature_def"]
    told = json_format.ParseDict(document, get_model_metadata_pb2.SignatureDefMap())
    assert told.signature_def.keys() >= {key for key in expected.signature_def if not key.startswith("__")}
    for key, signature in told.signature_def.items():
        assert signature.inputs == expected.signature_def[key].inputs
        assert signature.outputs == expected.signature_def[key].outputs
