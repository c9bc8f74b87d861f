"""What waits: one queue for each signature of each version, and in it a group for each inner shape."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence

from fallback_server.batching import policy
from fallback_server.batching.abandoned import UnderWay
from fallback_server.batching.adaptive import LatencyTarget
from fallback_server.batching.backlog import Backlog
from fallback_server.batching.batch_run import BatchRun
from fallback_server.batching.company import Process
from fallback_server.batching.costs import RunCosts
from fallback_server.batching.drain import Drain, Room
from fallback_server.batching.fairness import Turn
from fallback_server.batching.filling import MAX_LOOKED_AT
from fallback_server.batching.gathering import Gathering
from fallback_server.batching.groups import Group
from fallback_server.batching.lengths import Lengths, Shapes, class_of
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.runs import Runner
from fallback_server.batching.tasks import Array, Caller, Task
from fallback_server.batching.timely import Timely
from fallback_server.core.errors import ExecutionFailed, InvalidInput, QueueFull, ServerError
from fallback_server.late_inputs import LateInputs, size_bytes

__all__ = ["Array", "BatchQueue", "BatchRun", "Caller", "Run", "Task"]

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a model on inputs by name; outputs by name. Thread-safe."""

TOO_LONG = 4
"""Times as long as whoever brings a request may run it."""

_keys = itertools.count()
_LEFT = operator.attrgetter("caller.cancelled")


class BatchQueue:
    """The tasks that wait for one signature of one version. Guards no threads: the scheduler does.

    Only tasks whose inputs agree in all dimensions but the first can be merged, or can be made to agree, so each
    combination is a group of its own; of the groups that are due the one whose head has waited longest comes first.
    Requests that are larger than half of all places stand beside the groups, and let them run after each piece.

    Args:
        name: For logs.
        run: The model.
        options: Its bounds.
        merges: Whether several tasks may run as one.
        on_run: Told of every run that has ended well, in the thread that ran it; must not raise. None for nobody.
        variable_axes: Input name -> its variable dimensions but the first, which may be padded where options say so.
        lanes: How many of its runs may be under way, beside all others; 0: as the scheduler shares out its threads.
        runner: What runs it and other queues, where that takes only so many at a time.
        in_process: Whether a run costs no hop to another process, and so may be worth no hop to another thread.
        process: What runs it, where that can leave a core to others.
        tried_s: How long a row took as the model was loaded; 0 where nobody knows.

    Attributes:
        name, run, options: See above.
        merges: Whether several tasks may run as one. Turned off for good when the model turns out not to keep rows.
        rows: How many rows wait.
        bytes: How many bytes of input wait.
        lanes, runner, process, in_process, on_run: See above.
        room_until_s: Until when it leaves a core and a place to others, being flooded; see `Company`. The scheduler's.
        lengths: How inputs of different lengths are made alike, or None.
        costs: What its runs have taken.
        under_way: Its runs in a process of its own, which are watched.
        turn: Its account with the scheduler, and its weight.
        runs_here: How many of its batches ran in the thread that brought their requests.
    """

    def __init__(
        self,
        *,
        name: str,
        run: Run,
        options: BatchingOptions,
        merges: bool,
        on_run: Callable[[BatchRun], None] | None = None,
        variable_axes: Mapping[str, frozenset[int]] | None = None,
        lanes: int = 0,
        in_process: bool = False,
        runner: Runner | None = None,
        process: Process | None = None,
        tried_s: float = 0.0,
    ) -> None:
        self.name = name
        self.run = run
        self.options = options
        self.merges = merges and options.enabled
        self.rows = 0
        self.bytes = 0
        self._most_rows = options.max_enqueued_rows
        self._half_rows = max(self._most_rows // 2, options.max_batch_size_rows)
        self.lanes = lanes
        self.runner = runner
        self.process = process
        self.room_until_s = -math.inf
        self.runs_here = 0
        self.lengths: Lengths | None = None
        if options.pad_variable_length_inputs and variable_axes and any(variable_axes.values()):
            self.lengths = Lengths(axes=variable_axes, allowed=options.allowed_lengths)
        self.costs = RunCosts(tried_s)
        self.under_way = UnderWay()
        self._drain = Drain(self.costs, self.run_rows)
        self.turn = Turn(next(_keys), options.weight)
        self.on_run = on_run
        self.in_process = in_process
        # Of what runs where its requests come in a long run is one too many.
        self._believed_s = TOO_LONG * options.max_inline_us / 1e6 if in_process else math.inf
        self._backlog = Backlog(self._group_due_at_s if options.batch_timeout_us else None)
        self._timely = Timely(self.costs, self.run_rows)
        self._target: LatencyTarget | None = None
        if options.target_latency_ms:
            target_s = options.target_latency_ms / 1e3
            self._target = LatencyTarget(target_s, options.merged_rows, options.allowed_batch_sizes)
        self._left_out = False
        self._running_rows = 0
        self._gathering: Gathering | None = None
        waits_otherwise = options.batch_timeout_us or options.target_latency_ms
        # In this process a run wakes up nobody, and what it costs beside its rows is next to nothing.
        if self.merges and options.max_gather_us and not (in_process or waits_otherwise):
            self._gathering = Gathering(options.max_gather_us / 1e6)
        self._latest_s = math.inf

    def admits(self, rows: int) -> bool:
        """Whether a task of so many rows more may wait. What runs one by one counts as one each."""
        most = self._most_rows
        if not self.merges:
            return policy.admits(rows=1, queued_rows=len(self), max_queued_rows=most)
        if self._has_most_large(rows):
            return False
        if rows > self._half_rows:
            rows = max(0, self._half_rows - self._backlog.large.rows)
        return policy.admits(rows=rows, queued_rows=self.counted_rows(), max_queued_rows=most)

    def counted_rows(self) -> int:
        """What takes places from others: all that wait, of large requests together half of the places at most."""
        if not self.merges:
            return len(self)
        over_rows = self._backlog.large.rows - self._half_rows
        return self.rows - over_rows if over_rows > 0 else self.rows

    def refusal(self, task: Task, now_s: float, *, threads: int) -> ServerError | None:
        """Why a task may not wait; None where it may.

        Args:
            task: Which comes now.
            now_s: The instant.
            threads: How many batches run at a time.
        """
        most = self._most_rows
        if self.is_hopeless(task, now_s, threads=threads):
            return QueueFull(
                f"the queue of {self.name} is too full to answer in time: {self.rows} rows wait, and "
                f"{((task.deadline_s or now_s) - now_s) * 1e3:.0f} ms are left"
            )
        if self.merges and task.rows <= self._half_rows and self.counted_rows() + task.rows <= most:
            return None
        if task.rows > most and self.merges and not size_bytes(task.inputs):
            return InvalidInput(
                f"{task.rows} rows without a value are more than max_enqueued_batches * max_batch_size = {most}"
            )
        if self.admits(task.rows):
            return None
        why = f"{task.rows} more would pass max_enqueued_batches * max_batch_size = {most}"
        if self._has_most_large(task.rows):
            many, half_rows = self.options.max_enqueued_batches, self._half_rows
            why = f"of more than {half_rows} rows no more requests may than max_enqueued_batches = {many}"
        return QueueFull(f"the queue of {self.name} is full: {self.counted_rows()} rows wait, {why}")

    def is_hopeless(self, task: Task, now_s: float, *, threads: int) -> bool:
        """Whether a task would wait for too long, by what was measured of late. Of large ones little is known."""
        if task.deadline_s is None or not self.rows:
            return False
        slots = self.lanes or self.at_once(threads)
        # What runs one by one has as many rows as each of those that wait.
        rows = self.batch_rows if self.merges else max(1, self.rows // len(self))
        if not self._backlog.large.rows and task.rows <= self._half_rows:
            room = Room(rows, slots, 2 * rows if self.merges else 0, self._running_rows > 0)
            return self._drain.is_too_slow(self._backlog, task, now_s, room)
        ahead = self.batches(task.priority, rows=task.rows)
        if not ahead:
            return False  # It is among the next that run, or are refused.
        return policy.is_hopeless(
            left_s=task.deadline_s - now_s,
            ahead=ahead,
            batch_s=self.costs.recent_s(self.run_rows(rows), now_s),
            own_s=self.costs.recent_s(self.run_rows(task.rows), now_s),
            slots=slots,
        )

    def takes_alone(self, inputs: Mapping[str, Array], rows: int) -> bool:
        """Whether a request may be a batch by itself, as it came: whole, not padded, nor made, nor waiting for others.

        In this process alone: elsewhere no run is short.
        """
        most = self.batch_rows
        if not (self.in_process and 0 < rows <= most) or isinstance(inputs, LateInputs):
            return False
        if not self.merges:
            return True
        options = self.options
        if self.lengths is not None or (options.batch_timeout_us and rows < most):
            return False
        return not options.allowed_batch_sizes or rows in options.allowed_batch_sizes

    def at_once(self, threads: int) -> int:
        """How many of its batches run at a time on so many threads."""
        return threads if self.runner is None else min(threads, self.runner.at_once)

    def batches(self, priority: int = 0, *, rows: int = 1) -> int:
        """How many full batches run before a request of that priority, and so many rows, that comes now."""
        tasks, before_rows = self._backlog.before(priority)
        if not self.merges:
            return tasks
        large_rows = self._backlog.large.rows_from(priority) if self._backlog.large.rows else 0
        if not large_rows and rows <= self._half_rows:
            return before_rows // self.batch_rows
        return policy.ahead(
            others_rows=before_rows - large_rows,
            large_rows=large_rows,
            own_rows=rows if rows > self._half_rows else 0,
            piece_rows=self._piece_rows(large_rows or rows),
            batch_rows=self.batch_rows,
        )

    def put(self, task: Task) -> None:
        """Appends a task to its group."""
        key: Shapes | None = ()
        if self.merges:
            key = None if task.rows > self._half_rows else class_of(task.inputs, self.lengths, exact=task.exact)
        if not self.rows:
            self._drain.rested()
        self._backlog.put(task, key)
        self.rows += task.rows
        self.bytes += task.bytes
        if self._gathering is not None:
            self._gathering.here(min(self.rows + self._running_rows, self.options.max_batch_size_rows))
            if task.priority > 0:
                self._latest_s = -math.inf
            elif task.deadline_s is not None:
                self._latest_s = min(self._latest_s, task.deadline_s - 2 * (self.costs.expected_s(self.rows) or 0.0))

    def due_at_s(self) -> float:
        """When the next batch is due; -inf where it is. Something must wait."""
        backlog = self._backlog
        if not self.merges or backlog.large.rows:
            return -math.inf
        many = self.rows >= self.batch_rows
        # Where there are fewer rows than a batch has so few tasks, and groups, are looked at.
        if self.options.batch_timeout_us:
            return -math.inf if not many and any(map(_LEFT, self.tasks())) else backlog.groups.due_at_s()
        if many or self._gathering is None:
            return -math.inf
        until_s = self._gathering.until_s(self.rows, running=self._running_rows > 0)
        if until_s == -math.inf or any(group.has_rest() for group in backlog.groups):
            return -math.inf  # What is left of a request has waited for its other pieces.
        return min(self._latest_s, until_s)

    def began(self, rows: int, now_s: float) -> None:
        """What was taken begins to run. So many rows."""
        self._drain.begins(rows, now_s)
        self._running_rows += rows
        if not self.rows:
            self._latest_s = math.inf
        if self._gathering is not None:
            here_rows = min(self.rows + self._running_rows, self.options.max_batch_size_rows)
            fixed_s, run_s = self.costs.fixed_s(now_s), self.costs.expected_s(rows)
            self._gathering.took(rows, here_rows=here_rows, now_s=now_s, fixed_s=fixed_s, run_s=run_s)

    def ended(self, rows: int) -> None:
        """So many rows that began have ended."""
        self._running_rows -= rows

    def take(self, now_s: float) -> list[Task]:
        """Removes and returns the batch whose turn it is: of groups that are due, or if none is of any.

        Something must wait. The batch is empty where that was settled meanwhile. What is in it and could not be in time
        even alone is `refused`. Of those that wait for company whoever's caller has left comes by itself.
        """
        if self.options.batch_timeout_us and self.rows < self.batch_rows:
            left = self.drop(_LEFT)
            if left or not self.rows:
                return left
        key = self._backlog.next(now_s)
        if key is None:
            return self._large(now_s)
        group = self._backlog.groups[key]
        batch = self._merge(group, now_s) if self.merges else self._single(group, now_s)
        self._backlog.groups.changed(key)
        return batch

    def tasks(self) -> list[Task]:
        """All that wait, in no particular order."""
        return self._backlog.tasks()

    def drop(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Removes the tasks that nobody wants any more, wherever they stand; returns those without an outcome."""
        dropped = self._backlog.drop(unwanted)
        for task in dropped:
            self.rows -= task.rows
            self.bytes -= task.bytes
        return [task for task in dropped if task.whole is None or task.whole.settle()]

    def give_up(self) -> list[Task]:
        """Removes all that wait, refused: after an error of ours."""
        given_up = self.drop(lambda _: True)
        for task in given_up:
            task.refused = ExecutionFailed("no batch could be put together")
        return given_up

    def ran(self, run: BatchRun, now_s: float) -> None:
        """A run has ended well, now."""
        self.costs.record(run.padded_rows, run.run_s, now_s, believed_s=self._believed_s)
        if self._target is not None:
            oldest_s = max(run.queued_s, default=0.0) + run.run_s
            self._target.ran(rows=run.rows, oldest_s=oldest_s, run_s=run.run_s, full=self._left_out)
        if self.on_run is not None:
            self.on_run(run)

    def is_short(self, rows: int, *, bound_s: float) -> bool:
        """Whether a run of so many rows is over sooner than another thread would have begun it.

        Not before runs were measured, nor after one has taken `TOO_LONG` times `max_inline_us`, until another has shown
        that this was an exception.
        """
        if not self.in_process:
            return False
        run_s = self.costs.shown_s(rows)
        return run_s is not None and run_s <= bound_s

    def run_rows(self, rows: int) -> int:
        """How many rows a batch of so many is run with."""
        allowed = self.options.allowed_batch_sizes
        return policy.padded_rows(rows, allowed) if allowed and self.merges else rows

    @property
    def batch_rows(self) -> int:
        """How many rows go into the next batch."""
        return self.options.merged_rows if self._target is None else self._target.rows

    def __len__(self) -> int:
        return len(self._backlog)

    def __repr__(self) -> str:
        return f"BatchQueue({self.name}, {len(self)} tasks, {self.rows} rows, {'merges' if self.merges else 'single'})"

    def _large(self, now_s: float) -> list[Task]:
        """A piece of the large request whose turn it is; all of it where large ones run in one piece."""
        group = self._backlog.large
        while group.rows and group.head().settled:
            self._gone(group.pop())
        if not group.rows:
            return []
        if self.merges and self.options.enable_large_batch_splitting:
            return self._cut(group, group.head(), now_s)
        return self._single(group, now_s)

    def _has_most_large(self, rows: int) -> bool:
        return rows > self._half_rows and len(self._backlog.large) >= self.options.max_enqueued_batches

    def _single(self, group: Group, now_s: float) -> list[Task]:
        """The head alone. What is left of one that was cut runs with all that was cut off: no piece counts any more."""
        task = group.pop()
        self._gone(task)
        if task.whole is not None and not task.whole.settle():
            return []
        task.refuse_if_late(self.costs.recent_s(self.run_rows(task.size), now_s), now_s)
        return [task]

    def _merge(self, group: Group, now_s: float) -> list[Task]:
        """In order, and as many as fit; the first in any case. What is larger than a batch gives a piece."""
        room = self.batch_rows
        self._left_out = False
        taken: list[Task] = []
        rows, tightest_s = 0, math.inf
        while group.rows:
            head = group.head()
            if head.settled:
                self._gone(group.pop())
                continue
            if self._runs_in_pieces(head):
                if not taken:
                    return self._cut(group, head, now_s)
                break
            if taken and rows + head.rows > room:
                self._left_out = True
                break
            taken.append(group.pop())
            rows += head.rows
            if head.deadline_s is not None and head.deadline_s < tightest_s:
                tightest_s = head.deadline_s
        if (tightest_s < math.inf and self._timely.is_tight(tightest_s - now_s, rows, now_s)) or (
            group.rows and self._timely.is_tight(group.nearest_s(room) - now_s, rows, now_s, behind=True)
        ):
            taken = self._in_time(group, taken, now_s)
        return self._settled_out(taken)

    def _settled_out(self, taken: Sequence[Task]) -> list[Task]:
        """What of these runs: the last pieces of large requests as pieces, and of the refused what is not settled."""
        batch: list[Task] = []
        for task in taken:
            self._gone(task)
            if task.whole is None or (task.refused and task.whole.settle()):
                batch.append(task)
            elif task.refused is None:
                batch.append(task.cut(task.rows))
        return batch

    def _in_time(self, group: Group, taken: list[Task], now_s: float) -> list[Task]:
        """Of what was taken, and of what waits behind it, what runs together in time; and what can't run in time."""
        room = self.batch_rows
        late: list[Task] = []
        able: list[Task] = []
        rows = 0
        while rows < 2 * room and len(able) + len(late) < MAX_LOOKED_AT:
            if taken:
                task = taken.pop(0)
            elif len(group) and not group.head().settled and not self._runs_in_pieces(group.head()):
                task = group.pop()
            else:
                break
            if self._timely.is_late(task, now_s):
                late.append(task)
            else:
                able.append(task)
                rows += task.rows
        for task in reversed(taken):
            group.put_back(task)
        if not able:
            return late
        indices = self._timely.chosen(able, now_s, room_rows=room)
        for index in range(len(able) - 1, -1, -1):
            if index not in indices:
                group.put_back(able[index])
        return late + [able[index] for index in sorted(indices)]

    def _runs_in_pieces(self, task: Task) -> bool:
        """Whether its next rows run by themselves, and not with others."""
        if task.whole is not None and self.lengths is not None and not self.lengths.allowed:
            return True  # Others might be longer: its pieces are to be as long as each other.
        most = self.batch_rows if task.whole is not None else self.options.max_batch_size_rows
        return task.rows > most and self.options.enable_large_batch_splitting

    def _piece_rows(self, rows: int) -> int:
        """How many rows of so many that are left of a request run at a time."""
        options, largest = self.options, self.batch_rows
        batch_s = self.costs.expected_s(largest)
        row_s = None if batch_s is None else batch_s / largest
        bulk_rows = 0 if options.allowed_batch_sizes or self._target is not None else options.bulk_rows
        return policy.piece_rows(rows=rows, max_rows=largest, bulk_rows=bulk_rows, row_s=row_s)

    def _cut(self, group: Group, head: Task, now_s: float) -> list[Task]:
        """The next rows of a large request; or all of it, refused, where the last of them would be too late."""
        size = self._piece_rows(head.rows)
        piece_s = self.costs.recent_s(self.run_rows(size), now_s)
        at_once = self.at_once(self.options.num_batch_threads)
        least_s = None if piece_s is None else piece_s * max(1.0, head.rows / size / at_once)
        if head.refuse_if_late(least_s, now_s, runs=-(-head.rows // size)):
            self._gone(group.pop())
            return [head] if head.whole is None or head.whole.settle() else []
        piece = head.cut(size)
        self._backlog.cut(head, piece.rows)
        self.rows -= piece.rows
        self.bytes -= piece.bytes
        group.rows -= piece.rows
        if not head.rows:
            self._gone(group.pop())
        elif group is self._backlog.large:
            head.stands_s = now_s  # Not before: what is popped is whoever comes first.
        return [piece]

    def _gone(self, task: Task) -> None:
        self.rows -= task.rows
        self.bytes -= task.bytes
        self._backlog.gone(task)

    def _group_due_at_s(self, group: Group) -> float:
        oldest_s = group.oldest_s()
        if group.has_rest():
            return oldest_s  # It has waited for its other pieces.
        timeout_s = self.options.batch_timeout_s
        due_s = policy.due_at_s(oldest_s=oldest_s, rows=group.rows, max_rows=self.batch_rows, timeout_s=timeout_s)
        if due_s <= oldest_s:
            return due_s
        run_s = self.costs.expected_s(self.run_rows(group.rows))
        return policy.due_in_time_s(due_s=due_s, oldest_s=oldest_s, deadline_s=group.deadline_s(), run_s=run_s)
