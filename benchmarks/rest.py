"""What REST's own work costs: JSON to arrays and back, and telling the metrics of a request.

    python benchmarks/rest.py

One process, ours and the plain way interleaved. The plain way to read is the standard library's parser and
`np.array(..., np.float32)`, which checks nothing (it would take "1" and True for numbers); to write, `tolist()` and the
standard library's writer, which writes a float32 of 0.2 as 0.20000000298023224. The plain way to count is one Counter
and one Histogram of prometheus_client, with TensorFlow Serving's labels and buckets.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

# Not this folder, where a benchmark has the name of a package.
sys.path[0] = str(Path(__file__).parents[1])

from fallback_server.executors.base import Signature, TensorSpec  # noqa: E402
from fallback_server.metrics import REQUEST_US, Metrics  # noqa: E402
from fallback_server.transport.rest.json_codec import parse, read_inputs, write_outputs  # noqa: E402

ROUNDS = 15


def interleaved(ours: Callable[[], object], plain: Callable[[], object], *, calls: int) -> tuple[float, float]:
    """The median time of a call of each, in microseconds."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for function, times in zip((ours, plain), taken, strict=True):
            begin_s = time.perf_counter()
            for _ in range(calls):
                function()
            times.append((time.perf_counter() - begin_s) / calls * 1e6)
    return statistics.median(taken[0]), statistics.median(taken[1])


def told(what: str, ours_us: float, plain_us: float) -> None:
    print(f"{what}: {ours_us:.1f} us, plainly {plain_us:.1f} us, ratio {ours_us / plain_us:.2f}")


def reading(images: np.ndarray) -> None:
    spec = TensorSpec(name="x", dtype=np.dtype(np.float32), shape=(-1, 28, 28, 1))
    signature = Signature(name="serving_default", inputs={"x": spec}, outputs={})
    body = json.dumps({"instances": images.tolist()}).encode()
    ours, plain = interleaved(
        lambda: read_inputs(parse(body), signature),
        lambda: np.array(json.loads(body)["instances"], np.float32),
        calls=max(1, 100 // len(images)),
    )
    told(f"reading {len(images)} images of 28 x 28", ours, plain)


def writing(images: np.ndarray) -> None:
    ours, plain = interleaved(
        lambda: write_outputs({"y": images}, rows=True),
        lambda: json.dumps({"predictions": images.tolist()}).encode(),
        calls=max(1, 100 // len(images)),
    )
    told(f"writing {len(images)} images of 28 x 28", ours, plain)


def counting() -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    count = Counter("requests", "Requests.", ["model_name", "status"], registry=registry)
    latency = Histogram(
        "latency", "Latency.", ["model_name", "API", "entrypoint"], buckets=REQUEST_US, registry=registry
    )

    def ours() -> None:
        metrics.request(model="m", version=1, verb="Predict", entrypoint="REST", code="OK", latency_s=0.001)

    def plain() -> None:
        count.labels("m", "OK").inc()
        latency.labels("m", "predict", "REST").observe(1000)

    told("telling the metrics of a request, by model and by version", *interleaved(ours, plain, calls=2000))


def main() -> None:
    random = np.random.default_rng(0)
    for rows in (1, 32):
        images = random.random((rows, 28, 28, 1), np.float32)
        reading(images)
        writing(images)
    counting()


if __name__ == "__main__":
    main()
