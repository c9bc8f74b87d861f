"""What isolation adds to a run: a worker process, and a thread of this process, over the same session called directly.

    python benchmarks/isolation.py

One process, calls interleaved: every round runs the same model three times on the same input, directly, on a thread
(`ThreadSession`) and in a worker process (`ProcessSession`), so that whatever else the machine does meets all three.
The model gives back what it is given (one RESHAPE), so that its outputs are as large as its inputs; the second column
of figures is for a model that gives back 4 values, as a classifier does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")
from support.echo_models import echo_model, echo_signature, first_values_model, first_values_signature  # noqa: E402

from edge_runtime.engine.base import Session, SessionSpec  # noqa: E402
from edge_runtime.engine.interpreter import InterpreterSession  # noqa: E402
from edge_runtime.engine.process import WorkerProcess  # noqa: E402
from edge_runtime.engine.supervised import ThreadSession  # noqa: E402

TARGET_ADDED_US = 200.0
TARGET_INPUT_BYTES = 150_528
"""224 x 224 x 3 bytes."""

SIZES = {"small": 16, "150 KB": TARGET_INPUT_BYTES, "1.2 MB": 1_204_224}
"""Bytes of the input, uint8."""

LIMIT_S = 60.0


def timed_us(session: Session, inputs: dict[str, np.ndarray]) -> float:
    """Microseconds of one run."""
    before = time.perf_counter()
    session.run("serving_default", inputs, LIMIT_S)
    return (time.perf_counter() - before) * 1e6


def measure(content: bytes, spec: SessionSpec, size_bytes: int, worker: WorkerProcess, rounds: int) -> np.ndarray:
    """Microseconds, (rounds, 3): directly, on a thread, in the worker."""
    x = {"x": np.random.default_rng(0).integers(0, 256, (1, size_bytes), np.uint8)}
    direct = InterpreterSession(spec, content)
    thread = ThreadSession(InterpreterSession(spec, content), "cpu")
    process = worker.open(spec, content, LIMIT_S)
    try:
        sessions = (direct, thread, process)
        for session in sessions:
            for _ in range(rounds // 10):
                session.run("serving_default", x, LIMIT_S)
        return np.array([[timed_us(session, x) for session in sessions] for _ in range(rounds)])
    finally:
        process.close()
        thread.close()


def report(name: str, times_us: np.ndarray) -> float:
    """Prints a line for each way; returns what the worker process adds at the median."""
    base = float(np.median(times_us[:, 0]))
    for way, column in zip(("direct", "thread", "process"), times_us.T, strict=True):
        median, p99 = np.median(column), np.percentile(column, 99)
        added = "" if way == "direct" else f"{median - base:+10.1f}{median / base:10.2f}"
        print(f"{name:28}{way:10}{median:10.1f}{p99:10.1f}{added}")
    return float(np.median(times_us[:, 2])) - base


def starting_ms(times: int) -> list[float]:
    """Milliseconds from nothing to the first answer of a new worker process."""
    tensors = {"x": ("uint8", (1, 16))}
    spec = SessionSpec(subject="echo/1", signatures=(echo_signature(tensors),))
    took = []
    for _ in range(times):
        before = time.perf_counter()
        worker = WorkerProcess("cpu")
        session = worker.open(spec, echo_model(tensors), LIMIT_S)
        session.run("serving_default", {"x": np.zeros((1, 16), np.uint8)}, LIMIT_S)
        took.append((time.perf_counter() - before) * 1e3)
        worker.close()
    return took


def main() -> None:
    """Prints the figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3_000, help="calls of each way (default 3000)")
    parser.add_argument("--starts", type=int, default=5, help="new worker processes (default 5)")
    arguments = parser.parse_args()
    worker = WorkerProcess("cpu")
    print(f"{'':28}{'':10}{'median':>10}{'p99':>10}{'added':>10}{'ratio':>10}   us")
    added = {}
    for name, size_bytes in SIZES.items():
        tensors = {"x": ("uint8", (1, size_bytes))}
        spec = SessionSpec(subject="echo/1", signatures=(echo_signature(tensors),))
        times_us = measure(echo_model(tensors), spec, size_bytes, worker, arguments.rounds)
        report(f"{name} in, {name} out", times_us)
        spec = SessionSpec(subject="first/1", signatures=(first_values_signature(size_bytes),))
        times_us = measure(first_values_model(size_bytes), spec, size_bytes, worker, arguments.rounds)
        added[name] = report(f"{name} in, 4 bytes out", times_us)
    worker.close()
    print(
        f"150 KB of input, added by a worker process at the median: {added['150 KB']:.0f} us "
        f"(target: at most {TARGET_ADDED_US:.0f})"
    )
    took = starting_ms(arguments.starts)
    print(f"a new worker process, from nothing to its first answer: {np.median(took):.0f} ms, median of {len(took)}")


if __name__ == "__main__":
    main()
