"""Futures that follow one another: where the first place fails another is asked, and the reply says what was tried."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from msgspec.structs import replace

from edge_runtime.errors import (
    DeadlineExceeded,
    EdgeRuntimeError,
    EngineFailed,
    InvalidInput,
    ServerFailed,
    ServerRefused,
)
from edge_runtime.scheduling.runs import late
from edge_runtime.types import InferRequest, Pending, Reply, Tried

_SHOWN = 300
"""Characters of an error that are told in an outcome."""

Rescue = tuple[Future[Reply], tuple[Tried, ...]]
"""Another place's answer to come, and what was tried before it."""


Refusal = InvalidInput | ServerRefused
"""What all servers that were asked did not take."""


def failed(place: str, error: BaseException, ms: float) -> Tried:
    """A place that was asked for so many milliseconds, and failed, or was late."""
    outcome = "late" if isinstance(error, DeadlineExceeded) else f"failed: {error}"[:_SHOWN]
    return Tried(place=place, outcome=outcome, ms=ms)


def timed_out(request: InferRequest, pending: Future[Reply], now_s: float) -> DeadlineExceeded:
    """The error for a caller whose deadline passed while it waited."""
    stage = getattr(pending, "stage", Pending.stage)
    return late(request, now_s, {f"waiting for {stage}": (now_s - request.start_s) * 1e3})


def dropped(error: BaseException | None, request: InferRequest, now_s: float) -> float | None:
    """Seconds left of a request that the device gave up as too late before its deadline; None for all others. Pure."""
    if not isinstance(error, DeadlineExceeded) or request.deadline_s is None or now_s >= request.deadline_s:
        return None
    return request.deadline_s - now_s


def failed_servers(error: ServerFailed | Refusal, ms: float) -> tuple[Tried, ...]:
    """The servers that were asked for so many milliseconds in all, and failed or refused."""
    if error.tried:
        return error.tried
    if isinstance(error, ServerFailed) and len(error.asked) == 1:
        ((address, said),) = error.asked.items()
        return (Tried(place=f"server:{address}", outcome=f"failed: {said}"[:_SHOWN], ms=ms),)
    return (failed("server", error, ms),)


def after(tried: tuple[Tried, ...], reply: Reply) -> Reply:
    """The reply of a place that was asked after others."""
    return replace(reply, before=(*tried, *reply.before)) if tried else reply


def then(
    inner: Future[Reply],
    tried: tuple[Tried, ...] = (),
    rescue: Callable[[BaseException], Rescue | None] = lambda _: None,
    stage: str = "",
) -> Pending:
    """A future that follows `inner`; where that fails, the one that `rescue` returns. Cancelling it cancels both.

    Whatever is raised on the way ends in the future: these callbacks run in other threads, where it would be lost.

    Args:
        inner: The first place's answer to come.
        tried: What was tried before it.
        rescue: Asks another place because of the error; None if there is none.
        stage: What is waited for; empty for what the futures say themselves.
    """
    outer = Pending()
    outer.stage = stage or _stage(inner)
    current = inner

    def follow(done: Future[Reply]) -> None:
        nonlocal current
        if done.cancelled() or outer.cancelled():
            return
        error = done.exception()
        if error is not None:
            rescued, error = _rescued(rescue, error)
            if rescued is not None:
                current, more = rescued
                outer.stage = _stage(current)
                current.add_done_callback(lambda again: _end(outer, again, (*tried, *more)))
                if outer.cancelled():  # Between the look above and here: then nobody has told the new one.
                    current.cancel()
                return
        settle(outer, done, error, tried)

    def cancel(_: Future[Reply]) -> None:
        if outer.cancelled():
            current.cancel()

    outer.add_done_callback(cancel)
    inner.add_done_callback(follow)
    return outer


def _end(outer: Pending, done: Future[Reply], tried: tuple[Tried, ...]) -> None:
    if not done.cancelled():
        settle(outer, done, done.exception(), tried)


def _stage(future: Future[Reply]) -> str:
    stage: str = getattr(future, "stage", Pending.stage)
    return stage


def _rescued(
    rescue: Callable[[BaseException], Rescue | None], error: BaseException
) -> tuple[Rescue | None, BaseException]:
    """What follows upon an error: another place's answer, or an error in the end."""
    try:
        return rescue(error), error
    except EdgeRuntimeError as other:
        return None, other
    except Exception as other:  # noqa: BLE001  see `then`
        wrapped = EngineFailed(f"{type(other).__name__}: {other}")
        wrapped.__cause__ = other
        return None, wrapped


def settle(
    outer: Future[Reply], done: Future[Reply], error: BaseException | None, tried: tuple[Tried, ...] = ()
) -> None:
    """Ends a future as another has ended; with the error where there is one."""
    if not outer.set_running_or_notify_cancel():
        return
    if error is not None:
        outer.set_exception(error)
    else:
        outer.set_result(after(tried, done.result()))
