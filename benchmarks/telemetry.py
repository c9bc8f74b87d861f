"""What counting a request costs: `Meter.answered` over a call that does nothing.

    python benchmarks/telemetry.py

One process, interleaved: every round times as many empty calls and as many counted ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])

from edge_runtime.telemetry import Meter  # noqa: E402
from edge_runtime.types import Reply  # noqa: E402

TARGET_ADDED_NS = 500.0
CALLS = 20_000


def timed_ns(call: Callable[[Reply], object], reply: Reply) -> float:
    """Nanoseconds of one call, the mean of many."""
    before = time.perf_counter_ns()
    for _ in range(CALLS):
        call(reply)
    return (time.perf_counter_ns() - before) / CALLS


def main() -> None:
    """Prints the figures beside their target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help=f"of {CALLS} calls each (default 50)")
    arguments = parser.parse_args()
    meter = Meter()
    reply = Reply(outputs={}, version=1, place="device:cpu", reason="local", latency_ms=0.7)
    rounds = [(timed_ns(lambda _: None, reply), timed_ns(meter.answered, reply)) for _ in range(arguments.rounds)]
    empty, counted = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"an empty call {empty:.0f} ns, a counted answer {counted:.0f} ns, medians of {arguments.rounds} rounds")
    print(f"ratio {counted / empty:.1f}, added {counted - empty:.0f} ns (target: at most {TARGET_ADDED_NS:.0f})")


if __name__ == "__main__":
    main()
