import asyncio
import dataclasses
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from support.sequence_models import AddingExecutor, GrowingExecutor
from support.sequence_stand import HeldExecutor, opened, told, until
from support.sequence_streams import outputs, row, state

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.model_config import StepConfig
from fallback_server.sequences.figures import Ended, SequenceFigures
from fallback_server.sequences.options import SequenceOptions

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode


def test_a_state_goes_from_step_to_step(tmp_path):
    """It is not sent, the first answer says who answers, steps are counted, and the end ends the stream."""

    async def story(stand):
        stream = opened(stand)
        await stream.send(model="m", x=row(1, 2))
        first = await stream.read()
        assert (first.model_spec.name, first.model_spec.version.value) == ("m", 1)
        assert first.model_spec.signature_name == "step"
        assert first.step == 1
        assert list(outputs(first)) == ["total"]
        assert not first.state
        await stream.send(x=row(10, 20), end=True)
        second = await stream.read()
        assert not second.HasField("model_spec")
        assert second.step == 2
        assert outputs(second)["total"].tolist() == [[11, 22]]
        assert await stream.read() is None
        assert await stream.ended() == (CODE.OK, "")

    told(story, tmp_path)


def test_a_reset_begins_anew_and_half_closing_ends(tmp_path):
    """From zeros and step 1, with another number of rows where that is wanted."""

    async def story(stand):
        stream = opened(stand)
        await stream.step(model="m", x=row(1, 2))
        await stream.send(reset=True, x=np.full((3, 2), 5, np.float32))
        answer = await stream.read()
        assert answer.step == 1
        assert outputs(answer)["total"].tolist() == [[5, 5]] * 3
        assert (await stream.step(x=np.ones((3, 2), np.float32)))["total"].tolist() == [[6, 6]] * 3
        await stream.call.done_writing()
        assert await stream.read() is None
        assert await stream.ended() == (CODE.OK, "")

    told(story, tmp_path)


def test_a_state_that_was_asked_for_can_be_gone_on_from(tmp_path):
    """On another stream too: it takes the place of zeros, or of what the server holds."""

    async def story(stand):
        stream = opened(stand)
        await stream.step(model="m", x=row(1, 2))
        await stream.send(x=row(1, 1), return_state=True)
        kept = state(await stream.read())
        assert {name: array.tolist() for name, array in kept.items()} == {"state": [[2, 3]]}
        other = opened(stand)
        assert (await other.step(model="m", x=row(1, 1), **kept))["total"].tolist() == [[3, 4]]
        assert (await other.step(x=row(1, 1)))["total"].tolist() == [[4, 5]]
        assert (await other.step(x=row(0, 0), **kept))["total"].tolist() == [[2, 3]]

    told(story, tmp_path)


def test_steps_of_many_streams_run_as_one_batch(tmp_path):
    """What comes while a batch runs is the next; each stream gets its own rows."""
    executor = HeldExecutor()

    async def story(stand):
        streams = [opened(stand) for _ in range(8)]
        await streams[0].send(model="m", x=row(0, 0))
        await asyncio.to_thread(executor.entered.acquire)
        for number, stream in enumerate(streams[1:], 1):
            await stream.send(model="m", x=row(number, 0))
        queue = stand.loader.result.queues["step"]
        await until(lambda: queue.rows == 7)
        executor.gate.set()
        answers = [outputs(await stream.read())["total"][0, 0] for stream in streams]
        assert answers == list(range(8))
        assert executor.batches == [1, 7]

    told(story, tmp_path, executor)


def test_one_step_of_a_stream_is_under_way(tmp_path):
    """What is sent ahead is taken in order, one after another."""

    async def story(stand):
        stream = opened(stand)
        await stream.send(model="m", x=row(1, 0))
        for _ in range(9):
            await stream.send(x=row(1, 0))
        assert [outputs(await stream.read())["total"][0, 0] for _ in range(10)] == list(range(1, 11))
        assert stand.executor.batches == [1] * 10

    told(story, tmp_path)


def test_short_steps_run_where_they_come(tmp_path):
    """In the event loop, as short requests do, once they were measured."""

    async def story(stand):
        stream = opened(stand)
        await stream.step(model="m", x=row(1, 0))
        for _ in range(20):
            await stream.step(x=row(1, 0))
        assert (await stream.step(x=row(1, 0)))["total"][0, 0] == 22
        assert stand.loader.result.queues["step"].runs_here

    told(story, tmp_path, batching=BatchingOptions(num_batch_threads=1, max_inline_us=100_000))


@pytest.mark.parametrize(
    ("first", "second", "code", "text"),
    [
        ({"x": row(1, 1)}, None, CODE.INVALID_ARGUMENT, "Missing ModelSpec"),
        ({"model": "other", "x": row(1, 1)}, None, CODE.NOT_FOUND, "other"),
        ({"model": "m", "signature": "none", "x": row(1, 1)}, None, CODE.FAILED_PRECONDITION, '"none" not found'),
        ({"model": "m", "signature": "plain", "x": row(1, 1)}, None, CODE.FAILED_PRECONDITION, '"plain" has no state'),
        ({"model": "m", "x": np.ones((1, 3), np.float32)}, None, CODE.INVALID_ARGUMENT, "input 'x': expected"),
        ({"model": "m"}, None, CODE.INVALID_ARGUMENT, "Missing but required: {x}"),
        ({"model": "m", "x": row(1, 1)}, {"model": "n", "x": row(1, 1)}, CODE.INVALID_ARGUMENT, "one model_spec"),
        ({"model": "m", "x": row(1, 1)}, {"x": np.ones((2, 2), np.float32)}, CODE.INVALID_ARGUMENT, "as many rows"),
        ({"model": "m", "x": row(1, 1)}, {"x": row(np.nan, 1)}, CODE.INTERNAL, "the model failed to run"),
    ],
)
def test_what_fails_ends_the_stream_with_its_reason(tmp_path, services, first, second, code, text):
    """And nothing of it is held any more."""

    async def story(stand):
        stream = opened(stand)
        if second is None:
            await stream.send(**first)
        else:
            await stream.step(**first)
            await stream.send(**second)
        found, details = await stream.ended()
        assert (found, text in details) == (code, True), details
        await until(lambda: not services[0].live)
        assert services[0].state_bytes == 0
        assert stand.manager._table.find("m", 1).holders == 0

    told(story, tmp_path)


def test_a_fault_of_the_server_leaves_nobody_waiting(tmp_path, services):
    """Its text stays in the log."""

    async def story(stand):
        def fail(*_, **__):
            raise RuntimeError("a fault")

        stand.plane.predict = fail
        stream = opened(stand)
        await stream.send(model="m", x=row(1, 0))
        assert await stream.ended() == (CODE.INTERNAL, "internal error; the server's log tells more")
        await until(lambda: not services[0].live)
        assert stand.manager._table.find("m", 1).holders == 0

    told(story, tmp_path)


def test_a_failing_stream_harms_no_other(tmp_path):
    """Of the same batch."""
    executor = HeldExecutor()

    async def story(stand):
        streams = [opened(stand) for _ in range(3)]
        await streams[0].send(model="m", x=row(0, 0))
        await asyncio.to_thread(executor.entered.acquire)
        await streams[1].send(model="m", x=row(np.nan, 0))
        await streams[2].send(model="m", x=row(7, 0))
        await until(lambda: stand.loader.result.queues["step"].rows == 2)
        executor.gate.set()
        assert outputs(await streams[2].read())["total"][0, 0] == 7
        assert (await streams[1].ended())[0] is CODE.INTERNAL
        assert (await streams[2].step(x=row(1, 0)))["total"][0, 0] == 8

    told(story, tmp_path, executor)


def test_streams_are_bounded_in_number(tmp_path):
    """Open ones that have sent nothing count too; who is over it is refused, and others go on."""

    async def story(stand):
        stream, silent = opened(stand), opened(stand)
        await stream.step(model="m", x=row(1, 0))
        await silent.call.wait_for_connection()
        third = opened(stand)
        assert await third.ended() == (
            CODE.RESOURCE_EXHAUSTED,
            "2 sequences are live, at most max_sequences = 2 may be",
        )
        silent.call.cancel()
        assert (await stream.step(x=row(1, 0)))["total"][0, 0] == 2

    told(story, tmp_path, sequences=SequenceOptions(max_sequences=2))


def test_states_are_bounded_in_bytes(tmp_path, services):
    """Before zeros take memory, and as soon as one has grown too large."""

    async def story(stand):
        stream = opened(stand)
        await stream.step(model="m", x=np.ones((1, 1), np.float32), state=np.ones((1, 10), np.float32))
        assert services[0].state_bytes == 44
        await stream.step(x=np.ones((1, 1), np.float32))
        await stream.send(x=np.ones((1, 1), np.float32))
        assert await stream.ended() == (
            CODE.RESOURCE_EXHAUSTED,
            "the sequences' states take 48 bytes, 4 more would pass max_sequence_bytes = 50",
        )
        await until(lambda: not services[0].live)
        assert services[0].state_bytes == 0

    told(story, tmp_path, GrowingExecutor(), sequences=SequenceOptions(max_sequence_bytes=50))


def test_zeros_of_an_unknown_size_have_to_be_sent(tmp_path):
    """The text says of which input."""

    async def story(stand):
        stream = opened(stand)
        await stream.send(model="m", x=np.ones((1, 1), np.float32))
        code, text = await stream.ended()
        assert code is CODE.INVALID_ARGUMENT
        assert "'state' is float32 [-1, -1], and has no zeros to begin with" in text

    told(story, tmp_path, GrowingExecutor())


def test_a_caller_that_leaves_frees_the_state_and_then_the_version(tmp_path, services):
    """The step that is under way still holds the version."""
    executor = HeldExecutor()
    figures = SequenceFigures()

    async def story(stand):
        stream = opened(stand)
        await stream.send(model="m", x=row(1, 0))
        await asyncio.to_thread(executor.entered.acquire)
        harness = stand.manager._table.find("m", 1)
        assert services[0].state_bytes == 8
        stream.call.cancel()
        await until(lambda: not services[0].live)
        assert services[0].state_bytes == 0
        assert figures.snapshot().models["m"].ended == {Ended.LEFT: 1}
        assert harness.holders == 1
        executor.gate.set()
        await until(lambda: not harness.holders)

    told(story, tmp_path, executor, sequence_figures=figures)


def test_an_operator_names_the_state(tmp_path):
    """And the signature of a step, for names that don't tell."""
    executor = AddingExecutor()
    step = executor.signatures.pop("step")
    executor.signatures["advance"] = dataclasses.replace(step, name="advance")

    async def story(stand):
        said = StepConfig(signature="advance", state={"state": "total"})
        stand.control.configs = lambda: (SimpleNamespace(name="m", sequence=said),)
        stream = opened(stand)
        assert sorted(await stream.step(model="m", x=row(1, 0))) == ["next_state"]
        assert (await stream.step(x=row(1, 0)))["next_state"][0, 0] == 2

    told(story, tmp_path, executor)


def test_large_steps_are_read_and_written_in_threads(tmp_path):
    """As large requests are."""

    async def story(stand):
        stream = opened(stand)
        x = np.ones((200_000, 2), np.float32)
        await stream.step(model="m", x=x)
        answer = (await stream.step(x=x))["total"]
        assert answer.shape == x.shape
        assert (answer == 2).all()

    told(story, tmp_path)
