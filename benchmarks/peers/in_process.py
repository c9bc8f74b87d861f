"""A model by the server's own executor, in a process of its own, with nothing before it: what a server has to reach.

Run as a program, `python -m benchmarks.peers.in_process FOLDER KIND SHAPE THREADS` answers each line it reads, a number
of seconds, with a line of rows a second, at the best number of rows and of callers.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.peers.models import Model
from benchmarks.peers.processes import ROOT

ROWS = (1, 2, 4, 8)
"""At a time; no more than the clients of the row ask."""

CALLERS = (1, 2)
"""Threads that run it at a time, as many as the server's batch threads."""


THREADS = {"tensorflow": (0, 1), "litert": (0,)}
"""Of an operation, each tried in a process of its own: how many there are holds for a process. 0: it chooses."""


class InProcess:
    """The processes.

    Args:
        model: Which.
        folder: Of the version.
        executor: `tensorflow`, or `litert`.
    """

    def __init__(self, model: Model, folder: Path, *, executor: str) -> None:
        shape = ",".join(map(str, model.shape))
        command = [sys.executable, "-m", __name__, str(folder), executor, shape]
        self._processes = [
            subprocess.Popen(
                [*command, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )
            for threads in THREADS[executor]
        ]
        self.rate(0.5)

    def rate(self, seconds: float) -> float:
        """Rows a second at best, each number of threads, rows and callers in its share of the time."""
        return max(self._rate(process, seconds / len(self._processes)) for process in self._processes)

    def _rate(self, process: subprocess.Popen[str], seconds: float) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    def stop(self) -> None:
        """Ends them."""
        for process in self._processes:
            process.kill()
            process.wait()


def _best(run: Callable[[np.ndarray], object], shape: tuple[int, ...], seconds: float) -> float:
    ways = [(rows, callers) for rows in ROWS for callers in CALLERS]
    return max(_rate(run, (rows, *shape), callers, seconds / len(ways)) for rows, callers in ways)


def _rate(run: Callable[[np.ndarray], object], shape: tuple[int, ...], callers: int, seconds: float) -> float:
    x = np.random.default_rng(1).random(shape, np.float32)

    def runs(end_s: float) -> int:
        count = 0
        while time.perf_counter() < end_s:
            run(x)
            count += 1
        return count

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(run, [x] * callers))  # Each thread's first run is not counted.
        begin_s = time.perf_counter()
        count = sum(pool.map(runs, [begin_s + seconds] * callers))
        return count * shape[0] / (time.perf_counter() - begin_s)


def _serve(folder: str, kind: str, shape: tuple[int, ...], threads: int) -> None:
    if kind == "tensorflow":
        from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model  # noqa: PLC0415

        executor = open_saved_model(Path(folder), SavedModelOptions(intra_op_parallelism=threads))
    else:
        from fallback_server.executors.base import RunSizes  # noqa: PLC0415
        from fallback_server.executors.litert import open_litert  # noqa: PLC0415
        from fallback_server.executors.litert_files import SealedFile  # noqa: PLC0415

        file = SealedFile.of((Path(folder) / "model.tflite").read_bytes(), "model.tflite")
        executor = open_litert(file, sizes=RunSizes(rows=ROWS))
    for line in sys.stdin:
        print(_best(lambda x: executor.run("serving_default", {"x": x}), shape, float(line)), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], tuple(map(int, sys.argv[3].split(","))), int(sys.argv[4]))
