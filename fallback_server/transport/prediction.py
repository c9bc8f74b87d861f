"""TensorFlow Serving's PredictionService."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fallback_server.access.rules import Scope
from fallback_server.dataplane import PredictCall, PredictReply, Verb
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import examples, messages
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.calls import Calls, Inference, TooLarge
from fallback_server.transport.ready_predicts import Predicted, ReadyPredicts
from fallback_server.transport.rpc import Caller, Rpcs
from fallback_server.transport.services import Handlers


class PredictionService:
    """Predict, Classify, Regress, MultiInference and GetModelMetadata.

    Args:
        calls: Answers.
        max_tensor_bytes: The largest tensor that is unpacked out of a request.
        guard: Knows who may see what.
        tensor_content: Whether answers to Predict hold `tensor_content` even if nobody asks for it.
    """

    def __init__(self, calls: Calls, *, max_tensor_bytes: int, guard: CallGuard, tensor_content: bool = False) -> None:
        self._calls = calls
        self._guard = guard
        self._max_tensor_bytes = max_tensor_bytes
        self._tensor_content = tensor_content

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        refused = self._calls.dataplane.refused
        inferences: tuple[Inference[Any, Any], ...] = (
            Inference(
                method=methods.PREDICT,
                read=functools.partial(messages.read_predict, max_tensor_bytes=self._max_tensor_bytes, refused=refused),
                calls=_alone,
                answered=self._predicted,
                write=lambda predicted: messages.write_predict(predicted.reply, typed=predicted.typed),
                weigh=lambda predicted: messages.reply_weight(predicted.reply, typed=predicted.typed),
                timed=True,
                soon=self._ready,
            ),
            Inference(
                method=methods.CLASSIFY,
                read=functools.partial(examples.read_classify, refused=refused),
                calls=_alone,
                answered=_answered,
                write=examples.write_classify,
                weigh=examples.answered_bytes,
            ),
            Inference(
                method=methods.REGRESS,
                read=functools.partial(examples.read_regress, refused=refused),
                calls=_alone,
                answered=_answered,
                write=examples.write_regress,
                weigh=examples.answered_bytes,
            ),
            Inference(
                method=methods.MULTI_INFERENCE,
                read=functools.partial(examples.read_multi, refused=refused),
                calls=lambda calls, _: calls,
                answered=_all_answered,
                write=examples.write_multi,
                weigh=lambda results: sum(examples.answered_bytes(answered) for _, answered in results),
                together=True,
            ),
        )
        return {
            **{inference.method: self._calls.handler(rpcs, inference) for inference in inferences},
            methods.GET_MODEL_METADATA: rpcs.message(methods.GET_MODEL_METADATA, self._metadata),
        }

    def _ready(self, too_large: TooLarge[Predicted] | None) -> ReadyPredicts:
        return ReadyPredicts(
            self._calls, max_tensor_bytes=self._max_tensor_bytes, content=self._tensor_content, too_large=too_large
        )

    def _predicted(self, call: PredictCall, caller: Caller, replies: Sequence[PredictReply]) -> Predicted:
        del caller
        return Predicted(replies[0], typed=not (self._tensor_content or call.wants_content))

    async def _metadata(self, request: pb.GetModelMetadataRequest, caller: Caller) -> pb.GetModelMetadataResponse:
        target = messages.read_target(request)
        self._guard.admit(caller, Scope.STATUS, [target.name])
        messages.check_metadata_fields(request.metadata_field)
        return messages.write_metadata(*self._calls.dataplane.signature_defs(target))


def _alone(call: PredictCall, now_s: float) -> tuple[PredictCall]:
    del now_s
    return (call,)


def _answered(call: PredictCall, caller: Caller, replies: Sequence[PredictReply]) -> examples.Answered:
    del caller
    return examples.Answered(replies[0], _rows(call))


def _all_answered(
    calls: Sequence[PredictCall], caller: Caller, replies: Sequence[PredictReply]
) -> list[tuple[Verb, examples.Answered]]:
    del caller
    return [(call.verb, examples.Answered(reply, _rows(call))) for call, reply in zip(calls, replies, strict=True)]


def _rows(call: PredictCall) -> int:
    return len(call.examples or ())
