"""What becomes of live sequences when a model's process is killed: a real server, a process for each model."""

import asyncio
import os
import signal
import time
import urllib.request

import grpc
import numpy as np
import pytest
from support.fallback_process import Client, ServerProcess
from support.sequence_streams import Stream, row

pytestmark = pytest.mark.slow

CODE = grpc.StatusCode

MODEL = """
import os
import time

import numpy as np


class Model:
    signatures = {
        "step": {
            "inputs": {"x": ("float32", (-1, 2)), "state": ("float32", (-1, 2))},
            "outputs": {"total": ("float32", (-1, 2)), "next_state": ("float32", (-1, 2)), "pid": ("int64", (-1,))},
        },
    }

    def __init__(self, path):
        pass

    def predict(self, signature, inputs):
        total = inputs["x"] + inputs["state"]
        if (inputs["x"] < 0).any():
            time.sleep(60)
        return {"total": total, "next_state": total, "pid": np.full(len(total), os.getpid())}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Models `a` and `b`, which tell their process."""
    repository = tmp_path_factory.mktemp("models")
    for name in "ab":
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text(MODEL)
    running = ServerProcess(f"--model_repository={repository}", "--port=0", "--no-mdns")
    yield running
    running.close()


async def available(server, name):
    """Waits until a model answers again."""
    client = Client(server.address)
    end_s = time.monotonic() + 60
    try:
        while client.states(name) != {1: "AVAILABLE"}:
            assert time.monotonic() < end_s, server.log
            await asyncio.sleep(0.05)
    finally:
        client.close()


def ended(server):
    """How many sequences of `a` have ended so, by the metrics."""
    with urllib.request.urlopen(f"http://{server.rest}/monitoring/prometheus/metrics", timeout=30) as reply:
        told = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines())
    return int(told['edge_fallback_sequences_ended_total{model_name="a",why="worker"}'])


@pytest.mark.parametrize("busy", [False, True])
def test_its_sequences_end_with_what_happened_and_others_go_on(server, busy):
    """UNAVAILABLE, whether or not a step is under way; a new sequence is answered by the process that was started."""

    async def story():
        async with grpc.aio.insecure_channel(server.address) as channel:
            await available(server, "a")
            lost, idle, other = Stream(channel), Stream(channel), Stream(channel)
            first = await lost.step(model="a", x=row(1, 2))
            await idle.step(model="a", x=row(1, 2))
            assert (await other.step(model="b", x=row(1, 2)))["pid"] != first["pid"]
            if busy:
                await lost.send(x=row(-1, 0))  # Whose run hangs, if it has begun by then.
            os.kill(int(first["pid"][0]), signal.SIGKILL)
            for stream in (lost, idle):
                code, text = await stream.ended()
                assert code is CODE.UNAVAILABLE, text
                assert text.startswith("the model's process ended (")
                assert text.endswith("; the sequence's state is gone: begin a new one")
            np.testing.assert_array_equal((await other.step(x=row(10, 20)))["total"], row(11, 22))
            await available(server, "a")
            anew = await Stream(channel).step(model="a", x=row(5, 5))
            np.testing.assert_array_equal(anew["total"], row(5, 5))
            assert anew["pid"] != first["pid"]
            assert ended(server) >= 2

    asyncio.run(asyncio.wait_for(story(), 120))
