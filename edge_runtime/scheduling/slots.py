"""Which of a batcher's slots takes what. Not thread-safe: the batcher locks."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.errors import EngineLost
from edge_runtime.scheduling.cost import CostTable, DeviceCosts
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.queue import Entry
from edge_runtime.scheduling.slot import Slot

MAX_LOSSES = 2
"""Engines that one request may cost: what brings down two is the request's fault more likely than theirs."""


class SlotTable:
    """The slots of a batcher, of all ranks.

    Attributes:
        all: Every slot, by rank and then as added.
        crowd: Those of the lowest rank that run the queue: all but the solo ones, unless there are no others.
        solo: The slot of the lowest rank for a request that has the device to itself; None without one.
        busy: How many are taken, of any rank.
        left: Whether one of those that work is left by callers whose deadline has passed.
        costs: What a request costs on them; without any, what it cost on the last.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.all: tuple[Slot, ...] = ()
        self.crowd: tuple[Slot, ...] = ()
        self.solo: Slot | None = None
        self.busy = 0
        self.left = False
        self.costs: CostTable | DeviceCosts = CostTable({1: 0.0}, clock)

    def __repr__(self) -> str:
        working = len(self.crowd) + (self.solo is not None and self.solo not in self.crowd)
        return f"{self.busy} of {working} slots busy, {self.standby} stand by"

    @property
    def standby(self) -> int:
        """How many slots stand by."""
        return sum(slot.rank > self.all[0].rank for slot in self.all)

    def add(self, slot: Slot) -> None:
        """Takes a slot into use."""
        slot.usable = True
        self._arrange([*self.all, slot])

    def remove(self, slot: Slot) -> None:
        """Takes a slot out of use; who has it gives it back as ever."""
        slot.usable = False
        self._arrange([one for one in self.all if one is not slot])

    @property
    def run_s(self) -> float:
        """Seconds that a run of one row takes under load."""
        return self.crowd[0].costs.seconds(1)

    def idle(self) -> list[Slot]:
        """The idle slots for the queue."""
        return [slot for slot in self.crowd if not slot.busy]

    def retry(self, entry: Entry) -> list[Slot]:
        """The idle slots for a request that failed; of any rank."""
        return [slot for slot in self.all if not slot.busy and self.may_retry(entry, slot)]

    def can_retry(self, entry: Entry) -> bool:
        """Whether a request that failed may run on any slot, idle or not."""
        return any(self.may_retry(entry, slot) for slot in self.all)

    def may_retry(self, entry: Entry, slot: Slot) -> bool:
        """Whether the request may run there: once on each other device, and beside a lost engine once on its own."""
        if slot.gate not in entry.tried:
            return True
        return isinstance(entry.failure, EngineLost) and slot.gate is entry.tried[-1] and entry.losses < MAX_LOSSES

    def gates(self) -> tuple[Gate, ...]:
        """The devices."""
        return tuple(dict.fromkeys(slot.gate for slot in self.all))

    def _arrange(self, slots: list[Slot]) -> None:
        self.all = tuple(sorted(slots, key=lambda slot: slot.rank))
        working = [slot for slot in self.all if slot.rank == self.all[0].rank]
        self.crowd = tuple(slot for slot in working if not slot.solo) or tuple(working)
        self.solo = next((slot for slot in working if slot.solo), None)
        self.left = any(slot.left for slot in working)
        if self.crowd:
            loaded = self.crowd[0].costs
            alone = loaded if self.solo is None else self.solo.costs
            self.costs = loaded if alone is loaded else DeviceCosts(alone, loaded)
