import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from support import sequence_models
from support.fallback_process import Client, ServerProcess
from support.sequence_models import SEQUENCES, lengths
from support.sequence_streams import Stream, outputs, state

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2]
TOLERANCE = 1e-5
"""Of values of about 1: a sum of products that several rows share is added up in another order."""


@pytest.fixture(scope="module")
def gru(tensorflow, tmp_path_factory):
    """A folder with the model, and what TensorFlow alone makes of 64 sequences."""
    output = tmp_path_factory.mktemp("gru")
    tensorflow.run(sequence_models.write_all, 200.0, output)
    return output


@pytest.fixture(scope="module")
def server(gru):
    """A server of its own process, with the model."""
    flags = (f"--model_base_path={gru / 'gru'}", "--model_name=gru", "--port=0", "--rest_api_port=0", "--mdns=false")
    running = ServerProcess(*flags, "--sequence_idle_s=20")
    client = Client(running.address)
    assert client.states("gru") == {1: "AVAILABLE"}
    client.close()
    yield running
    running.close()


def told(story, server):
    async def run():
        async with grpc.aio.insecure_channel(server.address) as channel:
            await asyncio.wait_for(story(channel), 120)

    asyncio.run(run())


async def answers(stream, x):
    """The whole sequence, step by step."""
    steps = [x[index : index + 1] for index in range(len(x))]
    found = [(await stream.step(model="gru", x=steps[0]))["y"]]
    found += [(await stream.step(x=step))["y"] for step in steps[1:]]
    await stream.call.done_writing()
    assert await stream.read() is None
    return np.concatenate(found)


def test_batched_streams_answer_as_each_alone(gru, server):
    """64 live streams of different lengths, against Keras' own loop over each sequence."""
    sequences = np.load(gru / "sequences.npz")

    async def story(channel):
        found = await asyncio.gather(*(answers(Stream(channel), sequences[f"x{i}"]) for i in range(SEQUENCES)))
        for index, (answered, length) in enumerate(zip(found, lengths(), strict=True)):
            assert answered.shape == (length, 2)
            np.testing.assert_allclose(answered, sequences[f"y{index}"], rtol=TOLERANCE, atol=TOLERANCE)

    told(story, server)


def test_a_sequence_goes_on_from_a_state_that_was_returned(gru, server):
    """On another stream, in the middle."""
    sequences = np.load(gru / "sequences.npz")
    index = int(np.argmax(lengths()))
    x, y = sequences[f"x{index}"], sequences[f"y{index}"]

    async def story(channel):
        stream = Stream(channel)
        await stream.send(model="gru", x=x[:1], return_state=True, end=True)
        kept = state(await stream.read())
        assert sorted(kept) == ["state_0", "state_1"]
        other = Stream(channel)
        await other.send(model="gru", x=x[1:2], **kept)
        np.testing.assert_allclose(outputs(await other.read())["y"], y[1:2], rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose((await other.step(x=x[2:3]))["y"], y[2:3], rtol=TOLERANCE, atol=TOLERANCE)

    told(story, server)
