"""What is told of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)  # Not frozen: that makes one take twice as long, and there is one a run.
class BatchRun:
    """One run that has ended well.

    Attributes:
        rows: That were asked for.
        padded_rows: That were run, with what was added to reach an allowed size.
        queued_s: How long each of its requests had waited; of one that runs in pieces, with its first.
        run_s: How long the run took.
    """

    rows: int
    padded_rows: int
    queued_s: tuple[float, ...]
    run_s: float
