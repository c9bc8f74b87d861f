"""Steps a second of a GRU by the server's own executor, in a process of its own, with nothing before it.

Run as a program, `python -m benchmarks.step_executor FOLDER ROWS` answers each line it reads, a number of seconds, with
a line: steps a second of batches of so many rows, by one thread or by as many as the server's, whichever is faster.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]

CALLERS = (1, 2)
"""Threads that run it at a time."""

SECONDS = 0.4
"""Of a measurement."""


class StepExecutor:
    """The process.

    Args:
        folder: Of the version.
        rows: Of a batch.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        command = [sys.executable, "-m", "benchmarks.step_executor", str(folder), str(rows)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )

    def rate(self) -> float:
        """Steps a second."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{SECONDS}\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self._child.kill()
        self._child.wait()


def _serve(folder: Path, rows: int) -> None:
    from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model  # noqa: PLC0415

    executor = open_saved_model(folder, SavedModelOptions())
    specs = executor.signatures["step"].inputs
    generator = np.random.default_rng(1)
    inputs = {
        name: generator.standard_normal((rows, *(spec.shape or ())[1:])).astype(spec.dtype)
        for name, spec in specs.items()
    }

    def runs(end_s: float) -> int:
        count = 0
        while time.perf_counter() < end_s:
            executor.run("step", inputs)
            count += 1
        return count

    def rate(callers: int, seconds: float) -> float:
        begin_s = time.perf_counter()
        count = sum(pool.map(runs, [begin_s + seconds] * callers))
        return count * rows / (time.perf_counter() - begin_s)

    with ThreadPoolExecutor(max(CALLERS)) as pool:
        for line in sys.stdin:
            print(max(rate(callers, float(line) / len(CALLERS)) for callers in CALLERS), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
