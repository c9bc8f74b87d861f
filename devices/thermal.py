"""One reading of temperatures and throttling; whoever wants a course of them reads again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from devices.tree import Tree

APEX_CLOCK_MHZ = (500.0, 250.0, 125.0, 62.5)
"""The clock of an Edge TPU on PCIe below its first trip temperature, and past the first, second and third."""

COMMAND_LIMIT_S = 2.0
"""vcgencmd answers within milliseconds; a firmware that does not answer must not hold the caller up."""

_MILLI = 1000.0


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
            return cls.from_mask(int(value, 16)) if key == "throttled" else None
        except ValueError:
            return None


def read_temperatures(root: Path = Path("/")) -> tuple[Temperature, ...]:
    """All sensors that answer, thermal zones first; none where there are none."""
    tree = Tree(root)
    zones = [_zone(tree, name) for name in tree.names("sys/class/thermal") if name.startswith("thermal_zone")]
    edge_tpus = [_apex(tree, name) for name in tree.names("sys/class/apex") if name.startswith("apex_")]
    return tuple(found for found in zones + edge_tpus if found)


def read_throttled(command: str = "vcgencmd", limit_s: float = COMMAND_LIMIT_S) -> Throttled | None:
    """Asks the Raspberry Pi's firmware; None where there is no such command or it does not answer.

    Args:
        command: The program to ask.
        limit_s: How long it may take.
    """
    import subprocess  # noqa: PLC0415  an application that only reads device strings need not pay for it

    try:
        done = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=limit_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Throttled.from_text(done.stdout)


def _zone(tree: Tree, name: str) -> Temperature | None:
    value = tree.number(f"sys/class/thermal/{name}/temp")
    kind = tree.text(f"sys/class/thermal/{name}/type")
    return None if value is None else Temperature(source=name, kind=kind or "", celsius=value / _MILLI)


def _apex(tree: Tree, name: str) -> Temperature | None:
    value = tree.number(f"sys/class/apex/{name}/temp")
    if value is None:
        return None
    trips = (tree.number(f"sys/class/apex/{name}/trip_point{index}_temp") for index in range(len(APEX_CLOCK_MHZ) - 1))
    device = tree.root / f"sys/class/apex/{name}/device"
    return Temperature(
        source=name,
        kind="edgetpu",
        celsius=value / _MILLI,
        trips_celsius=tuple(trip / _MILLI for trip in trips if trip is not None),
        place=device.resolve().name if device.is_symlink() else "",
        governed=tree.number(f"sys/class/apex/{name}/temp_poll_interval") != 0,
    )
