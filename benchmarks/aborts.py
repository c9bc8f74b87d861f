"""What a delegate that aborts costs an application: who answered, and how soon its worker was back.

    python benchmarks/aborts.py

A real delegate library aborts at every 50th run in its process. An application asks at a steady rate until the library
has been asked a thousand times; while its worker is away the CPU's engine answers. In each round of asking, the same
model is asked on the CPU alone too, so that the figures say what the device and its faults add.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")
from support import edge_delegates  # noqa: E402
from support.edge_models import publish_scale, rows  # noqa: E402

from edge_runtime import EdgeRuntimeError, Model, Reply, Runtime  # noqa: E402

REQUESTS = 1000
ABORT_EVERY = 50
TARGET_BACK_S = 2.0
INTERVAL_S = 0.005
GIVE_UP_S = 60.0
CPU = "device:cpu"


def ask(model: Model, number: int) -> tuple[Reply | None, float]:
    """One request and its seconds; None where it was not answered, or wrongly."""
    x = rows(1, number)
    before_s = time.perf_counter()
    try:
        reply = model.predict(x)
    except EdgeRuntimeError as error:
        print(f"request {number}: {type(error).__name__}: {error}")
        return None, time.perf_counter() - before_s
    spent_s = time.perf_counter() - before_s
    right = reply.version == 1 and np.array_equal(reply.outputs["y"], x * 2)
    return (reply if right else None), spent_s


class Figures:
    """What a run of the benchmark counts."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.places: Counter[str] = Counter()
        self.asked = self.wrong = self.requests = 0
        self.back_s: list[float] = []
        self.waits_s: dict[str, list[float]] = {"library": [], "retried": [], "standby": [], "alone": []}
        self.away_since_s: float | None = None

    def add(self, reply: Reply | None, begun_s: float, spent_s: float) -> None:
        """Takes one request's answer."""
        self.requests += 1
        if reply is None:
            self.wrong += 1
            return
        self.places["the CPU" if reply.place == CPU else "the library"] += 1
        if reply.place != CPU:
            self.asked += 1
            self.waits_s["library"].append(spent_s)
            if self.away_since_s is not None:
                self.back_s.append(begun_s - self.away_since_s)
                self.away_since_s = None
        elif self.away_since_s is None:  # its own run was the one that aborted
            self.asked += 1
            self.waits_s["retried"].append(spent_s)
            self.away_since_s = begun_s
        else:
            self.waits_s["standby"].append(spent_s)

    def show(self) -> bool:
        """Prints them; whether all is as it should be."""
        print(f"application alive, process {os.getpid()}: {self.requests} requests, {self.wrong} not answered right")
        print(f"  the library was asked {self.asked} times and aborted {len(self.back_s)} times")
        for place, count in self.places.most_common():
            print(f"  answered by {place}: {count}")
        plain_ms = statistics.median(self.waits_s["alone"]) * 1e3
        for name, values in self.waits_s.items():
            if values:
                middle, high = statistics.median(values) * 1e3, quantile(values, 0.99) * 1e3
                ratio = middle / plain_ms
                print(f"  {name:8} median {middle:8.3f} ms, p99 {high:8.3f} ms, {ratio:7.2f} x the CPU alone")
        if not self.back_s:
            return False
        late = sum(one > TARGET_BACK_S for one in self.back_s)
        spread = ", ".join(f"p{int(share * 100)} {quantile(self.back_s, share):.2f} s" for share in (0.1, 0.5, 0.9))
        print(f"worker back after: {spread}, at most {max(self.back_s):.2f} s (target {TARGET_BACK_S} s, {late} later)")
        return not self.wrong and not late


def quantile(values: list[float], share: float) -> float:
    """The value below which that share of them lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def run(model: Model, alone: Model, wanted: int) -> Figures:
    """Asks until the library has been asked so often, and is back from its last abort."""
    figures = Figures()
    while figures.asked < wanted or figures.away_since_s is not None:
        begun_s = time.perf_counter()
        # In turns: whoever comes first after the pause finds cold caches.
        for one in (model, alone) if figures.requests % 2 else (alone, model):
            reply, spent_s = ask(one, figures.requests)
            if one is model:
                figures.add(reply, begun_s, spent_s)
            else:
                figures.waits_s["alone"].append(spent_s)
        if figures.away_since_s is not None and begun_s - figures.away_since_s > GIVE_UP_S:
            print(f"the worker is not back after {GIVE_UP_S} s: {model.engines[0].reason}")
            figures.wrong += 1
            break
        time.sleep(max(INTERVAL_S - (time.perf_counter() - begun_s), 0.0))
    return figures


def main() -> int:
    """Prints the figures; 0 if every request was answered and the worker was always back in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many the library is asked")
    wanted = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, armed = folder / "store", folder / "armed"
        publish_scale(store, 1, 2.0)
        device = edge_delegates.device(edge_delegates.build(folder), when_file=armed, abort_every=ABORT_EVERY)
        options = {"threads": 1, "cache": str(folder / "cache")}
        with (
            Runtime.open(store, delegates=[device, "cpu"], isolation="process", **options) as runtime,
            Runtime.open(store, delegates=["cpu"], **options) as plain,
        ):
            model, alone = runtime.model("scale"), plain.model("scale")
            armed.touch()
            figures = run(model, alone, wanted)
    return 0 if figures.show() else 1


if __name__ == "__main__":
    sys.exit(main())
