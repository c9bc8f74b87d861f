"""A request that waits, whole or in pieces."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fallback_server.core.errors import DeadlineExceeded, ServerError
from fallback_server.late_inputs import LateInputs, made, size_bytes

Array = npt.NDArray[np.generic]


class Caller(Protocol):
    """Whom a task is for."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ...


class PiecesUnlike(Exception):
    """The outputs of a request's pieces differ in more than their rows. Says in what."""


class Task:
    """One request that waits.

    Attributes:
        caller: Whom it is for.
        inputs: Checked against the signature. Those of a queue that merges have the same first dimension. Empty once it
            runs, where it is run as it is.
        deadline_s: The instant after which the answer is worthless; None when there is no such instant.
        priority: Over 0 is served before others, under 0 after them; see `policy.precedence`.
        rows: How many of it wait: the inputs' first dimension in a queue that merges, 1 otherwise, less what was cut
            off. What it takes of bounds: an empty one takes a turn as well, and so counts as one.
        size: How many rows of the outputs are its own.
        bytes: The inputs' size, once they are made, less what was cut off; a row without any counts as one.
        enqueued_s: When it came.
        stands_s: What says who comes first; see `policy.precedence_s`.
        exact: Whether it runs only beside inputs of its very shapes, unpadded, whatever lengths may be padded.
        refused: Why it is not run, where that was found at its turn.
        whole: What its pieces come to, once one was cut off; of a piece, what it is of.
    """

    __slots__ = (
        "bytes", "caller", "deadline_s", "enqueued_s", "exact", "inputs", "priority", "refused", "rows", "size",
        "stands_s", "whole",
    )  # fmt: skip

    def __init__(
        self,
        *,
        caller: Caller,
        inputs: Mapping[str, Array],
        deadline_s: float | None,
        rows: int = 1,
        priority: int = 0,
        size_bytes_: int | None = None,
        exact: bool = False,
    ) -> None:
        self.caller = caller
        self.inputs = inputs
        self.deadline_s = deadline_s
        self.priority = priority
        self.rows = max(rows, 1)
        self.size = rows
        self.bytes = max(size_bytes(inputs), rows) if size_bytes_ is None else size_bytes_
        self.enqueued_s = 0.0
        self.stands_s = 0.0
        self.exact = exact
        self.refused: ServerError | None = None
        self.whole: Whole | None = None

    @property
    def settled(self) -> bool:
        """Whether a piece of it has settled all of it: what is left of it need not run."""
        return self.whole is not None and self.whole.settled

    def refuse_if_late(self, least_s: float | None, now_s: float, *, runs: int = 1) -> bool:
        """Whether it can't be in time any more if its runs take at least so long together; then it is `refused`."""
        if least_s is None or self.deadline_s is None or now_s + least_s <= self.deadline_s:
            return False
        waited_ms = (now_s - self.enqueued_s) * 1e3
        if now_s >= self.deadline_s:
            self.refused = DeadlineExceeded(f"the deadline passed after {waited_ms:.0f} ms in the queue")
            return True
        what = "a run takes" if runs == 1 else f"the {runs} runs of what is left of it take"
        self.refused = DeadlineExceeded(
            f"not run: {(self.deadline_s - now_s) * 1e3:.1f} ms are left after {waited_ms:.0f} ms in the queue, "
            f"and {what} {least_s * 1e3:.1f} ms"
        )
        return True

    def made(self) -> Mapping[str, Array]:
        """The inputs as they are meant: those that come late are made, of one in pieces once."""
        return made(self.inputs) if self.whole is None else self.whole.made()

    def give_away(self) -> None:
        """Nobody needs the inputs any more but who runs them; unless pieces of it are under way, which are some."""
        if self.whole is None:
            self.inputs = {}

    def cut(self, rows: int) -> Piece:
        """Its next rows, as a task of their own."""
        if self.whole is None:
            self.whole = Whole(self)
        begin = self.size - self.rows
        share_bytes = self.bytes * rows // self.rows
        self.rows -= rows
        self.bytes -= share_bytes
        return Piece(self.whole, begin, begin + rows, share_bytes)


class Piece(Task):
    """Some rows of a request that is larger than a batch. Its outcome goes to the whole.

    Attributes:
        begin: The first of its rows.
    """

    __slots__ = ("begin",)

    def __init__(self, whole: Whole, begin: int, end: int, size_bytes_: int) -> None:
        task = whole.task
        super().__init__(
            caller=whole,
            inputs=whole.rows(begin, end),
            deadline_s=task.deadline_s,
            rows=end - begin,
            priority=task.priority,
            size_bytes_=size_bytes_,
            exact=task.exact,
        )
        self.enqueued_s = task.enqueued_s
        self.whole = whole
        self.begin = begin

    def made(self) -> Mapping[str, Array]:
        """Its rows of the inputs."""
        return made(self.inputs)

    def give_away(self) -> None:
        """As of a task. They belong to nobody else."""
        self.inputs = {}


class Whole:
    """A request that runs in pieces, and what they gave so far; the pieces' `Caller`. Thread-safe.

    Attributes:
        task: The request. Its inputs stay until it is settled: it may have to be run in one piece after all.
        settled: Whether it has its outcome.
        shared: Its last piece, where that ran beside other requests; None where it did not.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settled = False
        self.shared: Piece | None = None
        self._lock = threading.Lock()
        self._made: Mapping[str, Array] | None = None
        self._given: dict[int, dict[str, Array]] = {}
        self._missing = task.size

    @property
    def cancelled(self) -> bool:
        """Whether its pieces need not run any more."""
        return self.settled or self.task.caller.cancelled

    def settle(self) -> bool:
        """Whether it is for the caller of this to give its outcome: nobody has before."""
        with self._lock:
            settled, self.settled = self.settled, True
        return not settled

    def add(self, piece: Piece, outcome: dict[str, Array] | ServerError) -> dict[str, Array] | ServerError | None:
        """A piece has its outcome. What the whole comes to with it; None where pieces lack, or it has come to that.

        A piece may come again, with another outcome. Where this raises the whole has no outcome yet.

        Raises:
            PiecesUnlike: all are there, and can't be joined.
        """
        if isinstance(outcome, ServerError):
            return outcome if self.settle() else None
        with self._lock:
            if self.settled:
                return None
            self._missing -= 0 if piece.begin in self._given else piece.size
            self._given[piece.begin] = outcome
            if self._missing:
                return None
        given = [self._given[begin] for begin in sorted(self._given)]
        unlike = _unlike(given)
        if unlike:
            raise PiecesUnlike(
                f"its {self.task.size} rows ran in {len(given)} pieces, whose outputs can't be put together: {unlike}; "
                "with fewer rows, or enable_large_batch_splitting=false, it runs in one"
            )
        joined = {name: np.concatenate([outputs[name] for outputs in given]) for name in given[0]}
        return joined if self.settle() else None

    def rows(self, begin: int, end: int) -> Mapping[str, Array]:
        """Some rows of the inputs. What comes late is made with the first piece that runs, once for all."""
        inputs = self.task.inputs
        rows = {name: array[begin:end] for name, array in inputs.items()}
        if not isinstance(inputs, LateInputs):
            return rows
        return LateInputs(rows, {name: self._maker(name, begin, end) for name in rows})

    def _maker(self, name: str, begin: int, end: int) -> _Maker:
        return _Maker(self, name, begin, end)

    def made(self) -> Mapping[str, Array]:
        """The inputs as they are meant."""
        with self._lock:
            if self._made is None:
                self._made = made(self.task.inputs)
            return self._made


def _unlike(given: Sequence[Mapping[str, Array]]) -> str:
    """What keeps outputs from being joined along their rows; empty where nothing does."""
    first = given[0]
    for other in given[1:]:
        if other.keys() != first.keys():
            return f"{sorted(first)} and {sorted(other)}"
        for name, array in first.items():
            if other[name].shape[1:] != array.shape[1:]:
                return f"{name} is {list(array.shape)} and {list(other[name].shape)}"
    return ""


class _Maker:
    """Makes some rows of an input that comes late."""

    __slots__ = ("_begin", "_end", "_name", "_whole")

    def __init__(self, whole: Whole, name: str, begin: int, end: int) -> None:
        self._whole, self._name, self._begin, self._end = whole, name, begin, end

    def __call__(self) -> Array:
        return self._whole.made()[self._name][self._begin : self._end]
