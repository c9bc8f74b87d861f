"""What a model's 99th percentile suffers when another one on the same engine is flooded.

    python benchmarks/fairness.py

Two models of equal cost on a device that runs one thing at a time. One is asked evenly at a fifth of the device's
capacity; the other either rests or gets ten times the capacity. Both states alternate in one process, and the ratio is
that of the percentiles over all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path[0] = str(
    Path(__file__).parents[1]
)  # Not this folder, where a benchmark has the name of the package `converter`.
from benchmarks.real_models import model_file  # noqa: E402
from edge_runtime.bare import BareStore  # noqa: E402
from edge_runtime.engine.base import SessionSpec  # noqa: E402
from edge_runtime.engine.delegates import open_session  # noqa: E402
from edge_runtime.engine.engine import Engine  # noqa: E402
from edge_runtime.errors import Overloaded  # noqa: E402
from edge_runtime.inputs import zeros  # noqa: E402
from edge_runtime.scheduling.batcher import Batcher  # noqa: E402
from edge_runtime.scheduling.cost import CostTable, measure  # noqa: E402
from edge_runtime.scheduling.gate import Gate  # noqa: E402
from edge_runtime.scheduling.slot import Slot  # noqa: E402
from edge_runtime.types import Arrays, InferRequest  # noqa: E402

TARGET = 2.0
SHARE = 0.2


def opened(name: str, gate: Gate, weight: float) -> tuple[Batcher, Arrays, float]:
    """A batcher with one engine of the model, inputs for it, and the seconds of a run."""
    store = BareStore(model_file(name))
    package = store.open(store.model, store.version)
    (variant,) = package.manifest.variants
    (signature,) = package.manifest.signatures
    spec = SessionSpec(subject=name, signatures=variant.signatures)
    engine = Engine(open_session(spec, package.read(variant.file)), variant, (signature,))
    inputs = zeros(signature, 1)
    seconds = measure(lambda _: engine.run(signature.name, inputs), [1], time.monotonic, 1.0)
    batcher = Batcher(
        (signature,),
        version=1,
        max_queued_requests=64,
        max_queued_bytes=2**30,
        clock=time.monotonic,
        weight=weight,
    )
    batcher.add(Slot(engine, gate, CostTable(seconds, time.monotonic)))
    return batcher, inputs, seconds[1]


def request(batcher: Batcher, inputs: Arrays) -> InferRequest:
    """One request of the only signature."""
    signature = next(iter(batcher._signatures))  # noqa: SLF001
    return InferRequest(model="m", version=1, signature=signature, inputs=inputs, rows=1, start_s=time.monotonic())


def flood(batcher: Batcher, inputs: Arrays, rate_hz: float, stop: threading.Event) -> None:
    """Requests at an even rate, whatever becomes of them."""
    begun, count = time.monotonic(), 0
    while not stop.is_set():
        with contextlib.suppress(Overloaded):
            batcher.submit(request(batcher, inputs))
        count += 1
        time.sleep(max(begun + count / rate_hz - time.monotonic(), 0))


def ask(batcher: Batcher, inputs: Arrays, rate_hz: float, seconds: float) -> list[float]:
    """The milliseconds of each of the requests at an even rate."""
    begun, took = time.monotonic(), []
    for i in range(int(rate_hz * seconds)):
        time.sleep(max(begun + i / rate_hz - time.monotonic(), 0))
        took.append(batcher.infer(request(batcher, inputs)).latency_ms)
    return took


def main() -> None:
    """Prints the percentiles and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet-v2-int8", help="see real_models.py (default mobilenet-v2-int8)")
    parser.add_argument("--rounds", type=int, default=10, help="of both states (default 10)")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each (default 2.5)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    gate = Gate(1, "engine")
    light, inputs, run_s = opened(arguments.model, gate, 1.0)
    heavy, _, _ = opened(arguments.model, gate, 1.0)
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(arguments.rounds):
        alone += ask(light, inputs, SHARE / run_s, arguments.seconds)
        stop = threading.Event()
        flooding = threading.Thread(target=flood, args=(heavy, inputs, 10 / run_s, stop))
        flooding.start()
        beside += ask(light, inputs, SHARE / run_s, arguments.seconds)
        stop.set()
        flooding.join()
        while heavy.load.queued_requests:
            time.sleep(0.01)
    heavy_stats = heavy.stats()
    print(f"{arguments.model}, a run of {run_s * 1e3:.1f} ms; {heavy_stats.refused} of the flood refused")
    print(f"{'':20}{'median':>10}{'p90':>10}{'p99':>10}   ms, of {len(alone)} and {len(beside)} requests")
    for name, values in (("alone", alone), ("the other flooded", beside)):
        print(f"{name:20}" + "".join(f"{np.percentile(values, share):10.2f}" for share in (50, 90, 99)))
    ratio = np.percentile(beside, 99) / np.percentile(alone, 99)
    print(f"p99 over p99 alone: {ratio:.2f} (target: at most {TARGET:g})")
    light.close()
    heavy.close()


if __name__ == "__main__":
    main()
