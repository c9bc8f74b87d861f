"""How loads are made: threads, retries, and what comes before a load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import LoadFailed
from fallback_server.core.servable import ServableId

MAX_THREADS = 1024
"""More than any machine runs at a time."""

MIN_STARVED_RETRY_S = 1.0
"""A load that did not fit is tried again without end: not more often than this."""

Prepare = Callable[[ServableId, AspiredVersion], None]
"""Puts a version's folder in place where it is not there yet, in a load thread; raises what keeps it from that."""


@dataclass(frozen=True, kw_only=True)
class ManagerOptions:
    """How loads are made.

    Attributes:
        num_load_threads: How many versions load at the same time.
        num_unload_threads: How many versions unload at the same time.
        max_unload_wait_s: How long a version that is to be unloaded is left to the requests that it still has: one that
            hangs would hold its memory for ever.
        max_num_load_retries: How often a failed load is tried again while the version's files stay as they are.
        load_retry_interval_s: How long after a failed load the next attempt begins.
    """

    num_load_threads: int = 2
    num_unload_threads: int = 1
    max_unload_wait_s: float = 300.0
    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("num_load_threads", "num_unload_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > MAX_THREADS:
                raise ValueError(f"{name} must be at most {MAX_THREADS}, got {getattr(self, name)}")
        for name in ("max_num_load_retries", "load_retry_interval_s", "max_unload_wait_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


def stands_there(servable_id: ServableId, version: AspiredVersion) -> None:
    """The `Prepare` of a manager that unpacks nothing.

    Raises:
        LoadFailed: the version comes in an archive.
    """
    if version.archive is not None:
        raise LoadFailed(f"{servable_id}: {version.archive} can't be unpacked by this server")
