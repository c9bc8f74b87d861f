"""What heat and power do to this machine's speed: looked at once a second, and multiplied into every prediction.

A run that took 10 ms takes 30 when the clock is lowered to a third. Whoever learns that from the runs alone has late
answers until enough of them have been measured, and learns the way back just as slowly. So costs are kept at full clock
(`scheduling.cost`), and the `Monitor` says by what they are to be multiplied now.

What counts is what is *allowed*. An idle CPU runs at its lowest clock because nobody needs more; at the first run it is
at the highest again, and nothing must be predicted longer. So the kernel's part is `scaling_max_freq` over
`cpuinfo_max_freq`, and `scaling_cur_freq`, where the governor happens to be, tells nothing by itself. A Raspberry Pi's
firmware lowers the clock without telling the kernel: where `vcgencmd get_throttled` says that it does, its own clock is
asked for, and counts as a cap where it is below what the kernel wants at that moment.

An Edge TPU on PCIe halves its clock at each of its trip points. One on USB says nothing of itself; for it, for a GPU
and for what no file tells (an x86's power limit), the factor is 1 and the costs follow the runs, as ever.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from devices.frequency import CpuFrequency, read_arm_clock, read_frequencies
from devices.thermal import APEX_CLOCK_MHZ, Temperature, Throttled, read_temperatures, read_throttled
from edge_runtime.telemetry import ClimateStats, Event, Sensor, event

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the files are read. A board heats up within tens of seconds, and a cap comes within one."""

FIRMWARE_S = 5.0
"""How often the firmware is asked: that costs a process, some milliseconds of a small board's core."""

CAPPED_S = 2.0
"""The same while it lowers the clock, when each answer matters more."""

SILENT_S = 60.0
"""The same after it has not answered."""

FIRMWARE_LIMIT_S = 0.5
"""It answers in milliseconds, or not at all."""

QUIET_S = 10.0
"""The log says nothing new of one device for so long: a clock that goes up and down at a trip point does so every few
seconds, for hours."""

WORTH_SAYING = 1.05
"""Factors below this are in the statistics alone."""

WORTH_REPEATING = 1.5
"""A device that is throttled already is told of again when its factor has changed by so much."""

_BELOW = 0.95
"""A measured clock varies by some percent around what was asked for."""

_CLOSE_LIMIT_S = 2.0


class Firmware(Protocol):
    """A board's firmware that changes the clock by itself. Both may take up to `FIRMWARE_LIMIT_S`."""

    def throttled(self) -> Throttled | None:
        """What it does now; None if it does not answer."""
        ...

    def clock_mhz(self) -> float | None:
        """The cores' clock as it is; None if it does not answer."""
        ...


class Vcgencmd:
    """A Raspberry Pi's, asked through its command, which needs the group video (`/dev/vcio`)."""

    def __init__(self, command: str) -> None:
        """Takes the command's path."""
        self._command = command

    def __repr__(self) -> str:
        return f"<Vcgencmd {self._command}>"

    def throttled(self) -> Throttled | None:
        """See `Firmware`."""
        return read_throttled(self._command, FIRMWARE_LIMIT_S)

    def clock_mhz(self) -> float | None:
        """See `Firmware`."""
        return read_arm_clock(self._command, FIRMWARE_LIMIT_S)


class Climate(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's heat and power at one instant, and what follows for its speed.

    Attributes:
        temperatures: Of all sensors, an Edge TPU's with its trip points.
        frequencies: Of all CPU policies.
        throttled: A Raspberry Pi's firmware's word; None where there is none.
        capped_mhz: The clock to which the firmware holds the CPU; None where it does not, or was not seen to.
        cpu_factor: By what a run on the CPU takes longer than at full clock; at least 1.
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
    return max(frequency.maximal_mhz / allowed_mhz, 1.0)


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


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One line for the log: its event, level, text, and fields."""

    event: Event
    level: int
    text: str
    fields: dict[str, object]


class Sayings:
    """Decides what the log says: each beginning, each end, and what got much better or worse in between."""

    def __init__(self) -> None:
        """Has said nothing yet."""
        self._said: dict[str, tuple[float, float]] = {}

    def news(self, climate: Climate, now_s: float) -> list[Notice]:
        """What is to be said now; it counts as said."""
        weak = climate.throttled is not None and climate.throttled.under_voltage
        factors: Mapping[str, float] = {"cpu": climate.cpu_factor, **climate.edge_tpu_factors}
        found = [_said_of(name, climate) for name, value in factors.items() if self._is_new(name, value, now_s)]
        if self._is_new("power", 2.0 if weak else 1.0, now_s):
            found.append(_power(weak=weak))
        return found

    def _is_new(self, name: str, factor: float, now_s: float) -> bool:
        before, said_s = self._said.get(name, (1.0, -math.inf))
        was, now = before >= WORTH_SAYING, factor >= WORTH_SAYING
        changed = max(factor / before, before / factor) >= WORTH_REPEATING if was and now else was != now
        if not changed or now_s - said_s < QUIET_S:
            return False
        self._said[name] = (factor, now_s)
        return True


def _said_of(name: str, climate: Climate) -> Notice:
    """What is said of the CPU (`cpu`) or an Edge TPU (`apex_0`)."""
    if name == "cpu":
        title, factor = "CPU", climate.cpu_factor
        mhz, full_mhz = climate.clock_mhz or (0.0, 0.0)
        sensor = max((one for one in climate.temperatures if one.kind != "edgetpu"), key=_heat, default=None)
    else:
        title, factor = name, climate.edge_tpu_factors[name]
        mhz, full_mhz = APEX_CLOCK_MHZ[0] / factor, APEX_CLOCK_MHZ[0]
        sensor = next(one for one in climate.temperatures if one.source == name)
    heat = f", {sensor.celsius:.0f} °C" if sensor else ""
    fields = {"device": name, "factor": factor, "mhz": mhz, "celsius": sensor.celsius if sensor else None}
    if factor < WORTH_SAYING:
        text = f"no longer throttled: {title} at up to {full_mhz:g} MHz again{heat}"
        return Notice(event="unthrottled", level=logging.INFO, text=text, fields=fields)
    text = f"throttled: {title} at {mhz:.4g} of {full_mhz:g} MHz{heat}, predictions x{factor:.1f}"
    return Notice(event="throttled", level=logging.WARNING, text=text, fields=fields)


def _power(*, weak: bool) -> Notice:
    if weak:
        text = "under-voltage: the power supply or its cable is too weak, and the firmware lowers the clock for it"
        return Notice(event="under_voltage", level=logging.WARNING, text=text, fields={})
    return Notice(event="voltage_back", level=logging.INFO, text="the supply's voltage is well again", fields={})


def _heat(one: Temperature) -> float:
    return one.celsius


class Monitor:
    """Looks at the machine once a second, in one thread. Thread-safe.

    A look reads a dozen small files: `benchmarks/monitor.py` says what that costs. A firmware that is asked and does
    not answer holds the thread up for half a second, once a minute.
    """

    def __init__(
        self,
        tell: Callable[[Climate], None],
        *,
        clock: Callable[[], float],
        root: Path = Path("/"),
        firmware: Firmware | None = None,
        interval_s: float = LOOK_S,
    ) -> None:
        """Reads nothing yet.

        Args:
            tell: Is given each look's result, in the thread that looked; must return soon.
            clock: Monotonic seconds.
            root: Where the machine's file system begins.
            firmware: None for what is found at the start: vcgencmd, on the running machine.
            interval_s: How often it looks.
        """
        self._tell = tell
        self._clock = clock
        self._root = root
        self._firmware = firmware
        self._interval_s = interval_s
        self._climate = Climate()
        self._sayings = Sayings()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._throttled: Throttled | None = None
        self._capped_mhz: float | None = None
        self._ask_s = -math.inf
        self._failed = False

    def __repr__(self) -> str:
        state = "closed" if self._stop.is_set() else "open" if self._thread else "not started"
        return f"<Monitor {state}, factors {self._climate.stats().factors}>"

    @property
    def climate(self) -> Climate:
        """The last look's result."""
        return self._climate

    def start(self) -> None:
        """Looks once, so that what is measured next is measured at a known clock, and starts the thread.

        The firmware is asked by the thread only: nobody who opens a runtime waits for it.
        """
        if self._firmware is None and self._root == Path("/") and (command := shutil.which("vcgencmd")):
            self._firmware = Vcgencmd(command)
        self._look_safely(ask=False)
        self._thread = threading.Thread(target=self._watch, name="edge-monitor", daemon=True)
        self._thread.start()

    def look(self, *, ask: bool = True) -> Climate:
        """Reads everything now, tells it on, and logs what is new.

        Args:
            ask: Whether the firmware may be asked, if it is time.
        """
        with self._lock:
            now_s = self._clock()
            frequencies = read_frequencies(self._root)
            if ask and self._firmware is not None and now_s >= self._ask_s:
                self._ask(self._firmware, frequencies, now_s)
            climate = climate_of(read_temperatures(self._root), frequencies, self._throttled, self._capped_mhz)
            self._climate = climate
            self._tell(climate)
            notices = self._sayings.news(climate, now_s)
        for one in notices:
            event(_log, one.level, one.event, one.text, **one.fields)
        return climate

    def close(self) -> None:
        """Ends the thread; waits for a look that is under way, but not for a file that is never read."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_LIMIT_S)

    def _ask(self, firmware: Firmware, frequencies: Sequence[CpuFrequency], now_s: float) -> None:
        self._throttled = throttled = firmware.throttled()
        if throttled is None:
            self._capped_mhz, self._ask_s = None, now_s + SILENT_S
            return
        if not slows(throttled):
            self._capped_mhz, self._ask_s = None, now_s + FIRMWARE_S
            return
        self._ask_s = now_s + CAPPED_S
        measured_mhz = firmware.clock_mhz()
        # Between the two readings the governor may have changed its mind.
        wishes = [one.current_mhz for one in (*frequencies[:1], *read_frequencies(self._root)[:1])]
        known = [one for one in wishes if one is not None]
        asked_mhz = min(known) if len(known) == 2 else None
        allowed_mhz = frequencies[0].allowed_mhz if frequencies else 0.0
        self._capped_mhz = firmware_cap(measured_mhz, asked_mhz, allowed_mhz, self._capped_mhz)

    def _watch(self) -> None:
        """The thread."""
        while True:
            self._look_safely(ask=True)
            if self._stop.wait(self._interval_s):
                return

    def _look_safely(self, *, ask: bool) -> None:
        try:
            self.look(ask=ask)
        except Exception as error:  # noqa: BLE001  whatever it is, what was last known holds, and the next look may do
            if not self._failed:
                _log.warning("temperatures and clocks can't be read just now: %s: %s", type(error).__name__, error)
            self._failed = True
        else:
            self._failed = False
