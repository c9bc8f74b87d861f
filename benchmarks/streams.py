"""What a stream adds to the bare interpreter, and what a reset costs, on real wake words.

    python benchmarks/streams.py

One process; calls interleaved: every round runs the same frame bare (`set_tensor / invoke / get_tensor`) and in a
stream, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")
from support.stateful_models import WAKE_WORDS, frames  # noqa: E402

from edge_runtime import Runtime  # noqa: E402

TARGET_ADDED_US = 10.0
ROUNDS = 5000


def measure(path: str) -> bool:
    """Prints one model's figures; whether they keep to the target."""
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    entry, exit_ = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    heard = frames(100)
    with Runtime.open(path, threads=1) as runtime, runtime.model().stream() as stream:
        bare, streamed = [], []
        for number in range(ROUNDS):
            frame = heard[number % len(heard)]
            before = time.perf_counter()
            interpreter.set_tensor(entry, frame)
            interpreter.invoke()
            interpreter.get_tensor(exit_)
            between = time.perf_counter()
            stream.predict(frame)
            streamed.append((time.perf_counter() - between) * 1e6)
            bare.append((between - before) * 1e6)
        resets = []
        for _ in range(100):
            stream.predict(heard[0])
            before = time.perf_counter()
            stream.reset()
            resets.append((time.perf_counter() - before) * 1e3)
    without, with_ = statistics.median(bare), statistics.median(streamed)
    print(
        f"{Path(path).stem:12} bare {without:6.1f} us, stream {with_:6.1f} us: +{with_ - without:.1f} us, "
        f"{with_ / without:.2f} x; reset {statistics.median(resets):.2f} ms"
    )
    return with_ - without <= TARGET_ADDED_US


def main() -> int:
    """Prints the figures; 0 if they keep to the target."""
    if not isinstance(WAKE_WORDS[0], str):
        print("pymicro-wakeword is not installed")
        return 1
    kept = [measure(path) for path in WAKE_WORDS]
    print(f"target: at most +{TARGET_ADDED_US:g} us")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
