"""What a model answers in time at three times the load that it can bear, over what it can bear.

    python benchmarks/overload.py

A model of some 10 ms a run is first asked by as many threads as keep it busy: its capacity. Then requests come at three
times that rate, evenly, each with 50 ms to live and none waiting for another. Whatever runs for a request that is dead
when its answer comes is lost; so the answers in time a second over the capacity say how much of the work was wasted.
Both are measured in turn, in one process. The load comes from that process too, and what asking and refusing cost,
some 0.05 ms a request, is taken from the engines where these use every core: runs that were wasted tell the rest.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path[0] = str(
    Path(__file__).parents[1]
)  # Not this folder, where a benchmark has the name of the package `converter`.
from benchmarks.real_models import bare, model_file  # noqa: E402
from benchmarks.throughput import rate  # noqa: E402
from edge_runtime import DeadlineExceeded, Overloaded, Runtime  # noqa: E402
from edge_runtime.model import Model  # noqa: E402
from edge_runtime.types import Array, InferRequest, Reply  # noqa: E402

TARGET = 0.95
DEADLINE_MS = 50.0
CLIENTS = 8


class Outcomes:
    """What became of the requests. Thread-safe."""

    def __init__(self) -> None:
        self.in_time = self.late = self.refused = 0
        self._lock = threading.Lock()

    def take(self, error: BaseException | None, reply: Reply | None) -> None:
        """Counts one."""
        with self._lock:
            if error is None and reply is not None:
                self.in_time += reply.latency_ms <= DEADLINE_MS
                self.late += reply.latency_ms > DEADLINE_MS
            elif isinstance(error, DeadlineExceeded | Overloaded):
                self.refused += 1
            elif error is not None:
                raise error


def flood(model: Model, inputs: Array, rate_hz: float, seconds: float) -> Outcomes:
    """Requests at an even rate, whatever becomes of them; waits until each has ended."""
    outcomes, pending = Outcomes(), []
    target = model.target
    assert target is not None
    begun = time.monotonic()
    for i in range(int(rate_hz * seconds)):
        due = begun + i / rate_hz
        while (left := due - time.monotonic()) > 0:
            time.sleep(left)
        now = time.monotonic()
        request: InferRequest = target.request(inputs, None, now, now + DEADLINE_MS / 1e3)
        try:
            future = target.router.submit(request)
        except Overloaded as error:
            outcomes.take(error, None)
            continue
        pending.append(future)
    for future in pending:
        try:
            outcomes.take(None, future.result())
        except (DeadlineExceeded, Overloaded) as error:
            outcomes.take(error, None)
    return outcomes


def main() -> None:
    """Prints both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet-v2", help="see real_models.py (default mobilenet-v2)")
    parser.add_argument("--rounds", type=int, default=7, help="of both, in turn (default 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each (default 2)")
    parser.add_argument("--load", type=float, default=3.0, help="times the capacity (default 3)")
    parser.add_argument("--engines", type=int, help="interpreters, instead of the runtime's choice")
    parser.add_argument("--threads", type=int, help="threads of one, likewise")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    options = {key: value for key in ("engines", "threads") if (value := getattr(arguments, key)) is not None}
    path = model_file(arguments.model)
    _, named = bare(path)
    inputs = next(iter(named.values()))
    with Runtime.open(path, **options) as runtime:
        model = runtime.model()
        assert model.target is not None
        batcher = model.target.router._device  # noqa: SLF001
        assert batcher is not None
        ask = [lambda: model.predict(inputs)] * CLIENTS
        rate(ask, arguments.seconds)
        rounds, wasted = [], 0
        for _ in range(arguments.rounds):
            # Before and after: what else the machine does changes from second to second.
            before = rate(ask, arguments.seconds / 2)[0]
            runs = sum(batcher.stats().batches.values())
            found = flood(model, inputs, arguments.load * before, arguments.seconds)
            wasted += sum(batcher.stats().batches.values()) - runs - found.in_time
            after = rate(ask, arguments.seconds / 2)[0]
            rounds.append((found.in_time / arguments.seconds, (before + after) / 2, found))
    print(f"{arguments.model}, requests with {DEADLINE_MS:.0f} ms at {arguments.load:g} x the capacity")
    print(f"{'capacity':>12}{'in time':>12}{'ratio':>8}{'late':>8}{'refused':>9}")
    for good, capacity, found in rounds:
        print(f"{capacity:10.0f}/s{good:10.0f}/s{good / capacity:8.3f}{found.late:8d}{found.refused:9d}")
    ratio = statistics.median(good / capacity for good, capacity, _ in rounds)
    print(f"runs whose answer nobody could use: {wasted}")
    print(f"goodput over capacity, median: {ratio:.3f} (target: at least {TARGET})")


if __name__ == "__main__":
    main()
