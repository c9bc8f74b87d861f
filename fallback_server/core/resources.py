"""Whether a version fits into memory, before it is loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fallback_server.core.errors import NoMemory
from fallback_server.core.servable import ServableId

_MB = 1_000_000

DEFAULT_RESERVE_BYTES = 64 * _MB
"""Left free for requests and the rest of the machine."""


class MemoryBudget:
    """What may still be loaded.

    Args:
        available_bytes: How much memory is free now; None where it can't be told, and then everything is admitted.
        reserve_bytes: How much of it is to stay free.
    """

    def __init__(
        self,
        available_bytes: Callable[[], int | None] | None = None,
        reserve_bytes: int = DEFAULT_RESERVE_BYTES,
    ) -> None:
        self._available_bytes = free_bytes if available_bytes is None else available_bytes
        self._reserve_bytes = reserve_bytes

    def refusal(self, servable_id: ServableId, *, estimated_bytes: int, promised_bytes: int) -> str | None:
        """Why a version may not be loaded now; None where it may.

        Args:
            servable_id: Which version.
            estimated_bytes: What its load will take; 0 where that is unknown, and then it is admitted.
            promised_bytes: What loads under way may still take.
        """
        if estimated_bytes <= 0:
            return None
        available = self._available_bytes()
        if available is None:
            return None
        refusal = admit(
            estimated_bytes=estimated_bytes,
            promised_bytes=promised_bytes,
            available_bytes=available,
            reserve_bytes=self._reserve_bytes,
        )
        return None if refusal is None else f"Insufficient resources to load servable {servable_id}: {refusal}"


class Promises:
    """Memory that loads under way may still take, so that loads beside them count with it. Thread-safe.

    Args:
        budget: What there is; None admits all.
    """

    def __init__(self, budget: MemoryBudget | None) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._promised: dict[object, int] = {}

    @contextlib.contextmanager
    def kept(self, servable_id: ServableId, estimated_bytes: int) -> Iterator[None]:
        """Keeps memory for a load while it is under way.

        Raises:
            NoMemory: it does not fit; the text is TensorFlow Serving's, with the numbers.
        """
        load = object()  # A version that has moved may be loaded from both of its places at a time.
        with self._lock:
            if self._budget is not None:
                promised = sum(self._promised.values())
                refusal = self._budget.refusal(servable_id, estimated_bytes=estimated_bytes, promised_bytes=promised)
                if refusal is not None:
                    raise NoMemory(refusal)
            self._promised[load] = estimated_bytes
        try:
            yield
        finally:
            with self._lock:
                del self._promised[load]


def admit(*, estimated_bytes: int, promised_bytes: int, available_bytes: int, reserve_bytes: int) -> str | None:
    """Why a load does not fit; None where it does."""
    if estimated_bytes + promised_bytes + reserve_bytes <= available_bytes:
        return None
    return (
        f"it needs about {_mb(estimated_bytes)} MB, {_mb(available_bytes)} MB are free and {_mb(promised_bytes)} MB "
        f"are promised to other loads; {_mb(reserve_bytes)} MB are kept in reserve"
    )


def free_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The memory that can be taken without swapping: what the machine has left, or the control group if that is less.

    None where neither can be told.
    """
    figures = [_machine_bytes(proc), *_group_bytes(proc, cgroups)]
    known = [figure for figure in figures if figure is not None]
    return max(0, min(known)) if known else None


def _machine_bytes(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _group_bytes(proc: Path, cgroups: Path) -> list[int]:
    """What is left in each control group that this process is in, from its own up to the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    left = []
    for line in lines:
        _, controllers, path = (line + "::").split(":")[:3]
        if not controllers:
            root, limit, usage, inactive = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            inactive = "total_inactive_file"
        else:
            continue
        folder = root / path.lstrip("/")
        # In a container the path may be the host's: what can be seen is then the root alone.
        for each in (folder, *folder.parents):
            figure = _left_bytes(each, limit, usage, inactive)
            if figure is not None:
                left.append(figure)
            if each == root:
                break
    return left


def _left_bytes(folder: Path, limit: str, usage: str, inactive: str) -> int | None:
    try:
        allowed = (folder / limit).read_text(encoding="ascii").strip()
        if allowed == "max":
            return None
        used = int((folder / usage).read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        # The page cache counts as used, and is given back first.
        cached = next((int(line.split()[1]) for line in statistics if line.split()[0] == inactive), 0)
        return int(allowed) - used + cached
    except (OSError, ValueError, IndexError):
        return None


def _mb(size_bytes: int) -> int:
    return round(size_bytes / _MB)
