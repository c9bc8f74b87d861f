"""Two nets for Fashion-MNIST, trained and kept: a small one for the device and a larger one for the server.

Both take `image`, float32 [N, 28, 28, 1] in 0..1, and give `scores`, float32 [N, 10]. They are trained on the first
50,000 of the training images. The other 10,000 are what thresholds are found on: on what a net was trained on, it is
surer than it ought to be. The test images are for the figures alone.

    python benchmarks/cascade_nets.py DIR      trains both, some minutes on two cores, and says how good they are
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
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

TRAINING = 50_000
CALIBRATION = 1_000
EPOCHS = {"small": 6, "large": 6}


def parts(data: Path = DATA) -> dict[str, tuple[Any, Any]]:
    """By part (`train`, `held_out`, `test`): images float32 [N, 28, 28, 1] in 0..1, and labels int64 [N]."""
    images, labels = _idx(data / "train-images-idx3-ubyte.gz", 16), _idx(data / "train-labels-idx1-ubyte.gz", 8)
    test, test_labels = _idx(data / "t10k-images-idx3-ubyte.gz", 16), _idx(data / "t10k-labels-idx1-ubyte.gz", 8)
    pixels = {"train": images[:TRAINING], "held_out": images[TRAINING:], "test": test}
    truth = {"train": labels[:TRAINING], "held_out": labels[TRAINING:], "test": test_labels}
    return {part: (pixels[part] / np.float32(255), truth[part].astype(np.int64)) for part in pixels}


def _idx(path: Path, header: int) -> Any:
    values = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
    return values.reshape(-1, 28, 28, 1) if header == 16 else values


def kept(folder: Path) -> dict[str, Path]:
    """The SavedModels `small` and `large` below the folder, and the data; trained in a process where they are not."""
    import subprocess  # noqa: PLC0415  only the benchmark that asks for them

    paths = {name: folder / name for name in EPOCHS}
    if not all((path / "saved_model.pb").is_file() for path in paths.values()):
        subprocess.run([sys.executable, __file__, str(folder)], check=True)
    return {**paths, **write_data(folder)}


def write_data(folder: Path, data: Path = DATA) -> dict[str, Path]:
    """`calibration.npz` of training images, and `evaluation.npz` of those that were held out, with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    found = parts(data)
    images, labels = found["held_out"]
    np.savez(folder / "calibration.npz", image=found["train"][0][:CALIBRATION])
    np.savez(folder / "evaluation.npz", image=images, labels=labels)
    return {"calibration": folder / "calibration.npz", "evaluation": folder / "evaluation.npz"}


def _small(layers: Any, image: Any) -> Any:
    """Some 9,000 weights, as fit where there is little memory."""
    flow = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    flow = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(flow)
    flow = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(flow)
    return layers.Flatten()(flow)


def _large(layers: Any, image: Any) -> Any:
    """Some 300,000."""
    flow = image
    for channels, stride in ((32, 1), (32, 2), (64, 1), (64, 2), (128, 1), (128, 2)):
        flow = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(flow)
        flow = layers.ReLU()(layers.BatchNormalization()(flow))
        if stride == 2:
            flow = layers.Dropout(0.25)(flow)
    return layers.GlobalAveragePooling2D()(flow)


def train(name: str, images: Any, labels: Any, *, verbose: int = 0) -> Any:
    """A net of that name, trained. Loads TensorFlow."""
    import keras  # noqa: PLC0415  takes seconds

    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 1), name="image")
    features = (_small if name == "small" else _large)(keras.layers, image)
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax")(features))
    rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS[name] * (len(images) // 128))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    flipped = images.copy()
    flipped[::2] = flipped[::2, :, ::-1]
    model.fit(flipped, labels, batch_size=128, epochs=EPOCHS[name], verbose=verbose)
    return model


def export(model: Any, path: Path) -> None:
    """Writes the SavedModel; all of it or nothing."""
    import keras  # noqa: PLC0415  takes seconds
    import tensorflow as tf  # noqa: PLC0415

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serving_default",
        fn=lambda image: {"scores": model(image, training=False)},
        input_signature=[tf.TensorSpec((None, 28, 28, 1), tf.float32, name="image")],
    )
    part = path.with_name(f"{path.name}.{os.getpid()}")
    archive.write_out(str(part), verbose=False)
    part.rename(path)


def main() -> None:
    """Trains what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with Fashion-MNIST's four .gz files")
    parser.add_argument("--verbose", type=int, default=0, help="2: a line an epoch")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = parts(arguments.data)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in EPOCHS:
        path = arguments.folder / name
        if (path / "saved_model.pb").is_file():
            continue
        began_s = time.monotonic()
        model = train(name, *found["train"], verbose=arguments.verbose)
        _, right = model.evaluate(*found["test"], verbose=0)
        export(model, path)
        print(
            f"{name}: {model.count_params():,} weights, {right:.2%} of the test images, trained in "
            f"{time.monotonic() - began_s:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
