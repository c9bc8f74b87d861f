"""How much memory another process holds, and whether that is too much.

Not by a limit of the kernel's on address space (RLIMIT_AS): TensorFlow maps a gigabyte that it never touches as soon
as its threads start, so that such a limit ends conversions that would have needed 100 MB, as a segmentation fault or
an abort as often as not. What counts is the memory that is really there, and /proc tells it.
"""

from __future__ import annotations

import os
from pathlib import Path

from converter.errors import OptionInvalid

LOOK_INTERVAL_S = 0.02
"""A process can fill some 100 MB in that time; a look costs 50 us."""

FIRST_RUN_BYTES = 2**31
TIMES_FILES = 8
"""What a device's installation grants a first run as well: see `edge_runtime.trial_memory`."""

_MIB = 2**20

_OWN = ("RssAnon:", "RssShmem:", "VmSwap:")
"""Of /proc/PID/status, in KiB: what is a process's own. Mapped files are not: the kernel can drop them at any time."""


class MemoryWatch:
    """One process's memory above what it held at first.

    Attributes:
        interval_s: How often it is to be looked at; None where there is no limit.
        exceeded: Whether a look has found more than the limit.
    """

    def __init__(self, process_id: int, limit_bytes: int | None) -> None:
        """Looks for the first time.

        Args:
            process_id: Whose memory.
            limit_bytes: How much may come to it; None for any.

        Raises:
            OptionInvalid: there is a limit, and this system does not tell what a process holds.
        """
        self.interval_s = None if limit_bytes is None else LOOK_INTERVAL_S
        self.exceeded = False
        self._process_id = process_id
        self._limit_bytes = limit_bytes
        self._first_bytes = self._most_bytes = 0
        if limit_bytes is not None:
            if own_bytes(os.getpid()) is None:
                raise OptionInvalid("memory limit: this system does not tell what a process holds (no /proc)")
            # A process that is gone already holds nothing; how it ended is told elsewhere.
            self._first_bytes = self._most_bytes = own_bytes(process_id) or 0

    def look(self) -> bool:
        """Whether the process holds more than it may, now or at an earlier look."""
        if self._limit_bytes is not None and not self.exceeded:
            self._most_bytes = max(self._most_bytes, own_bytes(self._process_id) or 0)
            self.exceeded = self._most_bytes - self._first_bytes > self._limit_bytes
        return self.exceeded

    def __str__(self) -> str:
        taken = (self._most_bytes - self._first_bytes) / _MIB
        limit = "no" if self._limit_bytes is None else f"{self._limit_bytes / _MIB:.0f} MiB"
        return f"it took {taken:.0f} MiB beside the {self._first_bytes / _MIB:.0f} MiB of its start (limit: {limit})"


def own_bytes(process_id: int) -> int | None:
    """The memory that is the process's own, in RAM or swapped out; None if it is gone or this system has no /proc.

    A forked process shares its parent's pages until one of them writes; they count as its own here from the start.
    """
    try:
        status = Path(f"/proc/{process_id}/status").read_text("ascii", errors="replace")
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines() if line.startswith(_OWN))
    found = [int(line[1]) * 1024 for line in lines]
    return sum(found) if found else None


def available_bytes(share: float = 0.9) -> int | None:
    """That share of the memory that the system could still give without swapping; None where it does not tell.

    The default limit of a step: it ends with a message instead of with the kernel's choice of a process to kill.
    """
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return int(int(found[1]) * 1024 * share) if found else None


def first_run_bytes(files_bytes: int) -> int | None:
    """What reading and running a file once may come to hold; None where the system does not tell what is available.

    Args:
        files_bytes: The file's size.
    """
    available = available_bytes()
    return None if available is None else min(available, FIRST_RUN_BYTES + TIMES_FILES * files_bytes)
