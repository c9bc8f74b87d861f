"""Requests that are like one that was answered before, which are answered without being looked at."""

import gc
import threading
import weakref

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor
from support.plane_stand import NOW_S, POISON, Gated, Stand, asked_of, ready_for, told

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import QueueFull, ServerError
from fallback_server.core.servable import ServableId, State
from fallback_server.predict_call import MOST_VAIN, Likeness
from fallback_server.ready_calls import READY_EVERY


@pytest.fixture
def stand():
    stand = Stand(BatchingOptions(max_batch_size_rows=4, max_enqueued_batches=1))
    yield stand
    stand.close()


def test_what_is_ready_holds_its_version_while_it_runs_and_no_longer():
    """A version whose request is answered without being looked at is unloaded once that has ended, and not before."""
    executor = Gated()
    stand = Stand(BatchingOptions(), executor)
    like = Likeness()
    for _ in range(3):
        stand.now(asked_of(like=like))
    assert like.ready is not None
    executor.gate.clear()
    executor.entered.clear()
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(stand.plane.at_once(asked_of(like=like), asked_of().inputs))
    )
    thread.start()
    try:
        assert executor.entered.wait(30)
        stand.serve(1)
        assert stand.state(2) is State.UNLOADING
        assert stand.plane.at_once(asked_of(like=like), asked_of().inputs) is None
    finally:
        executor.gate.set()
        thread.join(30)
    assert told(answers[0])[1] == ServableId("m", 2)
    assert stand.manager.wait_idle(timeout_s=10)
    stand.close()
    assert executor.closed


def test_what_is_ready_is_so_for_one_data_plane(stand):
    """Messages are learnt for all servers of a process: another one's versions answer nothing here."""
    like = Likeness()
    for _ in range(3):
        stand.now(asked_of(like=like))
    other = Stand(BatchingOptions(), FakeExecutor(factor=5))
    assert other.plane.at_once(asked_of(like=like), asked_of().inputs) is None
    assert told(other.now(asked_of(like=like)))[0] == {"y": [[5.0, 5.0]]}
    other.close()


def test_what_is_ready_and_fails_is_told_so_and_counted(stand):
    """A run that fails is an answer: it is not run again, and counts as failed."""
    like = Likeness()
    for _ in range(3):
        stand.now(asked_of(like=like))
    bad = {"x": np.full((1, 2), POISON, np.float32)}
    assert isinstance(stand.plane.at_once(asked_of(like=like), bad), ServerError)
    with stand.manager.acquire("m", 2) as handle:
        assert handle.servable.statistics.figures().errors == {"ExecutionFailed": 1}
        assert handle._harness.holders == 1


def test_who_is_told_of_no_single_version_is_looked_at_each_time(stand):
    """Where not all requests of a target get the same version none is ready, and one in many tries it again."""
    stand.versions.wanted = True
    like = Likeness()
    for _ in range(3):
        stand.now(asked_of(like=like))
    assert like.ready is None
    stand.versions.wanted = False
    for _ in range(READY_EVERY):
        stand.now(asked_of(like=like))
    assert like.ready is not None


def test_who_says_the_right_preprocessing_is_answered_at_once(stand):
    """So is who says none; another is looked at, and refused and counted there."""
    call = ready_for(stand, preprocessing="p")
    for said in ("p", ""):
        assert told(stand.plane.at_once(call, call.inputs, preprocessing=said))[0] == {"y": [[2.0, 2.0]]}
    assert stand.plane.at_once(call, call.inputs, preprocessing="another") is None
    ran = len(stand.executors[2].batches)
    wrong = asked_of(like=call.like, preprocessing="another")
    assert told(stand.plane.now(wrong, stand.settle))[0] == "PreconditionFailed"
    assert len(stand.executors[2].batches) == ran
    with stand.manager.acquire("m", 2) as handle:
        assert handle.servable.statistics.figures().errors == {"PreconditionFailed": 1}


def test_an_answer_that_cannot_be_sent_counts_as_what_its_caller_gets(stand):
    """What is at once refused for its size is no answer, neither to its version nor to whoever counts all."""
    call = ready_for(stand)
    answer = stand.plane.at_once(call, call.inputs, refuses=lambda reply: QueueFull(f"{len(reply.outputs)} too large"))
    assert told(answer) == ("QueueFull", "1 too large")
    assert stand.observed[-1][1] == ("QueueFull", "1 too large")
    with stand.manager.acquire("m", 2) as handle:
        assert handle.servable.statistics.figures().errors == {"QueueFull": 1}


class Left(FakeExecutor):
    """Whoever waits for a run leaves during it, where that is said."""

    leaving = None

    def run(self, name, inputs):
        if self.leaving is not None:
            self.leaving.left_s = NOW_S
        return super().run(name, inputs)


def test_who_leaves_while_it_runs_at_once_is_counted_as_gone():
    """As one that was queued: another thread may hear of it during the run."""
    executor = Left()
    stand = Stand(BatchingOptions(), executor)
    executor.leaving = call = ready_for(stand)
    assert told(stand.plane.now(call, stand.settle))[0] == {"y": [[1.0, 1.0]]}
    assert stand.observed[-1][1][0] == "RequestCancelled"
    with stand.manager.acquire("m", 2) as handle:
        assert handle.servable.statistics.figures().errors == {"RequestCancelled": 1}
    stand.close()


def test_what_is_late_or_comes_to_an_end_is_not_ready(stand):
    """Past its deadline, or after the scheduler was stopped: nothing has been done then; it is refused as others."""
    call = ready_for(stand)
    ran = len(stand.executors[2].batches)
    assert stand.plane.at_once(call, call.inputs, deadline_s=stand.clock()) is None
    late = asked_of(like=call.like, deadline_s=stand.clock())
    assert told(stand.plane.now(late, stand.settle))[0] == "DeadlineExceeded"
    stand.plane.scheduler.stop(timeout_s=5)
    assert stand.plane.at_once(call, call.inputs) is None
    assert told(stand.plane.now(asked_of(like=call.like), stand.settle))[0] == "ServerStopping"
    assert len(stand.executors[2].batches) == ran
    assert stand.work()[1::2] == [(0, 1), (0, 1)]


def test_what_is_ready_keeps_no_version_that_has_gone():
    """Templates outlive versions, and their memory is not kept by those."""
    executor = FakeExecutor()
    stand = Stand(BatchingOptions(), executor)
    call = ready_for(stand)
    with stand.manager.acquire("m", 2) as handle:
        servable = weakref.ref(handle.servable)
    del handle
    stand.close()
    assert executor.closed
    gc.collect()
    assert call.like.ready is not None
    assert call.like.ready.standing.servable is None
    assert servable() is None
    assert stand.plane.at_once(call, call.inputs) is None


class Slow(FakeExecutor):
    """Its runs take a millisecond of its clock, which may be a stand's."""

    clock = FakeClock()

    def run(self, name, inputs):
        self.clock.advance(0.001)
        return super().run(name, inputs)


def tries(stand):
    """How often something is tried to be run at once from now on."""
    tried, run_alone = [], stand.plane.scheduler.run_alone

    def noted(*arguments, **options):
        tried.append(outcome := run_alone(*arguments, **options))
        return outcome

    stand.plane.scheduler.run_alone = noted
    return tried


@pytest.mark.parametrize("inline_us", [0, 250])
def test_what_does_not_run_at_once_is_not_ready(inline_us):
    """Where runs take too long, or none are to be short: it would be tried in vain each time."""
    stand = Stand(BatchingOptions(max_inline_us=inline_us), executor := Slow())
    executor.clock = stand.clock
    like = Likeness()
    for _ in range(2 * READY_EVERY):
        stand.now(asked_of(like=like))
    assert like.ready is None
    tried = tries(stand)
    stand.now(asked_of(like=like))
    assert tried == [None]
    stand.close()


def test_what_is_ready_in_vain_is_so_no_longer_until_one_can_be_run_at_once_again():
    """Each of them is tried once, however it comes; nothing is tried twice."""
    stand = Stand(BatchingOptions(), executor := Slow())
    call = ready_for(stand)
    executor.clock = stand.clock
    stand.now(call)  # The first that is long, which nobody knew.
    tried = tries(stand)
    for at in range(1, MOST_VAIN):
        here = at % 2 and stand.plane.at_once(call, call.inputs) is None
        stand.plane.now(call, stand.settle, tried=bool(here))
        stand._stepped(call)
        assert call.like.ready is not None
        assert tried == [None] * at
    assert stand.plane.at_once(call, call.inputs) is None
    assert call.like.ready is None
    executor.clock = FakeClock()
    stand.now(call)  # It shows how short it is.
    stand.now(call)
    assert call.like.ready is not None
    stand.close()
