"""What a version's requests are checked and made by: read as one, and swapped as one."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from converter.artifact import Signature, TensorSpec
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.inputs import InputCheck, default_signature

DOUBT_LIMIT_S = 2.0
"""How long servers are asked whether a refusal still holds: the caller has it already, and waits for no more than a
better answer."""

DOUBT_PAUSE_S = 1.0
"""After a question that has shown nothing new the next comes no sooner, however many requests are refused."""


class Way(NamedTuple):
    """How the requests of one signature are made.

    Attributes:
        check: Takes their inputs.
        name: The signature's own name.
        batched: Whether the batch axis is the first.
        promised: What the package says of the outputs; none where only servers have the version.
    """

    check: InputCheck
    name: str
    batched: bool
    promised: tuple[TensorSpec, ...]


class Description(msgspec.Struct, frozen=True, eq=False):
    """A version's signatures at one moment. Immutable: whoever has read it has parts that belong together.

    Attributes:
        generation: How many came before that were others.
        signatures: By name.
        ways: By signature; None is the default one.
        default: The default signature's name.
        described_s: The instant that it is of.
        valid_until_s: The instant from which it is not believed unseen.
    """

    generation: int = 0
    signatures: dict[str, Signature] = {}
    ways: dict[str | None, Way] = {}
    default: str = ""
    described_s: float = -math.inf
    valid_until_s: float = -math.inf

    @property
    def names(self) -> list[str]:
        """The signatures' names, for messages."""
        return sorted(self.signatures)


def described(
    before: Description,
    subject: str,
    signatures: dict[str, Signature],
    pixels: Mapping[str, Collection[str]],
    *,
    promised: bool,
    now_s: float,
    valid_until_s: float,
) -> Description:
    """What is known of at least one signature. Pure.

    Args:
        before: What was known so far.
        subject: `digits/3`, for messages.
        signatures: By name.
        pixels: The inputs that take pixels, by signature.
        promised: Whether the outputs are a package's word.
        now_s: The instant.
        valid_until_s: As in `Description`.
    """
    if signatures == before.signatures:
        return replace(before, described_s=now_s, valid_until_s=valid_until_s)
    ways: dict[str | None, Way] = {
        name: Way(
            InputCheck(subject, one, pixels.get(name, ())), name, one.batch_axis == 0, one.outputs if promised else ()
        )
        for name, one in signatures.items()
    }
    default = default_signature(signatures.values()).name
    ways[None] = ways[default]
    return Description(before.generation + 1, signatures, ways, default, now_s, valid_until_s)


class Doubts:
    """Whether a refusal still holds: one question to the servers for all who are refused meanwhile. Thread-safe."""

    def __init__(self) -> None:
        """Has asked nothing yet."""
        self._lock = threading.Lock()
        self._quiet_until_s = -math.inf

    def settled(
        self,
        seen: int,
        generation: Callable[[], int],
        ask: Callable[[float, float], object],
        deadline_s: float | None,
        clock: Callable[[], float],
    ) -> bool:
        """Whether servers describe what they have in another way than when the request was checked.

        Waits up to `DOUBT_LIMIT_S`, and not beyond the deadline. Where nobody says anything nothing has changed.

        Args:
            seen: The generation of the description that the request was checked against.
            generation: That of the one in force.
            ask: Asks servers, from the first instant to the second, and puts in force what they say.
            deadline_s: The request's.
            clock: Monotonic seconds.
        """
        begun_s = clock()
        until_s = begun_s + DOUBT_LIMIT_S if deadline_s is None else min(deadline_s, begun_s + DOUBT_LIMIT_S)
        if generation() != seen:
            return True
        if begun_s < self._quiet_until_s or not self._lock.acquire(timeout=max(until_s - begun_s, 0.0)):
            return False
        try:
            # Meanwhile another may have asked, for all.
            if generation() != seen:
                return True
            if clock() < self._quiet_until_s:
                return False
            with contextlib.suppress(EdgeRuntimeError):
                ask(begun_s, until_s)
            if generation() != seen:
                return True
            self._quiet_until_s = clock() + DOUBT_PAUSE_S
            return False
        finally:
            self._lock.release()
