"""A station: one place where a version can run, that is a variant on a device, and what became of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from converter.artifact import Variant
from edge_runtime.crew.device import Device
from edge_runtime.crew.health import Health
from edge_runtime.engine.engine import Engine
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, PackageRefused
from edge_runtime.scheduling.slot import Slot
from edge_runtime.telemetry import EngineFaults
from edge_runtime.types import EngineReport

State = Literal["starting", "ready", "unhealthy", "refused"]


@dataclass(eq=False)
class Station:
    """Written under the crew's lock only.

    Attributes:
        name: What reports call it: the device strings, joined for a pipeline.
        devices: One; several for the segments of a cut model.
        variant: What runs there; None where nothing can.
        rank: The lowest rank with a ready station works.
        isolation: `process` or `none`.
        state: `refused` for good, `unhealthy` until it is tried again.
        reason: Why not, in words.
        health: When it is tried again.
        threads: Of its first engine.
        slots: By engine, what the batcher was given.
        failures: By engine, the failures in a row and how many runs had ended well before the first of them.
        lost_s: The instant of the last loss; None if there was none.
        hold_s: Until when requests wait for it to come back from its last loss.
        faults: How often what went wrong: the fields of `EngineFaults`.
        opening: Whether a thread is at it.
        growing: Whether a thread makes one more engine.
        missing: For each engine that was lost beside others and is to be made again: whether it was for requests that
            are alone.
        growth: When one more engine may be made: after one that was lost beside others, or could not be made, later.
    """

    name: str
    devices: tuple[Device, ...]
    variant: Variant | None
    rank: int
    isolation: Literal["none", "process"]
    state: State = "starting"
    reason: str = ""
    health: Health = field(default_factory=Health)
    threads: int = 1
    slots: dict[Engine, list[Slot]] = field(default_factory=dict)
    failures: dict[Engine, tuple[int, int]] = field(default_factory=dict)
    lost_s: float | None = None
    hold_s: float = -math.inf
    faults: Counter[str] = field(default_factory=Counter)
    opening: bool = False
    growing: bool = False
    missing: list[bool] = field(default_factory=list)
    growth: Health = field(default_factory=Health)

    def report(self, working_rank: int | None) -> EngineReport:
        """What is said of it."""
        standing_by = self.state == "ready" and working_rank is not None and self.rank > working_rank
        return EngineReport(
            device=self.name,
            variant=self.variant.name if self.variant else "",
            state="standby" if standing_by else self.state,
            reason=self.reason,
            threads=self.threads,
            isolation=self.isolation,
        )

    @property
    def faults_so_far(self) -> EngineFaults:
        """The same as a struct."""
        return EngineFaults(**{name: self.faults[name] for name in EngineFaults.__struct_fields__})

    @property
    def stands_in(self) -> bool:
        """Whether it is for any Edge TPU, since none was seen."""
        return any(device.stands_in for device in self.devices)

    @property
    def lasting(self) -> bool:
        """Whether it can't be lost: the CPU in this process."""
        return self.isolation == "none" and self.devices[0].kind == "cpu"

    @property
    def solo(self) -> bool:
        """Whether one of its engines is for requests that are alone."""
        return any(slot.solo for slots in self.slots.values() for slot in slots)

    def failed_again(self, engine: Engine) -> int:
        """Counts one more failed run; how many there were in a row."""
        count, runs = self.failures.get(engine, (0, engine.runs))
        count = count + 1 if runs == engine.runs else 1
        self.failures[engine] = (count, engine.runs)
        return count


def nothing_runs(subject: str, stations: Sequence[Station]) -> EdgeRuntimeError:
    """The error that says why the subject runs nowhere; the one that was raised, where there is only one reason."""
    if len(stations) == 1:
        kind = PackageRefused if stations[0].state == "refused" else EngineFailed
        return kind(stations[0].reason)
    reasons = [f"{station.name}: {station.reason}" for station in stations]
    return EngineFailed(f"{subject} can't run on any of its devices. " + "; ".join(reasons))


def explained(station: Station, text: str) -> str:
    """A raw error with its cause on this machine, where that is known."""
    if station.devices[0].kind == "cpu":
        return text
    raw = " ".join(text.split())
    try:
        from devices import diagnose, probe  # noqa: PLC0415  only when something failed

        said = diagnose(text, probe())
    except Exception:  # noqa: BLE001  without memory or descriptors the machine can't be looked at: the error itself stays
        return raw
    if said.cause.startswith("The error is not one") or said.cause in raw:
        return raw
    return f"{raw.rstrip('.')}. {said.cause} {said.cure}"
