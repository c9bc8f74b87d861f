"""A call that is answered where it comes is one that was queued, but for where it ran."""

import contextlib
import gc
import itertools
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, GatedLoader
from support.fallback_versions import PlainVersions

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import QueueFull, ServerError
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId, State
from fallback_server.core.source import AspiredVersion
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import READY_EVERY, DataPlane, PredictCall
from fallback_server.late_inputs import LateInputs
from fallback_server.package_info import PackageInfo
from fallback_server.predict_call import MOST_VAIN, Likeness
from fallback_server.served_model import ServedModel

PACKAGE = PackageInfo(fingerprint="f", preprocessing_fingerprint="p")
NOW_S = FakeClock().now_s
POISON = 13.0


class Shadowed(PlainVersions):
    """As they are; every second request of version 2 is shadowed by version 1, where that is wanted."""

    wanted = False
    asked = 0

    def standing(self, target):
        return None if self.wanted else super().standing(target)

    def shadow(self, name, answered):
        self.asked += 1
        if not self.wanted or answered == 1 or self.asked % 2:
            return None
        return self._manager.acquire(name, 1)


class Stand:
    """A data plane over versions 1 and 2 of `m`, whose runs take no time, stepped by the test."""

    def __init__(self, options, newest=None):
        self.clock = FakeClock()
        self.options = options
        self.executors = {1: FakeExecutor(factor=1), 2: newest or FakeExecutor(factor=2, poison=POISON)}
        self.manager = Manager(make_loader=self._loader, options=ManagerOptions())
        version = AspiredVersion(path=Path(), fingerprint=())
        self.manager.set_aspired({ServableId("m", number): version for number in self.executors})
        assert self.manager.wait_idle(timeout_s=10)
        self.versions = Shadowed(self.manager)
        self.observed = []
        self.answers = {}
        self.plane = DataPlane(
            versions=self.versions,
            options=options,
            clock=self.clock,
            observe=lambda call, version, answer, took_s: self.observed.append((version, told(answer), took_s)),
        )

    def serve(self, *numbers):
        """Has these versions served and no others."""
        version = AspiredVersion(path=Path(), fingerprint=())
        self.manager.set_aspired({ServableId("m", number): version for number in numbers})
        assert self.manager.wait_idle(timeout_s=10)

    def state(self, number):
        return next(each.state for each in self.manager.states("m") if each.servable_id.version == number)

    def _loader(self, servable_id, *_):
        model = ServedModel(servable_id, self.executors[servable_id.version], self.options, PACKAGE, clock=self.clock)
        loader = GatedLoader(model)
        loader.gate.set()
        return loader

    def settle(self, answers):
        for call, answer in answers:
            assert call not in self.answers
            self.answers[call] = answer

    def queued(self, call):
        self.plane.predict([call], self.settle, here=True)
        return self._stepped(call)

    def now(self, call):
        answer = self.plane.now(call, self.settle)
        if answer is not None:
            assert call not in self.answers
            self.answers[call] = answer
        return self._stepped(call)

    def _stepped(self, call):
        self._run()
        if call not in self.answers:  # It waits for company.
            self.clock.advance(0.001)
            self._run()
        return self.answers.pop(call)

    def _run(self):
        while self.plane.scheduler.step():
            pass

    def work(self):
        """What the versions say that they have done, and that nobody holds them."""
        self.clock.advance(0.001)
        self._run()  # Shadows may wait still.
        found = []
        for number in self.executors:
            with self.manager.acquire("m", number) as handle:
                servable = handle.servable
                found.append((servable.statistics.figures(), counted(servable.statistics.work())))
                found.append((servable.queued_rows(), handle._harness.holders))
        return found

    def close(self):
        assert self.manager.stop(timeout_s=5)


def counted(work):
    return {name: getattr(work, name) for name in ("answered", "failed", "runs", "rows", "requests", "sizes")}


def told(answer):
    if isinstance(answer, ServerError):
        return type(answer).__name__, str(answer)
    outputs = {name: array.tolist() for name, array in answer.outputs.items()}
    return outputs, answer.servable_id, answer.signature


@st.composite
def requests(draw):
    """A maker of a call, twice, and how often it is asked."""
    rows = draw(st.integers(0, 6))
    value = draw(st.sampled_from([1.0, 2.0, POISON]))
    late = draw(st.booleans())
    said = {
        "target": ModelTarget(
            name=draw(st.sampled_from(["m", "m", "m", "q", ""])),
            version=draw(st.sampled_from([None, None, 1, 2, 7])),
            label=draw(st.sampled_from([None, None, None, "x"])),
        ),
        "signature": draw(st.sampled_from(["", "serving_default", "other"])),
        "output_filter": draw(st.sampled_from([(), ("y",), ("z",)])),
        "deadline_s": draw(st.sampled_from([None, NOW_S - 1, NOW_S + 0.002, NOW_S + 1000])),
        "priority": draw(st.integers(-1, 1)),
    }
    made_by = itertools.cycle(draw(st.lists(st.sampled_from(["", "", "p", "another"]), min_size=1, max_size=3)))
    refused = itertools.cycle(draw(st.lists(st.sampled_from([False, False, True]), min_size=1, max_size=3)))
    columns = draw(st.sampled_from([2, 2, 2, 3]))
    left = draw(st.sampled_from([None, None, None, NOW_S]))
    like = Likeness()

    def make():
        """Two that ask for the same, the first with what it has in common with others."""
        special = {"preprocessing": next(made_by)}, next(refused)
        return one(*special, alike=True), one(*special, alike=False)

    def one(preprocessing, refused, *, alike):
        x = np.full((rows, columns), value, np.float32)
        inputs = LateInputs({"x": np.broadcast_to(np.float32(0), x.shape)}, {"x": lambda: x}) if late else {"x": x}
        call = PredictCall(inputs=inputs, like=like if alike and not late else None, **said, **preprocessing)
        call.left_s = left
        call.refuses = (lambda _: QueueFull("too large")) if refused else None
        return call

    return make, draw(st.integers(1, 3))


OPTIONS = st.sampled_from(
    [
        BatchingOptions(max_batch_size_rows=4, max_enqueued_batches=1),
        BatchingOptions(max_batch_size_rows=4, allowed_batch_sizes=(2, 4)),
        BatchingOptions(max_batch_size_rows=4, batch_timeout_us=500),
        BatchingOptions(max_batch_size_rows=4, enabled=False),
        BatchingOptions(max_batch_size_rows=4, max_inline_us=0),
        BatchingOptions(max_batch_size_rows=4, target_latency_ms=5),
        BatchingOptions(max_batch_size_rows=4, enable_large_batch_splitting=False),
    ]
)


@settings(max_examples=60, deadline=None)
@given(options=OPTIONS, asked=st.lists(requests(), min_size=1, max_size=6), shadowed=st.booleans())
def test_both_ways_are_one(options, asked, shadowed):
    """Answers, refusals and their texts, what is counted, and who is held: the same as if each call had been queued."""
    with contextlib.ExitStack() as stack:
        one, other = Stand(options), Stand(options)
        for stand in (one, other):
            stack.callback(stand.close)
            stand.versions.wanted = shadowed
        for make, times in asked:
            for _ in range(times):
                alike, unlike = make()
                assert told(one.now(alike)) == told(other.queued(unlike))
        assert one.work() == other.work()
        assert one.observed == other.observed
        assert one.work()[1::2] == [(0, 1), (0, 1)]
        assert [each.batches for each in one.executors.values()] == [each.batches for each in other.executors.values()]


def asked_of(version=None, **options):
    return PredictCall(
        target=ModelTarget(name="m", version=version), inputs={"x": np.ones((1, 2), np.float32)}, **options
    )


@pytest.fixture
def stand():
    stand = Stand(BatchingOptions(max_batch_size_rows=4, max_enqueued_batches=1))
    yield stand
    stand.close()


def test_what_is_known_to_be_short_is_answered_at_once(stand):
    """The first run is measured by a thread; those after it give their answer as a result, and settle nobody."""
    assert stand.plane.now(first := asked_of(), stand.settle) is None
    assert stand.plane.scheduler.step()
    assert told(stand.answers.pop(first))[0] == {"y": [[2.0, 2.0]]}
    assert told(stand.plane.now(asked_of(), stand.settle))[0] == {"y": [[2.0, 2.0]]}
    assert stand.answers == {}
    assert stand.executors[2].batches == [1, 1]
    with stand.manager.acquire("m", 2) as handle:
        assert handle.servable.runs_here() == 1


def test_nobody_is_overtaken(stand):
    """Where something waits for the same signature a call is queued behind it."""
    stand.now(asked_of())
    stand.plane.predict([waiting := asked_of()], stand.settle)
    assert stand.plane.now(behind := asked_of(), stand.settle) is None
    assert stand.plane.scheduler.step()
    assert list(stand.answers) == [waiting, behind]


class Gated(FakeExecutor):
    """Waits for its gate at each run."""

    def __init__(self):
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def run(self, name, inputs):
        self.entered.set()
        assert self.gate.wait(30)
        return super().run(name, inputs)


def test_what_runs_here_is_counted_as_under_way():
    """While it runs in its caller's thread, whoever counts the batches under way counts it."""
    executor = Gated()
    stand = Stand(BatchingOptions(), executor)
    stand.now(asked_of())
    executor.gate.clear()
    executor.entered.clear()
    thread = threading.Thread(target=stand.plane.now, args=(asked_of(), stand.settle))
    thread.start()
    try:
        assert executor.entered.wait(30)
        assert len(stand.plane.scheduler._runs) == 1
    finally:
        executor.gate.set()
        thread.join(30)
    assert len(stand.plane.scheduler._runs) == 0
    stand.close()


def test_what_was_found_of_one_holds_for_those_like_it(stand):
    """A request like one that has passed is not checked again, until another version answers."""
    like = Likeness()
    stand.now(asked_of(like=like))
    fit = like.fit
    assert (fit.name, fit.rows) == ("serving_default", 1)
    stand.now(asked_of(like=like))
    assert like.fit is fit
    stand.serve(1)
    assert told(stand.now(asked_of(like=like)))[0] == {"y": [[1.0, 1.0]]}
    assert like.fit is not fit


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


def ready_for(stand, **options):
    """What is ready after some requests, and a request of the kind."""
    like = Likeness()
    for _ in range(3):
        stand.now(asked_of(like=like, **options))
    assert like.ready is not None
    return asked_of(like=like, **options)


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
