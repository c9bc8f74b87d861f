"""Small requests like one before: answered at once, as if each had been looked at."""

import asyncio
import dataclasses

import grpc
import numpy as np
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import OPTIONS, loaded

from fallback_server.batching.options import MAX_INLINE_US
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREPROCESSING_METADATA, SERVER_MS_METADATA, TENSOR_CONTENT_METADATA
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.rpc import SMALL_IN_A_ROW

pytestmark = pytest.mark.usefixtures("transport")

WAIT_S = 20
POISON = 13.0
PATIENT = dataclasses.replace(OPTIONS, max_inline_us=MAX_INLINE_US)
"""However busy the machine is, no run takes too long."""


def asked(value):
    tensor = tensors.encode(np.full((1, 2), value, np.float32))
    return pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": tensor})


def test_requests_like_one_before_are_answered_as_it_was(tmp_path):
    """Each by its own values, in the form that it asks for, with the server's own time; refused where that one was."""

    async def scenario():
        executor = FakeExecutor(factor=2, poison=POISON)
        async with loaded(executor, tmp_path, batching=PATIENT, inline_s=10) as stand:
            stand.control.standing_still = True
            for _ in range(SMALL_IN_A_ROW + 10):
                await stand.predict(asked(1), timeout=WAIT_S)
            looked_for = len(stand.control.orders)
            call = stand.predict(asked(3), timeout=WAIT_S)
            assert list((await call).outputs["y"].float_val) == [6.0, 6.0]
            assert SERVER_MS_METADATA in dict(await call.trailing_metadata())
            assert len(stand.control.orders) == looked_for
            answer = await stand.predict(asked(4), timeout=WAIT_S, metadata=[TENSOR_CONTENT_METADATA])
            assert answer.outputs["y"].tensor_content == np.full(2, 8, np.float32).tobytes()
            with pytest.raises(grpc.RpcError) as refused:
                await stand.predict(asked(POISON), timeout=WAIT_S)
            assert refused.value.code() is grpc.StatusCode.INTERNAL
            await stand.predict(asked(1), timeout=WAIT_S, metadata=[(PREPROCESSING_METADATA, "sha256:0")])
            assert len(stand.control.orders) > looked_for

    asyncio.run(scenario())
