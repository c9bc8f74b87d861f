"""CPU frequencies: what each cluster of cores runs at, and what kernel and firmware allow it now.

Three figures of a cpufreq policy (https://docs.kernel.org/admin-guide/pm/cpufreq.html), and what they do not say:

    cpuinfo_max_freq   the most that the hardware does
    scaling_max_freq   the most that the kernel allows now: the thermal governor lowers it, and so does an administrator
    scaling_cur_freq   what the governor has asked for last: low on an idle CPU, whatever is allowed

A Raspberry Pi's firmware lowers the clock below what the kernel asked for, and the kernel does not see it: then
`scaling_cur_freq` is a wish, and `vcgencmd measure_clock arm` the truth.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from devices.command import LIMIT_S, answer
from devices.tree import Tree

_POLICIES = "sys/devices/system/cpu/cpufreq"
_KHZ = 1e3
_HZ = 1e6
_LEAST_MHZ = 5
_MOST_MHZ = 100_000
"""No core that runs Linux is clocked with as little, or with as much: what says less or more is broken."""

_MOST_DIGITS = 20


class CpuFrequency(msgspec.Struct, frozen=True, kw_only=True):
    """One cpufreq policy: cores that have one clock.

    Attributes:
        policy: `policy0`.
        cores: How many it clocks; 0 where the kernel does not say.
        current_mhz: What the governor has asked for last; None where it can't be read.
        allowed_mhz: What the kernel allows now.
        maximal_mhz: What the hardware does at most.
    """

    policy: str
    cores: int
    current_mhz: float | None
    allowed_mhz: float
    maximal_mhz: float


def read_frequencies(root: Path = Path("/")) -> tuple[CpuFrequency, ...]:
    """All policies whose bounds can be read; none on a machine that does not scale its clock, as a virtual one.

    Args:
        root: `/`, or a copy of a machine's sys.
    """
    tree = Tree(root)
    names = (name for name in tree.names(_POLICIES) if name.startswith("policy"))
    return tuple(found for name in names if (found := _policy(tree, name)))


def read_arm_clock(command: str = "vcgencmd", limit_s: float = LIMIT_S) -> float | None:
    """What a Raspberry Pi's firmware clocks the cores with, in MHz; None where there is no such command or answer.

    Args:
        command: The program to ask.
        limit_s: How long it may take.
    """
    return arm_clock_from(answer(command, "measure_clock", "arm", limit_s=limit_s) or "")


def arm_clock_from(text: str) -> float | None:
    """Reads `frequency(48)=1800404352`, in MHz; None where the text is something else."""
    key, _, value = text.strip().partition("=")
    if not key.startswith("frequency(") or not (value.isascii() and value.isdecimal()) or len(value) > _MOST_DIGITS:
        return None
    mhz = int(value) / _HZ
    return mhz if _LEAST_MHZ <= mhz <= _MOST_MHZ else None


def _policy(tree: Tree, name: str) -> CpuFrequency | None:
    base = f"{_POLICIES}/{name}"
    maximal = _khz(tree, f"{base}/cpuinfo_max_freq")
    allowed = _khz(tree, f"{base}/scaling_max_freq")
    if maximal is None or allowed is None:
        return None
    # Some drivers answer `<unknown>` here, which is no number.
    current = _khz(tree, f"{base}/scaling_cur_freq")
    return CpuFrequency(
        policy=name,
        cores=len((tree.text(f"{base}/affected_cpus") or "").split()),
        current_mhz=current / _KHZ if current else None,
        allowed_mhz=allowed / _KHZ,
        maximal_mhz=maximal / _KHZ,
    )


def _khz(tree: Tree, path: str) -> int | None:
    """A clock; None where it can't be read or can't be."""
    value = tree.number(path)
    return value if value is not None and _LEAST_MHZ <= value / _KHZ <= _MOST_MHZ else None
