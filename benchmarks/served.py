"""What the benchmarks of loads have in common: large SavedModels, a server in its own process, and its memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fallback_process import Client, ServerProcess  # noqa: E402
from tensorflow_serving.apis import predict_pb2  # noqa: E402

WAIT_S = 120.0

MODELS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
folder, megabytes = sys.argv[1], int(sys.argv[2])
module = tf.Module()
if megabytes:
    rows = megabytes * 250
    module.weights = tf.Variable(tf.random.stateless_uniform([rows, 1000], [1, 2]), name="weights")
    function = lambda x: {"y": tf.linalg.matvec(module.weights[:16], x, name="y")}
    spec = tf.TensorSpec([None, 1000], tf.float32, name="x")
    function = lambda x: {"y": tf.linalg.matmul(x, module.weights[:16], transpose_b=True)}
else:
    layers = [tf.Variable(tf.random.stateless_normal(shape, [3, 4]) * 0.1) for shape in
              ([3, 3, 1, 8], [13 * 13 * 8, 10])]
    module.layers = layers
    def function(image):
        hidden = tf.nn.relu(tf.nn.conv2d(image, layers[0], 2, "VALID"))
        return {"y": tf.nn.softmax(tf.reshape(hidden, [-1, 13 * 13 * 8]) @ layers[1])}
    spec = tf.TensorSpec([None, 28, 28, 1], tf.float32, name="x")
module.call = tf.function(function, input_signature=[spec])
tf.saved_model.save(module, folder, signatures={"serving_default": module.call})
"""


def make_model(folder: Path, megabytes: int) -> Path:
    """Writes a SavedModel with so many MB of weights; the TensorFlow Serving tutorial's net for 0."""
    subprocess.run(
        [sys.executable, "-c", MODELS, str(folder), str(megabytes)], check=True, capture_output=True, timeout=300
    )
    return folder


def serve(repository: Path, *flags: str) -> ServerProcess:
    """A server of a repository, ready."""
    return ServerProcess(f"--model_repository={repository}", "--port=0", "--rest_api_port=0", "--mdns=false", *flags)


def asker(client: Client, name: str, shape: tuple[int, ...]) -> Callable[[], float]:
    """A function that asks a model once, and tells how long that took, in seconds."""
    from tensorflow import make_tensor_proto  # noqa: PLC0415  a client's; the server is another process

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(make_tensor_proto(np.ones(shape, np.float32)))

    def ask() -> float:
        before_s = time.perf_counter()
        client.predictions.Predict(request, timeout=60)
        return time.perf_counter() - before_s

    return ask


def wait_for(condition: Callable[[], bool]) -> float:
    """Waits until something is so; returns when it was, in seconds."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError("it did not come to be")
        time.sleep(0.005)
    return time.monotonic()
