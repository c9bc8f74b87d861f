"""Stories of streams of edge.v1.Sequence over a real server."""

import asyncio
import threading
import time

from support.grpc_stand import loaded
from support.sequence_models import AddingExecutor
from support.sequence_streams import Stream

from fallback_server.batching.options import BatchingOptions

BATCHING = BatchingOptions(num_batch_threads=1, max_inline_us=0)


def told(story, tmp_path, executor=None, **options):
    """Runs a story over a stand."""

    async def run():
        async with loaded(executor or AddingExecutor(), tmp_path, **{"batching": BATCHING, **options}) as stand:
            await asyncio.wait_for(story(stand), 60)

    asyncio.run(run())


def opened(stand, **options):
    """A stream."""
    return Stream(stand.channel, **options)


async def until(condition):
    """Waits until it holds."""
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


class HeldExecutor(AddingExecutor):
    """Waits for `gate` in each run."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def run(self, name, inputs):
        self.entered.release()
        assert self.gate.wait(30)
        return super().run(name, inputs)
