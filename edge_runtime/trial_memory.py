"""How much memory a trial's child may take, and how much it holds.

No limit of the kernel's: of address space and of data it counts what nobody has touched, of which a driver maps a lot,
and a library that gets no memory crashes as often as it says so. What counts is what is really there.
"""

from __future__ import annotations

from pathlib import Path

LOOK_S = 0.02
"""A process can fill some 100 MB in that time; a look costs 50 us."""

MIB = 2**20

_SHARE = 0.9

_OWN = ("RssAnon:", "RssShmem:", "VmSwap:")
"""Of /proc/PID/status, in KiB. Mapped files are not counted: the kernel can drop them at any time."""


def available_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """Nine tenths of what this machine could still give without swapping; None where it doesn't tell."""
    found = _kib(path, ("MemAvailable:",))
    return int(found[0] * 1024 * _SHARE) if found else None


def own_bytes(process_id: int) -> int:
    """The memory that is the process's own, in RAM or swapped out; 0 if it is gone, or this system doesn't tell."""
    return sum(_kib(Path(f"/proc/{process_id}/status"), _OWN)) * 1024


def _kib(path: Path, names: tuple[str, ...]) -> list[int]:
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) for line in lines if line.startswith(names)]
