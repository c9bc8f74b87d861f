"""Small requests like one before: answered at once, as if each had been looked at."""

import asyncio
import dataclasses

import grpc
import numpy as np
import pytest
from support import grpc_stand
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import OPTIONS, code_of, loaded

from fallback_server.access.guard import Guard
from fallback_server.access.revocations import Trust
from fallback_server.access.rules import AccessRules, Grants, Token
from fallback_server.access.tokens import digest_of
from fallback_server.batching.options import MAX_INLINE_US
from fallback_server.package_info import PackageInfo
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import PREPROCESSING_METADATA, SERVER_MS_METADATA, TENSOR_CONTENT_METADATA
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.calls import PRIORITY_HEADER
from fallback_server.transport.rpc import SMALL_IN_A_ROW
from fallback_server.transport.serving_loop import ServingLoop

pytestmark = pytest.mark.usefixtures("transport")

WAIT_S = 20
POISON = 13.0
OURS = "sha256:" + "a" * 64
UNTIL_READY = SMALL_IN_A_ROW + 300
"""Where many messages that had no likes came before, the next that is learnt is one of 256."""

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
            for _ in range(UNTIL_READY):
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

    asyncio.run(scenario())


def test_devices_are_answered_at_once_too(tmp_path):
    """They say which preprocessing made their inputs: the version's own is nothing to look at, another is refused."""

    async def scenario():
        async with loaded(FakeExecutor(factor=2), tmp_path, batching=PATIENT, inline_s=10) as stand:
            stand.control.standing_still = True
            stand.loader.result.package = PackageInfo(fingerprint="sha256:1", preprocessing_fingerprint=OURS)
            ours = [TENSOR_CONTENT_METADATA, (PREPROCESSING_METADATA, OURS), (PRIORITY_HEADER, "high")]
            for _ in range(UNTIL_READY):
                await stand.predict(asked(1), timeout=WAIT_S, metadata=ours)
            looked_for = len(stand.control.orders)
            answer = await stand.predict(asked(3), timeout=WAIT_S, metadata=ours)
            assert answer.outputs["y"].tensor_content == np.full(2, 6, np.float32).tobytes()
            assert len(stand.control.orders) == looked_for
            code, _ = await code_of(stand.predict(asked(1), metadata=[(PREPROCESSING_METADATA, "sha256:0")]))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert stand.loader.result.statistics.figures().errors == {"PreconditionFailed": 1}

    asyncio.run(scenario())


class Wide(FakeExecutor):
    """Answers with 16 kB."""

    def run(self, name, inputs):
        return {"y": np.repeat(super().run(name, inputs)["y"], 2048, axis=1)}


@pytest.mark.parametrize(
    ("bound", "code"), [(100_000, grpc.StatusCode.OK), (10_000, grpc.StatusCode.RESOURCE_EXHAUSTED)]
)
def test_answers_are_bounded_at_once_too(tmp_path, bound, code):
    """What is too large is refused, and each that is counts as that, as if it had been looked at."""

    async def scenario():
        async with loaded(Wide(), tmp_path, batching=PATIENT, inline_s=10, max_message_bytes=bound) as stand:
            stand.control.standing_still = True
            for _ in range(UNTIL_READY):
                await code_of(stand.predict(asked(1), timeout=WAIT_S))
            looked_for = len(stand.control.orders)
            assert (await code_of(stand.predict(asked(1), timeout=WAIT_S)))[0] is code
            assert len(stand.control.orders) == looked_for
            refused = {} if code is grpc.StatusCode.OK else {"QueueFull": UNTIL_READY + 1}
            assert stand.loader.result.statistics.figures().errors == refused

    asyncio.run(scenario())


def test_what_can_not_be_run_at_once_is_tried_once(tmp_path):
    """Before the message is read or after that, and then queued; it is answered all the same."""

    async def scenario():
        async with loaded(FakeExecutor(factor=2), tmp_path, batching=PATIENT, inline_s=10) as stand:
            stand.control.standing_still = True
            for _ in range(UNTIL_READY):
                await stand.predict(asked(1), timeout=WAIT_S)
            tried = []
            stand.plane.scheduler.run_alone = lambda *_, **options: tried.append(options)
            for value in range(3):
                answer = await stand.predict(asked(value), timeout=WAIT_S)
                assert list(answer.outputs["y"].float_val) == [2 * value, 2 * value]
            assert len(tried) == 3

    asyncio.run(scenario())


RULES = AccessRules(
    tokens={digest_of("line"): Token(name="line", grants=Grants(predict=("m",)))}, anonymous=Grants(status=("*",))
)


def test_who_may_ask_is_asked_of_each_that_is_answered_at_once(tmp_path):
    """By the rules that hold when it comes; who may not is refused and counted, and nothing is run for it."""

    async def scenario():
        guard = CallGuard(Guard(RULES))
        async with loaded(FakeExecutor(factor=2), tmp_path, batching=PATIENT, inline_s=10, guard=guard) as stand:
            stand.control.standing_still = True
            line = [("authorization", "Bearer line")]
            for _ in range(UNTIL_READY):
                await stand.predict(asked(1), timeout=WAIT_S, metadata=line)
            looked_for, ran = len(stand.control.orders), len(stand.executor.batches)
            answer = await stand.predict(asked(3), timeout=WAIT_S, metadata=line)
            assert list(answer.outputs["y"].float_val) == [6.0, 6.0]
            assert len(stand.control.orders) == looked_for
            codes = [(await code_of(stand.predict(asked(3), timeout=WAIT_S)))[0]]
            guard.guard.take(AccessRules(anonymous=Grants(status=("*",))), Trust())
            codes += [(await code_of(stand.predict(asked(3), timeout=WAIT_S, metadata=line)))[0]]
            assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2
            assert len(stand.executor.batches) == ran + 1

    asyncio.run(scenario())


def test_many_that_come_at_a_time_are_answered_together(tmp_path):
    """Each by its own values, or refused for them; by fewer runs than there are requests."""

    async def scenario():
        batching = dataclasses.replace(PATIENT, max_batch_size_rows=16, max_enqueued_batches=100)
        executor = FakeExecutor(factor=2, poison=POISON)
        async with loaded(executor, tmp_path, batching=batching, inline_s=10) as stand:
            stand.control.standing_still = True
            for _ in range(UNTIL_READY):
                await stand.predict(asked(1), timeout=WAIT_S)
            ran = len(executor.batches)
            begin = 0
            while begin < 640 or (not grpc_stand.NATIVE and max(executor.batches[ran:]) < 2):
                assert begin < 10_000  # One in 256 looks for others, where there were none.
                values = [float(POISON if value == begin + 5 else value + 100) for value in range(begin, begin + 32)]
                answers = await asyncio.gather(
                    *(stand.predict(asked(value), timeout=WAIT_S) for value in values), return_exceptions=True
                )
                for value, answer in zip(values, answers, strict=True):
                    if value == POISON:
                        assert answer.code() is grpc.StatusCode.INTERNAL
                    else:
                        assert list(answer.outputs["y"].float_val) == [2 * value, 2 * value]
                begin += 32
            assert stand.loader.result.statistics.figures().errors == {"ExecutionFailed": begin // 32}

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(scenario())
