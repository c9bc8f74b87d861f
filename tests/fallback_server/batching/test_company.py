"""Who leaves a core to the others: whoever is flooded, while others keep up with what they are asked."""

import gc
import math
import weakref

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, caller

from fallback_server.batching.company import FLOODED_S, REMEMBERED_S, WAITING_BATCHES, WORTH_S, Company
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, BatchRun, Task
from fallback_server.batching.scheduler import BatchScheduler

STEP_S = 0.05


class FakeProcess:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def leave_core(self, *, leave):
        self.told.append(leave)

    def end_hanging(self, *, ran_s):
        raise AssertionError(f"nothing hangs here, for {ran_s} s")


@pytest.fixture
def heavy():
    return FakeProcess()


@pytest.fixture
def light():
    return FakeProcess()


def makes_room(company, process, *, waiting, now_s):
    """Whether it is to make room from now on; then for as long as others are remembered."""
    until_s = company.room_until_s(process, waiting=waiting, now_s=now_s)
    assert until_s in {-math.inf, now_s + REMEMBERED_S}
    return until_s > now_s


def answers(company, process, *, now_s, run_s=WORTH_S):
    """A batch that leaves none waiting, and takes so long; whether it is to make room."""
    leaves = makes_room(company, process, waiting=0, now_s=now_s)
    company.account(process).used_s += run_s
    return leaves


def flooded(company, process, *, since_s, until_s):
    """Its batches leave full ones waiting, from an instant to another; what the last of them is to do."""
    leaves, now_s = False, since_s
    while now_s <= until_s:
        leaves = makes_room(company, process, waiting=WAITING_BATCHES, now_s=now_s)
        company.account(process).used_s += STEP_S
        now_s += STEP_S
    return leaves


@pytest.mark.parametrize("other", ["another process", "the server's own"])
def test_a_flooded_process_leaves_a_core_while_another_answers(heavy, light, other):
    """Not for a burst, from then on, and not after the other has rested."""
    company = Company()
    another = light if other == "another process" else None
    assert not answers(company, another, now_s=0.0)
    assert not flooded(company, heavy, since_s=0.0, until_s=FLOODED_S / 2)
    assert flooded(company, heavy, since_s=FLOODED_S / 2, until_s=REMEMBERED_S / 2)
    assert not flooded(company, heavy, since_s=REMEMBERED_S / 2, until_s=2 * REMEMBERED_S)


def test_what_takes_long_to_answer_is_a_flood_at_once(light):
    """Two full batches that wait, and take as long as a flood lasts; not two that are short, nor one that is long."""
    company = Company()
    for at_s in (0.0, 0.1, 0.2):
        answers(company, light, now_s=at_s)
    for waiting, waiting_s, leaves in ((2, FLOODED_S / 2, False), (1, 2 * FLOODED_S, False), (2, FLOODED_S, True)):
        fresh = FakeProcess()
        until_s = company.room_until_s(fresh, waiting=waiting, now_s=0.3, waiting_s=waiting_s)
        assert (until_s > 0.3) is leaves


@pytest.mark.parametrize(("run_s", "leaves"), [(WORTH_S / 8, False), (WORTH_S / 2, True)])
def test_it_leaves_none_to_those_that_hardly_use_one(heavy, light, run_s, leaves):
    """Half of a small machine, for another that is asked twice a second: only where its runs are long."""
    company, told = Company(), []
    for step in range(100):
        now_s = step * STEP_S
        if not step % 10:
            answers(company, light, now_s=now_s, run_s=run_s)
        told.append(flooded(company, heavy, since_s=now_s, until_s=now_s))
    assert any(told) == leaves
    assert told[50:] == [leaves] * 50


@pytest.mark.parametrize("before_steps", [0, 7, 19])
def test_one_that_is_asked_evenly_has_room_all_the_time(heavy, light, before_steps):
    """From when the other is flooded, whenever that begins: a fifth of a core's time is used, in runs of 10 ms."""
    company, told = Company(), []
    for step in range(20 + before_steps + 60):
        now_s = step * STEP_S
        answers(company, light, now_s=now_s, run_s=0.01)
        if step >= 20 + before_steps:
            told.append(flooded(company, heavy, since_s=now_s, until_s=now_s))
    assert told[3:] == [True] * 57


def test_several_that_use_a_little_are_worth_room_together(heavy):
    """What they run is added up."""
    company, others = Company(), [FakeProcess() for _ in range(4)]
    for process in (*others, None):
        answers(company, process, now_s=0.0, run_s=WORTH_S / 4)
    assert flooded(company, heavy, since_s=0.0, until_s=REMEMBERED_S / 2)


def test_one_that_has_no_company_or_is_not_flooded_keeps_its_cores(heavy, light):
    """Nobody gives up what nobody needs."""
    company = Company()
    assert not flooded(company, heavy, since_s=0.0, until_s=1.0)
    assert not makes_room(company, light, waiting=WAITING_BATCHES - 1, now_s=1.0)


def test_of_two_that_are_flooded_none_makes_room(heavy, light):
    """Turns share out the time of those that want all of it; a third that answers gets a core of both."""
    company, third = Company(), FakeProcess()
    for process in (heavy, light):
        assert not flooded(company, process, since_s=0.0, until_s=0.9)
    answers(company, third, now_s=0.9)
    for process in (heavy, light):
        assert flooded(company, process, since_s=0.9, until_s=0.95)


def test_a_process_that_keeps_up_again_has_its_cores_back(heavy, light):
    """A second after the last of its batches that left full ones waiting."""
    company = Company()
    flooded(company, heavy, since_s=0.0, until_s=1.0)
    for now_s in (1.1, 1.9, 2.1):
        answers(company, light, now_s=now_s)
        assert makes_room(company, heavy, waiting=0, now_s=now_s) == (now_s < 2.0)


def test_the_servers_own_process_keeps_its_cores(light):
    """It takes in everybody's requests."""
    company = Company()
    answers(company, light, now_s=0.0)
    assert not flooded(company, None, since_s=0.0, until_s=0.5)


def test_processes_that_have_rested_are_forgotten(heavy, light):
    """Two seconds after their last batch: there may be many, and each that is known is looked at."""
    company, others = Company(), [FakeProcess() for _ in range(1000)]
    for number, process in enumerate(others):
        answers(company, process, now_s=number * 0.1)
    assert repr(company) == "Company(20 processes)"
    for now_s in (200.0, 201.0):
        answers(company, light, now_s=now_s)
    assert repr(company) == "Company(1 processes)"
    flooded(company, heavy, since_s=300.0, until_s=301.9)
    assert repr(company) == "Company(1 processes)"


class Stand:
    """A scheduler whose runs take what they are said to, by its own clock."""

    def __init__(self):
        self.clock, self.executor = FakeClock(), FakeExecutor()
        self.options = BatchingOptions(max_batch_size_rows=2)
        self.scheduler = BatchScheduler(options=self.options, on_done=lambda outcomes: None, clock=self.clock)

    def queue(self, process, *, run_s=STEP_S):
        def run(inputs):
            self.clock.advance(run_s)
            return self.executor.run("serving_default", inputs)

        return BatchQueue(
            name="m/1:s", run=run, options=self.options, merges=True, process=process, in_process=process is None
        )

    def ask(self, queue, count):
        row = np.zeros((1, 2), np.float32)
        self.scheduler.submit(
            [(queue, Task(caller=caller(), inputs={"x": row}, deadline_s=None)) for _ in range(count)]
        )

    def answer(self, queue, count):
        for _ in range(count):
            self.ask(queue, 1)
            assert self.scheduler.step()

    def flood(self, queue):
        """Eight batches, of which the last two leave fewer waiting than make a flood."""
        self.ask(queue, 16)
        for _ in range(8):
            assert self.scheduler.step()
        assert not self.scheduler.step()


def test_what_runs_a_flooded_queue_is_told_before_each_batch(heavy, light):
    """By the scheduler, with its own clock: a flood of one model beside single rows of another."""
    stand = Stand()
    stand.answer(stand.queue(light), 3)
    stand.flood(stand.queue(heavy))
    assert light.told == [False] * 3
    assert heavy.told[0] is False
    assert heavy.told[-5:] == [True] * 5


def test_a_model_that_is_seldom_asked_costs_a_flooded_one_nothing(heavy, light):
    """A run of a millisecond is no reason to give up half of two cores for a second."""
    stand = Stand()
    stand.answer(stand.queue(light, run_s=0.001), 3)
    stand.flood(stand.queue(heavy))
    assert heavy.told == [False] * 8


def test_what_runs_where_its_requests_come_is_company(heavy):
    """No batch of it passes through the scheduler, and it needs a core as any other."""
    stand = Stand()
    inline = stand.queue(None, run_s=0.002)
    inline.ran(BatchRun(rows=1, padded_rows=1, queued_s=(0.0,), run_s=1e-5), stand.clock())
    inputs = {"x": np.zeros((1, 2), np.float32)}
    stand.answer(stand.queue(heavy), 1)
    for _ in range(60):
        answer = stand.scheduler.run_alone(inline, inputs, rows=1, inline_s=1.0)
        assert isinstance(answer, dict)
    stand.flood(stand.queue(heavy))
    assert heavy.told[-5:] == [True] * 5


def test_an_unloaded_version_is_not_kept_by_what_is_known_of_it(light):
    """Also where nothing runs any more."""
    stand = Stand()
    stand.answer(stand.queue(light), 1)
    gone = FakeProcess()
    stand.answer(stand.queue(gone), 1)
    gone = weakref.ref(gone)
    gc.collect()  # A queue is part of a cycle.
    assert gone() is None
