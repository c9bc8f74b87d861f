"""Trains small CNNs on scikit-learn's digits (1,797 real 8x8 images) and exports them as SavedModels.

    python examples/digits.py --output build/digits --versions 2

writes `saved_model/1`, `saved_model/2`..., `train.npz`, `test.npz` (arrays by input name, and `labels`) and
`labels.txt`. The test part is held out of training and of calibration. Each version is wider than the one before.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

# Before TensorFlow is imported: its start-up notes would bury what this prints.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

INPUT, OUTPUT = "image", "probabilities"
CLASSES = 10


def load(seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The training part (1,347 images) and the held-out test part (450): float32 [N, 8, 8, 1] in 0..1, labels."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., np.newaxis]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target.astype(np.int64), test_size=0.25, random_state=seed, stratify=digits.target
    )
    return {INPUT: train_x, "labels": train_y}, {INPUT: test_x, "labels": test_y}


def build(width: int) -> Any:
    """A CNN of three convolutions, `width` channels each."""
    import keras  # noqa: PLC0415  TensorFlow takes seconds: not for whoever only wants the data

    inputs = keras.Input((8, 8, 1), name=INPUT)
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(CLASSES)(x)
    return keras.Model(inputs, keras.layers.Softmax(name=OUTPUT)(x))


def train(width: int, epochs: int, part: dict[str, Any], seed: int) -> Any:
    """A trained model; the same arguments give the same training order."""
    import keras  # noqa: PLC0415

    keras.utils.set_random_seed(seed)
    model = build(width)
    model.compile(keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy")
    model.fit(part[INPUT], part["labels"], batch_size=32, epochs=epochs, verbose=0)
    return model


def export(model: Any, path: Path) -> None:
    """Writes a SavedModel whose `serving_default` takes `image` and gives `probabilities`."""
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    def serve(image: Any) -> dict[str, Any]:
        return {OUTPUT: model(image, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serving_default", fn=serve, input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name=INPUT)]
    )
    archive.write_out(str(path), verbose=False)


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--versions", type=int, default=2, help="how many versions to train (default 2)")
    parser.add_argument("--width", type=int, default=16, help="channels of version 1 (default 16)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training part (default 6)")
    arguments = parser.parse_args()

    train_part, test_part = load()
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.output / "train.npz", **train_part)
    np.savez(arguments.output / "test.npz", **test_part)
    (arguments.output / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(CLASSES)))
    for version in range(1, arguments.versions + 1):
        width = arguments.width * (1 + version) // 2
        model = train(width, arguments.epochs, train_part, seed=version)
        predicted = np.asarray(model.predict(test_part[INPUT], verbose=0)).argmax(axis=-1)
        accuracy = float((predicted == test_part["labels"]).mean())
        export(model, arguments.output / "saved_model" / str(version))
        print(f"version {version}: width {width}, test accuracy {accuracy:.1%} on {len(predicted)} held-out images")


if __name__ == "__main__":
    main()
