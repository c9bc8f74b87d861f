"""What looking at temperatures and clocks once a second costs: CPU time a second, over the same thread that only waits.

    python benchmarks/monitor.py

A copy of a Raspberry Pi 4's files with two Edge TPUs on PCIe beside (thirteen files and four folders to read), looked
at by `Monitor.look` many times over. The baseline is a thread that wakes up and does nothing: what any look must pay.
sysfs answers from the kernel, which computes what a file of a test does not; this machine's own files are timed too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.climates import clock, heat  # noqa: E402
from support.devices_roots import FakeRoot  # noqa: E402

from edge_runtime.climate import Climate  # noqa: E402
from edge_runtime.thermal import LOOK_S, Monitor  # noqa: E402


def board(path: Path) -> None:
    """A Raspberry Pi 4 with two cards."""
    root = FakeRoot(path)
    root.machine("aarch64")
    clock(root)
    heat(root, 50)
    root.pci_coral()
    root.pci_coral(1)


def cpu_ms(call: Callable[[], object], times: int) -> float:
    """Median CPU milliseconds of this thread for a call, after a short wait that empties the caches of it."""
    took, waits = [], threading.Event()
    for _ in range(times):
        waits.wait(0.001)
        before = time.thread_time_ns()
        call()
        took.append((time.thread_time_ns() - before) / 1e6)
    return statistics.median(took)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500, help="looks (default 500)")
    rounds = parser.parse_args().rounds
    never = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        board(Path(folder))
        found: list[Climate] = []
        monitors = {
            "a Raspberry Pi 4's files, two Edge TPUs": Monitor(found.append, clock=time.monotonic, root=Path(folder)),
            "this machine's": Monitor(found.append, clock=time.monotonic),
        }
        waiting_ms = cpu_ms(lambda: never.wait(1e-6), rounds)
        print(f"waking up: {waiting_ms:.3f} ms of CPU, median of {rounds}")
        for name, monitor in monitors.items():
            look_ms = cpu_ms(monitor.look, rounds)
            share = look_ms / LOOK_S / 1e3
            print(f"{name}: {look_ms:.3f} ms a look, {look_ms / waiting_ms:.1f} x waking up; {share:.3%} of one core")


if __name__ == "__main__":
    main()
