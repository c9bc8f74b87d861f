"""What heat and power do to this machine's speed: looked at once a second, and multiplied into every prediction.

A run that took 10 ms takes 30 when the clock is lowered to a third. Whoever learns that from the runs alone has late
answers until enough of them have been measured, and learns the way back just as slowly. So costs are kept at full clock
(`scheduling.cost`), and the `Monitor` says by what they are to be multiplied now: see `edge_runtime.climate`.
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
from edge_runtime.climate import MOST_FACTOR, Climate, climate_of, firmware_cap, slows
from edge_runtime.telemetry import Event, event

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


def firmware_of(root: Path) -> Firmware | None:
    """The running machine's; None where it has none to ask, or `root` is another machine's file system."""
    command = shutil.which("vcgencmd") if root == Path("/") else None
    return None if command is None else Vcgencmd(command)


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
    if factor >= MOST_FACTOR:
        text += ", the most that is believed: the files under cpufreq, or the firmware, say more"
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
    not answer holds the thread up for half a second, once a minute. What one of them says that can't be read is None;
    the others hold.
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
        self._mute = False

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
        if self._firmware is None:
            self._firmware = firmware_of(self._root)
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
                self._ask_safely(self._firmware, frequencies, now_s)
            climate = climate_of(read_temperatures(self._root), frequencies, self._throttled, self._capped_mhz)
            self._climate = climate
            self._tell(climate)
            notices = self._sayings.news(climate, now_s)
        for one in notices:
            event(_log, one.level, one.event, one.text, **one.fields)
        return climate

    def look_now(self) -> None:
        """A look beside those of the thread: something was measured just now, and is to be divided by what held then.

        A firmware that lowers clocks is asked whatever it said last, since it is seen to only under load.
        """
        with self._lock:
            if slows(self._throttled):
                self._ask_s = -math.inf
        self._look_safely(ask=True)

    def close(self) -> None:
        """Ends the thread; waits for a look that is under way, but not for a file that is never read."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_LIMIT_S)

    def _ask_safely(self, firmware: Firmware, frequencies: Sequence[CpuFrequency], now_s: float) -> None:
        """What a firmware fails with must not cost what the files say; it is asked again as one that is silent."""
        try:
            self._ask(firmware, frequencies, now_s)
        except Exception as error:  # noqa: BLE001  see above
            self._throttled = self._capped_mhz = None
            self._ask_s = now_s + SILENT_S
            if not self._mute:
                _log.warning("the firmware can't be asked just now: %s: %s", type(error).__name__, error)
            self._mute = True
        else:
            self._mute = False

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
