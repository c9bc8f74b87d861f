"""Runs one batch: merges, pads, splits, and sees that no request harms its batch-mates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from fallback_server.batching.queue import Array, BatchQueue, BatchRun, Task
from fallback_server.batching.tasks import Piece, PiecesUnlike, Whole
from fallback_server.core.errors import DeadlineExceeded, ExecutionFailed, NotReady, RequestCancelled, ServerError
from fallback_server.executors.base import GivenInputs, JoinedInputs

_log = logging.getLogger(__name__)

Outcome = tuple[Task, dict[str, Array] | ServerError]
"""A task with its outputs, or with why there are none."""


class _RowsNotKept(Exception):
    """The model gave another number of rows than it was given: it can't be split."""


def execute(queue: BatchQueue, tasks: Sequence[Task], *, clock: Callable[[], float]) -> list[Outcome]:
    """Runs the tasks as one batch; each comes back with its outcome, pieces as the whole they make. Never raises.

    Those that are refused, cancelled, or too late, are not run. When the batch fails, each is run
    alone, so that only those that fail by themselves do.
    """
    try:
        outcomes = _executed(queue, tasks, clock)
    except Exception:  # noqa: BLE001  whatever it is, nobody is left waiting, and its thread lives on
        failed = _failed(queue)
        outcomes = [(task, failed) for task in tasks]
    if not any(task.whole for task in tasks):
        return outcomes
    for task in tasks:
        if isinstance(task, Piece) and task.whole is not None and len(tasks) > 1:
            task.whole.shared = task
    return [
        found
        for task, outcome in outcomes
        if (found := _put_together(queue, task, outcome, clock) if isinstance(task, Piece) else (task, outcome))
    ]


def execute_alone(
    queue: BatchQueue,
    inputs: Mapping[str, Array],
    *,
    rows: int,
    came_s: Sequence[float] = (),
    clock: Callable[[], float],
) -> dict[str, Array] | ServerError:
    """Runs a request that is a batch by itself, as it came, and as soon as it came; or several. Never raises.

    The same as `execute` for the one task that it would be, which is wanted, needs no padding, and comes whole. Of
    several, see `BatchScheduler.run_alone`, an error is told to nobody: each is to be run by itself then.
    """
    begin_s = clock()
    try:
        outputs = queue.run(inputs)
        if came_s:
            _check_rows(outputs, rows)
    except ServerError as error:
        return error
    except _RowsNotKept as error:
        _stop_merging(queue, error)
        return ExecutionFailed(str(error))
    except Exception as error:  # noqa: BLE001  as in `_alone`
        if not came_s:
            return _failed(queue)
        _apart(queue, len(came_s), error)
        return ExecutionFailed("they failed together")
    end_s = clock()
    queued_s = tuple([begin_s - one_s for one_s in came_s]) if came_s else (0.0,)
    queue.ran(BatchRun(rows=rows, padded_rows=rows, queued_s=queued_s, run_s=end_s - begin_s), end_s)
    return outputs


def _executed(queue: BatchQueue, tasks: Sequence[Task], clock: Callable[[], float]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    wanted: list[Task] = []
    now_s = clock()
    for task in tasks:
        refusal = task.refused or unwanted(task, now_s)
        if refusal is None:
            wanted.append(task)
        else:
            outcomes.append((task, refusal))
    if len(wanted) > 1:
        try:
            return outcomes + _merged(queue, wanted, clock)
        except _RowsNotKept as error:
            _stop_merging(queue, error)
        except (ExecutionFailed, NotReady) as error:
            # What ran it is gone, and runs none of them alone either.
            return outcomes + [(task, error) for task in wanted]
        except Exception as error:  # noqa: BLE001  one of them is at fault: found by running each alone
            _apart(queue, len(wanted), error)
    return outcomes + [(task, _alone(queue, task, clock)) for task in wanted]


def _put_together(
    queue: BatchQueue, piece: Piece, outcome: dict[str, Array] | ServerError, clock: Callable[[], float]
) -> Outcome | None:
    """What the piece's whole comes to; None where that is not known yet, or was before."""
    whole = piece.whole
    assert whole is not None
    try:
        return _whole_outcome(queue, piece, whole, outcome, clock)
    except Exception:  # noqa: BLE001  as in `execute`
        found = whole.add(piece, _failed(queue))
        return None if found is None else (whole.task, found)


def _whole_outcome(
    queue: BatchQueue,
    piece: Piece,
    whole: Whole,
    outcome: dict[str, Array] | ServerError,
    clock: Callable[[], float],
) -> Outcome | None:
    if not isinstance(outcome, ServerError):
        if queue.merges:
            try:
                _check_rows(outcome, piece.size)
            except _RowsNotKept as error:
                _stop_merging(queue, error)
        if not queue.merges:  # Then its rows don't stand for themselves.
            return (whole.task, _alone(queue, whole.task, clock)) if whole.settle() else None
    try:
        found = whole.add(piece, outcome)
    except PiecesUnlike as error:
        again, whole.shared = whole.shared, None
        if again is not None and again.inputs:  # Those beside it may have made it so.
            return _whole_outcome(queue, again, whole, _alone(queue, again, clock), clock)
        found = whole.add(piece, ExecutionFailed(str(error)))
    return None if found is None else (whole.task, found)


def unwanted(task: Task, now_s: float) -> ServerError | None:
    """Why a task need not run any more; None if it must."""
    if task.caller.cancelled:
        return RequestCancelled("the caller cancelled the request")
    if task.deadline_s is not None and now_s >= task.deadline_s:
        waited_ms = (now_s - task.enqueued_s) * 1e3
        return DeadlineExceeded(f"the deadline passed after {waited_ms:.0f} ms in the queue")
    return None


def _alone(queue: BatchQueue, task: Task, clock: Callable[[], float]) -> dict[str, Array] | ServerError:
    refusal = unwanted(task, clock())
    if refusal is not None:
        return refusal
    try:
        try:
            return _run(queue, [task], clock)
        except _RowsNotKept as error:
            _stop_merging(queue, error)
            return _watched(queue, [task], queue.run_rows(task.size), task.made(), clock())
    except ServerError as error:
        return error
    except Exception:  # noqa: BLE001  whatever a model does, its thread lives on
        return _failed(queue)


def _failed(queue: BatchQueue) -> ExecutionFailed:
    """What whoever asked is told of the error that is being handled."""
    _log.exception("%s: a request failed", queue.name)
    return ExecutionFailed("the model failed to run")


def _merged(queue: BatchQueue, tasks: Sequence[Task], clock: Callable[[], float]) -> list[Outcome]:
    outputs = _run(queue, tasks, clock)
    _check_rows(outputs, sum(task.size for task in tasks))
    outcomes: list[Outcome] = []
    begin = 0
    for task in tasks:
        end = begin + task.size
        outcomes.append((task, {name: array[begin:end] for name, array in outputs.items()}))
        begin = end
    return outcomes


def _run(queue: BatchQueue, tasks: Sequence[Task], clock: Callable[[], float]) -> dict[str, Array]:
    """Runs tasks as one, padded up to an allowed size; what the padding gave is cut off again.

    The padding repeats the first row: a row that a caller has sent is one that the model can take. Inputs that are run
    as they came are given away: nothing that can come of it has them run again.

    Raises:
        _RowsNotKept: it was padded, and so can't be cut.
    """
    rows = sum(task.size for task in tasks)
    size = queue.run_rows(rows)
    parts = [task.made() for task in tasks]
    if queue.lengths is not None and queue.merges and not tasks[0].exact:
        parts = queue.lengths.alike(parts)
    inputs: Mapping[str, Array]
    if len(tasks) == 1 and size == rows:
        inputs = GivenInputs(parts[0])
        tasks[0].give_away()
    else:
        inputs = JoinedInputs(parts, padding=size - rows)
    del parts
    begin_s = clock()
    outputs = _watched(queue, tasks, size, inputs, begin_s)
    end_s = clock()
    queued_s = tuple([begin_s - task.enqueued_s for task in tasks if not (isinstance(task, Piece) and task.begin)])
    queue.ran(BatchRun(rows=rows, padded_rows=size, queued_s=queued_s, run_s=end_s - begin_s), end_s)
    if size == rows:
        return outputs
    _check_rows(outputs, size)
    return {name: array[:rows] for name, array in outputs.items()}


def _watched(
    queue: BatchQueue, tasks: Sequence[Task], rows: int, inputs: Mapping[str, Array], begin_s: float
) -> dict[str, Array]:
    """Runs the model; where it has a process of its own, which can be ended, so that it is known for whom it runs."""
    if queue.process is None:
        return queue.run(inputs)
    run = queue.under_way.begin(tasks, rows, begin_s)
    try:
        return queue.run(inputs)
    finally:
        queue.under_way.end(run)


def _apart(queue: BatchQueue, count: int, error: Exception) -> None:
    _log.info("%s: a batch of %d failed, each is run alone: %s", queue.name, count, _first_line(error))


def _stop_merging(queue: BatchQueue, why: _RowsNotKept) -> None:
    queue.merges = False
    _log.warning("%s: %s: its requests are run one by one from now on", queue.name, why)


def _check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise _RowsNotKept(f"{rows} rows went in, output {name!r} came out as {list(array.shape)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
