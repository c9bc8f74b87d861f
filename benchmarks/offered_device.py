"""A load by a schedule on a runtime in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from benchmarks.raw_calls import DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, Calls, due
from edge_runtime import DeadlineExceeded, Overloaded
from edge_runtime.model import Model
from edge_runtime.types import Reply


def device_load(model: Model, phases: Sequence[tuple[float, float]], deadline_ms: int) -> Calls:
    """Requests at even rates, whatever becomes of them; waits until each has ended.

    Args:
        model: Who is asked.
        phases: Requests a second and seconds, one after the other.
        deadline_ms: That each has.
    """
    target = model.target
    assert target is not None
    shapes = {each.name: [max(size, 1) for size in each.shape] for each in model.signature.inputs}
    inputs = {each.name: np.zeros(shapes[each.name], each.numpy_dtype) for each in model.signature.inputs}
    due_s = due(time.monotonic(), phases)
    sent_s, took_ms, status = (np.zeros(len(due_s)) for _ in range(3))
    ended = threading.Semaphore(0)

    def end(number: int, error: BaseException | None) -> None:
        took_ms[number] = (time.monotonic() - sent_s[number]) * 1e3
        if error is not None:
            status[number] = _code(error)
        ended.release()

    used_s = time.thread_time()
    for number, at_s in enumerate(due_s.tolist()):
        while (left_s := at_s - time.monotonic()) > 0:
            time.sleep(left_s)
        sent_s[number] = now_s = time.monotonic()
        try:
            future: Future[Reply] = target.router.submit(target.request(inputs, None, now_s, now_s + deadline_ms / 1e3))
        except (Overloaded, DeadlineExceeded) as error:
            end(number, error)
        else:
            future.add_done_callback(lambda done, number=number: end(number, done.exception()))
    used_s = time.thread_time() - used_s
    for _ in range(len(due_s)):
        ended.acquire()
    return Calls(due_s, sent_s, took_ms, status, used_s * 1e6 / max(len(due_s), 1))


def _code(error: BaseException) -> int:
    """GRPC's code for what a runtime says.

    Raises:
        BaseException: it says something else than that it has too much to do.
    """
    if isinstance(error, Overloaded):
        return RESOURCE_EXHAUSTED
    if isinstance(error, DeadlineExceeded):
        return DEADLINE_EXCEEDED
    raise error
