"""How requests are merged and how many may wait."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

MAX_BATCH_TIMEOUT_US = 3_600_000_000
"""An hour. Longer waits are a slip of the unit, and the longest are none that a thread can wait."""

MAX_THREADS = 1024
"""More than any machine runs at a time."""

MAX_ALLOWED_SIZES = 64
"""Each is a shape that a model is warmed up with when it is loaded."""


@dataclass(frozen=True, kw_only=True)
class BatchingOptions:
    """Bounds of every queue, and the threads that serve them all.

    Attributes:
        enabled: Whether requests are merged at all; without, each runs alone.
        max_batch_size_rows: The most rows that are merged. A request that has more runs alone.
        batch_timeout_us: How long a first request waits for company. 0: a batch is what came while all threads ran.
        max_enqueued_batches: How many full batches may wait in one queue.
        max_enqueued_bytes: How many bytes of input may wait in all queues together.
        num_batch_threads: How many batches run at the same time, and how many of one queue; see `runs.Runs`.
        allowed_batch_sizes: The numbers of rows that a model is run with, ascending, the last of them
            `max_batch_size_rows`: a batch between two of them is padded up. Empty: any number.
        per_model: Whether a version's own `batching_params.pbtxt` is read.
        thread_pool_name: Begins the names of the batch threads.
    """

    enabled: bool = True
    max_batch_size_rows: int = 32
    batch_timeout_us: int = 0
    max_enqueued_batches: int = 256
    max_enqueued_bytes: int = 2**30
    num_batch_threads: int = 2
    allowed_batch_sizes: tuple[int, ...] = ()
    per_model: bool = False
    thread_pool_name: str = "batch"

    def __post_init__(self) -> None:
        for name in ("max_batch_size_rows", "max_enqueued_batches", "max_enqueued_bytes", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_batch_threads > MAX_THREADS:
            raise ValueError(f"num_batch_threads must be at most {MAX_THREADS}, got {self.num_batch_threads}")
        if self.batch_timeout_us < 0:
            raise ValueError(f"batch_timeout_us must be at least 0, got {self.batch_timeout_us}")
        if self.batch_timeout_us > MAX_BATCH_TIMEOUT_US:
            raise ValueError(f"batch_timeout_us must be at most {MAX_BATCH_TIMEOUT_US}, got {self.batch_timeout_us}")
        self._check_allowed_sizes()

    @property
    def batch_timeout_s(self) -> float:
        """The batch timeout in the clock's unit."""
        return self.batch_timeout_us / 1e6

    @property
    def max_enqueued_rows(self) -> int:
        """How many rows may wait in one queue."""
        return self.max_batch_size_rows * self.max_enqueued_batches

    def _check_allowed_sizes(self) -> None:
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if sizes[0] < 1 or any(one >= other for one, other in itertools.pairwise(sizes)):
            raise ValueError(f"allowed_batch_sizes must be ascending and at least 1, got {list(sizes)}")
        if len(sizes) > MAX_ALLOWED_SIZES:
            raise ValueError(f"allowed_batch_sizes must be at most {MAX_ALLOWED_SIZES}, got {len(sizes)}")
        if sizes[-1] != self.max_batch_size_rows:
            raise ValueError(
                f"allowed_batch_sizes must end with max_batch_size = {self.max_batch_size_rows}, got {list(sizes)}"
            )
