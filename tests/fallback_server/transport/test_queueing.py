"""Calls of models in other processes are queued together; each as if it had come alone."""

import asyncio
import dataclasses

import numpy as np
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import OPTIONS, loaded

from fallback_server.core.errors import ExecutionFailed
from fallback_server.core.target import ModelTarget
from fallback_server.predict_call import Fit, Likeness, PredictCall
from fallback_server.protocol import tensors
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.crowd import Crowd
from fallback_server.transport.gathering import HURRY_S
from fallback_server.transport.queueing import Queueing
from fallback_server.transport.rpc import SMALL_IN_A_ROW
from fallback_server.transport.serving_loop import ServingLoop

NOW_S = 100.0
WAIT_S = 20


class Plane:
    """Notes the lists that it is given, and settles each call with its place in them."""

    def __init__(self, *, breaks=False):
        self.lists = []
        self.breaks = breaks

    def clock(self):
        return NOW_S

    def predict(self, calls, settle):
        if self.breaks:
            raise RuntimeError("a fault")
        self.lists.append(list(calls))
        settle(list(zip(calls, range(len(calls)), strict=True)))


class Crowded(Crowd):
    """Has all join."""

    def joins(self):
        return True


def call_of(*, in_process=False, deadline_s=None):
    like = Likeness()
    like.fit = Fit({}, "serving_default", 1, in_process)
    return PredictCall(target=ModelTarget(name="m"), inputs={"x": np.ones(1)}, like=like, deadline_s=deadline_s)


def run(story):
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        return runner.run(story())


async def rest():
    """Has the loop wait for a moment, and so be at rest before that."""
    await asyncio.sleep(0.02)  # Longer than company is waited for.


def test_those_of_a_busy_time_are_one_list():
    """In their order, when the loop has nothing else to do, or there are as many as may be; their inputs are let go."""

    async def story():
        plane, answers, crowd = Plane(), [], Crowded()
        crowd.size = 4
        queueing = Queueing(asyncio.get_running_loop(), plane, answers.extend, crowd)
        calls = [call_of() for _ in range(6)]
        for call in calls:
            queueing.add(call)
        assert plane.lists == [calls[:4]]
        await rest()
        assert plane.lists == [calls[:4], calls[4:]]
        assert answers == list(zip(calls, [0, 1, 2, 3, 0, 1], strict=True))
        assert all(call.inputs == {} for call in calls)

    run(story)


@pytest.mark.parametrize(
    ("call", "joins"),
    [
        (call_of(), True),
        (call_of(in_process=True), False),
        (PredictCall(target=ModelTarget(name="m")), False),
        (PredictCall(target=ModelTarget(name="m"), like=Likeness()), False),
        (call_of(deadline_s=NOW_S + 2 * HURRY_S), True),
        (call_of(deadline_s=NOW_S + HURRY_S / 2), False),
    ],
)
def test_who_is_queued_with_others(call, joins):
    """Calls that are known to run elsewhere, and have the time."""

    async def story():
        queueing = Queueing(asyncio.get_running_loop(), Plane(), lambda _: None, Crowded())
        assert queueing.joins(call) is joins

    run(story)


def test_a_fault_leaves_nobody_waiting(caplog):
    """All of a list that could not be queued are refused, and the loop lives on."""

    async def story():
        answers = []
        queueing = Queueing(asyncio.get_running_loop(), Plane(breaks=True), answers.extend, Crowded())
        calls = [call_of(), call_of()]
        for call in calls:
            queueing.add(call)
        await rest()
        assert [(call, type(error)) for call, error in answers] == [(call, ExecutionFailed) for call in calls]

    run(story)
    assert "2 calls could not be queued" in caplog.text


class Elsewhere(FakeExecutor):
    """Another process runs it."""

    in_process = False


def asked(value):
    return pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": tensors.encode(np.full((1, 2), value, np.float32))})


def test_many_callers_over_grpc_are_queued_together(tmp_path, monkeypatch):
    """Each gets its own answer, whoever of the others leaves; lists are shorter than there are calls."""
    lists = []
    put = Queueing._queue

    def noted(self, calls):
        lists.append(len(calls))
        put(self, calls)

    monkeypatch.setattr(Queueing, "_queue", noted)

    async def story():
        batching = dataclasses.replace(OPTIONS, max_batch_size_rows=16, max_enqueued_batches=100)
        async with loaded(Elsewhere(factor=2), tmp_path, batching=batching) as stand:
            for _ in range(2 * SMALL_IN_A_ROW):
                await stand.predict(asked(1), timeout=WAIT_S)
            lists.clear()
            begin = 0
            while begin < 320 or max(lists, default=0) < 2:  # One in 256 looks for others, where there were none.
                assert begin < 10_000
                calls = [stand.predict(asked(value), timeout=WAIT_S) for value in range(begin, begin + 32)]
                calls[7].cancel()
                answers = await asyncio.gather(*calls, return_exceptions=True)
                for value, answer in enumerate(answers, begin):
                    if value - begin != 7:
                        assert list(answer.outputs["y"].float_val) == [2 * value, 2 * value]
                begin += 32

    run(story)
