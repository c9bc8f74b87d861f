"""Heat and power of a fake board: the files of its cpufreq policies, and a firmware that says what a test wants."""

from __future__ import annotations

import time

from support.devices_roots import FakeRoot

from devices import Throttled

WELL = 0x0
THROTTLED = 0x4
UNDER_VOLTAGE = 0x1
LIMIT_S = 30.0


def clock(root: FakeRoot, *, current=600, allowed=1800, maximal=1800, policy="policy0", cores="0 1 2 3"):
    """A cpufreq policy, in MHz; with the defaults a Raspberry Pi 4 that has nothing to do."""
    base = f"sys/devices/system/cpu/cpufreq/{policy}"
    for name, mhz in {
        "scaling_cur_freq": current,
        "scaling_max_freq": allowed,
        "cpuinfo_max_freq": maximal,
    }.items():
        root.write(f"{base}/{name}", f"{int(mhz * 1000)}\n")
    root.write(f"{base}/affected_cpus", f"{cores}\n")


def heat(root: FakeRoot, celsius: float):
    """The CPU's thermal zone."""
    root.write("sys/class/thermal/thermal_zone0/temp", f"{int(celsius * 1000)}\n")
    root.write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")


class FakeFirmware:
    """A Raspberry Pi's firmware.

    Attributes:
        mask: What `get_throttled` says; None for no answer.
        mhz: The clock as it is.
        asked: How often the mask was asked for.
    """

    def __init__(self, mask=WELL, mhz=600.0):
        self.mask = mask
        self.mhz = mhz
        self.asked = 0

    def throttled(self):
        self.asked += 1
        return None if self.mask is None else Throttled.from_mask(self.mask)

    def clock_mhz(self):
        return self.mhz


def wait_until(true):
    """Polls until it is, for half a minute."""
    until_s = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.01)
