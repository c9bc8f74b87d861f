"""What a fuzzer drives: a parser as a function of bytes, what it may raise, and what it must stay within."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

MAX_CPU_S = 1.0
"""Of one input. CPU time of this process, so that a busy machine makes no fault."""

MAX_TAKEN_KIB = 512 * 1024
"""What the process may take, at most, while one input is read."""

MAX_KEPT_KIB = 512 * 1024
"""By how much more it may hold after an input than after the first one."""

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_FIELDS = _PEAK, _NOW = (b"VmHWM:", b"VmRSS:")


class Slow(AssertionError):
    """An input took longer than it may."""


class Large(AssertionError):
    """An input took more memory than it may."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser.

    Attributes:
        name: What it is called, and its file in `corpus/`.
        read: Reads the bytes, and checks what can be said of the outcome.
        refusals: What it may raise: its own errors, no others.
        seeds: Sound inputs, which are mutated; made when they are needed.
        message: The protobuf message that its input is, where it is one: mutated field by field.
        words: What its language is made of: keys, numbers at the edges, brackets.
        modules: What is watched for new branches.
        max_bytes: Of an input.
    """

    name: str
    read: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...]
    seeds: Callable[[], Sequence[bytes]]
    message: type[Message] | None = None
    words: tuple[bytes, ...] = ()
    modules: tuple[str, ...] = ()
    max_bytes: int = 4096


@dataclass
class Feeder:
    """Gives a target inputs, and counts them.

    Attributes:
        target: Which.
        accepted: How many it took.
        refused: How many it refused with its own error.
        slowest_s: The most CPU time that one took.
    """

    target: Target
    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    _first_kib: int = field(default=0, repr=False)

    @property
    def inputs(self) -> int:
        """How many were given."""
        return self.accepted + self.refused

    def feed(self, data: bytes) -> None:
        """Gives it one input; whatever it raises beside its refusals passes.

        Raises:
            Slow, Large: it took more than it may.
        """
        _forget_peak()
        _, before_kib = _memory()
        begin_s = time.process_time()
        try:
            self.target.read(data)
            self.accepted += 1
        except self.target.refusals:
            self.refused += 1
        spent_s = time.process_time() - begin_s
        peak_kib, after_kib = _memory()
        self.slowest_s = max(self.slowest_s, spent_s)
        self._first_kib = self._first_kib or after_kib
        if spent_s > MAX_CPU_S:
            raise Slow(f"{self.target.name}: {len(data)} bytes took {spent_s:.2f} s of CPU time")
        if peak_kib - before_kib > MAX_TAKEN_KIB:
            raise Large(f"{self.target.name}: {len(data)} bytes took {peak_kib - before_kib} KiB of memory")
        if after_kib - self._first_kib > MAX_KEPT_KIB:
            kept = after_kib - self._first_kib
            raise Large(f"{self.target.name}: the process holds {kept} KiB more than after its first input")


def _forget_peak() -> None:
    """From here on, the most that the process held is what it holds now (Linux, proc(5): clear_refs)."""
    with contextlib.suppress(OSError):
        _CLEAR.write_bytes(b"5")


def _memory() -> tuple[int, int]:
    """The most that this process held since its peak was forgotten, and what it holds now, in KiB."""
    try:
        told = dict(line.split(maxsplit=1) for line in _STATUS.read_bytes().splitlines() if line.startswith(_FIELDS))
    except OSError:  # A system without /proc: the peak of the process's whole life is all that it tells.
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak_kib, peak_kib
    return int(told[_PEAK].split()[0]), int(told[_NOW].split()[0])
