"""Who of the waiting users runs next on a shared device. Pure arithmetic on shares: no lock, no clock.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) over measured run times: a user's
tag is where its next run starts in virtual time, the smallest tag runs next, and a run of s seconds moves the tag by
s / weight. A user that was idle starts where the furthest behind of the others is: it neither saves up the time that it
did not use nor waits behind what the others used meanwhile. A run is charged with the user's mean when it starts, so
that several which start together don't pass for one, and with the difference when it has ended.
"""

from __future__ import annotations

_SMOOTHING = 0.25
"""Weight of the newest run in a user's mean."""


class Share:
    """One user's part in a device.

    Attributes:
        name: For `repr`.
        weight: Its part of the time, beside the others' weights.
        tag_s: Where its next run starts in virtual time.
        mean_s: Seconds that its runs take.
        began_s: Where its last run started.
        active: Its runs that are under way or wait.
    """

    __slots__ = ("active", "began_s", "mean_s", "name", "tag_s", "weight")

    def __init__(self, weight: float, name: str = "") -> None:
        """Takes a weight above 0."""
        if not weight > 0:
            raise ValueError(f"weight must be above 0, got {weight}")
        self.name = name
        self.weight = weight
        self.tag_s = 0.0
        self.began_s = 0.0
        self.mean_s = 0.0
        self.active = 0

    def __repr__(self) -> str:
        return f"<Share {self.name} weight {self.weight:g}, at {self.tag_s:.3f} s>"

    def come(self, floor_s: float) -> None:
        """One more run of it is wanted; the first one from where the others are."""
        if not self.active:
            self.began_s = self.tag_s = max(self.tag_s, floor_s)
        self.active += 1

    def go(self) -> None:
        """One run less."""
        self.active -= 1

    def start(self, permits: int) -> None:
        """A run starts."""
        self.began_s = self.tag_s
        self.tag_s += self.mean_s * permits / self.weight

    def end(self, run_s: float, permits: int) -> None:
        """A run has ended, and took so long; 0 if nothing ran."""
        self.tag_s += (run_s - self.mean_s) * permits / self.weight
        if run_s > 0:
            self.mean_s += (run_s - self.mean_s) * (_SMOOTHING if self.mean_s else 1.0)
