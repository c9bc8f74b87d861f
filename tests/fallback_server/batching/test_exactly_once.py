"""Whatever happens meanwhile, a request has one outcome, its own, and all that is counted comes to nothing."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make

from fallback_server.core.errors import DeadlineExceeded, ExecutionFailed, QueueFull, RequestCancelled

ODD, FATAL, WIDE = 1e5, 2e5, 3e5
"""Values of rows: with one the model gives a row too few, with one it fails, with one its output is a column wider."""


SPECIAL = {"odd": ODD, "fatal": FATAL, "wide": WIDE}


class Side:
    """A model during whose runs other batches run, requests come and callers leave, as told."""

    def __init__(self, stand, events, **queue):
        self.stand, self.events = stand, list(events)
        self.queue = stand.queue(self.run, **queue)
        self.tasks, self.ran_s = [], []
        self.number = 0.0

    def run(self, inputs):
        rows = inputs["x"]
        if self.events:
            self.happens(*self.events.pop())
        self.stand.clock.advance(0.001 * len(rows))
        if (rows == FATAL).any():
            raise RuntimeError("fatal")
        answers = np.repeat(rows[:, :1] * 2, 2 if (rows == WIDE).any() else 1, axis=1)
        return {"y": answers[1:] if (rows == ODD).any() else answers}

    def happens(self, what, count):
        if what == "step":
            self.stand.scheduler.step()
        elif what == "leave" and self.tasks:
            self.tasks[count % len(self.tasks)][0].caller.cancelled = True
        elif what == "wait":
            self.stand.clock.advance(0.002 * count)
        elif what == "full":
            self.stand.scheduler.submit([(self.queue, make(np.zeros((150, 1), np.float32)))])
        else:
            self.comes(what, count)
            if what == "odd":  # With company: alone it shows nothing.
                self.comes("high", 1)
                self.comes("high", 1)

    def comes(self, what, count):
        count *= 9 if what == "large" else 1
        values = np.arange(self.number, self.number + count, dtype=np.float32).reshape(count, 1)
        self.number += count
        if what in SPECIAL:
            values[0] = SPECIAL[what]
        if what == "other":
            values = np.repeat(values, 2, axis=1)
        deadline_s = self.stand.clock() + 0.003 * count if what == "tight" else None
        task = make(values, deadline_s=deadline_s, priority=(what == "high") - (what == "low"))
        (refusal,) = self.stand.scheduler.submit([(self.queue, task)])
        if refusal is None:
            self.tasks.append((task, values, what))
        else:
            assert isinstance(refusal, QueueFull)


happenings = st.tuples(
    st.sampled_from(
        [
            *["step"] * 4,
            "leave",
            "wait",
            "plain",
            "tight",
            "high",
            "low",
            "odd",
            "fatal",
            "wide",
            "other",
            "large",
            "full",
        ]
    ),
    st.integers(1, 12),
)


@settings(deadline=None, max_examples=300)
@given(
    first=st.lists(happenings, max_size=12),
    during=st.lists(happenings, max_size=30),
    max_rows=st.integers(1, 5),
    allowed=st.booleans(),
    timeout=st.booleans(),
)
def test_each_request_has_one_outcome_its_own(first, during, max_rows, allowed, timeout):
    """Also while merging is turned off with pieces under way, and with deadlines, priorities and callers that leave.

    Several shapes wait, requests larger than half of all places, and outputs whose width depends on who is in a run.
    """
    stand = BatchStand(
        max_batch_size_rows=max_rows,
        allowed_batch_sizes=tuple(sorted({2, max_rows})) if allowed and max_rows > 1 else (),
        max_enqueued_batches=20,
        batch_timeout_us=1000 if timeout else 0,
        num_batch_threads=3,
    )
    side = Side(stand, during)
    for what, count in first:
        side.happens(what, count)
    while side.queue.rows:
        stand.scheduler.step()
        stand.clock.advance(0.001)
    outcomes = [(task, outcome) for task, outcome in stand.done if any(task is each for each, _, _ in side.tasks)]
    assert len(outcomes) == len(side.tasks) == len({id(task) for task, _ in outcomes})
    outcomes = dict(outcomes)
    for task, values, what in side.tasks:
        outcome = outcomes[task]
        if isinstance(outcome, RequestCancelled):
            assert task.caller.cancelled
        elif isinstance(outcome, DeadlineExceeded):
            assert what == "tight"
        elif isinstance(outcome, ExecutionFailed):
            assert what == "fatal" or (what == "wide" and len(values) > max_rows)
        elif what == "odd":
            np.testing.assert_array_equal(outcome["y"][:, 0], values[1:, 0] * 2)
        else:
            np.testing.assert_array_equal(outcome["y"][:, 0], values[:, 0] * 2)
    assert stand.idle()
    assert not side.queue.counted_rows()
    assert not len(stand.scheduler._runs)


def test_merging_that_ends_while_a_large_request_is_half_run():
    """What is left of it runs with all that was cut off, once; the piece that ends afterwards changes nothing."""
    stand = BatchStand(max_batch_size_rows=4, num_batch_threads=3)
    sizes = []

    def run(inputs):
        rows = inputs["x"]
        sizes.append(len(rows))
        if len(sizes) == 1:  # During the first piece two show that rows don't stand for themselves.
            stand.submit(queue, *[np.full((1, 1), ODD, np.float32)] * 2, priority=1)
            stand.scheduler.step()
            stand.scheduler.step()
        return {"y": rows[1:] if (rows == ODD).any() else rows}

    queue = stand.queue(run)
    values = np.arange(10, dtype=np.float32).reshape(10, 1)
    (large,), _ = stand.submit(queue, values)
    outcomes = stand.run()
    assert sum(task is large for task, _ in stand.done) == 1
    np.testing.assert_array_equal(outcomes[large]["y"], values)
    assert sizes == [4, 2, 1, 1, 10]
    assert stand.idle()
