"""Who comes to a queue that is too long is told at once, by how fast it empties."""

import numpy as np
import pytest
from support.batch_stand import BatchStand, make, rows

from fallback_server.batching.backlog import Backlog
from fallback_server.batching.costs import RunCosts
from fallback_server.batching.drain import Drain, Room
from fallback_server.core.errors import QueueFull

RUN_S = 0.005


def waiting(count, *, deadline_s=9.0):
    backlog = Backlog()
    for _ in range(count):
        backlog.put(make(rows(1), deadline_s=deadline_s), ())
    return backlog


def draining(*, batches=16, every_s=RUN_S, run_s=RUN_S):
    """Batches of one row, the last of which began at 0."""
    costs = RunCosts()
    costs.record(1, run_s, 0.0)
    drain = Drain(costs, lambda count: count)
    for number in range(batches):
        drain.begins(1, (number + 1 - batches) * every_s)
    return drain


def too_slow(drain, ahead, *, left_s, now_s=0.0, others_s=0.0, passed=0, batch=1, slots=1, busy=False):
    backlog, room = waiting(ahead, deadline_s=others_s), Room(batch, slots, passed, busy)
    return drain.is_too_slow(backlog, make(rows(1), deadline_s=now_s + left_s), now_s, room)


@pytest.mark.parametrize(
    ("batches", "every_s", "ahead", "left_s", "slow"),
    [
        (16, 0.010, 3, 0.05, False),
        (16, 0.010, 4, 0.05, True),
        (16, 0.010, 4, 0.10, False),
        (50, 0.010, 4, 0.05, True),
        (3, 0.010, 4, 0.05, False),
        (16, 0.001, 7, 0.05, False),
        (16, 0.001, 8, 0.05, True),
    ],
)
def test_a_quarter_more_than_is_expected_must_be_left(batches, every_s, ahead, left_s, slow):
    """At the pace of the last batches, or by what runs take where that is longer or there is no pace."""
    assert too_slow(draining(batches=batches, every_s=every_s), ahead, left_s=left_s) is slow


def test_what_runs_at_a_time_counts():
    """Full batches by as many as run at a time, a run for the rest of one that is under way; unknown, nothing."""
    drain = draining(batches=0)
    assert too_slow(drain, 8, left_s=0.05)
    assert not too_slow(drain, 8, left_s=0.05, slots=2)
    assert too_slow(drain, 7, left_s=0.051, busy=True)
    assert not too_slow(drain, 7, left_s=0.051)
    assert not too_slow(drain, 100, left_s=0.05, now_s=10.0)


def test_a_queue_that_stands_still_is_slower_the_longer_it_does():
    """A batch that runs for a second says that the next row takes its part of that."""
    drain = draining()
    assert not too_slow(drain, 2, left_s=0.05)
    assert too_slow(drain, 2, left_s=0.05, now_s=1.0)


def test_a_queue_that_has_rested_begins_anew():
    """How long it was empty is no pace."""
    drain = draining(every_s=10.0)
    assert too_slow(drain, 1, left_s=1.0)
    drain.rested()
    assert not too_slow(drain, 1, left_s=1.0)


def test_those_with_more_time_left_may_be_overtaken():
    """As many rows of them as batches are filled from; nobody where all have as little time as who comes."""
    drain = draining()
    assert too_slow(drain, 10, left_s=0.05, passed=64)
    assert not too_slow(drain, 10, left_s=0.05, others_s=1.0, passed=64)
    assert too_slow(drain, 100, left_s=0.05, others_s=1.0, passed=64)
    assert too_slow(drain, 10, left_s=0.05, others_s=1.0)


def test_who_comes_to_a_flood_is_refused_or_answered_in_time():
    """Four times what can be run: none that was let in comes to its deadline, and the model never rests."""
    stand = BatchStand(max_batch_size_rows=8)
    running = 0

    def run(inputs):
        nonlocal running
        running += len(inputs["x"])
        stand.clock.advance(RUN_S * len(inputs["x"]))
        return {"y": inputs["x"]}

    queue = stand.queue(run)
    refused = came = 0
    due_s = stand.clock.now_s
    for _ in range(200):
        while due_s <= stand.clock.now_s:
            _, refusals = stand.submit(queue, rows(1), deadline_s=due_s + 0.05)
            refused += isinstance(refusals[0], QueueFull)
            came += 1
            due_s += RUN_S / 4
        stand.scheduler.step()
    answered = sum(isinstance(outcome, dict) for _, outcome in stand.done)
    assert running == answered
    assert came / 5 < answered
    assert len(stand.done) - answered < answered / 10, "let in, and not answered"
    assert refused > came / 2
    assert np.all(queue.rows < 20)
