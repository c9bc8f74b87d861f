"""Takes the next batch out of a queue, and what is refused instead of it. Not thread-safe: the desk locks."""

from __future__ import annotations

from edge_runtime.errors import DeadlineExceeded
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.policy import form_batch
from edge_runtime.scheduling.queue import Entry, RequestQueue
from edge_runtime.scheduling.runs import late

LOOK_AHEAD = 64
"""Entries that are looked at to form a batch: bounds the work under the lock, and exceeds every useful batch size."""

Taken = tuple[list[Entry], list[Entry]]
"""What runs together, and what would be answered too late. Both are claimed: their callers can't cancel any more."""


def take_batch(queue: RequestQueue, costs: CostTable, now_s: float) -> Taken:
    """The batch that `form_batch` says; the batch may be empty though others wait still."""
    looked_at = queue.head(LOOK_AHEAD)
    plan = form_batch(
        [entry.waiting for entry in looked_at],
        now_s,
        costs.sizes,
        seconds=costs.seconds,
        sure_seconds=costs.sure_seconds,
        others=bool(queue),
    )
    run = list(plan.run)
    for i in plan.late:
        waiting = looked_at[i].waiting
        if not run and costs.probe(waiting.rows, waiting.deadline_s - now_s):
            run = [i]
    leaving = {*run, *plan.expired, *plan.late}
    queue.put_back(entry for i, entry in enumerate(looked_at) if i not in leaving)
    batch = [looked_at[i] for i in run if looked_at[i].claim()]
    refused = [looked_at[i] for i in (*plan.expired, *plan.late) if i not in run and looked_at[i].claim()]
    return batch, refused


def take_one(queue: RequestQueue, costs: CostTable, now_s: float) -> Taken:
    """The same where nothing can be joined, made short: one that runs or is refused."""
    entry = queue.head(1)[0]
    rows, left_s = entry.waiting.rows, entry.waiting.deadline_s - now_s
    takes_s = costs.sure_seconds(rows) if queue else costs.seconds(rows)
    runs = left_s >= takes_s or (left_s > 0 and costs.probe(rows, left_s))
    if not entry.claim():
        return [], []
    return ([entry], []) if runs else ([], [entry])


def too_late(entry: Entry, queue: RequestQueue, costs: CostTable, now_s: float) -> DeadlineExceeded:
    """The error of a request that is refused: that its deadline has passed, or would have."""
    waited_ms = (now_s - entry.queued_s) * 1e3
    left_ms, run_ms = (entry.waiting.deadline_s - now_s) * 1e3, costs.seconds(entry.waiting.rows) * 1e3
    if left_ms <= 0:
        stage = f"in the device's queue, {queue.rows} rows still behind"
    else:
        stage = f"in the device's queue, with {left_ms:.1f} ms left for a run of {run_ms:.1f} ms,"
    return late(entry.request, now_s, {stage: waited_ms})
