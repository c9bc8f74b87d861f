"""What waits for a device that other versions have."""

import threading
from _thread import allocate_lock

import pytest
from support.edge_models import scale_signature
from support.gated_engines import WAIT_S, Setup

from edge_runtime import DeadlineExceeded, EngineFailed
from edge_runtime.errors import EngineLost
from edge_runtime.scheduling.bulk import Bulk
from edge_runtime.scheduling.desk import Desk
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.queue import RequestQueue
from edge_runtime.scheduling.slot import ANY_WORKER, Slot


@pytest.fixture
def setup():
    made = Setup(sizes=(1,), max_queued_requests=100)
    yield made
    made.close()


class Taken:
    """A device that another version has."""

    def __init__(self, gate):
        self.gate = gate
        self.share = gate.join(name="another")
        assert gate.try_enter(self.share, 1, self)

    def leave(self):
        self.gate.leave(self.share, 0.0, 1, self)


def waiting(setup, count):
    """Returns when so many requests wait."""
    while setup.batcher.load.queued_requests < count:
        pass


def asked(batcher, how, request):
    """The future of a request that is asked in a way of its own, and waits."""
    if how == "submit":
        return batcher.submit(request)
    bulk = Bulk([request])

    def ask():
        try:
            bulk.set_result(batcher.infer(request))
        except DeadlineExceeded as error:
            bulk.set_exception(error)

    threading.Thread(target=ask).start()
    return bulk


@pytest.mark.parametrize("how", ["predict", "submit"])
@pytest.mark.parametrize("first_free", ["device:cpu", "device:other"])
def test_whichever_device_is_free_first_answers(setup, how, first_free):
    """A request waits at every device of its version, and no other device holds it up."""
    other = setup.add()
    taken = {"device:cpu": Taken(setup.gate), "device:other": Taken(other.gate)}
    reply = asked(setup.batcher, how, setup.request())
    waiting(setup, 1)
    taken.pop(first_free).leave()
    assert reply.result(WAIT_S).place == first_free
    taken.popitem()[1].leave()
    setup.batcher.infer(setup.request())


@pytest.mark.parametrize("how", ["predict", "submit"])
def test_a_deadline_holds_where_the_device_is_not_free(setup, how):
    """Whoever waits for a device is told when its deadline passes, and counted."""
    taken = Taken(setup.gate)
    # Who sleeps for its own answer does so by the real clock; a worker looks at the batcher's.
    reply = asked(setup.batcher, how, setup.request(deadline_s=setup.clock() + 0.02))
    setup.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded):
        reply.result(WAIT_S)
    while setup.batcher.stats().queued:
        pass
    assert (setup.batcher.stats().requests, setup.batcher.stats().expired) == (1, 1)
    taken.leave()
    assert setup.engine.runs == []


@pytest.mark.parametrize("how", ["predict", "submit"])
def test_who_waits_for_a_device_to_come_back_is_told_so(setup, how):
    """A deadline that passes while there is no slot says so, whether a caller looks after it or a worker."""
    setup.batcher.expect(slots=True)
    setup.batcher.remove(setup.slot)
    reply = asked(setup.batcher, how, setup.request(deadline_s=setup.clock() + 0.02))
    if how == "submit":  # A caller that sleeps does so by the real clock, and no worker is to be sooner.
        setup.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded, match="waiting for a device that is being opened anew"):
        reply.result(WAIT_S)


def test_a_sooner_deadline_wakes_the_worker_that_waits(setup):
    """A worker at the gate looks after deadlines that come later, too."""
    taken = Taken(setup.gate)
    patient = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 1000))
    while not setup.batcher._desk.asking:
        pass
    hasty = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 0.02))
    setup.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded):
        hasty.result(WAIT_S)
    taken.leave()
    patient.result(WAIT_S)


@pytest.mark.parametrize("busy", ["gate", "run"])
def test_a_deadline_holds_for_what_is_to_be_tried_again(setup, busy):
    """A request that failed on one device is told when its deadline passes, though the other one is not free."""
    taken = Taken(setup.gate) if busy == "gate" else setup.occupy()
    setup.add().engine.failure = EngineFailed("no")
    reply = setup.batcher.submit(setup.request(deadline_s=setup.clock() + 0.02))
    while not setup.batcher.stats().retried:
        pass
    setup.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded, match="waiting for the device"):
        reply.result(WAIT_S)
    assert not setup.batcher._desk.retries
    assert (setup.batcher.stats().expired, setup.batcher.stats().failed) == (1, 0)
    if isinstance(taken, Taken):
        taken.leave()


def test_a_lost_device_is_waited_for_no_more(setup):
    """Who waits for a device that is lost meanwhile is answered by the one that takes its place."""
    taken = Taken(setup.gate)
    setup.batcher.expect(slots=True)
    reply = setup.batcher.submit(setup.request())
    while not setup.batcher._desk.asking:
        pass
    setup.batcher._failures.lost(setup.slot, EngineLost("gone", "vanished"))
    setup.add()
    assert reply.result(WAIT_S).place == "device:other"
    taken.leave()


def test_what_stands_by_takes_over_from_a_lost_device_that_is_not_free(setup):
    """Who waits for a device that is lost meanwhile is answered by the one that stood by."""
    taken = Taken(setup.gate)
    setup.add(rank=1)
    reply = setup.batcher.submit(setup.request())
    while not setup.batcher._desk.asking:
        pass
    setup.batcher._failures.lost(setup.slot, EngineLost("gone", "vanished"))
    assert reply.result(WAIT_S).place == "device:other"
    taken.leave()


def test_priorities_hold_at_the_gate(setup):
    """Of those that wait for a device the urgent one runs first, though it came last, also where callers sleep."""
    taken = Taken(setup.gate)
    replies = []
    for count, priority in enumerate((1, 0), 1):
        replies.append(asked(setup.batcher, "predict", setup.request(start=float(count), priority=priority)))
        waiting(setup, count)
    taken.leave()
    for reply in replies:
        reply.result(WAIT_S)
    assert setup.engine.firsts == [2.0, 1.0]


def test_what_would_be_late_does_not_run_on_an_idle_device():
    """A caller with a deadline that can't be met is refused before the run, and once a second tried all the same."""
    setup = Setup(seconds={1: 100.0})
    with pytest.raises(DeadlineExceeded, match="left for a run of"):
        setup.batcher.wait(setup.request(deadline_s=setup.clock() + 50))
    assert setup.engine.runs == []
    assert setup.batcher.stats().dropped == 1
    for _ in range(50):
        setup.costs.record(1, 10.0)
    setup.clock.advance(2)
    setup.costs._best = 1.0
    assert setup.batcher.wait(setup.request(deadline_s=setup.clock() + 5)).place == "device:cpu"
    setup.close()


@pytest.mark.parametrize("how", ["predict", "submit"])
def test_deadlines_may_be_far(setup, how, caplog):
    """A deadline beyond what a lock can wait for is no fault."""
    taken = Taken(setup.gate)
    reply = asked(setup.batcher, how, setup.request(deadline_s=setup.clock() + 1e10))
    waiting(setup, 1)
    while not setup.batcher._desk.asking:
        pass
    taken.leave()
    assert reply.result(WAIT_S).place == "device:cpu"
    assert not caplog.records


def test_a_slot_is_given_back_after_its_permits(setup):
    """Nobody can take a slot while who had it still gives its permits back: they would be taken for the other's."""
    seen, leave = [], setup.gate.leave

    def look(*args):
        seen.append((setup.slot.busy, setup.slot.holder != 0))
        leave(*args)

    setup.gate.leave = look
    setup.batcher.infer(setup.request())
    setup.batcher.submit(setup.request()).result(WAIT_S)
    while setup.slot.busy:
        pass
    assert seen == [(True, True)] * 2


class Desks:
    """A desk whose runs are short, with one slot that a caller has, and another that waits in its queue."""

    def __init__(self, *, left=False, deadline_s=None, future=False):
        self.setup = Setup(seconds={1: 0.00001})
        self.setup.close()
        self.desk = Desk({"serving_default": scale_signature()}, RequestQueue(10, 1000), self.setup.clock)
        self.slot = Slot(self.setup.engine, Gate(1), self.setup.costs, left=left)
        self.gate = self.slot.gate
        self.desk.add(self.slot)
        self.worker = allocate_lock()
        self.desk.next(self.worker, slept=False)
        assert self.desk.take_now(self.setup.request()) is self.slot
        self.entry, _, _ = self.desk.put(self.setup.request(deadline_s=deadline_s), None)

    def release(self, run_s=0.00001):
        return self.desk.release(self.slot, (1,), run_s, self.setup.clock(), 1, 1)


@pytest.mark.parametrize("ahead", [True, False])
def test_short_runs_compete_for_the_device(ahead):
    """Where another version waits, a caller leaves slot and turn to a worker, unless it is the other's turn."""
    one = Desks()
    other = one.gate.join(name="other")
    waiter = one.gate.ask(other, 1, "other", allocate_lock())
    other.tag_s = 1.0 if ahead else -1.0
    assert one.release() is one.worker
    assert waiter.given is not ahead
    work = one.desk.next(one.worker, slept=False)
    assert (work.slot is one.slot) is ahead
    if ahead:
        assert one.slot.holder not in {0, ANY_WORKER}
        assert one.desk.take_batch(one.slot)[0] == [one.entry]
        assert one.desk.goes_on(one.slot, [1], 0.00001) == (False, None)
        assert waiter.given
    else:
        one.gate.leave(other, 0.01, 1, "other")
        assert one.desk.next(one.worker, slept=False).slot is one.slot


@pytest.mark.parametrize(("left", "deadline_s", "given"), [(True, 1e6, False), (True, None, True), (False, 1e6, True)])
def test_who_may_leave_a_run_is_given_no_slot(left, deadline_s, given):
    """A caller with a deadline does not run an accelerator itself, also when a slot is handed on."""
    one = Desks(left=left, deadline_s=deadline_s)
    one.slot.lease_until_s = one.setup.clock() - 1  # A lease that is over.
    assert one.release() is (one.entry.awake if given else one.worker)
    assert (one.entry.slot is one.slot) is given
    assert one.slot.busy is given


def test_a_worker_whose_nap_is_over_never_waits(setup):
    """A worker that was chosen to be woken, and is not woken yet, looks for work at the end of its nap all the same."""
    desk, me = setup.batcher._desk, allocate_lock()
    me.acquire()
    assert desk.next(me, slept=False).slot is None
    desk.sleepers.remove(me)
    done = threading.Event()
    threading.Thread(target=lambda: (desk.next(me, slept=True), done.set()), daemon=True).start()
    assert done.wait(WAIT_S)
    desk.sleepers.remove(me)


def test_pieces_of_a_bulk_count_as_their_requests():
    """However they were run together, and whether they ran: each request counts as one."""
    setup = Setup(max_queued_requests=100)
    bulk = Bulk([setup.request(start=i) for i in range(7)])
    while not bulk.done_all:
        setup.batcher.try_bulk(bulk)
    stats = setup.batcher.stats()
    assert (stats.requests, stats.rows, stats.batches) == (7, 7, {4: 1, 2: 1, 1: 1})
    first = setup.occupy()
    assert setup.batcher.submit_bulk([setup.request() for _ in range(5)]).cancel()
    setup.engine.gate.set()
    first.result(WAIT_S)
    assert (setup.batcher.stats().requests, setup.batcher.stats().cancelled) == (13, 5)
    setup.close()
