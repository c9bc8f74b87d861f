"""What the machine itself takes while a soak runs: a bare interpreter, and an echo between two processes.

    python -m benchmarks.soak.reference OUTCOMES RATE

Neither is ours, and neither has a version that changes: where these become slower, the machine did. Ends with its
standard input.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.soak.models import NARROW, check, scale_model, some_rows
from benchmarks.soak.outcomes import Outcomes, WrongAnswer

KINDS = ("bare interpreter", "bare echo")

HZ = 10.0
"""Of each kind: enough for a 99th percentile of a tenth of ten minutes, and too few to be in the way."""


def _echo(connection: Connection) -> None:
    try:
        while True:
            connection.send_bytes(connection.recv_bytes())
    except (EOFError, KeyboardInterrupt):
        pass


def ask(outcomes: Outcomes, rate: float, stop: threading.Event) -> None:
    """Runs the one and asks the other at even times, until told to end."""
    here, there = multiprocessing.Pipe()
    echo = multiprocessing.get_context("spawn").Process(target=_echo, args=(there,), daemon=True)
    echo.start()
    there.close()
    interpreter = Interpreter(model_content=scale_model(2.0, batched=False))
    interpreter.allocate_tensors()
    given, made = (each[0]["index"] for each in (interpreter.get_input_details(), interpreter.get_output_details()))
    generator = np.random.default_rng(1)
    due_s = time.monotonic()
    while not stop.wait(max(0.0, due_s - time.monotonic())):
        x = some_rows(generator, "device")[:1]
        with outcomes.request("bare interpreter"):
            interpreter.set_tensor(given, x)
            interpreter.invoke()
            check(x, interpreter.get_tensor(made), 1)
        with outcomes.request("bare echo"):
            here.send_bytes(x.tobytes())
            if here.recv_bytes() != x.tobytes():
                raise WrongAnswer(f"no echo of {NARROW} values")
        due_s = max(due_s + 1 / HZ / rate, time.monotonic())
    here.close()
    echo.join()


def main() -> None:
    """Asks until told to end."""
    path, rate = sys.argv[1:]
    outcomes, stop = Outcomes(Path(path), KINDS, ()), threading.Event()
    thread = threading.Thread(target=ask, args=(outcomes, float(rate), stop))
    thread.start()
    sys.stdin.read()
    stop.set()
    thread.join()
    outcomes.close()


if __name__ == "__main__":
    main()
