"""Runs that do not end and that nobody waits for: who is ended, when, and who never is."""

import threading
import time

import pytest
from support.batch_stand import BatchStand, make, rows

from fallback_server.batching.abandoned import LEAST_LOOK_S, LOOKS, TIMES_USUAL, Watchdog
from fallback_server.batching.options import MAX_ABANDONED_RUN_S, BatchingOptions
from fallback_server.batching.scheduler import BatchScheduler

BOUND_S = 10.0


class FakeProcess:
    """Remembers for what it was ended; what it is told to do then is done in its stead."""

    def __init__(self, does=lambda: None):
        self.ended_for_s = []
        self.does = does

    def leave_core(self, *, leave):
        pass

    def end_hanging(self, *, ran_s):
        self.ended_for_s.append(ran_s)
        self.does()


class Place:
    """A queue of a process whose runs let time pass, and are looked at meanwhile."""

    def __init__(self, **options):
        self.stand = BatchStand(**options)
        self.process = FakeProcess()
        self.during = lambda: None
        self.queue = self.made()

    def made(self, **more):
        def run(inputs):
            self.during()
            return {"y": inputs["x"]}

        return self.stand.queue(run, **({"process": self.process} | more))

    def passes(self, seconds):
        """Time goes by, and the watchdog looks as often as it does."""
        left = seconds
        while left > 0:
            self.stand.clock.advance(min(left, BOUND_S / LOOKS))
            left -= BOUND_S / LOOKS
            self.stand.scheduler.watchdog.look()

    def runs(self, during, *tasks, queue=None):
        self.during = during
        self.stand.scheduler.submit([(self.queue if queue is None else queue, task) for task in tasks])
        self.stand.run()
        self.during = lambda: None

    def in_s(self, seconds):
        """A request whose caller waits so long."""
        return make(rows(1), deadline_s=self.stand.clock() + seconds)


def test_a_run_that_nobody_waits_for_is_ended_after_the_bound():
    """Counted from when its last caller has left; within a look of it, and not before."""
    place = Place()
    ended = []

    def during():
        place.passes(3 + BOUND_S - 1)
        ended.append(len(place.process.ended_for_s))
        place.passes(2)

    place.runs(during, place.in_s(2), place.in_s(3))
    assert ended == [0]
    assert 13 <= place.process.ended_for_s[0] <= 14


@pytest.mark.parametrize("deadline_s", [None, 500.0])
def test_a_run_that_somebody_waits_for_goes_on(deadline_s):
    """For ever, if he does; others of the batch may have left."""
    place = Place()
    stays = make(rows(1)) if deadline_s is None else place.in_s(deadline_s)
    place.runs(lambda: place.passes(400), place.in_s(1), stays)
    assert place.process.ended_for_s == []
    assert len(place.stand.done) == 2


def test_who_cancels_waits_no_more():
    """Also without a deadline, and whenever that is."""
    place = Place()
    task = make(rows(1))

    def during():
        place.passes(100)
        task.caller.cancelled = True
        place.passes(BOUND_S + 2)

    place.runs(during, task)
    assert 110 <= place.process.ended_for_s[0] <= 112


def test_a_model_whose_runs_take_long_has_longer():
    """Many times what runs of it take, though nobody waits any more: it may be about to end."""
    place = Place()
    place.runs(lambda: place.stand.clock.advance(5), make(rows(1)))
    place.runs(lambda: place.passes(5 * TIMES_USUAL - 2), place.in_s(1))
    assert place.process.ended_for_s == []
    usual_s = place.queue.costs.expected_s(1)
    place.runs(lambda: place.passes(usual_s * TIMES_USUAL + 2), place.in_s(usual_s))
    assert place.process.ended_for_s[0] >= usual_s * TIMES_USUAL


def test_a_run_of_more_rows_than_ever_has_longer():
    """Nothing says yet that it does not take as long for each of them: 32 rows take 32 times as long as one."""
    place = Place()
    place.runs(lambda: place.stand.clock.advance(1), make(rows(1)))
    place.runs(lambda: place.passes(32 * TIMES_USUAL - 2), make(rows(1, 32), deadline_s=place.stand.clock() + 2))
    assert place.process.ended_for_s == []
    place = Place()
    place.runs(lambda: place.stand.clock.advance(1), make(rows(1)))
    place.runs(lambda: place.passes(32 * TIMES_USUAL + 4), make(rows(1, 32), deadline_s=place.stand.clock() + 2))
    assert place.process.ended_for_s[0] >= 32 * TIMES_USUAL


def test_before_any_run_has_ended_the_load_says_how_long_one_takes():
    """Else a model whose runs take long would be ended for whoever comes first and leaves, again and again."""
    place = Place()
    queue = place.made(tried_s=5.0)
    place.runs(lambda: place.passes(5 * TIMES_USUAL - 2), place.in_s(1), queue=queue)
    assert place.process.ended_for_s == []
    place.runs(lambda: place.passes(1000), place.in_s(1), queue=place.made(tried_s=5.0))
    assert 5 * TIMES_USUAL <= place.process.ended_for_s[0] <= 5 * TIMES_USUAL + 2


def test_a_run_that_has_just_ended_costs_nobody_his_run():
    """The runs of one thread follow each other: what comes after one that nobody waited for is looked at by itself."""
    place = Place()
    place.runs(lambda: place.stand.clock.advance(100), place.in_s(1))
    gone = place.queue.under_way.begin([place.in_s(1)], 1, place.stand.clock())
    place.stand.clock.advance(100)
    place.queue.under_way.end(gone)
    place.runs(lambda: place.queue.under_way.end_hanging(gone, place.process, ran_s=100.0), make(rows(1)))
    assert place.process.ended_for_s == []


def test_a_run_can_not_end_and_give_way_to_another_while_its_process_is_ended():
    """Whoever ends it waits: else a run of somebody who waits might begin in between."""
    place = Place()
    run = place.queue.under_way.begin([place.in_s(1)], 1, place.stand.clock())
    ends = threading.Thread(target=place.queue.under_way.end, args=(run,))
    alive = []

    def does():
        ends.start()
        ends.join(0.05)
        alive.append(ends.is_alive())

    place.process.does = does
    place.queue.under_way.end_hanging(run, place.process, ran_s=20.0)
    ends.join(10)
    assert alive == [True]
    assert place.process.ended_for_s == [20.0]


@pytest.mark.parametrize(("before", "ended"), [(True, False), (False, True)])
def test_a_run_beside_that_is_waited_for(before, ended):
    """One that began before keeps the process, since it may be what the other waits for; one that came later does not.

    Also where it is another signature's.
    """
    place = Place()
    other = place.made(name="m/1:other").under_way
    if before:
        other.begin([make(rows(1))], 1, place.stand.clock())
        place.stand.clock.advance(1)

    def during():
        if not before:
            place.stand.clock.advance(1)
            other.begin([make(rows(1))], 1, place.stand.clock())
        place.stand.scheduler._runs.begin(place.stand.queues[1], place.stand.clock())
        place.passes(50)

    place.runs(during, place.in_s(2))
    assert bool(place.process.ended_for_s) is ended


def test_another_process_is_left_alone():
    """Its runs may be long, too, where somebody waits for them."""
    place = Place()
    other = FakeProcess()
    quiet = place.made(name="quiet/1:s", process=other)
    quiet.under_way.begin([make(rows(1))], 1, place.stand.clock())
    place.stand.scheduler._runs.begin(quiet, place.stand.clock())
    place.runs(lambda: place.passes(BOUND_S + 4), place.in_s(2))
    assert place.process.ended_for_s
    assert other.ended_for_s == []


def test_one_of_a_batch_that_is_run_alone_is_watched_alone():
    """Where the batch has failed, those who wait behind the one that hangs don't keep it."""
    place = Place()
    tries = []

    def during():
        tries.append(None)
        if len(tries) == 1:
            raise RuntimeError("one of them is at fault")
        if len(tries) == 2:
            place.passes(BOUND_S + 4)

    place.runs(during, place.in_s(2), make(rows(1)))
    assert len(tries) == 3
    assert len(place.process.ended_for_s) >= 1


def test_a_piece_of_a_large_request_is_watched_for_its_caller():
    """Who has left waits for none of its pieces."""
    place = Place(max_batch_size_rows=2)
    place.runs(lambda: place.passes(BOUND_S + 4), make(rows(1, 6), deadline_s=place.stand.clock() + 2))
    assert len(place.process.ended_for_s) >= 1


def test_in_the_server_s_own_process_it_is_told_of_once(caplog):
    """There it can't be ended."""
    place = Place()
    own = place.made(name="own/1:s", process=None, in_process=True)
    place.runs(lambda: place.passes(5 * BOUND_S), place.in_s(2), queue=own)
    told = [text for text in caplog.messages if "the server's own process" in text]
    assert len(told) == 1
    assert told[0].startswith("own/1:s: a run has gone on for 10 s")


def test_it_looks_by_itself_from_start_to_stop():
    """In a thread of its own: those that run batches may all hang. With 0 there is none."""
    for bound_s, expected in ((5.0, True), (0.0, False)):
        options = BatchingOptions(max_abandoned_run_s=bound_s)
        scheduler = BatchScheduler(options=options, on_done=lambda _: None)
        before = set(threading.enumerate())
        scheduler.start()
        new = {thread.name for thread in set(threading.enumerate()) - before}
        assert ("watchdog" in new) is expected
        assert scheduler.stop(timeout_s=5)
        assert not [one for one in set(threading.enumerate()) - before if one.name == "watchdog"]


def test_however_short_the_bound_is_it_does_not_look_all_the_time():
    """One of a microsecond would take a core from the models."""
    looked_s, done = [], threading.Event()

    def under_way():
        looked_s.append(time.monotonic())
        if len(looked_s) == 4:
            done.set()
        return []

    watchdog = Watchdog(under_way, bound_s=1e-6, clock=time.monotonic)
    watchdog.start()
    assert done.wait(30)
    watchdog.stop()
    assert looked_s[3] - looked_s[0] >= 3 * LEAST_LOOK_S


@pytest.mark.parametrize("bound_s", [-1.0, float("nan"), MAX_ABANDONED_RUN_S + 1])
def test_a_bound_that_is_none_is_refused(bound_s):
    """By name, with the bounds."""
    with pytest.raises(ValueError, match=r"max_abandoned_run_s must be from 0 to 86400, got"):
        BatchingOptions(max_abandoned_run_s=bound_s)
