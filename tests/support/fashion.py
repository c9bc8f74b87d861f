"""Fashion-MNIST where it is installed, and a small net that was trained on it. TensorFlow only inside of functions."""

import gzip
import os
import sys
from pathlib import Path

import numpy as np

FILES = {
    "train_images": ("train-images-idx3-ubyte.gz", 16, (-1, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte.gz", 8, (-1,)),
    "test_images": ("t10k-images-idx3-ubyte.gz", 16, (-1, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte.gz", 8, (-1,)),
}
"""By what they hold: the file, the length of its header, the shape."""

TRAINING_SAMPLES = 20_000
"""A third of them: enough for 85 %, and ten seconds."""


def folder():
    """Where the four files are: the folder that EDGE_FASHION_MNIST names, Debian's package, `make setup`'s; or None."""
    places = [
        os.environ.get("EDGE_FASHION_MNIST"),
        "/usr/share/datasets/fashion-mnist",
        Path(sys.prefix) / "share" / "fashion-mnist",
    ]
    for place in places:
        if place and all((Path(place) / name).is_file() for name, _, _ in FILES.values()):
            return Path(place)
    return None


def fashion_mnist():
    """Train images uint8 [60000, 28, 28] and labels uint8 [60000], test images and labels of 10000; or None."""
    place = folder()
    if place is None:
        return None
    return tuple(
        np.frombuffer(gzip.decompress((place / name).read_bytes()), np.uint8, offset=header).reshape(shape)
        for name, header, shape in FILES.values()
    )


def trained_cnn(cache):
    """A SavedModel below `cache`, trained at the first call: `image` [N, 28, 28, 1] in 0..1 -> `scores` [N, 10]."""
    target = Path(cache) / "fashion-cnn-1"
    if not target.is_dir():
        part = target.with_name(f"{target.name}.{os.getpid()}")
        _train(part)
        try:
            part.rename(target)
        except OSError:  # Another process was first.
            assert target.is_dir()
    return target


def _train(path):
    import keras
    import tensorflow as tf

    images, labels, _, _ = fashion_mnist()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    features = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(image)
    features = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(features)
    hidden = layers.Dense(64, activation="relu")(layers.Flatten()(features))
    model = keras.Model(image, layers.Dense(10, activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    inputs = images[:TRAINING_SAMPLES, ..., np.newaxis] / np.float32(255)
    model.fit(inputs, labels[:TRAINING_SAMPLES], batch_size=64, epochs=3, verbose=0)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serving_default",
        fn=lambda image: {"scores": model(image, training=False)},
        input_signature=[tf.TensorSpec((None, 28, 28, 1), tf.float32, name="image")],
    )
    archive.write_out(str(path), verbose=False)


def accuracy(path, count=2_000):
    """The SavedModel's own share of right answers on the first test images."""
    import tensorflow as tf

    _, _, images, labels = fashion_mnist()
    inputs = tf.constant(images[:count, ..., np.newaxis] / np.float32(255))
    scores = tf.saved_model.load(str(path)).signatures["serving_default"](image=inputs)["scores"].numpy()
    return float((scores.argmax(axis=1) == labels[:count]).mean())
