"""Who leaves a core to the others: whoever is flooded, while others keep up with what they are asked."""

import math

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, caller

from fallback_server.batching.company import FLOODED_S, REMEMBERED_S, WAITING_BATCHES, Company
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task
from fallback_server.batching.scheduler import BatchScheduler

STEP_S = 0.05


class FakeProcess:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def leave_core(self, *, leave):
        self.told.append(leave)


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


def flooded(company, process, *, since_s, until_s):
    """Its batches leave full ones waiting, from an instant to another; what the last of them is to do."""
    leaves, now_s = False, since_s
    while now_s <= until_s:
        leaves = makes_room(company, process, waiting=WAITING_BATCHES, now_s=now_s)
        now_s += STEP_S
    return leaves


@pytest.mark.parametrize("other", ["another process", "the server's own"])
def test_a_flooded_process_leaves_a_core_while_another_answers(heavy, light, other):
    """Not for a burst, from then on, and not after the other has rested."""
    company = Company()
    another = light if other == "another process" else None
    assert not makes_room(company, another, waiting=0, now_s=0.0)
    assert not flooded(company, heavy, since_s=0.0, until_s=FLOODED_S / 2)
    assert flooded(company, heavy, since_s=FLOODED_S / 2, until_s=REMEMBERED_S / 2)
    assert not flooded(company, heavy, since_s=REMEMBERED_S / 2, until_s=REMEMBERED_S + STEP_S)


def test_one_that_has_no_company_or_is_not_flooded_keeps_its_cores(heavy, light):
    """Nobody gives up what nobody needs."""
    company = Company()
    assert not flooded(company, heavy, since_s=0.0, until_s=1.0)
    assert not makes_room(company, light, waiting=WAITING_BATCHES - 1, now_s=1.0)


def test_of_two_that_are_flooded_none_makes_room(heavy, light):
    """Turns share out the time of those that want all of it; a third that answers gets a core of both."""
    company, third = Company(), FakeProcess()
    for process in (heavy, light):
        assert not flooded(company, process, since_s=0.0, until_s=1.0)
    makes_room(company, third, waiting=0, now_s=1.0)
    for process in (heavy, light):
        assert flooded(company, process, since_s=1.0, until_s=1.1)


def test_a_process_that_keeps_up_again_has_its_cores_back(heavy, light):
    """A second after the last of its batches that left full ones waiting."""
    company = Company()
    flooded(company, heavy, since_s=0.0, until_s=1.0)
    for now_s in (1.1, 1.9, 2.1):
        makes_room(company, light, waiting=0, now_s=now_s)
        assert makes_room(company, heavy, waiting=0, now_s=now_s) == (now_s < 2.0)


def test_the_servers_own_process_keeps_its_cores(light):
    """It takes in everybody's requests."""
    company = Company()
    makes_room(company, light, waiting=0, now_s=0.0)
    assert not flooded(company, None, since_s=0.0, until_s=0.5)


def test_processes_that_have_rested_are_forgotten(light):
    """A second after their last batch: versions come and go."""
    company = Company()
    for number in range(1000):
        makes_room(company, FakeProcess(), waiting=0, now_s=number * 0.1)
    makes_room(company, light, waiting=0, now_s=200.0)
    assert repr(company) == "Company(1 processes)"


def test_what_runs_a_flooded_queue_is_told_before_each_batch(heavy, light):
    """By the scheduler, with its own clock: a flood of one model beside single rows of another."""
    clock, executor = FakeClock(), FakeExecutor()
    options = BatchingOptions(max_batch_size_rows=2)
    scheduler = BatchScheduler(options=options, on_done=lambda outcomes: None, clock=clock)

    def queue(process):
        def run(inputs):
            clock.now_s += STEP_S
            return executor.run("serving_default", inputs)

        return BatchQueue(name="m/1:s", run=run, options=options, merges=True, process=process)

    def ask(asked, count):
        row = np.zeros((1, 2), np.float32)
        scheduler.submit([(asked, Task(caller=caller(), inputs={"x": row}, deadline_s=None)) for _ in range(count)])

    flood, single = queue(heavy), queue(light)
    ask(single, 1)
    assert scheduler.step()
    ask(flood, 16)
    for _ in range(8):
        assert scheduler.step()
    assert not scheduler.step()
    assert light.told == [False]
    assert heavy.told == [False, False, False, True, True, True, True, True]
