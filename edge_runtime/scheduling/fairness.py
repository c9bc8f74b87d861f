"""Who of the waiting users runs next on a shared device. Pure arithmetic on shares: no lock, no clock.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) over measured run times: a user's
tag is where its next run starts in virtual time, the smallest tag runs next, and a run of s seconds moves the tag by
s / weight. The virtual time is the tag of the run that started last, so that a user that was idle starts where the
others are: it neither saves up the time that it did not use nor waits behind what the others used meanwhile.
"""

from __future__ import annotations

_SMOOTHING = 0.25
"""Weight of the newest run in the mean that a run is charged with until its real time is known."""


class Share:
    """One user's part in a device.

    Attributes:
        name: For `repr`.
        weight: Its part of the time, beside the others' weights.
        tag_s: Where its next run starts in virtual time.
        running: Its runs that have started and not ended.
    """

    __slots__ = ("_charged_s", "_mean_s", "name", "running", "tag_s", "weight")

    def __init__(self, weight: float, name: str = "") -> None:
        """Takes a weight above 0."""
        if not weight > 0:
            raise ValueError(f"weight must be above 0, got {weight}")
        self.name = name
        self.weight = weight
        self.tag_s = 0.0
        self.running = 0
        self._mean_s = 0.0
        self._charged_s = 0.0

    def __repr__(self) -> str:
        return f"<Share {self.name} weight {self.weight:g}, {self.running} running, at {self.tag_s:.3f} s>"

    def arrive(self, virtual_s: float) -> None:
        """It wants to run: if it was idle, from where the others are."""
        self.tag_s = max(self.tag_s, virtual_s)

    def start(self, virtual_s: float) -> float:
        """A run starts, charged with what its runs took so far; the virtual time that follows."""
        tag_s = max(self.tag_s, virtual_s)
        self.running += 1
        self._charged_s += self._mean_s
        self.tag_s = tag_s + self._mean_s / self.weight
        return tag_s

    def end(self, run_s: float) -> None:
        """A run has ended: what it was charged is put right by what it took."""
        charged_s = self._charged_s / self.running
        self.running -= 1
        self._charged_s -= charged_s
        self.tag_s += (run_s - charged_s) / self.weight
        if run_s > 0:
            self._mean_s += _SMOOTHING * (run_s - self._mean_s)
