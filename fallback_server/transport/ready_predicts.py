"""Predicts like others before, which are answered at once: see `ReadyCalls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fallback_server.core.errors import ServerError
from fallback_server.dataplane import Answer, PredictCall, PredictReply
from fallback_server.leaving import code_received
from fallback_server.ready_calls import Alike
from fallback_server.transport import messages
from fallback_server.transport.answers import reply_of
from fallback_server.transport.calls import Calls, TooLarge, said_of
from fallback_server.transport.rpc import Caller


class Predicted(NamedTuple):
    """An answer to a Predict, and whether its arrays go as typed values."""

    reply: PredictReply
    typed: bool


class Found(NamedTuple):
    """A request that can be answered at once, who asks, and whether the answer's arrays go as typed values."""

    asked: Alike
    caller: Caller
    typed: bool


class ReadyPredicts:
    """See `Soon`.

    Args:
        calls: Answers.
        max_tensor_bytes: The largest tensor that is unpacked out of a request.
        content: Whether all answers hold `tensor_content`.
        too_large: Why an answer can't be sent; None where every one can.
    """

    def __init__(
        self, calls: Calls, *, max_tensor_bytes: int, content: bool, too_large: TooLarge[Predicted] | None
    ) -> None:
        self._calls = calls
        self._dataplane = calls.dataplane
        self._max_tensor_bytes = max_tensor_bytes
        self._content = content
        self._too_large = too_large

    def find(self, data: bytes, caller: Caller) -> Found | None:
        """See `Soon`."""
        if self._calls.stopping:
            return None
        found = messages.find_predict(data, max_tensor_bytes=self._max_tensor_bytes)
        if found is None:
            return None
        call, inputs = found
        if self._calls.guard is not None:
            self._calls.admit_alike(call, caller)
        said = said_of(caller)
        typed = not (self._content or said.wants_content)
        now_s, left_s = self._dataplane.clock(), caller.time_remaining()
        refuses = None
        if (too_large := self._too_large) is not None:

            def refuses(reply: PredictReply) -> ServerError | None:
                return too_large(Predicted(reply, typed))

        until_s = None if left_s is None else now_s + left_s
        return Found(Alike(call, inputs, now_s, until_s, said.preprocessing, refuses), caller, typed)

    def left_s(self, found: Found) -> float | None:
        """See `Soon`."""
        asked = found.asked
        return None if asked.deadline_s is None else asked.deadline_s - asked.started_s

    def answer(self, found: Found) -> Predicted | None:
        """See `Soon`."""
        asked = found.asked
        answer = self._dataplane.at_once(
            asked.call,
            asked.inputs,
            deadline_s=asked.deadline_s,
            preprocessing=asked.preprocessing,
            refuses=asked.refuses,
            started_s=asked.started_s,
        )
        if answer is None:
            self._calls.tried = found.caller
            return None
        return Predicted(reply_of(answer), found.typed)

    def answer_all(self, found: Sequence[Found]) -> list[Predicted | ServerError | None]:
        """See `Soon`."""
        answers = self._dataplane.all_at_once([one.asked for one in found])
        return [_predicted(answer, one.typed) for answer, one in zip(answers, found, strict=True)]

    def left(self, found: Found) -> None:
        """See `Soon`."""
        asked = found.asked
        error = code_received(came_s=asked.started_s, deadline_s=asked.deadline_s, left_s=self._dataplane.clock())
        ready = None if asked.call.like is None else asked.call.like.ready
        servable_id = None if ready is None else ready.standing.servable_id
        self._dataplane.refused(PredictCall(target=asked.call.target), error, servable_id)


def _predicted(answer: Answer | None, typed: bool) -> Predicted | ServerError | None:  # noqa: FBT001  as of `Predicted`
    return Predicted(answer, typed) if isinstance(answer, PredictReply) else answer
