"""TensorFlow Serving's own client stubs against a server process that serves a repository."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_process import Client, ServerProcess

pytestmark = pytest.mark.slow

POLL_S = 0.5


@pytest.fixture(scope="module")
def repository(models, tmp_path_factory):
    """A repository of its own: versions 1 and 2 of `scale`, and the other models."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("many", "text", "sums", "conv"):
        shutil.copytree(models / name, folder / name)
    for version in ("1", "2"):
        shutil.copytree(models / "scale" / version, folder / "scale" / version)
    broken = folder / "scale" / "9"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"this is no model")
    return folder


@pytest.fixture(scope="module")
def server(repository):
    """Its process."""
    server = ServerProcess(
        f"--model_repository={repository}",
        "--port=0",
        "--no-mdns",
        f"--file_system_poll_wait_seconds={POLL_S}",
        "--max_num_load_retries=0",
    )
    yield server
    server.terminate()
    assert server.wait() == 0, "".join(server.log)


@pytest.fixture(scope="module")
def client(server):
    """TensorFlow Serving's stubs on it."""
    client = Client(server.address)
    yield client
    client.close()


def request(name="scale", *, version=None, label=None, signature="", outputs=(), **inputs):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    message = predict_pb2.PredictRequest(output_filter=outputs)
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    for key, value in inputs.items():
        message.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return message


def predict(client, *args, timeout=20, **options):
    return client.predictions.Predict(request(*args, **options), timeout=timeout)


def values(reply):
    import tensorflow as tf

    return {name: tf.make_ndarray(tensor) for name, tensor in reply.outputs.items()}


def refusal(client, *args, **options):
    with pytest.raises(grpc.RpcError) as refused:
        predict(client, *args, **options)
    return refused.value.code(), refused.value.details()


def until(condition, timeout_s=15):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


X = np.float32([[1, 2, 3]])


def test_predict(client):
    """The latest version unless one is named; the reply says which version and signature answered."""
    reply = predict(client, x=X)
    np.testing.assert_array_equal(values(reply)["y"], X * 2)
    spec = reply.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("scale", 2, "serving_default")
    reply = predict(client, version=1, x=X)
    np.testing.assert_array_equal(values(reply)["y"], X)
    assert reply.model_spec.version.value == 1


def test_tensors_of_every_form(client):
    """Typed values, several inputs and outputs, strings, another signature, and an output filter."""
    typed = request(x=X)
    typed.inputs["x"].ClearField("tensor_content")
    typed.inputs["x"].float_val[:] = [5.0]
    np.testing.assert_array_equal(values(client.predictions.Predict(typed))["y"], [[10, 10, 10]])
    a, b = np.float32([[1, 2]]), np.int32([[3, 4]])
    both = values(predict(client, "many", a=a, b=b))
    np.testing.assert_array_equal(both["sum"], a + b)
    np.testing.assert_array_equal(both["twice"], b * 2)
    assert list(values(predict(client, "many", a=a, b=b, outputs=["twice"]))) == ["twice"]
    text = values(predict(client, "text", s=np.array([b"a", b"\xff"], object)))
    assert text["out"].tolist() == [b"a!", b"\xff!"]
    assert values(predict(client, "many", signature="wide", x=np.float32([[1, 2, 3]])))["mean"].tolist() == [2]


def test_answers_hold_typed_values(client):
    """Floats, integers and strings, as clients read them by field; and bytes where those are asked for."""
    (y,) = predict(client, x=X).outputs.values()
    assert (list(y.float_val), y.tensor_content) == ([2, 4, 6], b"")
    (twice,) = predict(client, "many", a=[[1.0, 2.0]], b=[[-3, 400]], outputs=["twice"]).outputs.values()
    assert (list(twice.int_val), twice.tensor_content) == ([-6, 800], b"")
    (out,) = predict(client, "text", s=[b"a", b""]).outputs.values()
    assert (list(out.string_val), out.tensor_content) == ([b"a!", b"!"], b"")
    asked = [("edge-tensor-content", "1")]
    (y,) = client.predictions.Predict(request(x=X), timeout=20, metadata=asked).outputs.values()
    assert (list(y.float_val), y.tensor_content) == ([], (X * 2).tobytes())


@pytest.mark.parametrize(
    ("asked", "code", "text"),
    [
        ({"name": "half", "x": X}, "NOT_FOUND", "Servable not found for request: Latest(half)"),
        ({"version": 5, "x": X}, "NOT_FOUND", "Servable not found for request: Specific(scale, 5)"),
        ({"name": "", "x": X}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"label": "canary", "x": X}, "INVALID_ARGUMENT", "Unrecognized servable version label: canary"),
        ({"signature": "x", "x": X}, "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            {"x": X, "z": X},
            "INVALID_ARGUMENT",
            (
                "input size does not match signature: 2!=1 len({x,z}) != len({x}). "
                "Sent extra: {z}. Missing but required: {}."
            ),
        ),
        (
            {"x": X, "outputs": ["q"]},
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: q Outputs expected to be in the set {y}.",
        ),
        ({"x": X, "outputs": ["y", "y"]}, "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
        (
            {"name": "many", "signature": "gather", "index": np.int64([7])},
            "INVALID_ARGUMENT",
            "the model refused the values: indices[0] = 7 is not in [0, 3)",
        ),
    ],
)
def test_refusals(client, asked, code, text):
    """TensorFlow Serving's codes and texts."""
    asked = dict(asked)
    assert refusal(client, asked.pop("name", "scale"), **asked) == (grpc.StatusCode[code], text)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 1), "f"), np.zeros((1, 8, 8, 2), "f"), np.zeros((1, 8, 8, 1), "d")],
)
def test_a_wrong_shape_is_refused_and_the_server_lives(server, client, image):
    """What would end TensorFlow's process, or be read wrongly, is the request's fault and nobody else's."""
    code, text = refusal(client, "conv", image=image)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "image" in text
    assert predict(client, "conv", image=np.zeros((1, 8, 8, 1), "f"))
    assert server.process.poll() is None


def test_no_rows_are_answered_with_none(client):
    """An empty batch is a batch."""
    assert values(predict(client, x=np.zeros((0, 3), "f")))["y"].shape == (0, 3)


def test_an_unreadable_tensor_and_a_missing_spec(client):
    """Their texts begin as TensorFlow Serving's."""
    from tensorflow_serving.apis import predict_pb2

    broken = request(x=X)
    broken.inputs["x"].tensor_content = b"123"
    with pytest.raises(grpc.RpcError, match="tensor parsing error: x"):
        client.predictions.Predict(broken)
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        client.predictions.Predict(predict_pb2.PredictRequest())


def test_metadata(client):
    """TensorFlow's own message class unpacks what comes."""
    from tensorflow_serving.apis import get_model_metadata_pb2

    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "many"
    reply = client.predictions.GetModelMetadata(asked)
    assert reply.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    assert [dim.size for dim in default.inputs["a"].tensor_shape.dim] == [-1, 2]
    assert default.method_name == "tensorflow/serving/predict"


def test_states_and_a_broken_version_beside_good_ones(client):
    """The broken version is END and says why; the others answer; what isn't there is not found."""
    states = client.states("scale")
    assert {version: states[version] for version in (1, 2, 9)} == {1: "AVAILABLE", 2: "AVAILABLE", 9: "END"}
    assert client.states("scale", 1) == {1: "AVAILABLE"}
    errors = client.errors("scale")
    assert errors[2] == ""
    assert "saved_model.pb" in errors[9]
    for name, version, text in (
        ("scale", 5, "Could not find version 5 of model scale"),
        ("half", None, "Could not find any versions of model half"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            client.states(name, version)
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.NOT_FOUND, text)


def test_health(client):
    """The server as a whole and both services are SERVING."""
    stub = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", "ModelService", "PredictionService"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_twenty_megabytes_in_and_out(client):
    """Tensors far beyond gRPC's own limit, and beyond a batch."""
    x = np.random.default_rng(0).random((1_750_000, 3), np.float32)
    np.testing.assert_array_equal(values(predict(client, x=x))["y"], x * 2)


def test_many_at_once_each_get_their_own(client):
    """Concurrent requests of several sizes, good and bad mixed: merged or not, each gets its own answer."""

    def one(number):
        if number % 10 == 9:
            return refusal(client, "many", signature="gather", index=np.int64([number]))[0]
        x = np.full((1 + number % 4, 3), number, np.float32)
        y = values(predict(client, x=x))["y"]
        return y.shape == x.shape and bool((y == 2 * number).all())

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(one, range(600)))
    assert set(answers[9::10]) == {grpc.StatusCode.INVALID_ARGUMENT}
    assert all(answer is True for number, answer in enumerate(answers) if number % 10 != 9)


def test_a_model_that_does_not_keep_rows_still_answers_each(client):
    """Its variable first dimension is no batch: found out, and each request is run alone."""

    def one(number):
        x = np.full(3 + number % 5, number, np.float32)
        return values(predict(client, "sums", x=x))["y"].tolist() == [number, number]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))


def test_callers_that_leave_do_the_server_no_harm(server, client):
    """Cancelled at any moment, many at once: the next request is answered, and the log has no errors."""
    for _ in range(5):
        flying = [client.predictions.Predict.future(request(x=X)) for _ in range(40)]
        for each in flying:
            each.cancel()
        assert predict(client, x=X)
    assert not [line for line in server.log if "Traceback" in line]


def test_versions_come_and_go_under_traffic(client, repository, models):
    """A version that is copied in slowly is taken only when whole, then answers; removed, it goes. No request fails."""
    failures, seen, done = [], set(), threading.Event()

    def traffic():
        while not done.is_set():
            try:
                reply = predict(client, x=X)
            except grpc.RpcError as error:
                failures.append(error)
            else:
                version = reply.model_spec.version.value
                seen.add(version)
                if not np.array_equal(values(reply)["y"], X * version):
                    failures.append(version)

    threads = [threading.Thread(target=traffic) for _ in range(2)]
    for thread in threads:
        thread.start()
    source, target = models / "scale" / "3", repository / "scale" / "3"
    target.mkdir()
    (target / "variables").mkdir()
    whole = (source / "saved_model.pb").read_bytes()
    with (target / "saved_model.pb").open("wb") as out:
        for begin in range(0, len(whole), len(whole) // 12):
            out.write(whole[begin : begin + len(whole) // 12])
            out.flush()
            time.sleep(POLL_S / 6)
            assert 3 not in client.states("scale")
    for file in (source / "variables").iterdir():
        shutil.copyfile(file, target / "variables" / file.name)
    until(lambda: client.states("scale").get(3) == "AVAILABLE")
    until(lambda: 3 in seen)
    shutil.rmtree(target)
    until(lambda: client.states("scale").get(3) == "END")
    assert refusal(client, version=3, x=X)[0] is grpc.StatusCode.NOT_FOUND
    done.set()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert seen == {2, 3}
    assert predict(client, x=X).model_spec.version.value == 2
