"""What the server's LiteRT executor adds to a bare interpreter, in process: TensorFlow Serving's tutorial's net.

    python benchmarks/executors.py

One process, calls interleaved: every round times a bare `set_tensor / invoke / get_tensor` on an interpreter that is
planned for the rows, and `LiteRtExecutor.run` with the same rows. Rows beyond the prepared sizes (5, 33) are timed
over a bare interpreter of their own, planned for just them. Then, what several threads get together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.interpreter_models import tutorial_model  # noqa: E402

from fallback_server.executors.base import RunSizes  # noqa: E402
from fallback_server.executors.litert import LiteRtExecutor, open_litert  # noqa: E402
from fallback_server.executors.litert_files import SealedFile  # noqa: E402

NAME = "serving_default"
ROWS = (1, 8, 32, 5, 33)
TARGET = 1.1
BURST_S = 0.004
"""So long each side is called before it is the other's turn."""


def bare(content: bytes, image: np.ndarray) -> Callable[[], object]:
    """One bare call on an interpreter that is planned for these rows."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(given, image.shape)
    interpreter.allocate_tensors()

    def call() -> object:
        interpreter.set_tensor(given, image)
        interpreter.invoke()
        return interpreter.get_tensor(found)

    return call


def burst_us(call: Callable[[], object]) -> float:
    """Microseconds of a call, the mean of a burst."""
    count, begin_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - begin_s) < BURST_S:
        for _ in range(4):
            call()
        count += 4
    return took_s / count * 1e6


def side_by_side(executor: LiteRtExecutor, image: np.ndarray, threads: int, seconds: float) -> float:
    """Calls a second of several threads together."""
    counts = [0] * threads
    end_s = time.perf_counter() + seconds

    def work(number: int) -> None:
        inputs = {"image": image}
        while time.perf_counter() < end_s:
            for _ in range(20):
                executor.run(NAME, inputs)
            counts[number] += 20

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def main() -> None:
    """Prints the figures beside their target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="pairs of bursts for each size (default 300)")
    arguments = parser.parse_args()
    content = tutorial_model()
    executor = open_litert(SealedFile.of(content, "tutorial"), sizes=RunSizes(threads=2), threads=1)
    images = np.random.default_rng(0).random((max(ROWS), 28, 28, 1), np.float32)
    print(f"{'rows':>6}{'bare us':>12}{'executor us':>14}{'calls/s':>12}{'ratio':>8}   target: {TARGET} for 1, 8, 32")
    for rows in ROWS:
        image = images[:rows]
        inputs = {"image": image}
        one = bare(content, image)

        def two(inputs: dict[str, np.ndarray] = inputs) -> object:
            return executor.run(NAME, inputs)

        pairs = [(burst_us(one), burst_us(two)) for _ in range(arguments.rounds)]
        alone, through = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{rows:6}{alone:12.2f}{through:14.2f}{1e6 / through:12.0f}{through / alone:8.3f}")
    for threads in (1, 2, 4):
        rate = side_by_side(executor, images[:1], threads, 1.0)
        print(f"{threads} threads, 1 row each: {rate:.0f} calls/s")
    executor.close()


if __name__ == "__main__":
    main()
