"""Many requests of one caller, in order, at full throughput: what `Model.predict_many` does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Literal, NamedTuple, Protocol

import numpy as np
from msgspec.structs import replace

from edge_runtime.config import Cascade
from edge_runtime.errors import (
    EdgeRuntimeError,
    EngineFailed,
    InvalidInput,
    Overloaded,
    RuntimeClosed,
    ServerRefused,
)
from edge_runtime.inputs import Inputs
from edge_runtime.routing.policy import DEVICE_FIRST
from edge_runtime.scheduling.bulk import Bulk, asked_again
from edge_runtime.target import Target
from edge_runtime.types import Executor, InferRequest, Policy, Reply

_IN_FLIGHT = 64
"""Requests under way: enough to keep batches full, few enough to bound memory."""

_BULK = 16
"""Requests that are handed over at once: a quarter of those under way, so that engines run while more are read."""

_BULK_S = 0.005
"""How long what is handed over at once should run: more would hold up what is urgent, and a thread's waking, some
0.05 ms, is little beside it."""

_OWN_THREAD_S = 0.00005
"""Runs shorter than this are made in the caller's thread: another one would need the GIL as often as it."""


_Again = Callable[[Inputs], Reply]
"""Asks a request of the series once more, alone."""


class Asking(NamedTuple):
    """What all requests of a series have in common; see `Model.predict`.

    Attributes:
        signature: The signature's name; None for the default one.
        priority: As in `InferRequest`.
        policy: Where they may be answered; None for the model's.
        unsure: When an answer of the device's goes on to a server; likewise.
    """

    signature: str | None = None
    priority: int = 1
    policy: Policy | None = None
    unsure: Cascade | None = None


class Asker(Protocol):
    """What a series needs of a model."""

    def described(self, policy: Policy | None = None) -> Target:
        """The present target, whose signatures are known."""
        ...

    def redescribed(self, target: Target, seen: int, deadline_s: float | None, policy: Policy | None) -> bool:
        """Whether what was refused should be tried again: see `Model.redescribed`."""
        ...

    def predict(
        self,
        inputs: Inputs,
        *,
        signature: str | None,
        priority: Literal["high", "normal"],
        policy: Policy | None,
        unsure: Cascade | None,
    ) -> Reply:
        """See `Model.predict`."""
        ...


def answers(asker: Asker, requests: Iterable[Inputs], asking: Asking, clock: Callable[[], float]) -> Iterator[Reply]:
    """The answers in order, while at most so many requests are under way.

    Where the device's runs are short, requests are handed over some at a time, so that what a request costs beside its
    run is not a thread's waking.

    Raises:
        EdgeRuntimeError: of the request whose turn it is; those behind it are cancelled.
    """

    def again(inputs: Inputs) -> Reply:
        priority: Literal["high", "normal"] = "normal" if asking.priority else "high"
        return asker.predict(
            inputs, signature=asking.signature, priority=priority, policy=asking.policy, unsure=asking.unsure
        )

    source = iter(requests)
    under_way: deque[_Single | _Bulk] = deque()
    count = 0
    try:
        while True:
            part = _read(asker, source, asking, clock)
            if part is None:
                break
            while (started := _start(part, wait=not under_way)) is None:
                count -= len(under_way[0].requests)
                yield from under_way.popleft().replies(again)
            under_way.append(started)
            count += len(started.requests)
            if started.last:
                break
            while count + _BULK > _IN_FLIGHT:
                count -= len(under_way[0].requests)
                yield from under_way.popleft().replies(again)
        while under_way:
            yield from under_way.popleft().replies(again)
    finally:
        for one in under_way:
            one.future.cancel()


class _Part:
    """Requests that were read together, and the error of the one behind them; where answers are judged, by what."""

    def __init__(self, target: Target | None) -> None:
        self.target = target
        self.cascade: Executor | None = None
        self.requests: list[InferRequest] = []
        self.error: EdgeRuntimeError | None = None


class _Single:
    """One request under way; or none, but its error."""

    def __init__(self, future: Future[Reply], part: _Part, *, last: bool = False) -> None:
        self.future = future
        self.requests = [] if last else part.requests
        self.last = last
        self._target = part.target

    def replies(self, again: _Again) -> Iterator[Reply]:
        target = self._target
        try:
            reply = self.future.result()
            if target is not None:
                target.meter.answered(reply)
            yield reply
        except EdgeRuntimeError as error:
            gone = isinstance(error, RuntimeClosed)
            doubted = isinstance(error, InvalidInput | ServerRefused) and target is not None and target.version is None
            if not (gone or doubted) or not self.requests:
                if target is not None:
                    target.meter.failed(error)
                raise
            # The version was unloaded while the request was at a server that failed: the one that follows answers. Or
            # the servers' latest has changed under the request.
            yield again(self.requests[0].inputs)


class _Bulk:
    """Several requests under way together, and the error of the one behind them."""

    def __init__(self, bulk: Bulk, part: _Part, target: Target) -> None:
        self.future = bulk
        self.requests = part.requests
        self.last = part.error is not None
        self._error = part.error
        self._meter = target.meter

    def replies(self, again: _Again) -> Iterator[Reply]:
        if not self.future.done_all:
            self.future.exception()
        outcomes = self.future.outcomes
        for i, request in enumerate(self.requests):
            outcome = outcomes[i] if i < len(outcomes) else None
            if isinstance(outcome, Reply):
                self._meter.answered(outcome)
                yield outcome
            elif outcome is None or asked_again(outcome):
                yield again(request.inputs)
            else:
                self._meter.failed(outcome)
                raise outcome
        if self._error is not None:
            self._meter.failed(self._error)
            raise self._error


def _read(asker: Asker, source: Iterator[Inputs], asking: Asking, clock: Callable[[], float]) -> _Part | None:
    """The next requests, checked and copied; None at the end of the source. What is for servers comes one by one."""
    part = _Part(None)
    size, until_s = 1, clock() + _BULK_S
    for inputs in source:
        try:
            if part.target is None:
                part.target = asker.described(asking.policy)
                executor = part.target.judging(asking.unsure)
                part.cascade = None if executor is part.target.router else executor
                row_s = part.target.router.bulk_row_s if part.cascade is None else None
                if row_s is not None and (asking.policy or part.target.policy) in DEVICE_FIRST:
                    size = min(_BULK, int(_BULK_S / max(row_s, 1e-9)))
            start_s = clock()
            seen = part.target.description.generation
            try:
                request = part.target.request(inputs, asking.signature, start_s, None)
            except InvalidInput:
                if not asker.redescribed(part.target, seen, None, asking.policy):
                    raise
                request = part.target.request(inputs, asking.signature, start_s, None)
        except EdgeRuntimeError as error:
            part.error = error
            return part
        request.inputs.update({name: np.array(array) for name, array in request.inputs.items()})
        policy = asking.policy or request.policy
        if (asking.priority, policy) != (request.priority, request.policy):
            request = replace(request, priority=asking.priority, policy=policy)
        part.requests.append(request)
        if len(part.requests) >= size or clock() >= until_s:
            return part
    return part if part.requests else None


def _start(part: _Part, *, wait: bool) -> _Single | _Bulk | None:
    """What was read, under way; None if the queue is full and answers can be taken first."""
    target, requests = part.target, part.requests
    if target is None or not requests:
        return _Single(_failed(part.error or RuntimeClosed("closed")), part, last=True)
    failure: EdgeRuntimeError
    try:
        if len(requests) == 1 and part.error is None:
            if part.cascade is not None:
                return _Single(part.cascade.submit(requests[0]), part)
            return _Single(target.router.submit(requests[0], hedge=False), part)
        return _Bulk(_bulk(target, requests), part, target)
    except Overloaded as error:
        if not wait:
            return None
        failure = error
    except EdgeRuntimeError as error:
        failure = error
    # Each is asked again in its turn: of the version that follows, where this one was unloaded.
    ended = Bulk(requests)
    ended.set_exception(failure)
    return _Bulk(ended, part, target)


def _bulk(target: Target, requests: list[InferRequest]) -> Bulk:
    """The requests under way on the device; short runs are made here."""
    row_s = target.router.bulk_row_s
    if row_s is not None and row_s < _OWN_THREAD_S:
        bulk = Bulk(requests)
        while not bulk.done_all and target.router.try_bulk(bulk):
            pass
        if bulk.done_all:
            return bulk
        if bulk.outcomes:
            # Others wait by now. What is left is asked one by one.
            bulk.set_exception(EngineFailed("not run"))
            return bulk
    return target.router.submit_bulk(requests)


def _failed(error: EdgeRuntimeError) -> Future[Reply]:
    future: Future[Reply] = Future()
    future.set_exception(error)
    return future
