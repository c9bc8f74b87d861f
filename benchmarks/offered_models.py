"""The models of `offered.py`: a net that takes a core for some milliseconds, and a model that takes none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from fallback_server.protocol.proto import serving_pb2
from fallback_server.protocol.tensors import encode

SHAPE = (28, 28, 1)

_NET = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
folder = sys.argv[1]
module = tf.Module()
shapes = ([3, 3, 1, 64], [3, 3, 64, 128], [3, 3, 128, 128], [3, 3, 128, 128], [128, 10])
module.layers = [tf.Variable(tf.random.stateless_normal(shape, [3, 4]) * 0.1) for shape in shapes]
def function(x):
    for kernel in module.layers[:-1]:
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
    return {"y": tf.nn.softmax(tf.reduce_mean(x, [1, 2]) @ module.layers[-1])}
module.call = tf.function(function, input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.float32, name="x")])
tf.saved_model.save(module, folder + "/saved", signatures={"serving_default": module.call})
made = tf.lite.TFLiteConverter.from_saved_model(folder + "/saved", signature_keys=["serving_default"]).convert()
with open(folder + "/model.tflite", "wb") as file:
    file.write(made)
"""

_WAITING = """
import time
import numpy as np


class Model:
    def __init__(self, path):
        inputs, outputs = {"x": ("float32", (-1, 28, 28, 1))}, {"y": ("float32", (-1,))}
        self.signatures = {"serving_default": {"inputs": inputs, "outputs": outputs}}

    def predict(self, signature, inputs):
        rows = len(inputs["x"])
        time.sleep(0.005 * rows)
        return {"y": np.zeros(rows, np.float32)}
"""


def make_net(repository: Path) -> Path:
    """Writes `net/1` with a net of some 290 million multiplications a row; its file."""
    version = repository / "net" / "1"
    made = repository.parent / "made"
    version.mkdir(parents=True)
    made.mkdir()
    subprocess.run([sys.executable, "-c", _NET, str(made)], check=True, capture_output=True, timeout=300)
    return (made / "model.tflite").rename(version / "model.tflite")


def make_waiting(repository: Path) -> None:
    """Writes `waiting/1` with a model that waits 5 ms a row, one batch at a time."""
    version = repository / "waiting" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_WAITING)


def predict_message(model: str) -> bytes:
    """A Predict request of one row."""
    request = serving_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(encode(np.ones((1, *SHAPE), np.float32)))
    return request.SerializeToString()
