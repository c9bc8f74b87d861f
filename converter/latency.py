"""How long a variant takes on this host: one sample a call, warm. `measure` runs LiteRT: only in a child process."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import VARIABLE, Latency, Signature
from converter.data import Array, Dataset
from converter.variant_runner import VariantRunner

DEFAULT_TIME_S = 0.3
"""For each number of threads; some hundred calls of a small net, and `MIN_RUNS` of a large one."""

DEFAULT_RUNS = 1_000

MIN_RUNS = 5
"""Timed even where they take longer than there is time: of fewer no percentile means anything."""

WARM_UP_SHARE = 0.2
"""Of the time, and at least one call: the first one allocates, and clocks rise under load."""

_MICROSECONDS = 1e6

_CPU_INFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")


def measure(
    file: Path,
    logical: Signature,
    threads: tuple[int, ...],
    *,
    dataset: Dataset | None = None,
    runs: int = DEFAULT_RUNS,
    time_s: float = DEFAULT_TIME_S,
) -> tuple[Latency, ...]:
    """Times calls with one sample: writing the inputs, running, reading the outputs.

    Args:
        file: The TFLite file.
        logical: The original's signature that is called.
        threads: The interpreter's numbers of threads, one entry of the result for each.
        dataset: Whose first sample is used; None for made-up values, with 1 for each variable dimension.
        runs: How many calls are timed at most.
        time_s: After which no more calls are begun, for each number of threads.

    Raises:
        VariantUnusable: the file is not what the signature says.
    """
    inputs = next(dataset.batches(1)).inputs if dataset else made_up(logical)
    return tuple(_timed(VariantRunner(file, logical, threads=count), inputs, count, runs, time_s) for count in threads)


def _timed(runner: VariantRunner, inputs: dict[str, Array], threads: int, runs: int, time_s: float) -> Latency:
    call = runner.prepared(inputs)
    begin = time.perf_counter()
    call()
    while time.perf_counter() - begin < time_s * WARM_UP_SHARE:
        call()
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < runs and (len(taken) < MIN_RUNS or time.perf_counter() - begin < time_s):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    median, p90 = np.percentile(np.array(taken) * _MICROSECONDS, [50, 90])
    return Latency(threads=threads, median_us=round(float(median), 3), p90_us=round(float(p90), 3), runs=len(taken))


def made_up(signature: Signature) -> dict[str, Array]:
    """One sample that fits the signature: floats in 0..1, the same every time, zeros and empty strings elsewhere.

    Zeros throughout would be faster than real data where a kernel skips them.
    """
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = tuple(1 if dim == VARIABLE else dim for dim in spec.shape)
        if spec.dtype == "string":
            inputs[spec.name] = np.full(shape, b"")
        elif spec.numpy_dtype.kind == "f":
            inputs[spec.name] = random.uniform(size=shape).astype(spec.numpy_dtype)
        else:
            inputs[spec.name] = np.zeros(shape, spec.numpy_dtype)
    return inputs


def host() -> str:
    """This machine in one line: its processor, its number of cores, and the version of LiteRT."""
    try:
        litert = version("ai-edge-litert")
    except PackageNotFoundError:
        litert = "unknown"
    return f"{_processor()}, {os.cpu_count() or 1} cores, LiteRT {litert}"


def _processor() -> str:
    """What the system calls the board or the processor."""
    try:
        if board := _BOARD.read_text("utf-8", errors="replace").strip("\0 \n"):
            return board
    except OSError:
        pass
    try:
        lines = _CPU_INFO.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields: dict[str, Any] = dict(line.split(":", 1) for line in lines if ":" in line)
    names = (value.strip() for key, value in fields.items() if key.strip() in ("model name", "Model"))
    return next(names, "") or platform.machine() or "unknown processor"
