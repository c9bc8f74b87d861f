"""What a machine's heat and power mean for its speed, as pure values and functions. `edge_runtime.thermal` looks.

What counts is what is *allowed*. An idle CPU runs at its lowest clock because nobody needs more; at the first run it is
at the highest again, and nothing must be predicted longer. So the kernel's part is `scaling_max_freq` over
`cpuinfo_max_freq`, and `scaling_cur_freq`, where the governor happens to be, tells nothing by itself. A Raspberry Pi's
firmware lowers the clock without telling the kernel: where `vcgencmd get_throttled` says that it does, its own clock is
asked for, and counts as a cap where it is below what the kernel wants at that moment.

An Edge TPU on PCIe halves its clock at each of its trip points. One on USB says nothing of itself; for it, for a GPU
and for what no file tells (an x86's power limit), the factor is 1 and the costs follow the runs, as ever.
"""

from __future__ import annotations

import math

import msgspec

from devices.frequency import CpuFrequency
from devices.thermal import APEX_CLOCK_MHZ, Temperature, Throttled
from edge_runtime.telemetry import ClimateStats, Sensor

_BELOW = 0.95
"""A measured clock varies by some percent around what was asked for."""

MOST_FACTOR = 32.0
"""The most that is believed. From the fastest cores' clock to a slow board's lowest is a factor of 30: what gives more
is a file that says something else, and must not keep a device from work that it could do."""


class Climate(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's heat and power at one instant, and what follows for its speed.

    Attributes:
        temperatures: Of all sensors, an Edge TPU's with its trip points.
        frequencies: Of all CPU policies.
        throttled: A Raspberry Pi's firmware's word; None where there is none.
        capped_mhz: The clock to which the firmware holds the CPU; None where it does not, or was not seen to.
        cpu_factor: By what a run on the CPU takes longer than at full clock; 1 to `MOST_FACTOR`.
        edge_tpu_factors: The same for each Edge TPU on PCIe, by its name: `apex_0`.
    """

    temperatures: tuple[Temperature, ...] = ()
    frequencies: tuple[CpuFrequency, ...] = ()
    throttled: Throttled | None = None
    capped_mhz: float | None = None
    cpu_factor: float = 1.0
    edge_tpu_factors: dict[str, float] = {}

    def factor(self, kind: str, place: str = "") -> float:
        """The factor of a device.

        Args:
            kind: Its delegate's name.
            place: Of an Edge TPU, its bus and address: `pci 0000:01:00.0`. Where sysfs hides the address, as in a
                container, the only one there is must be it.
        """
        if kind == "cpu":
            return self.cpu_factor
        bus, _, address = place.partition(" ")
        if kind != "edgetpu" or bus != "pci":
            return 1.0
        known = {one.place: self.edge_tpu_factors[one.source] for one in self.temperatures if one.kind == "edgetpu"}
        if not (address and any(known)) and len(self.edge_tpu_factors) == 1:
            return next(iter(self.edge_tpu_factors.values()))
        return known.get(address, 1.0)

    @property
    def clock_mhz(self) -> tuple[float, float] | None:
        """What the most throttled cores may run at, and what they can; None where the clock is not scaled."""
        if not self.frequencies:
            return None
        worst = max(self.frequencies, key=lambda one: policy_factor(one, self.capped_mhz))
        return worst.maximal_mhz / policy_factor(worst, self.capped_mhz), worst.maximal_mhz

    def stats(self) -> ClimateStats:
        """The same as plain values."""
        flags = {} if self.throttled is None else msgspec.structs.asdict(self.throttled)
        return ClimateStats(
            sensors=tuple(
                Sensor(source=one.source, kind=one.kind, celsius=one.celsius, trips_celsius=one.trips_celsius)
                for one in self.temperatures
            ),
            factors={"cpu": self.cpu_factor, **self.edge_tpu_factors},
            clock_mhz=self.clock_mhz,
            firmware=None if self.throttled is None else tuple(name for name, is_set in flags.items() if is_set),
        )


def climate_of(
    temperatures: tuple[Temperature, ...],
    frequencies: tuple[CpuFrequency, ...],
    throttled: Throttled | None = None,
    capped_mhz: float | None = None,
) -> Climate:
    """What was read, with its factors. Pure."""
    return Climate(
        temperatures=temperatures,
        frequencies=frequencies,
        throttled=throttled,
        capped_mhz=capped_mhz,
        cpu_factor=max((policy_factor(one, capped_mhz) for one in frequencies), default=1.0),
        edge_tpu_factors={
            one.source: APEX_CLOCK_MHZ[0] / one.clock_mhz for one in temperatures if one.kind == "edgetpu"
        },
    )


def policy_factor(frequency: CpuFrequency, capped_mhz: float | None = None) -> float:
    """By what a run on these cores takes longer than at their full clock. Pure.

    Taken as the inverse of the clock: right for arithmetic, too much for what waits for memory, which then is learnt
    from the runs. Of several clusters the most throttled counts (`climate_of`): a run's threads wait for each other.

    Args:
        frequency: What the kernel allows. Where the governor is (`current_mhz`) does not matter.
        capped_mhz: To what the firmware holds the clock, as of `firmware_cap`.
    """
    allowed_mhz = min(frequency.allowed_mhz, math.inf if capped_mhz is None else capped_mhz)
    return min(max(frequency.maximal_mhz / allowed_mhz, 1.0), MOST_FACTOR)


def slows(throttled: Throttled | None) -> bool:
    """Whether the firmware says that it lowers the clock now. Under-voltage alone does not; what it leads to does."""
    return throttled is not None and (
        throttled.frequency_capped or throttled.throttled or throttled.soft_temperature_limit
    )


def firmware_cap(
    measured_mhz: float | None, asked_mhz: float | None, allowed_mhz: float, before_mhz: float | None
) -> float | None:
    """To what a firmware that lowers the clock holds it; None if that is not known. Pure.

    An idle CPU's low clock is its governor's wish. Only a clock below that wish is the firmware's doing.

    Args:
        measured_mhz: The clock as it was measured; None if the firmware did not say.
        asked_mhz: What the kernel wanted at that moment, the lower of just before and just after; None if unknown.
        allowed_mhz: The most that it may want.
        before_mhz: What was known so far.
    """
    if measured_mhz is None or asked_mhz is None:
        return before_mhz
    if measured_mhz < asked_mhz * _BELOW:
        return measured_mhz
    if asked_mhz >= allowed_mhz * _BELOW:
        return None
    return before_mhz if before_mhz is None else max(before_mhz, measured_mhz)
