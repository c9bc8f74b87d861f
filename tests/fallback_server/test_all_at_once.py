"""Requests that are answered together: each as if it had come alone, by fewer runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor
from support.plane_stand import NOW_S, POISON, Stand, asked_of, counted, ready_for, told

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import QueueFull
from fallback_server.predict_call import Likeness, PredictCall
from fallback_server.ready_calls import Alike

OPTIONS = st.sampled_from(
    [
        BatchingOptions(max_batch_size_rows=8),
        BatchingOptions(max_batch_size_rows=3),
        BatchingOptions(max_batch_size_rows=4, allowed_batch_sizes=(1, 2, 4)),
        BatchingOptions(enabled=False),
        BatchingOptions(max_batch_size_rows=8, worth_rows=2),
    ]
)
ONES = st.tuples(
    st.sampled_from([None, None, 1]),
    st.sampled_from([1.0, 2.0, 3.0, POISON]),
    st.sampled_from(["", "", "p", "another"]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([None, None, None, NOW_S - 1, NOW_S + 1000]),
)


def too_large(_):
    return QueueFull("too large")


@settings(max_examples=60, deadline=None)
@given(options=OPTIONS, ones=st.lists(ONES, min_size=1, max_size=7))
def test_each_is_answered_as_if_it_had_come_alone(options, ones):
    """Answers, refusals, what is counted of requests, and who is held; whoever gets no answer so has had nothing."""
    together, alone = Stand(options), Stand(options)
    answers = (
        together.plane.all_at_once(alike(together, ones)),
        [one_by_one(alone, one) for one in alike(alone, ones)],
    )
    assert [answer and told(answer) for answer in answers[0]] == [answer and told(answer) for answer in answers[1]]
    assert sorted(map(repr, together.observed)) == sorted(map(repr, alone.observed))
    figures = [
        [
            (found[0].errors, {name: counted(found[1])[name] for name in ("answered", "failed", "requests")}, found[2])
            for found in figures_of(stand)
        ]
        for stand in (together, alone)
    ]
    assert figures[0] == figures[1]
    together.close()
    alone.close()


def alike(stand, ones):
    calls = {version: ready_for(stand, version=version) for version in {version for version, *_ in ones}}
    return [
        Alike(
            calls[version],
            {"x": np.full((1, 2), value, np.float32)},
            stand.clock(),
            deadline_s,
            preprocessing,
            too_large if refused else None,
        )
        for version, value, preprocessing, refused, deadline_s in ones
    ]


def one_by_one(stand, one):
    return stand.plane.at_once(
        one.call, one.inputs, deadline_s=one.deadline_s, preprocessing=one.preprocessing, refuses=one.refuses
    )


def figures_of(stand):
    work = stand.work()
    with_holders = []
    for number, (statistics, held) in zip(stand.executors, zip(work[::2], work[1::2], strict=True), strict=True):
        with stand.manager.acquire("m", number) as handle:
            with_holders.append((statistics[0], handle.servable.statistics.work(), held))
    return with_holders


@pytest.fixture
def stand():
    stand = Stand(BatchingOptions(max_batch_size_rows=8))
    yield stand
    stand.close()


def asked(stand, call, *values, rows=1):
    return [Alike(call, {"x": np.full((rows, 2), value, np.float32)}, stand.clock()) for value in values]


def outputs(answers):
    return [told(answer)[0]["y"] for answer in answers]


def test_those_that_are_alike_are_one_run(stand):
    """Each gets its own rows, and each is a request of the version's."""
    call = ready_for(stand)
    ran = len(stand.executors[2].batches)
    assert outputs(stand.plane.all_at_once(asked(stand, call, 1, 2, 3))) == [[[2, 2]], [[4, 4]], [[6, 6]]]
    assert stand.executors[2].batches[ran:] == [3]
    with stand.manager.acquire("m", 2) as handle:
        work = handle.servable.statistics.work()
        assert (work.runs, work.requests, work.rows) == (ran + 1, ran + 3, ran + 3)


def test_those_of_several_versions_are_a_run_each(stand):
    """However they are mixed; the answers come in the order of the requests."""
    calls = {number: ready_for(stand, version=number) for number in (1, 2)}
    ran = {number: len(stand.executors[number].batches) for number in calls}
    mixed = [asked(stand, calls[number], number)[0] for number in (1, 2, 2, 1, 2)]
    assert outputs(stand.plane.all_at_once(mixed)) == [[[1, 1]], [[4, 4]], [[4, 4]], [[1, 1]], [[4, 4]]]
    assert {number: stand.executors[number].batches[ran[number] :] for number in calls} == {1: [2], 2: [3]}


def test_more_than_a_batch_may_have_are_several_runs(stand):
    """Each as large as can be, by halves."""
    call = ready_for(stand)
    ran = len(stand.executors[2].batches)
    stand.plane.all_at_once(asked(stand, call, *range(12)))
    assert stand.executors[2].batches[ran:] == [6, 6]


def test_one_that_fails_harms_no_other(stand, caplog):
    """The others are run again without it, one by one; the log tells of one request that failed."""
    call = ready_for(stand)
    ran = len(stand.executors[2].batches)
    answers = stand.plane.all_at_once(asked(stand, call, 1, POISON, 3, 4))
    assert stand.executors[2].batches[ran:] == [4, 1, 1, 1, 1]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert told(answers[1])[0] == "ExecutionFailed"
    assert outputs([answers[0], *answers[2:]]) == [[[2, 2]], [[6, 6]], [[8, 8]]]


class Summing(FakeExecutor):
    """Gives one row whatever it is given."""

    def run(self, name, inputs):
        return {"y": super().run(name, inputs)["y"].sum(0, keepdims=True)}


def test_rows_that_do_not_stand_for_themselves_are_not_merged(caplog):
    """Who gives another number of rows than it was given is run for each alone from then on, and is said to be."""
    stand = Stand(BatchingOptions(max_batch_size_rows=8), executor := Summing())
    call = ready_for(stand)
    ran = len(executor.batches)
    for _ in range(2):
        assert outputs(stand.plane.all_at_once(asked(stand, call, 1, 2))) == [[[1, 1]], [[2, 2]]]
    assert executor.batches[ran:] == [2, 1, 1, 1, 1]
    assert caplog.text.count("its requests are run one by one from now on") == 1
    with stand.manager.acquire("m", 2) as handle:
        work = handle.servable.statistics.work()
        assert (work.requests, work.rows) == (ran + 4, ran + 4)
    stand.close()


def test_a_group_that_can_not_be_run_now_is_one_try_in_vain(stand):
    """What stands against one stands against each: their readiness is not lost at a stroke."""
    call = ready_for(stand)
    stand.plane.predict([asked_of()], stand.settle)
    assert stand.plane.all_at_once(asked(stand, call, *range(6))) == [None] * 6
    assert (call.like.vain, call.like.ready is None) == (1, False)
    assert stand.plane.scheduler.step()


class Slow(FakeExecutor):
    """Four rows take sixteen times as long as one, by its clock."""

    clock = FakeClock()

    def run(self, name, inputs):
        self.clock.advance(1e-4 * len(inputs["x"]) ** 2)
        return super().run(name, inputs)


def test_many_rows_that_take_too_long_are_run_in_parts():
    """As many together as take no longer than they may one after another; nothing is copied for those that do."""
    stand = Stand(BatchingOptions(max_batch_size_rows=8, max_inline_us=250), executor := Slow())
    executor.clock = stand.clock
    call = ready_for(stand)
    for rows in (2, 4):  # What it takes is known by having been seen.
        for _ in range(5):
            stand.queued(PredictCall(target=call.target, inputs={"x": np.ones((rows, 2), np.float32)}))
    ran = len(executor.batches)
    assert len(outputs(stand.plane.all_at_once(asked(stand, call, 1, 2, 3, 4)))) == 4
    assert executor.batches[ran:] == [2, 2]
    stand.close()


def test_a_version_that_has_gone_answers_none(stand):
    """Nothing has been done then: they are to be looked at."""
    call = ready_for(stand)
    stand.serve(1)
    assert stand.plane.all_at_once(asked(stand, call, 1, 2)) == [None, None]
    assert call.like.ready is None
    assert stand.plane.all_at_once(asked(stand, asked_of(like=Likeness()), 1, 2)) == [None, None]


def test_the_time_since_a_request_came_counts(stand):
    """What it waited for company is time that its caller waited."""
    call = ready_for(stand)
    waiting = asked(stand, call, 1, 2)
    stand.clock.advance(0.25)
    stand.plane.all_at_once(waiting)
    with stand.manager.acquire("m", 2) as handle:
        assert round(handle.servable.statistics.work().queued_s, 6) == 0.5
    stand.plane.all_at_once(asked(stand, call, 1)[:1])
    assert [round(took_s, 6) for _, _, took_s in stand.observed[-3:]] == [0.25, 0.25, 0]
