import asyncio

import numpy as np
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import loaded

from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREDICT, SERVER_MS_METADATA
from fallback_server.protocol.proto import serving_pb2 as pb

pytestmark = pytest.mark.usefixtures("transport")

WAIT_S = 20
HELD_S = 0.3
MESSAGE = pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": tensors.encode(np.ones((1, 2), np.float32))})


def own_ms(metadata):
    (said,) = (float(value) for key, value in metadata or () if key == SERVER_MS_METADATA)
    return said


def test_predict_says_how_long_it_took_here(tmp_path):
    """An answered Predict says in its trailing metadata the server's own milliseconds: no more than the caller's."""

    async def scenario():
        async with loaded(FakeExecutor(factor=2), tmp_path) as stand:
            clock = asyncio.get_running_loop().time
            started_s = clock()
            call = stand.predict(MESSAGE, timeout=WAIT_S)
            await call
            assert 0 < own_ms(await call.trailing_metadata()) <= (clock() - started_s) * 1e3

    asyncio.run(scenario())


def test_time_of_the_network_is_not_the_servers(tmp_path):
    """The handler begins with the headers: until the request's bytes are here nothing is counted."""

    async def scenario():
        async with loaded(FakeExecutor(factor=2), tmp_path) as stand:
            clock = asyncio.get_running_loop().time
            started_s = clock()

            async def held_back():
                while clock() - started_s < HELD_S:
                    await stand.predict(MESSAGE, timeout=WAIT_S)
                yield MESSAGE.SerializeToString()

            call = stand.channel.stream_unary(PREDICT.path)(held_back(), timeout=WAIT_S)
            await call
            assert own_ms(await call.trailing_metadata()) <= (clock() - started_s - HELD_S) * 1e3

    asyncio.run(scenario())
