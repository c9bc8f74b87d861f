"""How requests are merged and how many may wait."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from fallback_server.core.model_config import MAX_TARGET_LATENCY_MS, MAX_WEIGHT, MIN_WEIGHT

MAX_BATCH_TIMEOUT_US = 3_600_000_000
"""An hour. Longer waits are a slip of the unit, and the longest are none that a thread can wait."""

MAX_THREADS = 1024
"""More than any machine runs at a time."""

MAX_ALLOWED_SIZES = 64
"""Each is a shape that a model is warmed up with when it is loaded."""

BULK_ROWS = 1024
"""The most rows of a piece where nobody has said how large batches may be: about TensorFlow Serving's default bound."""

MAX_GATHER_US = 1_000_000
"""Nobody's answer is to be a second late for others' sake."""

MAX_ABANDONED_RUN_S = 86_400.0
"""A day. Longer waits are a slip of the unit."""

MAX_INLINE_US = 100_000
"""Whoever brings requests takes no others while it runs one."""


@dataclass(frozen=True, kw_only=True)
class BatchingOptions:
    """Bounds of every queue, and the threads that serve them all.

    Attributes:
        enabled: Whether requests are merged at all; without, each runs alone.
        max_batch_size_rows: The most rows that are merged.
        batch_timeout_us: How long a first request waits for company. 0: a batch is what came while the model was busy.
        max_enqueued_batches: How many full batches may wait in one queue.
        max_enqueued_bytes: How many bytes of input may wait in all queues together.
        num_batch_threads: How many batches run at the same time, and how many of one queue; see `runs.Runs`.
        allowed_batch_sizes: The numbers of rows that a model is run with, ascending, the last of them
            `max_batch_size_rows`: a batch between two of them is padded up. Empty: any number.
        worth_rows: So many rows, or fewer, are merged, where a model was found to take no less time for a row of more.
            0: not known. What is allowed comes before it.
        enable_large_batch_splitting: Whether a request of more rows than a batch runs in pieces; without, it runs
            alone, in one piece.
        bulk_rows: The most rows of a piece, where that may be larger than a batch: as many as run for
            `policy.PIECE_S`. 0 where no piece may. Only where any number of rows is allowed.
        pad_variable_length_inputs: Whether requests whose inputs differ in variable dimensions are merged, the shorter
            ones padded; see `Lengths`.
        allowed_lengths: The lengths to which they are padded, ascending; empty: to the longest of a batch.
        weight: The share of the run time that each of a version's queues gets beside others that want it too.
        target_latency_ms: How long a request may take: batches are as large as holds that. 0: as large as may be.
        max_gather_us: How long the next batch may begin after the last one though there is room for it, where requests
            come fast and their runs cost little beside what each costs alone; see `Gathering`. 0: at once, always. Not
            where there is a batch timeout or a target latency.
        max_inline_us: How long a run may take for whoever brings its request to run it in its own thread, where a run
            is in this process. 0: nobody does.
        max_abandoned_run_s: How long a run may go on for which nobody waits any more, before it is ended with its
            process; see `Watchdog`. 0: for ever.
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
    worth_rows: int = 0
    enable_large_batch_splitting: bool = True
    bulk_rows: int = 0
    pad_variable_length_inputs: bool = False
    allowed_lengths: tuple[int, ...] = ()
    weight: float = 1.0
    target_latency_ms: float = 0.0
    max_gather_us: int = 10_000
    max_inline_us: int = 250
    max_abandoned_run_s: float = 10.0
    per_model: bool = False
    thread_pool_name: str = "batch"

    def __post_init__(self) -> None:
        for name in ("max_batch_size_rows", "max_enqueued_batches", "max_enqueued_bytes", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_batch_threads > MAX_THREADS:
            raise ValueError(f"num_batch_threads must be at most {MAX_THREADS}, got {self.num_batch_threads}")
        self._check_microseconds()
        if not 0 <= self.target_latency_ms <= MAX_TARGET_LATENCY_MS:
            most = MAX_TARGET_LATENCY_MS
            raise ValueError(f"target_latency_ms must be from 0 to {most}, got {self.target_latency_ms}")
        if not 0 <= self.max_abandoned_run_s <= MAX_ABANDONED_RUN_S:
            bounds = f"from 0 to {MAX_ABANDONED_RUN_S:.0f}"
            raise ValueError(f"max_abandoned_run_s must be {bounds}, got {self.max_abandoned_run_s}")
        if not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"weight must be from {MIN_WEIGHT} to {MAX_WEIGHT}, got {self.weight}")
        self._check_allowed_sizes()
        self._check_allowed_lengths()

    @property
    def batch_timeout_s(self) -> float:
        """The batch timeout in the clock's unit."""
        return self.batch_timeout_us / 1e6

    @property
    def merged_rows(self) -> int:
        """The most rows of several requests that run together."""
        if not self.worth_rows or self.allowed_batch_sizes:
            return self.max_batch_size_rows
        return min(self.worth_rows, self.max_batch_size_rows)

    @property
    def max_enqueued_rows(self) -> int:
        """How many rows may wait in one queue."""
        return self.max_batch_size_rows * self.max_enqueued_batches

    def _check_microseconds(self) -> None:
        for name, most in (
            ("batch_timeout_us", MAX_BATCH_TIMEOUT_US),
            ("max_gather_us", MAX_GATHER_US),
            ("max_inline_us", MAX_INLINE_US),
        ):
            number = getattr(self, name)
            if number < 0:
                raise ValueError(f"{name} must be at least 0, got {number}")
            if number > most:
                raise ValueError(f"{name} must be at most {most}, got {number}")

    def _check_allowed_lengths(self) -> None:
        lengths = self.allowed_lengths
        if not lengths:
            return
        if lengths[0] < 1 or any(one >= other for one, other in itertools.pairwise(lengths)):
            raise ValueError(f"allowed_lengths must be ascending and at least 1, got {list(lengths)}")
        if len(lengths) > MAX_ALLOWED_SIZES:
            raise ValueError(f"allowed_lengths must be at most {MAX_ALLOWED_SIZES}, got {len(lengths)}")
        if not self.pad_variable_length_inputs:
            raise ValueError("allowed_lengths needs pad_variable_length_inputs")

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
