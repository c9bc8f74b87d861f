"""One reading of temperatures and throttling; whoever wants a course of them reads again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from devices.command import LIMIT_S, answer
from devices.tree import Tree

APEX_CLOCK_MHZ = (500.0, 250.0, 125.0, 62.5)
"""The clock of an Edge TPU on PCIe below its first trip temperature, and past the first, second and third."""

_MILLI = 1000.0
_POSSIBLE_MILLI = range(-273_150, 1_000_001)
"""What a sensor may say; anything else is a broken one's."""

_MASKS = range(2**32)


class Temperature(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor's value.

    Attributes:
        source: `thermal_zone0`, `apex_0`.
        kind: What the kernel calls the zone, such as `cpu-thermal`; `edgetpu` for an apex device.
        celsius: The value.
        trips_celsius: Edge TPU only: where the clock is lowered, in the order of the driver's numbers; they differ
            from board to board. Empty where they can't be read.
        place: Edge TPU only: its PCI address, `0000:01:00.0`; empty where sysfs does not say it.
        governed: Edge TPU only: whether the driver lowers the clock at the trips at all. It compares every
            `temp_poll_interval` milliseconds, and never where that is 0.
    """

    source: str
    kind: str
    celsius: float
    trips_celsius: tuple[float, ...] = ()
    place: str = ""
    governed: bool = True

    @property
    def clock_mhz(self) -> float:
        """An Edge TPU's clock at this temperature: a step lower from each trip on, as its driver has it."""
        passed = sum(self.celsius >= trip for trip in self.trips_celsius) if self.governed else 0
        return APEX_CLOCK_MHZ[min(passed, len(APEX_CLOCK_MHZ) - 1)]


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """What a Raspberry Pi's firmware says of power and heat: now, and (`seen_`) at some time since boot."""

    under_voltage: bool
    frequency_capped: bool
    throttled: bool
    soft_temperature_limit: bool
    seen_under_voltage: bool
    seen_frequency_capped: bool
    seen_throttled: bool
    seen_soft_temperature_limit: bool

    @classmethod
    def from_mask(cls, mask: int) -> Throttled:
        """Decodes the bit mask of `vcgencmd get_throttled`: bits 0 to 3 now, 16 to 19 since boot."""
        names = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
        now = {name: bool(mask >> bit & 1) for bit, name in enumerate(names)}
        seen = {f"seen_{name}": bool(mask >> bit & 1) for bit, name in enumerate(names, start=16)}
        return cls(**now, **seen)

    @classmethod
    def from_text(cls, text: str) -> Throttled | None:
        """Reads `throttled=0x50005`; None where the text is something else."""
        key, _, value = text.strip().partition("=")
        try:
            mask = int(value, 16)
        except ValueError:
            return None
        return cls.from_mask(mask) if key == "throttled" and mask in _MASKS else None


def read_temperatures(root: Path = Path("/")) -> tuple[Temperature, ...]:
    """All sensors that answer, thermal zones first; none where there are none."""
    tree = Tree(root)
    zones = [_zone(tree, name) for name in tree.names("sys/class/thermal") if name.startswith("thermal_zone")]
    edge_tpus = [_apex(tree, name) for name in tree.names("sys/class/apex") if name.startswith("apex_")]
    return tuple(found for found in zones + edge_tpus if found)


def read_throttled(command: str = "vcgencmd", limit_s: float = LIMIT_S) -> Throttled | None:
    """Asks the Raspberry Pi's firmware; None where there is no such command, or it says nothing that can be read.

    Args:
        command: The program to ask.
        limit_s: How long it may take.
    """
    return Throttled.from_text(answer(command, "get_throttled", limit_s=limit_s) or "")


def _zone(tree: Tree, name: str) -> Temperature | None:
    value = _milli(tree, f"sys/class/thermal/{name}/temp")
    kind = tree.text(f"sys/class/thermal/{name}/type")
    return None if value is None else Temperature(source=name, kind=kind or "", celsius=value / _MILLI)


def _milli(tree: Tree, path: str) -> int | None:
    """Thousandths of a degree; None where they can't be read or can't be."""
    value = tree.number(path)
    return value if value is not None and value in _POSSIBLE_MILLI else None


def _apex(tree: Tree, name: str) -> Temperature | None:
    value = _milli(tree, f"sys/class/apex/{name}/temp")
    if value is None:
        return None
    trips = (_milli(tree, f"sys/class/apex/{name}/trip_point{index}_temp") for index in range(len(APEX_CLOCK_MHZ) - 1))
    device = tree.root / f"sys/class/apex/{name}/device"
    return Temperature(
        source=name,
        kind="edgetpu",
        celsius=value / _MILLI,
        trips_celsius=tuple(trip / _MILLI for trip in trips if trip is not None),
        place=device.resolve().name if device.is_symlink() else "",
        governed=tree.number(f"sys/class/apex/{name}/temp_poll_interval") != 0,
    )
