"""The models that are served: TensorFlow Serving's tutorial net and a MobileNetV2, each as SavedModel and as LiteRT."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import run_child

_CONVERT = """
import sys
import tensorflow as tf
made = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1], signature_keys=["serving_default"]).convert()
open(sys.argv[2], "wb").write(made)
"""

_CNN = (
    "import sys; from benchmarks.served import make_model; from pathlib import Path; make_model(Path(sys.argv[1]), 0)"
)

_MOBILENET = """
import sys
import keras, tensorflow as tf
keras.utils.set_random_seed(1)
net = keras.applications.MobileNetV2(weights=None)
archive = keras.export.ExportArchive()
archive.track(net)
archive.add_endpoint(
    "serving_default", fn=lambda x: {"y": net(x, training=False)},
    input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")])
archive.write_out(sys.argv[1], verbose=False)
"""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model in both forms; input `x`, output `y`, signature `serving_default`.

    Attributes:
        name: As it is served.
        shape: Of one row, without the batch axis.
        outputs: How many values an answer's row has.
        saved_model: Its folder.
        litert: The `.tflite` file of the same weights, in float32.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    saved_model: Path
    litert: Path


def make_cnn(folder: Path) -> Model:
    """28x28x1 -> Conv 8 3x3 s2 -> Dense 10 softmax."""
    return _made(_CNN, folder, "cnn", (28, 28, 1), 10)


def make_mobilenet(folder: Path) -> Model:
    """A MobileNetV2 with random weights, 14 MB of them."""
    return _made(_MOBILENET, folder, "mobilenet", (224, 224, 3), 1000)


def repository(folder: Path, model: Model, *, litert: bool) -> Path:
    """A folder with the model as version 1: its SavedModel, and its LiteRT form beside it where that is wanted."""
    version = folder / ("both" if litert else "saved_model") / model.name / "1"
    version.parent.mkdir(parents=True, exist_ok=True)
    if not version.exists():
        shutil.copytree(model.saved_model, version)
        if litert:
            shutil.copyfile(model.litert, version / "model.tflite")
    return version.parents[1]


def _made(code: str, folder: Path, name: str, shape: tuple[int, ...], outputs: int) -> Model:
    saved_model, litert = folder / f"{name}-saved-model", folder / f"{name}.tflite"
    if not litert.exists():
        run_child(code, str(saved_model))
        run_child(_CONVERT, str(saved_model), str(litert))
    return Model(name=name, shape=shape, outputs=outputs, saved_model=saved_model, litert=litert)
