"""What a fuzzer drives: a parser as a function of bytes, what it may raise, and what it must stay within."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import Message

MAX_CPU_S = 1.0
"""Of one input. CPU time of this process, so that a busy machine makes no fault."""

MAX_GROWTH_KIB = 512 * 1024
"""How far the process may grow while inputs are read, from the first one on."""


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
        begin_s = time.process_time()
        try:
            self.target.read(data)
            self.accepted += 1
        except self.target.refusals:
            self.refused += 1
        spent_s = time.process_time() - begin_s
        self.slowest_s = max(self.slowest_s, spent_s)
        if spent_s > MAX_CPU_S:
            raise Slow(f"{self.target.name}: {len(data)} bytes took {spent_s:.2f} s of CPU time")
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._first_kib = self._first_kib or peak_kib
        if peak_kib - self._first_kib > MAX_GROWTH_KIB:
            grown = peak_kib - self._first_kib
            self._first_kib = peak_kib
            raise Large(f"{self.target.name}: the process grew by {grown} KiB at an input of {len(data)} bytes")
