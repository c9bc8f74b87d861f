"""What waits: one queue for each signature of each version, and in it a group for each inner shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fallback_server.batching import policy
from fallback_server.batching.adaptive import LatencyTarget
from fallback_server.batching.company import Process
from fallback_server.batching.costs import RunCosts
from fallback_server.batching.fairness import Turn
from fallback_server.batching.filling import HEADROOM, MAX_LOOKED_AT, Want, chosen
from fallback_server.batching.gathering import Gathering
from fallback_server.batching.groups import Group, precedence_s
from fallback_server.batching.lengths import Lengths, Shapes
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.runs import Runner
from fallback_server.batching.tasks import Array, Caller, Task
from fallback_server.core.errors import DeadlineExceeded
from fallback_server.late_inputs import LateInputs

__all__ = ["Array", "BatchQueue", "BatchRun", "Caller", "Run", "Task"]

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a model on inputs by name; outputs by name. Thread-safe."""

TOO_LONG = 4
"""Times as long as whoever brings a request may run it."""

_FAR = 10
"""Times what a run takes on average: whoever has more time left needs no closer look."""

_EXACT = -1
"""No size. Keeps what is not padded apart from what may be."""

_keys = itertools.count()


@dataclass(kw_only=True, slots=True)  # Not frozen: that makes one take twice as long, and there is one a run.
class BatchRun:
    """One run that has ended well.

    Attributes:
        rows: That were asked for.
        padded_rows: That were run, with what was added to reach an allowed size.
        queued_s: How long each of its requests had waited; of one that runs in pieces, with its first.
        run_s: How long the run took.
    """

    rows: int
    padded_rows: int
    queued_s: tuple[float, ...]
    run_s: float


class BatchQueue:
    """The tasks that wait for one signature of one version. Guards no threads: the scheduler does.

    Only tasks whose inputs agree in all dimensions but the first can be merged, or can be made to agree, so each
    combination is a group of its own; of the groups that are due the one whose head has waited longest comes first.

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

    Attributes:
        name: For logs.
        run: The model.
        options: Its bounds.
        merges: Whether several tasks may run as one. Turned off for good when the model turns out not to keep rows.
        rows: How many rows wait.
        bytes: How many bytes of input wait.
        lanes: See above.
        runner: See above.
        process: See above.
        room_until_s: Until when it leaves a core and a place to others, being flooded; see `Company`. The scheduler's.
        lengths: How inputs of different lengths are made alike; None where they aren't.
        in_process: See above.
        costs: What its runs have taken.
        turn: Its account with the scheduler, and its weight.
        on_run: See above.
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
    ) -> None:
        self.name = name
        self.run = run
        self.options = options
        self.merges = merges and options.enabled
        self.rows = 0
        self.bytes = 0
        self._half_rows = max(options.max_enqueued_rows // 2, options.max_batch_size_rows)
        self._large_rows = 0
        self.lanes = lanes
        self.runner = runner
        self.process = process
        self.room_until_s = -math.inf
        self.runs_here = 0
        self.lengths: Lengths | None = None
        if options.pad_variable_length_inputs and variable_axes:
            self.lengths = Lengths(axes=variable_axes, allowed=options.allowed_lengths)
        self.costs = RunCosts()
        self.turn = Turn(next(_keys), options.weight)
        self.on_run = on_run
        self.in_process = in_process
        # Of what runs where its requests come in a long run is one too many.
        self._believed_s = TOO_LONG * options.max_inline_us / 1e6 if in_process else math.inf
        self._groups: dict[Shapes, Group] = {}
        self._gave_way = False
        self._target: LatencyTarget | None = None
        if options.target_latency_ms:
            self._target = LatencyTarget(
                options.target_latency_ms / 1e3, options.max_batch_size_rows, options.allowed_batch_sizes
            )
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
        most = self.options.max_enqueued_rows
        if not self.merges:
            return policy.admits(rows=1, queued_rows=len(self), max_queued_rows=most)
        if rows > self._half_rows:
            rows = max(0, self._half_rows - self._large_rows)
        return policy.admits(rows=rows, queued_rows=self.counted_rows(), max_queued_rows=most)

    def counted_rows(self) -> int:
        """What takes places from others: all that wait, of large requests together half of the places at most."""
        if not self.merges:
            return len(self)
        return self.rows - max(0, self._large_rows - self._half_rows)

    def is_hopeless(self, task: Task, now_s: float, *, threads: int) -> bool:
        """Whether a task would wait for longer than its answer has a worth, by what was measured of late."""
        if task.deadline_s is None or not self.rows:
            return False
        ahead, rows = self.batches(), self.batch_rows
        if not ahead:
            return False  # It is among the next that run, or are refused.
        if not self.merges:
            rows = max(1, self.rows // ahead)  # As many as each of them has.
        return policy.is_hopeless(
            left_s=task.deadline_s - now_s,
            ahead=ahead,
            batch_s=self.costs.recent_s(self.run_rows(rows), now_s),
            own_s=self.costs.recent_s(self.run_rows(task.rows), now_s),
            slots=self.lanes or self.at_once(threads),
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

    def batches(self) -> int:
        """How many full batches wait."""
        return self.rows // self.batch_rows if self.merges else len(self)

    def put(self, task: Task) -> None:
        """Appends a task to its group."""
        key = self._key(task) if self.merges else ()
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group()
        group.put(task)
        self.rows += task.rows
        self.bytes += task.bytes
        if self._is_large(task):
            self._large_rows += task.rows
        if self._gathering is not None:
            self._gathering.here(min(self.rows + self._running_rows, self.options.max_batch_size_rows))
            if task.priority > 0:
                self._latest_s = -math.inf
            elif task.deadline_s is not None:
                self._latest_s = min(self._latest_s, task.deadline_s - 2 * (self.costs.expected_s(self.rows) or 0.0))

    def due_at_s(self) -> float:
        """When the next batch is due. Something must wait."""
        due_s = min(map(self._group_due_at_s, self._groups.values()))
        if not self.merges or self.rows >= self.batch_rows:
            return due_s
        if self._gathering is None:
            return -math.inf if self.options.batch_timeout_us and self._anybody_left() else due_s
        until_s = min(self._latest_s, self._gathering.until_s(self.rows, running=self._running_rows > 0))
        if until_s <= due_s or any(group.head().whole is not None for group in self._groups.values()):
            return due_s  # What is left of a large request has waited for its other pieces.
        return until_s

    def began(self, rows: int, now_s: float) -> None:
        """What was taken begins to run. So many rows."""
        self._running_rows += rows
        if not self.rows:
            self._latest_s = math.inf
        if self._gathering is not None:
            here_rows = min(self.rows + self._running_rows, self.options.max_batch_size_rows)
            self._gathering.took(rows, here_rows=here_rows, now_s=now_s, fixed_s=self.costs.fixed_s(now_s))

    def ended(self, rows: int) -> None:
        """So many rows that began have ended."""
        self._running_rows -= rows

    def take(self, now_s: float) -> list[Task]:
        """Removes and returns the batch whose turn it is: of groups that are due, or if none is of any.

        Something must wait. The batch is empty where that was settled meanwhile. What is in it and could not be in time
        even alone is `refused`. Of those that wait for company whoever's caller has left comes by itself.
        """
        if self.options.batch_timeout_us:
            left = self.drop(_left)
            if left or not self._groups:
                return left
        key, group = self._first(now_s)
        batch = self._merge(group, now_s) if self.merges else self._single(group, now_s)
        if not len(group):
            del self._groups[key]
        return batch

    def tasks(self) -> list[Task]:
        """All that wait, in no particular order."""
        return [task for group in self._groups.values() for task in group.tasks()]

    def drop(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Removes the tasks that nobody wants any more, wherever they stand; returns those without an outcome."""
        dropped: list[Task] = []
        for key, group in list(self._groups.items()):
            dropped += group.drop(unwanted)
            if not len(group):
                del self._groups[key]
        for task in dropped:
            self._gone(task)
        return [task for task in dropped if task.whole is None or task.whole.settle()]

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
        return self.options.max_batch_size_rows if self._target is None else self._target.rows

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __repr__(self) -> str:
        return f"BatchQueue({self.name}, {len(self)} tasks, {self.rows} rows, {'merges' if self.merges else 'single'})"

    def _first(self, now_s: float) -> tuple[Shapes, Group]:
        if len(self._groups) == 1:
            return next(iter(self._groups.items()))
        due = [item for item in self._groups.items() if self._group_due_at_s(item[1]) <= now_s]
        return min(due or self._groups.items(), key=lambda item: precedence_s(item[1].head()))

    def _single(self, group: Group, now_s: float) -> list[Task]:
        """The head alone. What is left of one that was cut runs with all that was cut off: no piece counts any more."""
        task = group.pop()
        self._gone(task)
        if task.whole is not None and not task.whole.settle():
            return []
        self._refuse_if_late(task, self.costs.recent_s(task.size, now_s), now_s)
        return [task]

    def _merge(self, group: Group, now_s: float) -> list[Task]:
        """In order, and as many as fit; the first in any case. What is larger than a batch gives a piece."""
        room = self.batch_rows
        self._left_out = False
        taken: list[Task] = []
        rows, tightest_s = 0, math.inf
        while len(group):
            head = group.head()
            if head.settled:
                self._gone(group.pop())
                continue
            if head.rows > room and self._runs_in_pieces(head):
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
        if tightest_s < math.inf and self._is_tight(tightest_s - now_s, self.run_rows(rows), now_s):
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

    def _is_tight(self, left_s: float, rows: int, now_s: float) -> bool:
        """Whether a run of so many rows could take longer than is left."""
        mean_s = self.costs.expected_s(rows)
        if mean_s is None or mean_s * _FAR < left_s:
            return False
        likely_s = self.costs.likely_s(rows, now_s)
        return likely_s is not None and HEADROOM * likely_s > left_s

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
            least_s = self.costs.recent_s(self.run_rows(task.rows), now_s)
            passed = task.deadline_s is not None and task.deadline_s <= now_s
            if passed or task.caller.cancelled or self._refuse_if_late(task, least_s, now_s):
                late.append(task)
            else:
                able.append(task)
                rows += task.rows
        for task in reversed(taken):
            group.put_back(task)
        if not able:
            return late
        wants = [Want(task.rows, math.inf if task.deadline_s is None else task.deadline_s) for task in able]
        choice = chosen(
            wants,
            now_s=now_s,
            room_rows=room,
            cost_s=lambda rows: self.costs.likely_s(self.run_rows(rows), now_s) or 0.0,
            may_give_way=not self._gave_way,
        )
        self._gave_way = choice.gave_way
        indices = set(choice.indices)
        for index in range(len(able) - 1, -1, -1):
            if index not in indices:
                group.put_back(able[index])
        return late + [able[index] for index in choice.indices]

    def _refuse_if_late(self, task: Task, least_s: float | None, now_s: float) -> bool:
        """Whether a task can't be in time any more if it takes at least so long; then it is not to be run."""
        if least_s is None or task.deadline_s is None or now_s + least_s <= task.deadline_s:
            return False
        task.refused = DeadlineExceeded(
            f"not run: {(task.deadline_s - now_s) * 1e3:.1f} ms are left after "
            f"{(now_s - task.enqueued_s) * 1e3:.0f} ms in the queue, and a run takes {least_s * 1e3:.1f} ms"
        )
        return True

    def _runs_in_pieces(self, task: Task) -> bool:
        most = self.batch_rows if task.whole is not None else self.options.max_batch_size_rows
        return task.rows > most and self.options.enable_large_batch_splitting

    def _cut(self, group: Group, head: Task, now_s: float) -> list[Task]:
        """The next rows of a large request; or all of it, refused, where the last of them would be too late."""
        options = self.options
        largest = self.batch_rows
        batch_s = self.costs.expected_s(largest)
        row_s = None if batch_s is None else batch_s / largest
        bulk_rows = 0 if options.allowed_batch_sizes or self._target is not None else options.bulk_rows
        size = policy.piece_rows(rows=head.rows, max_rows=largest, bulk_rows=bulk_rows, row_s=row_s)
        piece_s = self.costs.recent_s(self.run_rows(size), now_s)
        least_s = (
            None if piece_s is None else piece_s * max(1.0, head.rows / size / self.at_once(options.num_batch_threads))
        )
        if self._refuse_if_late(head, least_s, now_s):
            self._gone(group.pop())
            return [head] if head.whole is None or head.whole.settle() else []
        self._gone(head)
        piece = head.cut(size)
        self.rows += head.rows
        self.bytes += head.bytes
        if self._is_large(head):
            self._large_rows += head.rows
        group.rows -= piece.rows
        if not head.rows:
            group.pop()
        elif self._is_large(head):
            group.let_pass(self.batch_rows, self._is_large)
        return [piece]

    def _anybody_left(self) -> bool:
        """Whether somebody waits for company whose caller has left. Looks at no more than a batch."""
        return any(map(_left, self.tasks()))

    def _gone(self, task: Task) -> None:
        self.rows -= task.rows
        self.bytes -= task.bytes
        if self._is_large(task):
            self._large_rows -= task.rows

    def _is_large(self, task: Task) -> bool:
        """Whether it came with more rows than half of all places: see `counted_rows`."""
        return task.size > self._half_rows

    def _key(self, task: Task) -> Shapes:
        inputs = task.inputs
        if self.lengths is not None and not task.exact:
            return self.lengths.class_of(inputs)
        shapes = tuple(inputs[name].shape[1:] for name in sorted(inputs))
        return (*shapes, (_EXACT,)) if task.exact else shapes

    def _group_due_at_s(self, group: Group) -> float:
        timeout_s = self.options.batch_timeout_s if self.merges else 0.0
        oldest_s = group.oldest_s()
        due_s = policy.due_at_s(oldest_s=oldest_s, rows=group.rows, max_rows=self.batch_rows, timeout_s=timeout_s)
        if not timeout_s or due_s <= oldest_s:
            return due_s
        run_s = self.costs.expected_s(self.run_rows(group.rows))
        return policy.due_in_time_s(due_s=due_s, oldest_s=oldest_s, deadline_s=group.deadline_s(), run_s=run_s)


def _left(task: Task) -> bool:
    return task.caller.cancelled
