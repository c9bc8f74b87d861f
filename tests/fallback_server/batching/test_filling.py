"""How far a batch is filled where some have little time left."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, rows

from fallback_server.batching.filling import HEADROOM, Want, chosen
from fallback_server.core.errors import DeadlineExceeded, QueueFull

LATER = math.inf


def cost_s(rows):
    """2 ms, and 0.6 ms a row: 2.6 ms for one, 21.2 for 32."""
    return 0.002 + 0.0006 * rows


def choose(deadlines_s, *, room_rows=32, may_give_way=True, rows=1):
    wants = [Want(rows, deadline_s) for deadline_s in deadlines_s]
    return chosen(wants, now_s=0.0, room_rows=room_rows, cost_s=cost_s, may_give_way=may_give_way)


@pytest.mark.parametrize(
    ("deadlines_s", "count"),
    [
        ([LATER] * 40, 32),
        ([0.015] * 32, 16),
        ([0.010] + [LATER] * 31, 8),
        ([LATER] * 5 + [0.012] + [LATER] * 26, 12),
        ([0.003], 1),
        ([0.030] * 32, 32),
    ],
)
def test_as_many_run_as_are_in_time_together(deadlines_s, count):
    """All of them with a quarter to spare; whoever would make all others wait for little is left for the next."""
    choice = choose(deadlines_s)
    assert len(choice.indices) == count
    assert all(HEADROOM * cost_s(count) <= deadlines_s[index] for index in choice.indices) or count == 1
    assert not choice.gave_way


def test_who_has_little_time_left_runs_before_the_first_one_every_other_time():
    """Alone, where nobody could come with it; so the first one is overtaken once, and not for ever."""
    deadlines_s = [LATER, 0.0034, LATER]
    assert choose(deadlines_s) == ([1], True)
    assert choose(deadlines_s, may_give_way=False) == ([0, 2], False)


def test_the_first_one_with_little_time_left_has_its_run_every_other_time():
    """Alone, where no other could come with it; then the others have theirs, which is worth ten times as much."""
    deadlines_s = [0.0034] + [LATER] * 31
    first = choose(deadlines_s)
    assert (first.indices, first.gave_way) == ([0], True)
    others = choose(deadlines_s, may_give_way=False)
    assert (others.indices, others.gave_way) == (list(range(1, 32)), False)


def test_a_first_one_larger_than_a_batch_has_its_run_every_other_time():
    """By itself: no batch has the room for it, and those with little time left go before it once, not for ever."""
    wants = [Want(6, LATER), Want(1, 0.0034), Want(1, LATER)]
    once = chosen(wants, now_s=0.0, room_rows=4, cost_s=cost_s, may_give_way=True)
    assert once == ([1], True)
    assert chosen(wants, now_s=0.0, room_rows=4, cost_s=cost_s, may_give_way=False) == ([0], False)
    late = [wants[0]._replace(deadline_s=0.006), *wants[1:]]
    assert chosen(late, now_s=0.0, room_rows=4, cost_s=cost_s, may_give_way=False).indices == [1]


@settings(deadline=None)
@given(
    wants=st.lists(st.tuples(st.integers(1, 8), st.floats(0.0001, 0.05) | st.just(LATER)), min_size=1, max_size=40),
    room=st.integers(1, 32),
    may_give_way=st.booleans(),
)
def test_somebody_runs_and_bounds_are_kept(wants, room, may_give_way):
    """In order, each once, no more than a batch, or one alone that is larger; all in time, or the tightest alone."""
    wants = [Want(*want) for want in wants]
    choice = chosen(wants, now_s=0.0, room_rows=room, cost_s=cost_s, may_give_way=may_give_way)
    assert choice.indices
    assert choice.indices == sorted(set(choice.indices))
    count = sum(wants[index].rows for index in choice.indices)
    assert count <= room or len(choice.indices) == 1
    late = [index for index in choice.indices if wants[index].deadline_s < cost_s(count)]
    assert not late or choice.indices == [min(range(len(wants)), key=lambda index: wants[index].deadline_s)]
    assert may_give_way or not choice.gave_way


def test_no_lower_priority_goes_before_higher_ones_for_its_deadline():
    """It has the room that is left where all are in time with it; and each level its own tightest."""
    high, low = Want(1, LATER, 1), Want(1, 0.0034, -1)
    for may_give_way in (True, False):
        choice = chosen([high] * 4 + [low], now_s=0.0, room_rows=8, cost_s=cost_s, may_give_way=may_give_way)
        assert choice == ([0, 1, 2, 3], False)
    choice = chosen([high, low._replace(deadline_s=0.02)], now_s=0.0, room_rows=8, cost_s=cost_s, may_give_way=True)
    assert choice == ([0, 1], False)
    wants = [Want(1, LATER, 0), Want(1, 0.0034, 1), low]
    assert chosen(wants, now_s=0.0, room_rows=8, cost_s=cost_s, may_give_way=True) == ([1], True)


class Crowd:
    """A stand whose runs take as long as `cost_s` says, which was measured for three sizes."""

    def __init__(self, **options):
        self.stand = BatchStand(max_batch_size_rows=32, num_batch_threads=1, max_gather_us=0, **options)
        self.sizes, self.company, self.ended_s = [], {}, {}
        self.stand.scheduler._on_done = self.take
        self.queue = self.stand.queue(self.run)
        for size in (1, 8, 32):
            for _ in range(2):
                self.queue.costs.record(size, cost_s(size), self.stand.clock())

    def take(self, outcomes):
        answered = [task for task, outcome in outcomes if isinstance(outcome, dict)]
        self.company |= dict.fromkeys(answered, len(answered))
        self.ended_s |= dict.fromkeys(answered, self.stand.clock())
        self.stand.take(outcomes)

    def run(self, inputs):
        self.sizes.append(len(inputs["x"]))
        self.stand.clock.advance(cost_s(len(inputs["x"])))
        return {"y": inputs["x"]}

    def submit(self, count, left_s=None):
        """Those that are let in."""
        deadline_s = None if left_s is None else self.stand.clock() + left_s
        tasks, refusals = self.stand.submit(self.queue, *[rows(1)] * count, deadline_s=deadline_s)
        assert all(refusal is None or isinstance(refusal, QueueFull) for refusal in refusals)
        return [task for task, refusal in zip(tasks, refusals, strict=True) if refusal is None]


def test_of_a_burst_that_can_not_be_in_time_as_one_batch_as_many_are_let_in_as_can():
    """Of 32 that have 15 ms, of which a run of all takes 21, the half; the rest is told at once."""
    crowd = Crowd()
    tasks = crowd.submit(32, 0.015)
    outcomes = crowd.stand.run()
    assert crowd.sizes == [len(tasks)] == [16]
    assert all("y" in outcomes[task] for task in tasks)
    assert crowd.stand.idle()


def test_those_that_were_let_in_and_came_to_be_late_run_in_smaller_batches():
    """Of 24 that have 15 ms left of 22, of which a run of all takes 16, what can be is in time; the rest is told so."""
    crowd = Crowd()
    tasks = crowd.submit(24, 0.022)
    crowd.stand.clock.advance(0.007)
    outcomes = crowd.stand.run()
    assert crowd.sizes == [16, 1]
    assert sum(isinstance(outcomes[task], DeadlineExceeded) for task in tasks) == len(tasks) - 17
    assert "not run: 0.8 ms are left after 21 ms in the queue, and a run takes 2.6 ms" in str(outcomes[tasks[-1]])
    assert crowd.stand.idle()


def test_nobody_is_refused_for_the_company_it_would_have():
    """The first of 32 has 10 ms: it runs with as many as that lets; those behind it that have time come next."""
    crowd = Crowd()
    (first,) = crowd.submit(1, 0.010)
    crowd.submit(31)
    outcomes = crowd.stand.run()
    assert all("y" in outcome for outcome in outcomes.values())
    assert crowd.sizes == [8, 24]
    assert next(task for task, _ in crowd.stand.done) is first


def test_a_crowd_that_is_late_as_a_whole_does_not_end_in_runs_of_one_row():
    """Its first have ever less time left; every other run at least is for those who can be in time together."""
    crowd = Crowd()
    answered = 0
    for _ in range(100):
        crowd.submit(20, 0.02)
        crowd.stand.scheduler.step()
    answered = sum(isinstance(outcome, dict) for _, outcome in crowd.stand.done)
    spent_s = sum(map(cost_s, crowd.sizes))
    assert answered / spent_s > 0.6 * 32 / cost_s(32)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.003, 0.1) | st.none(), st.integers(0, 3)), max_size=12))
def test_whoever_runs_in_company_is_in_time(bursts):
    """Where runs take as long as they took; and each that was let in has one outcome."""
    crowd = Crowd(max_enqueued_batches=1000)
    tasks = []
    for count, left_s, steps in bursts:
        tasks += crowd.submit(count, left_s)
        for _ in range(steps):
            crowd.stand.scheduler.step()
    outcomes = crowd.stand.run()
    assert len(crowd.stand.done) == len(outcomes) == len(tasks)
    for task, outcome in outcomes.items():
        assert isinstance(outcome, dict | DeadlineExceeded)
        if isinstance(outcome, dict) and task.deadline_s is not None and crowd.company[task] > 1:
            assert crowd.ended_s[task] <= task.deadline_s
    assert crowd.stand.idle()


def test_a_near_deadline_behind_a_full_batch_is_seen():
    """Of two runs it would be late in the second: it is in the first, and one with time is in the second."""
    crowd = Crowd()
    plenty = crowd.submit(32)
    (tight,) = crowd.submit(1, 0.023)
    outcomes = crowd.stand.run()
    assert all("y" in outcomes[task] for task in (*plenty, tight))
    assert crowd.ended_s[tight] <= tight.deadline_s
    assert crowd.sizes == [24, 9]


def test_a_request_larger_than_what_pays_is_not_starved_by_small_ones_with_deadlines():
    """One of them comes as each run ends, in time alone and not behind it."""
    crowd = Crowd(worth_rows=4)
    crowd.stand.submit(crowd.queue, rows(1, count=6))
    for _ in range(3):
        crowd.submit(1, 0.006)
        crowd.stand.scheduler.step()
    assert crowd.sizes == [1, 6, 1]
