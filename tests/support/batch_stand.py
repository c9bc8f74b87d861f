"""A scheduler without threads, stepped by the test, and what is submitted to it."""

import numpy as np
from support.clock import FakeClock
from support.fallback_fakes import caller

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task
from fallback_server.batching.scheduler import BatchScheduler


class BatchStand:
    """What is done comes to `done`, batch by batch."""

    def __init__(self, **options):
        self.options = BatchingOptions(**options)
        self.clock = FakeClock()
        self.done = []
        self.batches = []
        self.queues = []
        self.scheduler = BatchScheduler(options=self.options, on_done=self.take, clock=self.clock)

    def take(self, outcomes):
        self.batches.append(len(outcomes))
        self.done.extend(outcomes)

    def queue(self, executor, *, merges=True, name="m/1:serving_default", options=None, **more):
        run = executor if callable(executor) else lambda inputs: executor.run("serving_default", inputs)
        queue = BatchQueue(name=name, run=run, options=options or self.options, merges=merges, **more)
        self.queues.append(queue)
        return queue

    def submit(self, queue, *arrays, **options):
        tasks = [make(array, **options) for array in arrays]
        return tasks, self.scheduler.submit([(queue, task) for task in tasks])

    def run(self):
        while self.scheduler.step():
            pass
        return dict(self.done)

    def idle(self):
        """Whether nothing is counted any more."""
        scheduler = self.scheduler
        counted = [(len(queue), queue.rows, queue.bytes) for queue in self.queues]
        return counted == [(0, 0, 0)] * len(counted) and not scheduler._bytes and not scheduler._waiting


def make(array, *, deadline_s=None, cancelled=False, priority=0):
    """A task of one input `x`."""
    return Task(
        caller=caller(cancelled=cancelled),
        inputs={"x": array},
        deadline_s=deadline_s,
        rows=len(array),
        priority=priority,
    )


def rows(value, count=1, width=2):
    """Rows of one value."""
    return np.full((count, width), value, np.float32)
