"""Runs one batch: merges, splits, and sees that no request harms its batch-mates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fallback_server.batching.queue import Array, BatchQueue, Task
from fallback_server.core.errors import DeadlineExceeded, ExecutionFailed, InvalidInput, RequestCancelled, ServerError

_log = logging.getLogger(__name__)

Outcome = tuple[Task, dict[str, Array] | ServerError]
"""A task with its outputs, or with why there are none."""


class _RowsNotKept(Exception):
    """The model gave another number of rows than it was given: it can't be split."""


def execute(queue: BatchQueue, tasks: Sequence[Task], *, clock: Callable[[], float]) -> list[Outcome]:
    """Runs the tasks as one batch; each comes back with its outcome. Never raises.

    Those that are cancelled or too late are not run. When the batch fails, each is run alone, so that only those that
    fail by themselves do.
    """
    outcomes: list[Outcome] = []
    wanted: list[Task] = []
    now_s = clock()
    for task in tasks:
        refusal = unwanted(task, now_s)
        if refusal is None:
            wanted.append(task)
        else:
            outcomes.append((task, refusal))
    if len(wanted) > 1:
        try:
            return outcomes + _merged(queue, wanted)
        except _RowsNotKept as error:
            queue.merges = False
            _log.warning("%s: %s: its requests are run one by one from now on", queue.name, error)
        except Exception as error:  # noqa: BLE001  one of them is at fault: found by running each alone
            _log.info("%s: a batch of %d failed, each is run alone: %s", queue.name, len(wanted), _first_line(error))
    return outcomes + [(task, _alone(queue, task, clock())) for task in wanted]


def unwanted(task: Task, now_s: float) -> ServerError | None:
    """Why a task need not run any more; None if it must."""
    if task.caller.cancelled:
        return RequestCancelled("the caller cancelled the request")
    if task.deadline_s is not None and now_s >= task.deadline_s:
        waited_ms = (now_s - task.enqueued_s) * 1e3
        return DeadlineExceeded(f"the deadline passed after {waited_ms:.0f} ms in the queue")
    return None


def _alone(queue: BatchQueue, task: Task, now_s: float) -> dict[str, Array] | ServerError:
    refusal = unwanted(task, now_s)
    if refusal is not None:
        return refusal
    try:
        return queue.run(task.inputs)
    except InvalidInput as error:
        return error
    except Exception:  # noqa: BLE001  whatever a model does, its thread lives on
        _log.exception("%s: a request failed", queue.name)
        return ExecutionFailed("the model failed to run")


def _merged(queue: BatchQueue, tasks: Sequence[Task]) -> list[Outcome]:
    inputs = {name: np.concatenate([task.inputs[name] for task in tasks]) for name in tasks[0].inputs}
    outputs = queue.run(inputs)
    _check_rows(outputs, sum(task.rows for task in tasks))
    outcomes: list[Outcome] = []
    begin = 0
    for task in tasks:
        end = begin + task.rows
        outcomes.append((task, {name: array[begin:end] for name, array in outputs.items()}))
        begin = end
    return outcomes


def _check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise _RowsNotKept(f"{rows} rows went in, output {name!r} came out as {list(array.shape)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
