"""The clients, in C: h2load of nghttp2, and NVIDIA's perf_analyzer. One in Python would be what is measured."""

from __future__ import annotations

import csv
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.processes import NotThere


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a closed loop of so many requests at a time came to.

    Attributes:
        rate: Answers a second.
        p50_ms: Half of the answers took at most so long.
        p95_ms: 95 in 100 did.
        p99_ms: 99 in 100 did.
        cpu_us: Processor time of the server's processes for each answer; None where it was not taken.
        failed: Requests that were not answered well, beside those. They are in none of the figures above.
    """

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float | None = None
    failed: int = 0


def require_h2load() -> None:
    """Raises NotThere where h2load is not installed."""
    if shutil.which("h2load") is None:
        raise NotThere("h2load is not on PATH: `apt install nghttp2-client` brings it")


def framed(message: bytes) -> bytes:
    """A message as gRPC has it in an HTTP/2 body."""
    return struct.pack(">BI", 0, len(message)) + message


def h2load(address: str, path: str, message: bytes, *, concurrency: int, seconds: float) -> tuple[Load, int]:
    """Sends one message again and again, over connections of 8 streams at most.

    Returns:
        What came of it, and how many were answered in all.

    Raises:
        NotThere: h2load is not installed.
        RuntimeError: it failed, or no request was answered well.
    """
    require_h2load()
    connections = max(1, concurrency // 8)
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(framed(message))
        done = subprocess.run(
            [
                "h2load",
                f"--duration={int(seconds * 1e3)}ms",
                f"--clients={connections}",
                f"--max-concurrent-streams={concurrency // connections}",
                f"--data={body}",
                f"--log-file={log}",
                "--header=content-type: application/grpc",
                "--header=te: trailers",
                f"http://{address}{path}",
            ],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"h2load ended with {done.returncode}: {done.stderr[-500:]}")
        return read_h2load(done.stdout, log, seconds)


def read_h2load(said: str, log: Path, seconds: float) -> tuple[Load, int]:
    """A load, out of what h2load printed and what it logged of each request; and how many were answered well.

    Raises:
        RuntimeError: no request was.
    """
    counts = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed", said)
    rows = (
        np.loadtxt(log, dtype=np.int64, ndmin=2) if log.exists() and log.stat().st_size else np.empty((0, 3), np.int64)
    )
    well = rows[rows[:, 1] == 200]  # What was under way at the end has no status.
    if counts is None or not int(counts[1]) or not len(well):
        raise RuntimeError(f"no request was answered: {said}")
    p50, p95, p99 = np.percentile(well[:, 2], (50, 95, 99)) / 1e3
    # To h2load what has a status below 400 has succeeded; gRPC knows 200 alone.
    ill = int((rows[:, 1] > 200).sum())
    done = int(counts[1]) - int(((rows[:, 1] > 200) & (rows[:, 1] < 400)).sum())
    failed = max(int(counts[2]), ill)
    return Load(rate=done / seconds, p50_ms=p50, p95_ms=p95, p99_ms=p99, failed=failed), len(well)


class PerfAnalyzer:
    """NVIDIA's load generator, of an environment of its own.

    Args:
        program: Its path.
        environment: What its libraries need.
    """

    def __init__(self, program: Path, environment: Mapping[str, str]) -> None:
        self._program = program
        self._environment = environment

    def load(
        self, address: str, model: str, shape: tuple[int, ...], *, kind: str, concurrency: int, seconds: float
    ) -> Load:
        """One row of random values a request.

        Args:
            address: Of the server.
            model: Its name there, with one input `x`.
            shape: Of one row.
            kind: `tfserving` for Predict with typed values, `triton` for ModelInfer with raw ones.
            concurrency: Requests at a time.
            seconds: Of measuring, in windows of a third.

        Raises:
            RuntimeError: it failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "table.csv"
            # Its own search for a stable state would go on for as long as the machine is busy: three windows it is.
            command = [
                str(self._program),
                f"-m{model}",
                f"--service-kind={kind}",
                "-igrpc",
                f"-u{address}",
                f"--shape=x:{','.join(map(str, shape))}",
                "-b1",
                f"--concurrency-range={concurrency}",
                f"--measurement-interval={int(seconds / 3 * 1e3)}",
                "--max-trials=3",
                "--stability-percentage=1000000",
                f"-f{table}",
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=300, env=dict(self._environment), check=False
            )
            if done.returncode or not table.exists():
                raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-500:]}")
            with table.open(newline="") as file:
                row = next(iter(csv.DictReader(file)))
        return Load(
            rate=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / 1e3,
            p95_ms=float(row["p95 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
        )
