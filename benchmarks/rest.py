"""What REST's own work costs: JSON to arrays and back, and telling the metrics of a request.

    python benchmarks/rest.py

One process, ours and the plain way interleaved. The plain way to read is the standard library's parser and
`np.array(..., np.float32)`, which checks nothing (it would take "1" and True for numbers); to write, `tolist()` and the
standard library's writer, which writes a float32 of 0.2 as 0.20000000298023224. The plain way to count is one Counter
and one Histogram of prometheus_client, with TensorFlow Serving's labels and buckets.

Last, what large bodies cost others: a thread beside stands for the event loop, wakes up every millisecond, and tells
by how much it was late at worst, while 30 MB of JSON are read here, as the server reads them, or not at all.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

# Not this folder, where a benchmark has the name of a package.
sys.path[0] = str(Path(__file__).parents[1])

from fallback_server.executors.base import Signature, TensorSpec  # noqa: E402
from fallback_server.metric_cells import REQUEST_US  # noqa: E402
from fallback_server.metrics import Metrics  # noqa: E402
from fallback_server.transport.rest.json_codec import parse, read_inputs, read_predict, write_outputs  # noqa: E402
from fallback_server.transport.rest.json_readers import JsonReaders  # noqa: E402

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


def lateness(function: Callable[[], object]) -> tuple[float, float]:
    """The 99th percentile and the most by which a thread beside a function was late, in milliseconds."""
    late_s: list[float] = []
    done = threading.Event()

    def beat() -> None:
        while not done.is_set():
            begin_s = time.perf_counter()
            time.sleep(0.001)
            late_s.append(time.perf_counter() - begin_s - 0.001)

    thread = threading.Thread(target=beat)
    thread.start()
    function()
    done.set()
    thread.join()
    return float(np.percentile(late_s, 99)) * 1e3, max(late_s) * 1e3


def beside_large_bodies() -> None:
    spec = TensorSpec(name="x", dtype=np.dtype(np.float32), shape=(-1, 3))
    signatures = {"serving_default": Signature(name="serving_default", inputs={"x": spec}, outputs={})}
    body = bytearray(b'{"instances": [' + b"[1,2,3]," * 3_750_000 + b"[1,2,3]]}")
    ways: dict[str, Callable[[], object]] = {
        "alone": lambda: time.sleep(1),
        "read here": lambda: read_predict(body, signatures),
    }
    found: dict[str, list[tuple[float, float]]] = {}
    with contextlib.closing(JsonReaders(at_once=2)) as readers:
        ways["read in another process"] = lambda: readers.read(read_predict, body, signatures)
        for _ in range(3):
            for name, way in ways.items():
                found.setdefault(name, []).append(lateness(way))
    medians = {name: tuple(map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}
    for name, (p99_ms, most_ms) in medians.items():
        ratio = p99_ms / medians["alone"][0]
        print(
            f"others beside {len(body) >> 20} MiB of JSON, {name}: p99 {p99_ms:.1f} ms, most {most_ms:.0f} ms, "
            f"p99 over alone {ratio:.1f}"
        )


def main() -> None:
    random = np.random.default_rng(0)
    for rows in (1, 32):
        images = random.random((rows, 28, 28, 1), np.float32)
        reading(images)
        writing(images)
    counting()
    beside_large_bodies()


if __name__ == "__main__":
    main()
