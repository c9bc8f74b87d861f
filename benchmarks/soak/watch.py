"""What a program's processes take: memory, file descriptors, threads, shared memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from benchmarks.process_tree import processes, pss_mib

LOOK_S = 1.0

Levels = dict[str, tuple[list[float], list[float]]]
"""By name, instants and values."""


class Watch:
    """Looks at programs once a second, and at what lies in `/dev/shm`.

    Args:
        programs: By name, the first process of each.
    """

    def __init__(self, programs: Mapping[str, int]) -> None:
        self._programs = dict(programs)
        self._levels: Levels = defaultdict(lambda: ([], []))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> Levels:
        """All that was seen."""
        self._stop.set()
        self._thread.join()
        return dict(self._levels)

    def last(self) -> dict[str, float]:
        """What was seen last, by name."""
        return {name: values[-1] for name, (_, values) in tuple(self._levels.items()) if values}

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            now_s = time.monotonic()
            for program, pid in self._programs.items():
                pids = processes(pid)
                self._note(now_s, f"{program}: memory, MiB", pss_mib(pid))
                self._note(now_s, f"{program}: file descriptors", sum(_count(one, "fd") for one in pids))
                self._note(now_s, f"{program}: threads", sum(_count(one, "task") for one in pids))
                self._note(now_s, f"{program}: processes", float(len(pids)))
                self._note(now_s, f"{program}: shared memory, mappings", sum(map(_shared, pids)))
            with contextlib.suppress(OSError):
                self._note(now_s, "files in /dev/shm", float(sum(1 for _ in Path("/dev/shm").iterdir())))

    def _note(self, now_s: float, name: str, value: float) -> None:
        times, values = self._levels[name]
        times.append(now_s)
        values.append(value)


def _count(pid: int, what: str) -> float:
    try:
        return float(sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir()))
    except OSError:
        return 0.0


def _shared(pid: int) -> float:
    """How many mappings a process has of memory files and of files in /dev/shm."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return 0.0
    return float(sum("/memfd:" in line or "/dev/shm/" in line for line in lines))
