"""A call that is answered where it comes is one that was queued, but for where it ran."""

import contextlib
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plane_stand import NOW_S, POISON, Gated, Stand, asked_of, told

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import QueueFull
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall
from fallback_server.late_inputs import LateInputs
from fallback_server.predict_call import Likeness


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
