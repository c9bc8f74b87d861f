"""A soak's device, in a process of its own: a runtime that has one model, and asks the server for the others.

    python -m benchmarks.soak.device STORE SERVER OUTCOMES RATE

Ends with its standard input.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.soak.models import check, some_rows
from benchmarks.soak.outcomes import Outcomes
from edge_runtime import EdgeRuntimeError, Runtime

KINDS = ("device", "device asks narrow", "device asks wide")
MODELS = {"device": ("device", 20.0), "device asks narrow": ("narrow", 10.0), "device asks wide": ("wide", 2.0)}
"""By kind, the model and how often it is asked."""

DEADLINE_MS = 5000.0


def ask(runtime: Runtime, kind: str, rate: float, outcomes: Outcomes, stop: threading.Event) -> None:
    """Asks at even times until told to end."""
    name, hz = MODELS[kind]
    generator = np.random.default_rng(len(kind))
    due_s = time.monotonic()
    while not stop.wait(max(0.0, due_s - time.monotonic())):
        x = some_rows(generator, name)
        with outcomes.request(kind):
            reply = runtime.model(name).predict(x, deadline_ms=DEADLINE_MS)
            check(x, np.asarray(reply.outputs["y"]), reply.version)
        due_s = max(due_s + 1 / hz / rate, time.monotonic())


def main() -> None:
    """Asks until told to end."""
    store, server, path, rate = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    outcomes, stop = Outcomes(Path(path), KINDS, (EdgeRuntimeError,)), threading.Event()
    with Runtime.open(store, fallback=server) as runtime:
        threads = [threading.Thread(target=ask, args=(runtime, kind, float(rate), outcomes, stop)) for kind in KINDS]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()
    outcomes.close()


if __name__ == "__main__":
    main()
