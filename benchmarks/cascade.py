"""A small net on the device and a larger one on a server: what both are right about together, and what is sent.

    python benchmarks/cascade.py [--images 10000] [--delay-ms 5]

Two nets are trained on Fashion-MNIST (`cascade_nets.py`; some minutes, once, then they are kept). `edge-convert` makes
a package of the small one, with its int8 variant and, by `--server-model`, the confidence below which the larger one's
answer is worth the way to it: found on images that neither net was trained on. The runtime runs that package; a real
`fallback-server` in a process of its own serves the larger net under the same name and version, behind a proxy that
delays every byte. Then each test image is asked for three times: of the device alone, of the server alone, and of both
with `cascade="on"`; in turns, a few hundred images at a time. None of these images had a part in the training or in the
threshold. At last the same in batches of 32, of which only the unsure rows are sent.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks import cascade_nets  # noqa: E402
from benchmarks.far_scene import Server  # noqa: E402
from benchmarks.network import Network  # noqa: E402
from converter.artifact import Cascade, Package  # noqa: E402
from edge_runtime import Runtime  # noqa: E402
from edge_runtime.model import Model  # noqa: E402
from edge_runtime.types import Array, Reply  # noqa: E402

CACHE = Path(sys.prefix) / "share" / "benchmark-models" / "cascade"
NAME = "clothes"
TURN = 250
"""Images that are asked for one way before it is the next one's turn."""

CALLERS = 4
BATCH = 32
TARGET_POINTS = 0.2
TARGET_SENT = 0.4
SERVER_WITHIN_S = 30.0


@dataclass
class Way:
    """One way to ask, and what came of it.

    Attributes:
        ask: Asks for rows of images.
        right: By image, whether the answer was right.
        scores: By image.
        places: By request, where its answer came from, and why.
        spent_ms: By request.
    """

    ask: Callable[[Array], Reply]
    right: list[bool] = field(default_factory=list)
    scores: list[Array] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)
    spent_ms: list[float] = field(default_factory=list)

    def take(self, reply: Reply, labels: Array) -> None:
        """Counts an answer."""
        scores = reply.outputs["scores"]
        self.right += (scores.argmax(axis=1) == labels).tolist()
        self.scores += list(scores)
        self.places.append((reply.place.partition(":")[0], reply.reason))
        self.spent_ms.append(reply.latency_ms)

    @property
    def accuracy(self) -> float:
        """The share of images that were taken for what they are."""
        return float(np.mean(self.right))

    @property
    def sent(self) -> float:
        """The share of requests that a server answered."""
        return float(np.mean([place == "server" for place, _ in self.places]))


def package(folder: Path) -> Package:
    """The small net's package, made by `edge-convert` against the larger net."""
    kept = cascade_nets.kept(CACHE)
    command = [
        *(sys.executable, "-m", "converter", str(kept["small"])),
        *("--name", NAME, "--version", "1", "--output", str(folder)),
        *("--calibration", str(kept["calibration"]), "--evaluation", str(kept["evaluation"])),
        *("--server-model", str(kept["large"]), "--variant", "float32", "--variant", "int8", "--no-latency"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Package.open(folder / NAME / "1")


def play(ways: list[Way], images: Array, labels: Array, rows: int) -> None:
    """Asks for all images each way, in turns, by some callers at once."""
    with ThreadPoolExecutor(CALLERS) as callers:
        for turn, first in enumerate(range(0, len(images), TURN * rows)):
            starts = range(first, min(first + TURN * rows, len(images)), rows)
            for way in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
                replies = callers.map(lambda start, way=way: way.ask(images[start : start + rows]), starts)
                for start, reply in zip(starts, replies, strict=True):
                    way.take(reply, labels[start : start + rows])


def served(model: Model, image: Array) -> None:
    """Waits until the server answers."""
    until_s = time.monotonic() + SERVER_WITHIN_S
    while True:
        try:
            model.predict(image, policy="only_server", deadline_ms=5_000)
        except Exception:
            if time.monotonic() > until_s:
                raise
        else:
            return


def told(device: Way, server: Way, both: Way, promised: Cascade) -> bool:
    """Prints the figures of single requests; whether both targets are met."""
    print(f"{'':18}{'accuracy':>10}{'sent':>8}{'median':>10}{'p99':>10}   ms a request")
    for name, way in (("device alone", device), ("server alone", server), ("cascade", both)):
        median_ms, p99_ms = np.percentile(way.spent_ms, [50, 99])
        print(f"{name:18}{way.accuracy:10.2%}{way.sent:8.1%}{median_ms:10.2f}{p99_ms:10.2f}")
    reasons = {reason for place, reason in both.places if place == "server"}
    lost = (server.accuracy - both.accuracy) * 100
    gap = (server.accuracy - device.accuracy) * 100
    print(
        f"cascade: {lost:.2f} points below the server (target: at most {TARGET_POINTS}; the device alone: {gap:.2f}) "
        f"with {both.sent:.1%} of the requests sent (target: at most {TARGET_SENT:.0%}), for: {', '.join(reasons)}"
    )
    print(
        f"mean time of a request over the server's: {np.mean(both.spent_ms) / np.mean(server.spent_ms):.2f} x; "
        f"the package foretold {promised.accuracy - promised.source_accuracy:+.2%} with "
        f"{promised.escalation_rate:.1%} sent, below {promised.threshold:.3f}"
    )
    return lost <= TARGET_POINTS and both.sent <= TARGET_SENT


def told_of_batches(device: Way, server: Way, both: Way) -> None:
    """Prints the figures of batches."""
    asked = float(np.mean([not np.array_equal(a, b) for a, b in zip(device.scores, both.scores, strict=True)]))
    print(
        f"batches of {BATCH}: device {device.accuracy:.2%}, server {server.accuracy:.2%}, cascade {both.accuracy:.2%} "
        f"with {asked:.1%} of the rows sent ({both.sent:.0%} of the batches had some)"
    )


def ways_of(model: Model) -> list[Way]:
    """The three."""
    return [
        Way(lambda rows: model.predict(rows, policy="only_device")),
        Way(lambda rows: model.predict(rows, policy="only_server")),
        Way(lambda rows: model.predict(rows, unsure="on")),
    ]


def main() -> int:
    """Prints what was found; 1 where it is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of the 10,000 test images (all)")
    parser.add_argument("--delay-ms", type=float, default=5.0, help="of the network, each way (5)")
    arguments = parser.parse_args()
    images, labels = (values[: arguments.images] for values in cascade_nets.parts()["test"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = package(folder / "packages")
        variant = made.manifest.variant(made.manifest.chosen["default"])
        assert variant.cascade is not None
        shutil.copytree(CACHE / "large", folder / "models" / "1")
        print(f"on the device: {variant.name}, {variant.size_bytes / 1e3:.0f} kB")
        server = Server("--port=0", "--no-mdns", f"--model_name={NAME}", f"--model_base_path={folder / 'models'}")
        try:
            with (
                Network(server.address, delay_ms=arguments.delay_ms) as network,
                Runtime.open(folder / "packages", fallback=network.address, threads=1) as runtime,
            ):
                model = runtime.model(NAME)
                served(model, images[:1])
                device, alone, both = singly = ways_of(model)
                play(singly, images, labels, 1)
                good = told(device, alone, both, variant.cascade)
                in_batches = ways_of(model)
                play(in_batches, images, labels, BATCH)
                told_of_batches(*in_batches)
        finally:
            server.kill()
    print("as it should be" if good else "NOT as it should be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
