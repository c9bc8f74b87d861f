"""Requests that come at a time are answered together; each gets its own answer, whatever becomes of the others."""

import asyncio
import gc

import pytest
from support.clock import FakeClock

from fallback_server.core.errors import ExecutionFailed, QueueFull, ServerError
from fallback_server.transport.crowd import Crowd
from fallback_server.transport.gathering import HURRY_S, LONGEST_S, PATIENCE_S, Gathering, given
from fallback_server.transport.serving_loop import ServingLoop


class Crowded(Crowd):
    """Wants groups of a size, and notes them."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.groups = []

    def joins(self):
        return True

    def gathered(self, count, *, in_vain, idle):
        assert 0 <= idle <= 1
        self.groups.append((count, in_vain))


class Doubles:
    """Answers numbers; refuses -1, can't answer 0, and breaks at None."""

    def __init__(self, left_s=None):
        self.runs = []
        self.time_s = left_s
        self.gone = []

    def find(self, data, caller):
        return data

    def left_s(self, found):
        return self.time_s

    def left(self, found):
        self.gone.append(found)

    def answer(self, found):
        return given(self.answer_all([found])[0])

    def answer_all(self, found):
        self.runs.append(list(found))
        return [QueueFull("full") if one == -1 else None if one == 0 else 2 * one for one in found]


def run(story):
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        return runner.run(story())


def gathering(size, clock=None):
    crowd = Crowded(size)
    return crowd, Gathering(asyncio.get_running_loop(), crowd, *([] if clock is None else [clock]))


def test_those_that_come_at_a_time_are_one_group():
    """Answered in their order as soon as the loop has nothing else to do; a refusal is the answer of one alone."""

    async def story():
        crowd, rooms = gathering(8)
        doubles = Doubles()
        answers = [rooms.join(doubles, number) for number in (1, -1, 3, 0)]
        found = [await answer for answer in answers]
        assert [one if not isinstance(one, ServerError) else str(one) for one in found] == [2, "full", 6, None]
        assert doubles.runs == [[1, -1, 3, 0]]
        assert crowd.groups == [(4, True)]

    run(story)


def test_a_full_group_waits_for_nothing():
    """It is answered when its last request comes, in the same turn."""

    async def story():
        crowd, rooms = gathering(2)
        doubles = Doubles()
        answers = [rooms.join(doubles, number) for number in range(1, 6)]
        assert [answer.done() for answer in answers] == [True] * 4 + [False]
        assert [await answer for answer in answers] == [2, 4, 6, 8, 10]
        assert crowd.groups == [(2, False), (2, False), (1, True)]

    run(story)


def test_each_service_answers_its_own():
    """Requests for several services share a group, and a run for each."""

    async def story():
        _, rooms = gathering(8)
        one, other = Doubles(), Doubles()
        answers = [rooms.join(service, number) for number, service in enumerate((one, other, one), 1)]
        assert [await answer for answer in answers] == [2, 4, 6]
        assert (one.runs, other.runs) == ([[1, 3]], [[2]])

    run(story)


def test_who_has_left_is_not_answered():
    """What a caller that left had asked for is not run, but counted; the others are answered."""

    async def story():
        _, rooms = gathering(8)
        doubles = Doubles()
        answers = [rooms.join(doubles, number) for number in (1, 2, 3)]
        answers[1].cancel()
        assert [await answers[0], await answers[2]] == [2, 6]
        assert doubles.runs == [[1, 3]]
        gone = rooms.join(doubles, 4)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert doubles.runs == [[1, 3]]
        assert doubles.gone == [2, 4]

    run(story)


def test_a_fault_leaves_nobody_waiting(caplog):
    """What can't be answered for a fault of the program is refused, and told in the log; the loop lives on."""

    async def story():
        _, rooms = gathering(8)
        answers = [rooms.join(Doubles(), number) for number in (None, 1)]
        found = [await answer for answer in answers]
        assert [type(one) for one in found] == [ExecutionFailed, int]
        assert await rooms.join(Doubles(), 2) == 4

    run(story)
    assert "1 requests failed together" in caplog.text


def test_what_nobody_waits_for_any_more_leaves_no_warning(caplog):
    """A refusal whose caller left just after it was given is no exception that nobody took."""

    async def story():
        _, rooms = gathering(1)
        rooms.join(Doubles(), -1)

    run(story)
    gc.collect()
    assert caplog.text == ""


@pytest.mark.parametrize(("left_s", "joins"), [(None, True), (HURRY_S * 2, True), (HURRY_S / 2, False), (-1, False)])
def test_who_is_in_a_hurry_waits_for_nobody(left_s, joins):
    """A caller whose deadline is near is answered alone."""

    async def story():
        _, rooms = gathering(8)
        assert rooms.joins(Doubles(left_s), 1) is joins

    run(story)


def test_a_group_waits_so_long_and_no_longer():
    """For each next request a moment, and not at all once its first has waited for long; alone nobody does."""

    async def story():
        clock = FakeClock()
        crowd, rooms = gathering(8, clock)
        answer = rooms.join(Doubles(), 1)
        assert rooms._room.patience_s() == PATIENCE_S
        clock.advance(LONGEST_S)
        assert rooms._room.patience_s() == 0
        assert await answer == 2
        crowd.size = 1
        answer = rooms.join(Doubles(), 1)
        assert rooms._room.patience_s() == 0
        assert await answer == 2
        assert crowd.groups[-1] == (1, False)

    run(story)


def test_a_refusal_is_raised_where_it_is_taken():
    """And leads to nothing that would keep it."""
    with pytest.raises(QueueFull, match="full"):
        given(QueueFull("full"))
    assert given(None) is None
    assert given(3) == 3
