"""What a batcher has done so far, and how busy it is."""

from __future__ import annotations

import msgspec


class BatcherStats(msgspec.Struct, kw_only=True):
    """Counts since the version was loaded; a snapshot is a copy.

    Attributes:
        requests: Requests that were taken: those of offline work as soon as they have run.
        rows: Their rows.
        batches: Runs of engines, by the rows that ran together.
        dropped: Requests refused before they ran, since they could not be answered in time any more.
        expired: Requests whose deadline passed while they waited or ran.
        cancelled: Requests whose caller gave up while they waited.
        refused: Requests for which the queue had no room.
        retried: Requests that were to run again after a run that failed: on another slot, or alone instead of joined.
        failed: Requests that ended with an engine's error.
        run_s: Seconds that engines ran, added up.
        queued: Requests that wait now.
        queued_rows: Their rows.
        queued_bytes: The bytes of their inputs.
        running: Slots that run now.
        slots: Slots in use.
        standby: Slots that stand by.
    """

    requests: int = 0
    rows: int = 0
    batches: dict[int, int] = {}
    dropped: int = 0
    expired: int = 0
    cancelled: int = 0
    refused: int = 0
    retried: int = 0
    failed: int = 0
    run_s: float = 0.0
    queued: int = 0
    queued_rows: int = 0
    queued_bytes: int = 0
    running: int = 0
    slots: int = 0
    standby: int = 0


class Load(msgspec.Struct, frozen=True, gc=False):
    """How busy a batcher is: what the router predicts from.

    Attributes:
        queued_requests: Requests that wait.
        queued_rows: Their rows.
        running_rows: Rows that run now.
        engines: Slots that serve the queue; 0 where none is left.
        full: Whether the queue refuses.
        stalled: How many of the engines have runs that take far longer than they should.
        stalled_s: For how long the latest of these has been under way.
    """

    queued_requests: int
    queued_rows: int
    running_rows: int
    engines: int
    full: bool
    stalled: int = 0
    stalled_s: float = 0.0
