"""When this machine was late: what a process of its own sees that does little but wake up.

It notes when it is woken late, and when a thread of this program or of a process that this one has started was ready
to run and had to wait for a core (`/proc/PID/task/TID/schedstat`, where the kernel keeps that). Neither tells of locks,
the interpreter's included: these are the program's own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from pathlib import Path
from typing import Self

TICK_S = 0.005
SEARCH_S = 1.0
LEAST_S = 0.002
"""What is noted: less is what a kernel takes."""


class Lates:
    """By how much the machine was late at what."""

    def __init__(self) -> None:
        """Starts the process; it ends with this one, or with `stop`."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._from_s: list[float] = []
        self._late_s: list[float] = []

    def stop(self) -> Self:
        """Ends it and takes what it saw."""
        said, _ = self._process.communicate()
        values = [float(word) for word in said.split()]
        self._from_s, self._late_s = values[::2], values[1::2]
        return self

    def worst_ms(self, from_s: float, until_s: float) -> float:
        """The most that it was late by at any time between these instants of the monotonic clock."""
        first = bisect_left(self._from_s, from_s - 1.0)
        worst_s = 0.0
        for at_s, late_s in zip(self._from_s[first:], self._late_s[first:], strict=True):
            if at_s > until_s:
                break
            if at_s + max(late_s, TICK_S) >= from_s:
                worst_s = max(worst_s, late_s)
        return worst_s * 1e3


def family(root: int) -> list[int]:
    """A process and those that it has started, and so on, but not this one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(path.name))
    found, ahead = [], [root]
    while ahead:
        one = ahead.pop()
        if one != os.getpid():
            found.append(one)
            ahead += children.get(one, [])
    return found


class Waits:
    """What threads have waited for a core."""

    def __init__(self, root: int) -> None:
        """Takes the first process."""
        self._root = root
        self._files: dict[str, int] = {}
        self._waited_ns: dict[str, int] = {}

    def search(self) -> None:
        """Finds the threads there are now."""
        paths: set[str] = set()
        for process in family(self._root):
            with contextlib.suppress(OSError):
                paths.update(str(task / "schedstat") for task in Path(f"/proc/{process}/task").iterdir())
        for path in set(self._files) - paths:
            self._forget(path)
        for path in paths - set(self._files):
            with contextlib.suppress(OSError):
                self._files[path] = os.open(path, os.O_RDONLY)

    def worst_s(self) -> float:
        """The most that one of them has waited since the last look."""
        worst_ns = 0
        for path, file in list(self._files.items()):
            try:
                waited_ns = int(os.pread(file, 100, 0).split()[1])
            except (OSError, IndexError):
                self._forget(path)
                continue
            worst_ns = max(worst_ns, waited_ns - self._waited_ns.get(path, waited_ns))
            self._waited_ns[path] = waited_ns
        return worst_ns / 1e9

    def _forget(self, path: str) -> None:
        os.close(self._files.pop(path))
        self._waited_ns.pop(path, None)


def main() -> None:
    """Looks until its standard input is closed, then prints instants and what was late then, in seconds."""
    waits = Waits(int(sys.argv[1]))
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    found: list[float] = []
    searched_s, looked_s = float("-inf"), time.monotonic()
    while not stop.is_set():
        if looked_s - searched_s >= SEARCH_S:
            waits.search()
            searched_s = time.monotonic()
        before_s = time.monotonic()
        time.sleep(TICK_S)
        woken_s = time.monotonic()
        late_s = max(woken_s - before_s - TICK_S, waits.worst_s())
        if late_s > LEAST_S:
            found += (min(looked_s, woken_s - late_s), late_s)
        looked_s = woken_s
    print(*found)


if __name__ == "__main__":
    main()
