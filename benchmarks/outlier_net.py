"""A net that plain int8 ruins: depthwise-separable, trained on Fashion-MNIST, with outlier channels.

Nets with depthwise convolutions are known to come out of training with a few channels that are far louder than the
rest, so that one int8 scale for all of a tensor leaves nothing of the others. Training a net of this size for a minute
does not bring that about, so it is put in after it: in some blocks a few depthwise channels are made LOUD times as
loud, and the pointwise convolution after them takes them as much more softly. ReLU is linear for positive factors:
the function stays the same, its answers in float32 too, but for rounding.

Run by itself it trains, converts to float32 and int8, searches, and prints accuracy and size of each.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PLACES = (
    os.environ.get("EDGE_FASHION_MNIST", ""),
    "/usr/share/datasets/fashion-mnist",
    f"{sys.prefix}/share/fashion-mnist",
)
"""Where Fashion-MNIST's four .gz files may be: where one says, in Debian's package, in what `make setup` fetched."""

DATA = next((Path(place) for place in PLACES if place and Path(place).is_dir()), Path(PLACES[1]))

BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 1))
"""Of each depthwise-separable block: channels out, stride."""

OUTLIER_BLOCKS = (1, 2)
OUTLIER_CHANNELS = 2
LOUD = 400.0
TRAINING_SAMPLES = 20_000
EPOCHS = 2


def build(folder: Path, data: Path = DATA) -> None:
    """Writes `folder/saved_model`, `train.npz` (2,000 images) and `test.npz` (10,000, with labels).

    The SavedModel takes `image`, float32 [N, 28, 28, 1] in 0..1, and gives `scores`, float32 [N, 10]. The same bytes
    each time on one machine, as far as TensorFlow's training is reproducible. Loads TensorFlow.
    """
    images, labels = _idx(data / "train-images-idx3-ubyte.gz", 16), _idx(data / "train-labels-idx1-ubyte.gz", 8)
    test, test_labels = _idx(data / "t10k-images-idx3-ubyte.gz", 16), _idx(data / "t10k-labels-idx1-ubyte.gz", 8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "train.npz", image=_scaled(images[-2_000:]))
    np.savez(folder / "test.npz", image=_scaled(test), labels=test_labels.astype(np.int64))
    model = _trained(_scaled(images[:TRAINING_SAMPLES]), labels[:TRAINING_SAMPLES])
    _add_outliers(model)
    _export(model, folder / "saved_model")


def _idx(path: Path, header: int) -> Any:
    values = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
    return values.reshape(-1, 28, 28, 1) if header == 16 else values


def _scaled(images: Any) -> Any:
    return images / np.float32(255)


def _trained(images: Any, labels: Any) -> Any:
    import keras  # noqa: PLC0415  takes seconds

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    flow = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image)
    flow = layers.ReLU()(layers.BatchNormalization()(flow))
    for index, (channels, stride) in enumerate(BLOCKS):
        flow = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(flow)
        flow = layers.ReLU()(layers.BatchNormalization(name=f"depthwise_norm_{index}")(flow))
        flow = layers.Conv2D(channels, 1, use_bias=False, name=f"pointwise_{index}")(flow)
        flow = layers.ReLU()(layers.BatchNormalization()(flow))
    scores = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(flow))
    model = keras.Model(image, scores)
    steps = EPOCHS * (len(images) // 64)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=64, epochs=EPOCHS, verbose=0)
    return model


def _add_outliers(model: Any) -> None:
    random = np.random.default_rng(0)
    for index in OUTLIER_BLOCKS:
        norm, pointwise = model.get_layer(f"depthwise_norm_{index}"), model.get_layer(f"pointwise_{index}")
        gamma, beta, mean, variance = norm.get_weights()
        factors = np.ones(len(gamma), np.float32)
        factors[random.choice(len(gamma), OUTLIER_CHANNELS, replace=False)] = LOUD
        norm.set_weights([gamma * factors, beta * factors, mean, variance])
        (kernel,) = pointwise.get_weights()
        pointwise.set_weights([kernel / factors[:, np.newaxis]])


def _export(model: Any, path: Path) -> None:
    import keras  # noqa: PLC0415  takes seconds
    import tensorflow as tf  # noqa: PLC0415

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serving_default",
        fn=lambda image: {"scores": model(image, training=False)},
        input_signature=[tf.TensorSpec((None, 28, 28, 1), tf.float32, name="image")],
    )
    archive.write_out(str(path), verbose=False)


def search_it(folder: Path, max_loss_points: float = 0.5) -> dict[str, tuple[float, int]]:
    """By variant, accuracy in percent and bytes, of float32, int8 and the smallest mixed one within the budget."""
    from converter.artifact import Signature, TensorSpec  # noqa: PLC0415
    from converter.isolation import ForkServer  # noqa: PLC0415
    from converter.quantize import Lowering, lower  # noqa: PLC0415
    from converter.recipes import FLOAT32, MIXED, recipe  # noqa: PLC0415
    from converter.search import Trial, search  # noqa: PLC0415
    from converter.sensitivity import layer_errors  # noqa: PLC0415

    signature = Signature(
        name="serving_default",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 28, 28, 1)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 10)),),
        batch_axis=0,
    )
    found: dict[str, tuple[float, int]] = {}
    with ForkServer(("tensorflow", "ai_edge_litert.interpreter")) as server:
        calibration = _calibration(folder)

        def task(one: Any, float_layers: frozenset[str] = frozenset()) -> Lowering:
            return Lowering(
                saved_model=folder / "saved_model",
                signatures=(signature,),
                recipe=one,
                file=folder / f"{one.name}.tflite",
                calibration=calibration,
                max_samples=200,
                float_file=folder / "kept_float",
                calibrated_file=folder / "kept_calibrated",
                float_layers=float_layers,
            )

        def measure(one: Any, float_layers: frozenset[str] = frozenset()) -> tuple[float, int]:
            made = task(one, float_layers)
            server.run(lower, 300.0, made)
            return server.run(accuracy, 300.0, made.file, folder / "test.npz"), made.file.stat().st_size

        for one in (FLOAT32, recipe("int8-float-io")):
            found[one.name] = measure(one)
        errors = server.run(layer_errors, 300.0, task(MIXED))

        def attempt(float_layers: frozenset[str]) -> Trial:
            right, size_bytes = measure(MIXED, float_layers)
            loss_points = found[FLOAT32.name][0] - right
            return Trial(float_layers=float_layers, size_bytes=size_bytes, loss_points=loss_points, made=right)

        outcome = search(
            errors,
            attempt,
            lambda trial: trial.loss_points <= max_loss_points,
            300.0,
            time.monotonic,
            lambda step: print(f"  {len(step.trial.float_layers)} in float: {-step.trial.loss_points:+.2f} points"),
        )
    if outcome.best is not None:
        found[MIXED.name] = (outcome.best.made, outcome.best.size_bytes)
    return found


def _calibration(folder: Path) -> Any:
    from converter.data import Dataset  # noqa: PLC0415

    file = folder / "calibration.npy"
    with np.load(folder / "train.npz") as arrays:
        np.save(file, arrays["image"])
        count = len(arrays["image"])
    return Dataset(origin="train.npz", samples=count, files={"image": file}, batched=True, keeps_axis=True)


def accuracy(file: Path, data: Path) -> float:
    """Percent of right answers of a TFLite file with float inputs and outputs, on the images and labels in `data`."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    runner = Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    with np.load(data) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    right = sum(
        int((runner(image=images[at : at + 500])["scores"].argmax(axis=1) == labels[at : at + 500]).sum())
        for at in range(0, len(images), 500)
    )
    return 100.0 * right / len(labels)


def main() -> int:
    """Prints what was found; 1 where it is not what this net is for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with Fashion-MNIST's four .gz files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        began_s = time.monotonic()
        build(Path(name), options.data)
        print(f"trained in {time.monotonic() - began_s:.0f} s")
        began_s = time.monotonic()
        found = search_it(Path(name))
        print(f"converted and searched in {time.monotonic() - began_s:.0f} s")
    for variant, (right, size_bytes) in found.items():
        print(f"{variant:14} {right:6.2f} %  {size_bytes:8} bytes")
    float32, int8, mixed = (found.get(name, (0.0, 0)) for name in ("float32", "int8-float-io", "mixed"))
    good = float32[0] - int8[0] > 5 and float32[0] - mixed[0] <= 0.5 and mixed[1] <= float32[1] / 2
    print("as it should be" if good else "NOT as it should be")
    return 0 if good else 1


if __name__ == "__main__":
    # What runs in a child process must belong to a module that the child can import, and not to a script; and beside
    # this script lies a benchmark by the name of the package that is measured.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import outlier_net

    sys.exit(outlier_net.main())
