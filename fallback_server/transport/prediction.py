"""TensorFlow Serving's PredictionService."""

from __future__ import annotations

import functools
from typing import NamedTuple

from fallback_server.dataplane import PredictCall, PredictReply, Verb
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import examples, messages
from fallback_server.transport.calls import Calls
from fallback_server.transport.rpc import Context, Rpcs
from fallback_server.transport.services import Handlers


class _Predicted(NamedTuple):
    """An answer to a Predict, and whether its arrays go as typed values."""

    reply: PredictReply
    typed: bool


class PredictionService:
    """Predict, Classify, Regress, MultiInference and GetModelMetadata.

    Args:
        calls: Answers.
        max_tensor_bytes: The largest tensor that is unpacked out of a request.
        tensor_content: Whether answers to Predict hold `tensor_content` even if nobody asks for it.
    """

    def __init__(self, calls: Calls, *, max_tensor_bytes: int, tensor_content: bool = False) -> None:
        self._calls = calls
        self._max_tensor_bytes = max_tensor_bytes
        self._tensor_content = tensor_content

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        refused = self._calls.dataplane.refused
        return {
            methods.PREDICT: rpcs.unary(
                methods.PREDICT,
                self._predict,
                read=functools.partial(messages.read_predict, max_tensor_bytes=self._max_tensor_bytes, refused=refused),
                write=lambda predicted: messages.write_predict(predicted.reply, typed=predicted.typed),
                weigh=lambda predicted: messages.reply_weight(predicted.reply, typed=predicted.typed),
                timed=True,
            ),
            methods.CLASSIFY: rpcs.unary(
                methods.CLASSIFY,
                self._answer,
                read=functools.partial(examples.read_classify, refused=refused),
                write=examples.write_classify,
                weigh=examples.answered_bytes,
            ),
            methods.REGRESS: rpcs.unary(
                methods.REGRESS,
                self._answer,
                read=functools.partial(examples.read_regress, refused=refused),
                write=examples.write_regress,
                weigh=examples.answered_bytes,
            ),
            methods.MULTI_INFERENCE: rpcs.unary(
                methods.MULTI_INFERENCE,
                self._multi,
                read=functools.partial(examples.read_multi, refused=refused),
                write=examples.write_multi,
                weigh=lambda results: sum(examples.answered_bytes(answered) for _, answered in results),
            ),
            methods.GET_MODEL_METADATA: rpcs.message(methods.GET_MODEL_METADATA, self._metadata),
        }

    async def _predict(self, call: PredictCall, context: Context) -> _Predicted:
        typed = not (self._tensor_content or _asks_for_content(context))
        return _Predicted(await self._calls.predict(call, context), typed)

    async def _answer(self, call: PredictCall, context: Context) -> examples.Answered:
        return examples.Answered(await self._calls.predict(call, context), _rows(call))

    async def _multi(self, calls: list[PredictCall], context: Context) -> list[tuple[Verb, examples.Answered]]:
        replies = await self._calls.multi(calls, context)
        return [(call.verb, examples.Answered(reply, _rows(call))) for call, reply in zip(calls, replies, strict=True)]

    async def _metadata(self, request: pb.GetModelMetadataRequest, context: Context) -> pb.GetModelMetadataResponse:
        del context
        target = messages.read_target(request)
        messages.check_metadata_fields(request.metadata_field)
        return messages.write_metadata(*self._calls.dataplane.signature_defs(target))


def _asks_for_content(context: Context) -> bool:
    return any((key, value) == methods.TENSOR_CONTENT_METADATA for key, value in context.invocation_metadata() or ())


def _rows(call: PredictCall) -> int:
    return len(call.examples or ())
