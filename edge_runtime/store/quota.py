"""What a store may hold, and which versions make room: the least recently used first. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_runtime.errors import InvalidConfig

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})", re.ASCII)

MAX_QUOTA_BYTES = 2**60


@dataclass(frozen=True, kw_only=True)
class Held:
    """A version in a store, as the policy sees it.

    Attributes:
        model: Whose.
        version: Which.
        size_bytes: What its files take.
        recent_s: When it was used last, or else installed; only the order matters.
        labelled: Whether a label points to it.
        open: Whether a process has it open.
        latest: Whether it is its model's highest.
    """

    model: str
    version: int
    size_bytes: int
    recent_s: float
    labelled: bool = False
    open: bool = False
    latest: bool = False

    @property
    def may_go(self) -> bool:
        """Whether it may make room for others."""
        return not (self.labelled or self.open or self.latest)

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class Room:
    """What comes of it.

    Attributes:
        removed: The versions that go, in this order; none where that would not do.
        held_bytes: What there is with the version that comes, before anything goes.
        kept_bytes: What must stay of it.
        missing_bytes: What lacks even if everything went that may; 0 where there is room.
    """

    removed: tuple[Held, ...]
    held_bytes: int
    kept_bytes: int
    missing_bytes: int


def make_room(held: Iterable[Held], coming_bytes: int, quota_bytes: int | None) -> Room:
    """Which versions go, so that all that is held is within the quota: as few as will do, in the order of their use.

    Args:
        held: What is there, without the version that comes, and without the one whose place it takes.
        coming_bytes: What the version that comes takes; 0 for none.
        quota_bytes: What may be held; None for any amount.
    """
    there = list(held)
    held_bytes = sum(one.size_bytes for one in there) + coming_bytes
    may_go = [one for one in there if one.may_go]
    kept_bytes = held_bytes - sum(one.size_bytes for one in may_go)
    if quota_bytes is None or held_bytes <= quota_bytes:
        return Room(removed=(), held_bytes=held_bytes, kept_bytes=kept_bytes, missing_bytes=0)
    if kept_bytes > quota_bytes:
        missing_bytes = kept_bytes - quota_bytes
        return Room(removed=(), held_bytes=held_bytes, kept_bytes=kept_bytes, missing_bytes=missing_bytes)
    removed = tuple(_until(may_go, held_bytes - quota_bytes))
    return Room(removed=removed, held_bytes=held_bytes, kept_bytes=kept_bytes, missing_bytes=0)


def _until(may_go: Sequence[Held], wanted_bytes: int) -> Iterable[Held]:
    for one in sorted(may_go, key=lambda one: (one.recent_s, one.model, one.version)):
        if wanted_bytes <= 0:
            return
        wanted_bytes -= one.size_bytes
        yield one


def read_size(text: str) -> int | None:
    """A size in bytes: `2GiB`, `500 MB`, `1.5G` (as GiB), `1048576`; None for `none`.

    Raises:
        InvalidConfig: it is no size, or not from 1 byte to 2^60.
    """
    if text.strip().lower() == "none":
        return None
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise InvalidConfig(f"quota: a size such as 2GiB or 500MB is expected, or none; got {text!r}")
    size_bytes = int(float(match[1]) * unit)
    if not 1 <= size_bytes <= MAX_QUOTA_BYTES:
        raise InvalidConfig(f"quota: must be from 1 byte to {MAX_QUOTA_BYTES} bytes, got {text!r}")
    return size_bytes


def size_text(size_bytes: int) -> str:
    """A size for people, with three digits: `1.50 MiB`."""
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value /= 1024
        del units[0]
    if units[0] == "B":
        return f"{size_bytes} B"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {units[0]}"
