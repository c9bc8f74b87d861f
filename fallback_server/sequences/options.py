"""How many sequences there may be, how large, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IDLE_S = 86_400.0
"""A day, as for all that is waited for."""


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Bounds of all sequences together.

    Attributes:
        max_sequences: How many streams may be open, whether or not they have sent a step yet.
        max_sequence_bytes: What their states may take together.
        sequence_idle_s: How long a caller may neither send a step nor take an answer.
        drain_s: How long the streams of a version go on that is to be unloaded.
    """

    max_sequences: int = 1024
    max_sequence_bytes: int = 2**28
    sequence_idle_s: float = 60.0
    drain_s: float = 270.0

    def __post_init__(self) -> None:
        for name in ("max_sequences", "max_sequence_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.sequence_idle_s <= MAX_IDLE_S:
            raise ValueError(f"sequence_idle_s must be over 0 and at most {MAX_IDLE_S:.0f}, got {self.sequence_idle_s}")
        if self.drain_s < 0:
            raise ValueError(f"drain_s must be at least 0, got {self.drain_s}")
