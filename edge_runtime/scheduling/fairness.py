"""Who of the waiting users runs next on a shared device. Pure arithmetic on shares: no lock, no clock.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) over measured run times: a user's
tag is where its next run starts in virtual time, the smallest tag runs next, and a run of s seconds moves the tag by
s / weight. The virtual time is the tag of the run that started last, so that a user that was idle starts where the
others are: it neither saves up the time that it did not use nor waits behind what the others used meanwhile.
"""

from __future__ import annotations


class Share:
    """One user's part in a device.

    Attributes:
        name: For `repr`.
        weight: Its part of the time, beside the others' weights.
        tag_s: Where its next run starts in virtual time.
    """

    __slots__ = ("name", "tag_s", "weight")

    def __init__(self, weight: float, name: str = "") -> None:
        """Takes a weight above 0."""
        if not weight > 0:
            raise ValueError(f"weight must be above 0, got {weight}")
        self.name = name
        self.weight = weight
        self.tag_s = 0.0

    def __repr__(self) -> str:
        return f"<Share {self.name} weight {self.weight:g}, at {self.tag_s:.3f} s>"

    def start(self, virtual_s: float) -> float:
        """It wants to run, or does: if it was idle, from where the others are. The virtual time if it runs."""
        self.tag_s = max(self.tag_s, virtual_s)
        return self.tag_s

    def end(self, run_s: float) -> None:
        """A run has ended, and took so long. It is charged only now that its time is known."""
        self.tag_s += run_s / self.weight
