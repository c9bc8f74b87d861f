"""Batches that run beside each other."""

import heapq
import statistics

import pytest
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching import policy


@pytest.mark.parametrize(
    ("waiting", "running", "slots", "share"),
    [
        (7, 1, 2, 4),
        (4, 4, 2, 4),
        (3, 4, 2, 4),
        (5, 4, 2, 5),
        (8, 1, 4, 3),
        (7, 1, 1, 8),
        # A full batch's worth, and more than that.
        (28, 4, 2, 16),
        (29, 4, 2, 32),
    ],
)
def test_the_share_of_a_batch(waiting, running, slots, share):
    """What is here over all places, rounded up; a full batch where more is here than fits into one."""
    found = policy.share_rows(waiting_rows=waiting, running_rows=running, batch_rows=32, slots=slots)
    assert found == share


class Clients:
    """Each asks again when it was answered, one after the other; two batches run at a time, and share the machine."""

    def __init__(self, count, *, fixed_s, row_s, between_s, **options):
        self.stand = BatchStand(num_batch_threads=2, **options)
        self.queue = self.stand.queue(FakeExecutor())
        self.fixed_s, self.row_s, self.between_s = fixed_s, row_s, between_s
        self.door = [between_s * number for number in range(count)]
        self.ends, self.sizes, self.answered = [], [], 0

    def go(self, seconds):
        clock, scheduler = self.stand.clock, self.stand.scheduler
        end_s = clock() + seconds
        while clock() < end_s:
            while self.door and self.door[0] <= clock():
                heapq.heappop(self.door)
                assert scheduler.submit([(self.queue, make(rows(1)))]) == [None]
            while self.ends and self.ends[0][0] <= clock():
                _, _, taken = heapq.heappop(self.ends)
                self.queue.costs.record(taken.rows, clock() - taken.run.begun_s, clock())
                scheduler._end(taken)
                self.answered += taken.rows
                for number in range(taken.rows):
                    heapq.heappush(self.door, clock() + 2e-3 + number * self.between_s)
            while (taken := scheduler._take(clock())[0]) is not None:
                self.sizes.append(taken.rows)
                took_s = self.fixed_s + self.row_s * taken.rows
                heapq.heappush(self.ends, (clock() + took_s, len(self.sizes), taken))
            clock.advance(2.5e-4)


def test_eight_clients_of_a_slow_model_share_two_batches():
    """Batches of four, of four and again of four, where each that came first ran alone before; and more is answered."""
    found = {}
    for gather_us in (0, 10_000):
        clients = Clients(8, fixed_s=9e-3, row_s=14e-3, between_s=1e-3, max_gather_us=gather_us)
        clients.go(2.0)
        settled, before = len(clients.sizes), clients.answered
        clients.go(4.0)
        found[gather_us] = statistics.mean(clients.sizes[settled:]), clients.answered - before
        if gather_us:
            assert statistics.median(clients.sizes[settled:]) == 4
    assert found[0][0] < 3
    assert found[10_000][0] > 3.8
    assert found[10_000][1] > 1.1 * found[0][1]


def test_a_model_whose_runs_cost_as_much_as_their_rows_is_not_shared_out():
    """One batch of all is better then than two beside each other."""
    clients = Clients(8, fixed_s=30e-3, row_s=1e-3, between_s=1e-4, max_gather_us=10_000)
    clients.go(4.0)
    assert max(clients.sizes[-10:]) > 4
