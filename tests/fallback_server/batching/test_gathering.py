"""Waiting for others whose requests are on their way."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.costs import RunCosts
from fallback_server.batching.gathering import OUTLASTS, PACE, Gathering
from fallback_server.batching.options import BatchingOptions

MOST_S = 0.01


def gathering(*, peak, took, rate_hz, fixed_s):
    """As it is at 10.0, when a batch begins, where rows have come at a rate for long."""
    found = Gathering(MOST_S)
    found.here(peak)
    step_s = took / rate_hz
    for number in range(1000, -1, -1):
        found.here(peak)
        found.took(took, here_rows=peak, now_s=10.0 - number * step_s, fixed_s=fixed_s)
    return found


@pytest.mark.parametrize(
    ("peak", "rate_hz", "fixed_s", "waiting", "running", "until_s"),
    [
        # Calls come fast, and each run costs a millisecond: as long as any are on their way, up to the bound.
        (32, 2000, 1e-3, 1, False, 10.0 + MOST_S),
        (32, 2000, 1e-3, 31, False, 10.0 + MOST_S),
        (32, 2000, 1e-3, 31, True, 10.0 + MOST_S),
        # All are here; but not while others run.
        (32, 2000, 1e-3, 32, False, -math.inf),
        (8, 2000, 1e-3, 8, False, -math.inf),
        (8, 2000, 1e-3, 8, True, 10.0 + MOST_S),
        # Enough are here that the run costs little.
        (64, 1000, 1e-3, 40, True, -math.inf),
        # A run that costs less is waited for less.
        (32, 4000, 2e-4, 3, False, 10.0 + PACE * 2e-4),
        # One asks alone.
        (1, 2000, 1e-3, 1, False, -math.inf),
        # Runs cost little of the time in any case, or nothing beside their rows, or nobody knows.
        (32, 500, 1e-3, 1, False, -math.inf),
        (32, 2000, 1e-4, 1, False, -math.inf),
        (32, 2000, 0.0, 1, False, -math.inf),
        (32, 2000, None, 1, False, -math.inf),
    ],
)
def test_when_rows_wait_for_more(peak, rate_hz, fixed_s, waiting, running, until_s):
    """A table of what was here, how fast it came, and what a run costs beside its rows."""
    found = gathering(peak=peak, took=4, rate_hz=rate_hz, fixed_s=fixed_s)
    assert found.until_s(waiting, running=running) == pytest.approx(until_s)


@pytest.mark.parametrize(("run_s", "waits"), [(None, True), (MOST_S, True), (OUTLASTS * MOST_S, False), (1.0, False)])
def test_nobody_waits_for_those_in_a_long_run(run_s, waits):
    """Hardly any of them is back before the wait is over."""
    found = gathering(peak=8, took=4, rate_hz=2000, fixed_s=2e-3)
    found.took(4, here_rows=8, now_s=10.0, fixed_s=2e-3, run_s=run_s)
    assert (found.until_s(4, running=True) > 10.0) is waits


def test_who_is_gone_is_forgotten():
    """Where one of 32 clients is left, batches wait in vain for some time, and then no more."""
    found = gathering(peak=32, took=32, rate_hz=2000, fixed_s=1e-3)
    now_s, waits = 10.0, 0
    while (until_s := found.until_s(1, running=False)) > now_s:
        now_s = until_s
        waits += 1
        found.here(1)
        found.took(1, here_rows=1, now_s=now_s, fixed_s=1e-3)
    assert 0 < waits < 50


@given(
    st.lists(
        st.tuples(st.floats(0, 0.05), st.integers(1, 40), st.integers(0, 40), st.floats(0, 0.01)),
        min_size=1,
        max_size=50,
    ),
    st.integers(0, 64),
    st.booleans(),
)
def test_nobody_waits_for_longer_than_the_bound(batches, waiting, running):
    """Whatever came: never beyond the bound after the last batch, and not at all alone or once all are here."""
    found, now_s, most = Gathering(MOST_S), 0.0, 0
    for after_s, took, more, fixed_s in batches:
        now_s += after_s
        most = max(most, took + more)
        found.here(took + more)
        found.took(took, here_rows=took + more, now_s=now_s, fixed_s=fixed_s)
        assert found.until_s(waiting, running=running) <= now_s + min(MOST_S, PACE * fixed_s) + 1e-9
        assert found.until_s(most, running=False) == -math.inf


@pytest.mark.parametrize(
    ("runs", "fixed_s"),
    [
        ([], None),
        ([(1, 1e-3)], 1e-3),
        ([(4, 1e-3), (5, 1e-3)], 1e-3),
        ([(1, 1.1e-3), (11, 2.1e-3)], 1e-3),
        ([(1, 1.1e-3), (3, 9.0), (11, 9.0), (11, 2.1e-3)], 1e-3),
        ([(2, 2e-3), (20, 20e-3)], 0.0),
        ([(1, 1e-3), (32, 100e-3)], 0.0),
        ([(1, 2e-3), (32, 1e-3)], 2e-3),
    ],
)
def test_what_a_run_costs_beside_its_rows(runs, fixed_s):
    """By the smallest and the largest runs; never less than nothing, nor rows that give time back."""
    costs = RunCosts()
    for count, took_s in (*runs, *runs):
        costs.record(count, took_s, 1.0)
    assert costs.fixed_s(1.5) == (None if fixed_s is None else pytest.approx(fixed_s))


def test_one_slow_run_of_a_size_that_is_rare_says_nothing_for_long():
    """Until there are two, and once it is old: else nothing would ever be gathered that could show better."""
    costs = RunCosts()
    for at_s in (0.0, 1.0, 2.0):
        costs.record(1, 1e-3, at_s)
    costs.record(8, 0.5, 2.0)
    assert costs.fixed_s(2.0) == pytest.approx(1e-3)
    costs.record(8, 0.5, 2.1)
    assert costs.fixed_s(2.1) == 0.0
    for at_s in (11.0, 12.0, 12.2):
        costs.record(1, 1e-3, at_s)
    assert costs.fixed_s(12.2) == pytest.approx(1e-3)


class Loop:
    """Clients that each ask again some time after they were answered, one after the other through a narrow door."""

    def __init__(self, clients, *, door_s, fixed_s, row_s, **options):
        self.stand = BatchStand(num_batch_threads=1, **options)
        self.executor = FakeExecutor()
        self.queue = self.stand.queue(self.run)
        self.fixed_s, self.row_s, self.door_s = fixed_s, row_s, door_s
        self.door, self.free_s = list(range(clients)), 0.0
        self.came_s, self.waited_s, self.clients = {}, [], clients

    def run(self, inputs):
        end_s = self.stand.clock() + self.fixed_s + self.row_s * len(inputs["x"])
        while (left_s := end_s - self.stand.clock()) > 1e-9:
            self.stand.clock.advance(min(self.door_s / 4, left_s))
            self.come_in()
        return self.executor.run("serving_default", inputs)

    def go(self, seconds):
        clock, stand, end_s = self.stand.clock, self.stand, self.stand.clock() + seconds
        while clock() < end_s:
            self.come_in()
            done = len(stand.done)
            if not stand.scheduler.step():
                clock.advance(self.door_s / 8)
            for task, outcome in stand.done[done:]:
                assert "y" in outcome
                self.waited_s.append(clock() - self.came_s.pop(task))
                if len(self.door) + len(self.came_s) < self.clients:
                    self.door.append(0)

    def come_in(self):
        now_s = self.stand.clock()
        while self.door and self.free_s <= now_s:
            self.door.pop()
            task = make(rows(1))
            self.free_s = max(self.free_s + self.door_s, now_s - self.door_s)
            self.came_s[task] = now_s
            assert self.stand.scheduler.submit([(self.queue, task)]) == [None]


def test_calls_that_come_one_by_one_are_run_together():
    """Through a door of 0.4 ms, with runs of a millisecond: 32 clients make batches of 16 and more, in place of 3."""
    sizes = {}
    for gather_us in (0, 10_000):
        loop = Loop(32, door_s=4e-4, fixed_s=1e-3, row_s=1e-5, max_gather_us=gather_us)
        loop.go(2.0)
        sizes[gather_us] = np.mean(loop.executor.batches[len(loop.executor.batches) // 2 :])
    assert sizes[0] < 5
    assert sizes[10_000] > 12


def test_one_client_waits_for_nobody():
    """Alone, from the beginning and after many were there: an answer takes a run, and no more."""
    loop = Loop(1, door_s=1e-4, fixed_s=1e-3, row_s=1e-5)
    loop.go(1.0)
    assert max(loop.waited_s) < 1.02e-3
    loop.clients = 32
    loop.door += [0] * 31
    loop.go(1.0)
    assert max(loop.executor.batches) > 8
    loop.clients = 1
    loop.go(1.0)
    loop.waited_s.clear()
    loop.go(1.0)
    assert len(loop.waited_s) > 800
    assert max(loop.waited_s) < 1.02e-3


def engaged(*, in_process=False, **options):
    """A queue in which a request waits for others now."""
    stand, executor = BatchStand(num_batch_threads=1, **options), FakeExecutor()
    queue = stand.queue(executor, in_process=in_process)
    for _ in range(40):
        for count in (1, 32):
            queue.costs.record(count, 0.002, stand.clock())
        stand.submit(queue, *[rows(1)] * 16)
        stand.clock.advance(0.004)
        stand.run()
    stand.submit(queue, rows(1))
    return stand, queue, executor


def test_a_gathered_batch_begins_in_time_or_when_all_are_here():
    """Not at once, at the bound; or as soon as as many wait as before."""
    stand, _, executor = engaged()
    assert not stand.scheduler.step()
    stand.clock.advance(0.0101)
    assert stand.scheduler.step()
    assert executor.batches[-1] == 1
    stand, queue, executor = engaged()
    stand.submit(queue, *[rows(1)] * 14)
    assert not stand.scheduler.step()
    stand.submit(queue, rows(1))
    assert stand.scheduler.step()
    assert executor.batches[-1] == 16
    assert stand.idle()


@pytest.mark.parametrize(
    "options",
    [
        {"max_gather_us": 0},
        {"target_latency_ms": 50.0},
        {"enabled": False},
        {"max_batch_size_rows": 1},
        {"in_process": True},
    ],
)
def test_who_does_not_gather(options):
    """Not where it is turned off, a latency is to be held, nothing is merged, or a run wakes up nobody."""
    stand, _, _ = engaged(**options)
    assert stand.scheduler.step()


def test_what_is_urgent_has_the_batch_begin():
    """A high priority at once, a deadline in time for a run, a stop at once, and what is left of a large request."""
    stand, queue, _ = engaged()
    stand.submit(queue, rows(1), priority=1)
    assert stand.scheduler.step()
    stand, queue, _ = engaged()
    stand.submit(queue, rows(1), deadline_s=stand.clock() + 0.006)
    assert not stand.scheduler.step()
    stand.clock.advance(0.003)
    assert stand.scheduler.step()
    assert all("y" in outcome for _, outcome in stand.done)
    stand, queue, _ = engaged()
    stand.scheduler.stop(timeout_s=0)
    assert stand.scheduler.step()
    stand, queue, _ = engaged()
    stand.submit(queue, rows(1, 33))
    assert [stand.scheduler.step() for _ in range(3)] == [True] * 3


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 0.004), st.integers(1, 5), st.integers(-1, 1)), min_size=1, max_size=80))
def test_nothing_is_lost_doubled_or_late(requests):
    """Whatever comes and when: each is answered once, in order within a priority, and begins within the bound."""
    options = BatchingOptions(num_batch_threads=1, max_batch_size_rows=8)
    stand = BatchStand(num_batch_threads=1, max_batch_size_rows=8)

    def run(inputs):
        stand.clock.advance(0.001 + 1e-5 * len(inputs["x"]))
        return {"y": inputs["x"]}

    queue = stand.queue(run)
    come = [(0.0, 0, 1, 0)]
    for number, (after_s, count, priority) in enumerate(requests):
        come.append((come[-1][0] + after_s, number + 1, count, priority))
    heapq.heapify(come)
    start_s, tasks, idle_s = stand.clock(), [], 0.0
    while come or queue.rows:
        while come and start_s + come[0][0] <= stand.clock():
            _, number, count, priority = heapq.heappop(come)
            task = make(rows(number, count), priority=priority)
            assert stand.scheduler.submit([(queue, task)]) == [None]
            tasks.append(task)
        if stand.scheduler.step():
            idle_s = 0.0
        else:
            stand.clock.advance(0.0005)
            idle_s = idle_s + 0.0005 if queue.rows else 0.0
            assert idle_s <= options.max_gather_us / 1e6 + 0.001
    assert len(stand.done) == len(tasks) == len(dict(stand.done))
    for task, outcome in stand.done:
        np.testing.assert_array_equal(outcome["y"], task.inputs.get("x", outcome["y"]))
    for level in (-1, 0, 1):
        order = [task for task, _ in stand.done if task.priority == level]
        assert order == [task for task in tasks if task.priority == level]
    assert stand.idle()
