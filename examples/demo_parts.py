"""What the demo is put together from: child processes, the server's life, a timeline and its figure, and the checks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_runtime import EdgeRuntimeError, Reply

_READY_WITHIN_S = 120.0


_MODULES = {"edge-convert": "converter.cli", "edge-run": "edge_runtime.cli", "fallback-server": "fallback_server.cli"}


def command(name: str) -> list[str]:
    """One of the three programs, run by this interpreter whatever PATH says."""
    return [sys.executable, "-m", _MODULES[name]]


def run(command: list[str]) -> tuple[float, str]:
    """Runs a command to its end; its seconds and what it printed. What it says on stderr is shown if it fails."""
    started_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with exit code {done.returncode}:\n{done.stderr}")
    return time.monotonic() - started_s, done.stdout


class Server:
    """`fallback-server` as a process of its own, on a port that it picks itself."""

    def __init__(self, repository: Path, log: Path) -> None:
        """Takes a folder of versions of one model, and where its log goes."""
        self._command = [
            *command("fallback-server"), "--model_name=digits",
            f"--model_base_path={repository.resolve()}", "--model_version_policy=all", "--port=0", "--mdns",
            # Device and server share this machine: a run takes one core, and the device keeps its own.
            "--tensorflow_intra_op_parallelism=1", "--num_batch_threads=1",
        ]  # fmt: skip
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.ready_line = ""

    @property
    def address(self) -> str:
        """`host:port`, as the ready line says it."""
        return self.ready_line.split(" listening on ")[1].split()[0]

    def start(self) -> float:
        """Starts it and waits until it is ready; the seconds that took."""
        started_s = time.monotonic()
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        while time.monotonic() - started_s < _READY_WITHIN_S:
            line = self._process.stdout.readline()
            if " listening on " in line:
                self.ready_line = line.strip()
                return time.monotonic() - started_s
            if not line:
                break
        sys.exit(f"the server did not come up; its log is {self._log}")

    def kill(self) -> None:
        """Kills the process, as a power cut would: no goodbye to anybody."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)


@dataclass
class Timeline:
    """Every request of the bursts, and the events between them, in seconds since the start."""

    began_s: float = field(default_factory=time.perf_counter)
    requests: list[tuple[float, float, str]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    def event(self, text: str) -> None:
        """Marks the present instant."""
        self.events.append((time.perf_counter() - self.began_s, text))

    def request(self, asked_s: float, end: Reply | EdgeRuntimeError) -> str:
        """Notes one request; returns how it ended: place and reason, or the error's name."""
        now_s = time.perf_counter()
        place = end.place if isinstance(end, Reply) else "error"
        self.requests.append((asked_s - self.began_s, (now_s - asked_s) * 1e3, place.partition(":")[0]))
        return f"{end.place} ({end.reason})" if isinstance(end, Reply) else type(end).__name__


class Checks:
    """What should have happened, and whether it did."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, bool, str]] = []

    def add(self, what: str, happened: bool, seen: str) -> None:  # noqa: FBT001  the one thing that it takes
        """Notes one."""
        self._rows.append((what, bool(happened), seen))

    @property
    def passed(self) -> bool:
        """Whether all of them did."""
        return bool(self._rows) and all(happened for _, happened, _ in self._rows)

    def table(self) -> str:
        """A row each."""
        width = max(len(what) for what, _, _ in self._rows)
        return "\n".join(
            f"{'ok  ' if happened else 'FAIL'}  {what:{width}}  {seen}" for what, happened, seen in self._rows
        )


_STYLE = {
    "device": ("#0072b2", "o", "answered on the device"),
    "server": ("#e69f00", "^", "answered by the server"),
    "error": ("#000000", "x", "told that the deadline passed"),
}


def draw(timeline: Timeline, path: Path, deadline_ms: float) -> Path:
    """Latency over time, by place, with the events; the time between bursts is left out of the picture's width."""
    import matplotlib as mpl  # noqa: PLC0415  a second that only the end of the demo needs

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    for place, (colour, marker, label) in _STYLE.items():
        points = [(at_s, ms) for at_s, ms, where in timeline.requests if where == place]
        if points:
            axes.scatter(*zip(*points, strict=True), s=14, c=colour, marker=marker, label=f"{label} ({len(points)})")
    axes.axhline(deadline_ms, color="#999999", linestyle="--", linewidth=1, label=f"deadline, {deadline_ms:.0f} ms")
    for at_s, text in timeline.events:
        axes.axvline(at_s, color="#cc79a7", linewidth=1)
        axes.annotate(
            text, (at_s, 1), xycoords=("data", "axes fraction"), xytext=(-2, 4), textcoords="offset points",
            rotation=20, va="bottom", fontsize=9, color="#883366",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set(
        xlabel="time since the runtime was opened, s",
        ylabel="latency of a request, ms",
    )
    figure.suptitle("Bursts beyond the device's capacity, by where they were answered")
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=130)
    return path
