"""Requests that are like one that was answered before: answered without being looked at, several by one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fallback_server.admitted import Checked, answer_of, received_by
from fallback_server.batching.queue import Array, BatchQueue
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import ExecutionFailed, ServerError
from fallback_server.core.handle import Standing
from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.package_info import takes_preprocessing
from fallback_server.predict_call import Answer, Likeness, Observe, PredictCall, Ready, Refuses
from fallback_server.served_model import ServedModel

READY_EVERY = 256
"""Requests that are alike, of which one tries whether those after it need not be looked at."""


_APART = ExecutionFailed("each is to be run by itself")


class Stands(Protocol):
    """Knows which version that is; see `Versions`."""

    def standing(self, target: ModelTarget) -> Standing[ServedModel] | None:
        """The version that every request of a target gets, whoever asks; None where that is no single one."""
        ...


class Alike(NamedTuple):
    """One of the requests that are like a call; see `ReadyCalls.at_once`.

    Attributes:
        call: Says what it has in common with others.
        inputs: Its own; likewise what follows.
        started_s: When it came, of the data plane's clock.
        deadline_s: As of a call.
        preprocessing: As of a call.
        refuses: As of a call.
    """

    call: PredictCall
    inputs: Mapping[str, Array]
    started_s: float
    deadline_s: float | None = None
    preprocessing: str = ""
    refuses: Refuses | None = None


class ReadyCalls:
    """Any thread may call any method.

    Args:
        versions: Says which version answers whom.
        scheduler: Runs.
        observe: As of the data plane.
        clock: Of the data plane.
    """

    def __init__(
        self, *, versions: Stands, scheduler: BatchScheduler, observe: Observe | None, clock: Callable[[], float]
    ) -> None:
        self._versions = versions
        self._scheduler = scheduler
        self._observe = observe
        self._clock = clock

    def make(self, call: PredictCall, like: Likeness, checked: Checked) -> None:
        """Has requests like one that could be run at once answered by `at_once`, where all get the same version."""
        if like.pause and like.ready is None:
            like.pause -= 1  # Of two threads that count at once one may be lost.
            return
        handle, name, rows = checked
        like.pause = READY_EVERY - 1
        standing = self._versions.standing(call.target)
        if standing is not None and standing.servable is handle.servable:
            like.pause = 0  # Where it is withdrawn for what comes in between, whoever can be run next has it back.
            like.ready = Ready(standing=standing, name=name, rows=rows, versions=self._versions)

    def at_once(
        self,
        call: PredictCall,
        inputs: Mapping[str, Array],
        *,
        deadline_s: float | None = None,
        inline_s: float | None = None,
        preprocessing: str = "",
        refuses: Refuses | None = None,
        started_s: float | None = None,
    ) -> Answer | None:
        """Answers a request that is like one that was answered before, in this thread, without looking at it.

        None where that may not be: something has changed, or it is to be queued. Then nothing has been done, and the
        request is to come by `DataPlane.now`.

        Args:
            call: Says what it has in common with others, and need not be it. It is not changed.
            inputs: Its own; likewise what follows.
            deadline_s: As of a call.
            inline_s: As in `DataPlane.predict`.
            preprocessing: As of a call.
            refuses: As of a call.
            started_s: When it came; None for now.
        """
        like = call.like
        ready = None if like is None else like.ready
        if like is None or ready is None or ready.versions is not self._versions:
            return None
        if started_s is None:
            started_s = self._clock()
        standing = ready.standing
        loaded = standing.hold()
        if loaded is None:
            like.forget()
            return None
        try:
            servable, name = loaded.servable, ready.name
            if preprocessing and not takes_preprocessing(preprocessing, servable.package):
                return None
            outcome = self._scheduler.run_alone(
                servable.queues[name], inputs, rows=ready.rows, deadline_s=deadline_s, inline_s=inline_s
            )
            if outcome is None:
                like.in_vain()
                return None
            if like.vain:
                like.vain = 0
            answer = answer_of(call, standing.servable_id, name, outcome, refuses)
            # Another thread may have heard meanwhile that its caller has left.
            received = answer if call.left_s is None else received_by(call, answer)
            took_s = self._clock() - started_s
            if self._observe is not None:
                self._observe(call, standing.servable_id, received, took_s)
            servable.statistics.settled(received if isinstance(received, ServerError) else None, took_s)
        finally:
            standing.let_go(loaded)
        return answer

    def all_at_once(self, asked: Sequence[Alike]) -> list[Answer | None]:
        """As `at_once` for each, in their order: those that are like the same call by one run, where that may be."""
        first = asked[0].call
        if all(one.call is first for one in asked):
            return self._group(asked)
        groups: dict[PredictCall, list[int]] = {}
        for index, one in enumerate(asked):
            groups.setdefault(one.call, []).append(index)
        answers: list[Answer | None] = [None] * len(asked)
        for indices in groups.values():
            for index, answer in zip(indices, self._group([asked[index] for index in indices]), strict=True):
                answers[index] = answer
        return answers

    def _group(self, asked: Sequence[Alike]) -> list[Answer | None]:
        """Those that are like one call. What is too much for one run is two; what fails together is run one by one."""
        if len(asked) > 1:
            merged = self._merged(asked)
            if isinstance(merged, list):
                return merged
            if merged is None:
                half = len(asked) // 2
                return [*self._group(asked[:half]), *self._group(asked[half:])]
        return [
            self.at_once(
                one.call,
                one.inputs,
                deadline_s=one.deadline_s,
                preprocessing=one.preprocessing,
                refuses=one.refuses,
                started_s=one.started_s,
            )
            for one in asked
        ]

    def _merged(self, asked: Sequence[Alike]) -> list[Answer | None] | ServerError | None:
        """The answers by one run; None where so many are too much for one; an error where they can't be merged."""
        like = asked[0].call.like
        ready = None if like is None else like.ready
        if like is None or ready is None or ready.versions is not self._versions:
            return _APART
        standing = ready.standing
        loaded = standing.hold()
        if loaded is None:
            return _APART
        try:
            servable, name = loaded.servable, ready.name
            queue = servable.queues[name]
            rows, count = ready.rows, len(asked)
            inline_s = count * self._scheduler.inline_s  # One after another they might take that.
            outcome: dict[str, Array] | ServerError | None = _APART
            if queue.merges and all(_takes(servable, one) for one in asked):
                if not (
                    queue.takes_alone(asked[0].inputs, count * rows) and queue.is_short(count * rows, bound_s=inline_s)
                ):
                    return None
                outcome = self._run(queue, asked, count * rows, inline_s)
            if isinstance(outcome, dict):
                return [
                    self._told(servable, standing.servable_id, name, one, _rows_of(outcome, index * rows, rows))
                    for index, one in enumerate(asked)
                ]
        finally:
            standing.let_go(loaded)
        if outcome is None and all(one.deadline_s is None for one in asked):
            like.in_vain()  # Once for all: what stands against one stands against each.
            return [None] * count
        return outcome or _APART

    def _run(
        self, queue: BatchQueue, asked: Sequence[Alike], rows: int, inline_s: float
    ) -> dict[str, Array] | ServerError | None:
        return self._scheduler.run_alone(
            queue,
            {name: np.concatenate([one.inputs[name] for one in asked]) for name in asked[0].inputs},
            rows=rows,
            deadline_s=min((one.deadline_s for one in asked if one.deadline_s is not None), default=None),
            inline_s=inline_s,
            came_s=[one.started_s for one in asked],
        )

    def _told(
        self, servable: ServedModel, servable_id: ServableId, name: str, one: Alike, outputs: dict[str, Array]
    ) -> Answer:
        """The answer to one of several, which is counted."""
        answer = answer_of(one.call, servable_id, name, outputs, one.refuses)
        took_s = self._clock() - one.started_s
        if self._observe is not None:
            self._observe(one.call, servable_id, answer, took_s)
        servable.statistics.settled(answer if isinstance(answer, ServerError) else None, took_s)
        return answer


def _takes(servable: ServedModel, one: Alike) -> bool:
    return not one.preprocessing or takes_preprocessing(one.preprocessing, servable.package)


def _rows_of(outputs: Mapping[str, Array], begin: int, count: int) -> dict[str, Array]:
    return {name: array[begin : begin + count] for name, array in outputs.items()}
