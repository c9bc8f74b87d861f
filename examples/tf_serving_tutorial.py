"""TensorFlow Serving's tutorial, with this server in its place: train, export, serve, ask over REST, look at it.

    python examples/tf_serving_tutorial.py --output tutorial-output

Trains the tutorial's net on Fashion-MNIST, exports it as version 1 of `fashion_model`, starts `fallback-server` with
the flags that the tutorial gives to `tensorflow_model_server`, asks for the first three test images over REST, once of
the latest version and once of version 1, and draws the three with what they are and what they were taken for.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = (
    ("train-images-idx3-ubyte.gz", 16, (-1, 28, 28, 1)),
    ("train-labels-idx1-ubyte.gz", 8, (-1,)),
    ("t10k-images-idx3-ubyte.gz", 16, (-1, 28, 28, 1)),
    ("t10k-labels-idx1-ubyte.gz", 8, (-1,)),
)
"""The data set's files, the lengths of their headers, and the shapes of what follows."""

READY_WITHIN_S = 120.0
Array = npt.NDArray[Any]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("tutorial-output"), help="folder to write to")
    parser.add_argument("--data", type=Path, help="folder of the four files of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training part (default 5)")
    parser.add_argument("--samples", type=int, default=60_000, help="of the training part (default all, 60000)")
    arguments = parser.parse_args()
    train_images, train_labels, test_images, test_labels = read(folder(arguments.data))
    shutil.rmtree(arguments.output, ignore_errors=True)
    base_path = arguments.output.resolve() / "fashion_model"
    base_path.mkdir(parents=True)

    part = slice(arguments.samples)
    model = train(train_images[part], train_labels[part], arguments.epochs)
    _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
    print(f"\ntest accuracy: {accuracy:.4f}")
    model.export(base_path / "1", verbose=False)
    print(f"exported to {base_path / '1'}")
    asked = test_images[:3]
    expected = model.predict(asked, verbose=0)
    with Server(base_path, arguments.output / "server.log") as server:
        print(f"\n{server.ready_line}")
        show(server, asked, test_labels[:3], expected, arguments.output / "predictions.png")


def show(server: Server, images: Array, labels: Array, expected: Array, figure: Path) -> None:
    """Asks for the images, checks the answers against the model's own, and draws them."""
    url = f"http://{server.rest}/v1/models/fashion_model"
    print("status:  ", json.dumps(get(url)["model_version_status"]))
    signatures = get(f"{url}/metadata")["metadata"]["signature_def"]["signature_def"]
    print("signature:", json.dumps(signatures["serving_default"]["inputs"]))
    body = {"signature_name": "serving_default", "instances": images.tolist()}
    for path in (f"{url}:predict", f"{url}/versions/1:predict"):
        predictions = np.array(post(path, body)["predictions"], np.float32)
        if not np.allclose(predictions, expected, atol=1e-4):
            raise SystemExit(f"{path} answered {predictions}, the model itself says {expected}")
        guesses = predictions.argmax(axis=-1)
        for label, guess in zip(labels, guesses, strict=True):
            print(f"{path.rpartition('/')[2]}: {CLASSES[guess]}, and it is: {CLASSES[label]}")
    draw(images, labels, guesses, figure)
    print(f"drawn in {figure}")


def folder(given: Path | None) -> Path:
    """Where the data set is."""
    places = [given] if given else [Path("/usr/share/datasets/fashion-mnist"), Path(sys.prefix) / "share/fashion-mnist"]
    if not given and (named := os.environ.get("EDGE_FASHION_MNIST")):
        places.insert(0, Path(named))
    for place in places:
        if all((place / name).is_file() for name, _, _ in FILES):
            return place
    raise SystemExit(
        f"no Fashion-MNIST in {', '.join(map(str, places))}: run `make test` once, install Debian's "
        "dataset-fashion-mnist, or give --data=DIR with the four .gz files"
    )


def read(place: Path) -> tuple[Array, Array, Array, Array]:
    """Train images float32 [60000, 28, 28, 1] in 0..1 and labels uint8 [60000], then 10000 for tests."""
    train_images, train_labels, test_images, test_labels = (
        np.frombuffer(gzip.decompress((place / name).read_bytes()), np.uint8, offset=header).reshape(shape)
        for name, header, shape in FILES
    )
    return train_images / np.float32(255), train_labels, test_images / np.float32(255), test_labels


def train(images: Array, labels: Array, epochs: int) -> Any:
    """The tutorial's net, trained."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras  # noqa: PLC0415  seconds, which a call for help does not pay

    model = keras.Sequential(
        [
            keras.layers.Input((28, 28, 1)),
            keras.layers.Conv2D(filters=8, kernel_size=3, strides=2, activation="relu", name="Conv1"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="Dense"),
        ]
    )
    model.summary()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy()])
    model.fit(images, labels, epochs=epochs, verbose=2)
    return model


class Server:
    """`fallback-server` as a process of its own, on ports that it picks itself."""

    def __init__(self, base_path: Path, log: Path) -> None:
        """Starts it and waits until it is ready."""
        command = [
            *(sys.executable, "-m", "fallback_server.cli"),
            *("--port=0", "--no-mdns"),
            *("--model_name=fashion_model", f"--model_base_path={base_path}"),
        ]
        with log.open("w") as file:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        assert self._process.stdout is not None
        began_s = time.monotonic()
        while time.monotonic() - began_s < READY_WITHIN_S:
            line = self._process.stdout.readline()
            if " listening on " in line:
                self.ready_line = line.strip()
                self.rest = line.partition("REST on ")[2].split()[0].rstrip(",")
                return
            if not line:
                break
        self._process.kill()
        raise SystemExit(f"the server did not come up:\n{log.read_text()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def get(url: str) -> Any:
    """What the server says there."""
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


def post(url: str, body: object) -> Any:
    """What the server answers to a body of JSON."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def draw(images: Array, labels: Array, guesses: Array, path: Path) -> None:
    """The images beside each other, each under what it is and what it was taken for."""
    import matplotlib as mpl  # noqa: PLC0415  likewise

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(images), figsize=(3.4 * len(images), 3.6), layout="constrained")
    for axis, image, label, guess in zip(axes, images, labels, guesses, strict=True):
        axis.imshow(image[..., 0], cmap="gray_r")
        axis.set_axis_off()
        right = label == guess
        axis.set_title(
            f"predicted: {CLASSES[guess]}\ntrue: {CLASSES[label]}", color="#00693c" if right else "#b3001b", fontsize=11
        )
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
