"""Why streams of edge.v1.Sequence end that would go on, and what is counted of them."""

import asyncio

import grpc
import numpy as np
import pytest
from support.sequence_stand import HeldExecutor, opened, told, until
from support.sequence_streams import outputs, row

from fallback_server.core.errors import ModelNotFound, QueueFull
from fallback_server.core.servable import State
from fallback_server.predict_call import PredictReply
from fallback_server.sequences.figures import Ended, SequenceFigures
from fallback_server.sequences.options import SequenceOptions

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode


def test_streams_of_a_version_that_is_unloaded_go_on_and_are_ended(tmp_path):
    """New ones are refused at once; those that go on are ended in time, and let the version go."""

    async def story(stand):
        stream = opened(stand)
        await stream.step(model="m", x=row(1, 0))
        harness = stand.manager._table.find("m", 1)
        stand.manager.set_aspired({})
        stand.control.changed()
        assert harness.state is State.UNLOADING
        assert (await stream.step(x=row(1, 0)))["total"][0, 0] == 2
        other = opened(stand)
        await other.send(model="m", x=row(1, 0))
        assert (await other.ended())[0] in (CODE.UNAVAILABLE, CODE.NOT_FOUND)
        assert await stream.ended() == (
            CODE.UNAVAILABLE,
            "version 1 of model m is unloaded; the sequence's state is gone: begin a new one",
        )
        await until(lambda: harness.state is State.END)

    told(story, tmp_path, sequences=SequenceOptions(drain_s=1.0))


@pytest.mark.parametrize("loss", ["", "the model's process ended (signal 9)"])
def test_a_caller_that_takes_no_answers_holds_no_version(tmp_path, loss):
    """One that is unloaded, or whose process has died, goes although an answer can't be sent."""

    async def story(stand):
        stream = opened(stand)

        async def push():
            await stream.send(model="m", x=np.ones((20_000, 2), np.float32), return_state=True)
            while True:
                await stream.send(x=np.ones((20_000, 2), np.float32), return_state=True)

        pushing = asyncio.ensure_future(push())
        harness = stand.manager._table.find("m", 1)
        steps = -1
        while steps < 1 or steps < figures.snapshot().models["m"].steps:  # Until an answer waits to be taken.
            steps = figures.snapshot().models["m"].steps if "m" in figures.snapshot().models else 0
            await asyncio.sleep(0.3)
        if loss:
            stand.loader.result.lost = loss
        else:
            stand.manager.set_aspired({})
        stand.control.changed()
        await until(lambda: figures.snapshot().models["m"].live == 0)
        assert figures.snapshot().models["m"].ended == {Ended.WORKER if loss else Ended.UNLOADED: 1}
        if not loss:
            await until(lambda: harness.state is State.END)
        pushing.cancel()
        stream.call.cancel()
        await asyncio.wait([pushing])

    figures = SequenceFigures()
    told(story, tmp_path, sequences=SequenceOptions(drain_s=0.1), sequence_figures=figures)


def test_streams_end_where_a_load_waits_for_them(tmp_path):
    """Else a model that is unloaded and loaded again would be away for as long as they may go on."""

    async def story(stand):
        aspired = stand.manager._steps.aspired
        stream = opened(stand)
        await stream.step(model="m", x=row(1, 0))
        stand.manager.set_aspired({})
        stand.control.changed()
        assert (await stream.step(x=row(1, 0)))["total"][0, 0] == 2
        stand.manager.set_aspired(aspired)
        assert await stream.ended() == (
            CODE.UNAVAILABLE,
            "version 1 of model m is unloaded; the sequence's state is gone: begin a new one",
        )
        await until(lambda: stand.manager.available("m"))
        assert (await opened(stand).step(model="m", x=row(1, 0)))["total"][0, 0] == 1

    told(story, tmp_path)


def test_a_server_that_stops_ends_the_streams(tmp_path):
    """Between two steps: the one that is under way is answered."""
    executor = HeldExecutor()

    async def story(stand):
        idle, busy = opened(stand), opened(stand)
        executor.gate.set()
        await idle.step(model="m", x=row(1, 0))
        executor.gate.clear()
        executor.entered.acquire()
        await busy.send(model="m", x=row(1, 0))
        await asyncio.to_thread(executor.entered.acquire)
        stopping = asyncio.ensure_future(stand.server.stop(grace_s=20))
        code, text = await idle.ended()
        assert (code, "the server is stopping" in text) == (CODE.UNAVAILABLE, True)
        executor.gate.set()
        assert outputs(await busy.read())["total"][0, 0] == 1
        assert (await busy.ended())[0] is CODE.UNAVAILABLE
        await stopping

    told(story, tmp_path, executor)


def test_what_comes_and_goes_is_counted(tmp_path):
    """Sequences, their steps and how many ran together, what they hold, and why each has ended."""
    figures = SequenceFigures()

    async def story(stand):
        done, silent, bad, refused = (opened(stand) for _ in range(4))
        await done.step(model="m", x=row(1, 0))
        await done.send(x=row(1, 0), end=True)
        await done.read()
        assert await done.ended() == (CODE.OK, "")
        await bad.step(model="m", x=row(1, 0))
        assert figures.snapshot().models["m"].live == 1
        assert figures.snapshot().state_bytes == 8
        await bad.send(x=row(np.nan, 0))
        assert (await bad.ended())[0] is CODE.INTERNAL
        await refused.send(model="other", x=row(1, 0))
        assert (await refused.ended())[0] is CODE.NOT_FOUND
        assert (await silent.ended())[0] is CODE.DEADLINE_EXCEEDED
        left = opened(stand)
        await left.step(model="m", x=row(1, 0))
        left.call.cancel()  # Between two steps: as if it had ended it.
        await until(lambda: figures.snapshot().models["m"].ended == {Ended.CLIENT: 2, Ended.FAILED: 1})
        told = figures.snapshot()
        assert told.state_bytes == 0
        assert (told.models["m"].begun, told.models["m"].live) == (3, 0)
        assert (told.models["m"].steps, told.models["m"].batches) == (4, {1: 4})
        assert told.models[""].ended == {Ended.REFUSED: 1, Ended.IDLE: 1}

    told(story, tmp_path, sequences=SequenceOptions(sequence_idle_s=1.0), sequence_figures=figures)


def test_what_is_refused_is_counted_as_a_request(tmp_path, services):
    """Of the version where one is held; of no model where a stream says nothing yet."""
    answers = []

    def observe(call, servable_id, answer, _took_s):
        answers.append((call.target.name, servable_id and servable_id.version, type(answer)))

    async def story(stand):
        stand.plane._observe = observe
        first, second = opened(stand), opened(stand)
        await first.step(model="m", x=row(1, 0))
        await until(lambda: answers)  # It is counted once it has been written.
        await second.send(model="m", x=np.ones((9, 2), np.float32))
        assert (await second.ended())[0] is CODE.RESOURCE_EXHAUSTED
        other = opened(stand)
        await other.send(model="other", x=row(1, 0))
        assert (await other.ended())[0] is CODE.NOT_FOUND
        (service,) = services
        await until(lambda: service.live == 1)
        idle = opened(stand)
        await idle.call.wait_for_connection()
        await until(lambda: service.live == 2)
        assert (await opened(stand).ended())[0] is CODE.RESOURCE_EXHAUSTED

    told(story, tmp_path, sequences=SequenceOptions(max_sequences=2, max_sequence_bytes=64))
    assert answers == [
        ("m", 1, PredictReply),
        ("m", 1, QueueFull),
        ("other", None, ModelNotFound),
        ("", None, QueueFull),
    ]


def test_streams_of_a_model_that_has_died_end_at_once(tmp_path, services):
    """Whoever waits for nothing is told too; see tests/fallback_server/sequences/test_lost_process.py."""

    async def story(stand):
        stream = opened(stand)
        await stream.step(model="m", x=row(1, 0))
        stand.loader.result.lost = "the model's process ended (signal 9)"
        stand.control.changed()
        assert await stream.ended() == (
            CODE.UNAVAILABLE,
            "the model's process ended (signal 9); the sequence's state is gone: begin a new one",
        )
        await until(lambda: not services[0].live)

    told(story, tmp_path)


def test_a_silent_stream_expires(tmp_path, services):
    """Begun or not, while one that goes on does not."""

    async def story(stand):
        begun, silent = opened(stand), opened(stand)
        await begun.step(model="m", x=row(1, 0))
        for stream in (begun, silent):
            code, text = await stream.ended()
            assert code is CODE.DEADLINE_EXCEEDED
            assert text == ("the sequence was idle for sequence_idle_s = 0.2 s, and its state is gone: begin a new one")
        await until(lambda: not services[0].live)
        assert services[0].state_bytes == 0

    told(story, tmp_path, sequences=SequenceOptions(sequence_idle_s=0.2))


def test_a_step_that_takes_long_is_not_idle(tmp_path):
    """Only its caller can be."""
    executor = HeldExecutor()

    async def story(stand):
        stream = opened(stand)
        await stream.send(model="m", x=row(1, 0))
        silent = opened(stand)
        assert (await silent.ended())[0] is CODE.DEADLINE_EXCEEDED
        executor.gate.set()
        assert outputs(await stream.read())["total"][0, 0] == 1

    told(story, tmp_path, executor, sequences=SequenceOptions(sequence_idle_s=0.2))


def test_a_caller_that_leaves_instead_of_hearing_its_fault_is_no_error(tmp_path, caplog):
    """It takes no answers, so that it is not told why its stream ends before it leaves."""
    figures = SequenceFigures()

    async def story(stand):
        stream = opened(stand)

        async def push():
            await stream.send(model="m", x=np.ones((20_000, 2), np.float32), return_state=True)
            while True:
                await stream.send(x=np.ones((20_000, 2), np.float32), return_state=True)

        pushing = asyncio.ensure_future(push())
        await until(lambda: "m" in figures.snapshot().models and figures.snapshot().models["m"].ended)
        pushing.cancel()
        stream.call.cancel()
        await asyncio.wait([pushing])
        assert figures.snapshot().models["m"].ended == {Ended.IDLE: 1}

    told(story, tmp_path, sequences=SequenceOptions(sequence_idle_s=0.5), sequence_figures=figures)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
