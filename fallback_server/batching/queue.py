"""What waits: one queue for each signature of each version, and in it a group for each inner shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fallback_server.batching import policy
from fallback_server.batching.options import BatchingOptions
from fallback_server.late_inputs import size_bytes

Array = npt.NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a model on inputs by name; outputs by name. Thread-safe."""

InnerShapes = tuple[tuple[int, ...], ...]


class Caller(Protocol):
    """Whom a task is for."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRun:
    """One run that has ended well.

    Attributes:
        rows: That were asked for.
        padded_rows: That were run, with what was added to reach an allowed size.
        queued_s: How long each of its requests had waited.
        run_s: How long the run took.
    """

    rows: int
    padded_rows: int
    queued_s: tuple[float, ...]
    run_s: float


class Task:
    """One request that waits.

    Attributes:
        caller: Whom it is for.
        inputs: Checked against the signature. Those of a queue that merges have the same first dimension. Empty once it
            runs, where it is run as it is.
        deadline_s: The instant after which the answer is worthless; None when there is no such instant.
        rows: The inputs' first dimension in a queue that merges; 1 otherwise. What it takes of bounds: an empty one
            takes a turn as well, and so counts as one.
        size: The same without that: how many rows of the outputs are its own.
        bytes: The inputs' size, once they are made.
        enqueued_s: When it came.
    """

    __slots__ = ("bytes", "caller", "deadline_s", "enqueued_s", "inputs", "rows", "size")

    def __init__(self, *, caller: Caller, inputs: Mapping[str, Array], deadline_s: float | None, rows: int = 1) -> None:
        self.caller = caller
        self.inputs = inputs
        self.deadline_s = deadline_s
        self.rows = max(rows, 1)
        self.size = rows
        self.bytes = size_bytes(inputs)
        self.enqueued_s = 0.0


class BatchQueue:
    """The tasks that wait for one signature of one version. Guards no threads: the scheduler does.

    Only tasks whose inputs agree in all dimensions but the first can be merged, so each combination is a group of its
    own; the group that is due first comes first.

    Attributes:
        name: For logs.
        run: The model.
        options: Its bounds.
        merges: Whether several tasks may run as one. Turned off for good when the model turns out not to keep rows.
        rows: How many rows wait.
        on_run: Told of every run that has ended well, in the thread that ran it; must not raise. None for nobody.
    """

    def __init__(
        self,
        *,
        name: str,
        run: Run,
        options: BatchingOptions,
        merges: bool,
        on_run: Callable[[BatchRun], None] | None = None,
    ) -> None:
        self.name = name
        self.run = run
        self.options = options
        self.merges = merges and options.enabled
        self.rows = 0
        self.on_run = on_run
        self._groups: dict[InnerShapes, _Group] = {}

    def admits(self, rows: int) -> bool:
        """Whether so many rows more may wait."""
        return policy.admits(rows=rows, queued_rows=self.rows, max_queued_rows=self.options.max_enqueued_rows)

    def put(self, task: Task) -> None:
        """Appends a task to its group."""
        key = _inner_shapes(task.inputs) if self.merges else ()
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        group.tasks.append(task)
        group.rows += task.rows
        self.rows += task.rows

    def due_at_s(self) -> float:
        """When the next batch is due. Something must wait."""
        return min(map(self._group_due_at_s, self._groups.values()))

    def take(self) -> list[Task]:
        """Removes and returns the batch that is due first. Something must wait."""
        key = min(self._groups, key=lambda key: self._group_due_at_s(self._groups[key]))
        group = self._groups[key]
        rows = (task.rows for task in group.tasks)
        count = policy.take(rows, max_rows=self.options.max_batch_size_rows) if self.merges else 1
        batch = [group.tasks.popleft() for _ in range(count)]
        taken = sum(task.rows for task in batch)
        self.rows -= taken
        group.rows -= taken
        if not group.tasks:
            del self._groups[key]
        return batch

    def drop(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Removes and returns the tasks that nobody wants any more, wherever they stand."""
        dropped: list[Task] = []
        for key, group in list(self._groups.items()):
            # Asked once a task: a caller may go away between two looks.
            verdicts = [(task, unwanted(task)) for task in group.tasks]
            gone = [task for task, no in verdicts if no]
            if not gone:
                continue
            group.tasks = deque(task for task, no in verdicts if not no)
            rows = sum(task.rows for task in gone)
            group.rows -= rows
            self.rows -= rows
            dropped += gone
            if not group.tasks:
                del self._groups[key]
        return dropped

    def __len__(self) -> int:
        return sum(len(group.tasks) for group in self._groups.values())

    def __repr__(self) -> str:
        return f"BatchQueue({self.name}, {len(self)} tasks, {self.rows} rows, {'merges' if self.merges else 'single'})"

    def _group_due_at_s(self, group: _Group) -> float:
        return policy.due_at_s(
            oldest_s=group.tasks[0].enqueued_s,
            rows=group.rows,
            max_rows=self.options.max_batch_size_rows,
            timeout_s=self.options.batch_timeout_s if self.merges else 0.0,
        )


class _Group:
    __slots__ = ("rows", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque()
        self.rows = 0


def _inner_shapes(inputs: Mapping[str, Array]) -> InnerShapes:
    return tuple(inputs[name].shape[1:] for name in sorted(inputs))
