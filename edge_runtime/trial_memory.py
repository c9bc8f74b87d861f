"""How much memory a trial's child may take, and how much it holds.

No limit of the kernel's: of address space and of data it counts what nobody has touched, of which a driver maps a lot,
and a library that gets no memory crashes as often as it says so. What counts is what is really there.
"""

from __future__ import annotations

from pathlib import Path

LOOK_S = 0.02
"""A process can fill some 100 MB in that time; a look costs 50 us."""

MIB = 2**20

FIRST_RUN_BYTES = 2**31
"""For the interpreter (100 MB), and what flows through a model, which its file's size says nothing of: pictures of 4K
with 64 channels of float32 take 2 GB."""

TIMES_FILES = 8
"""A file of int4 holds eight times its size in float32; one of float16 twice, and its packed copy as much."""

_SHARE = 0.9

_OWN = ("RssAnon:", "RssShmem:", "VmSwap:")
"""Of /proc/PID/status, in KiB. Mapped files are not counted: the kernel can drop them at any time."""


def available_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """Nine tenths of what this machine could still give without swapping; None where it doesn't tell."""
    found = _kib(path, ("MemAvailable:",))
    return int(found[0] * 1024 * _SHARE) if found else None


def limit_bytes(files_bytes: int, path: Path = Path("/proc/meminfo")) -> int | None:
    """What the first run of a model may come to hold: far more than any needs, and never more than there is.

    Args:
        files_bytes: Of all its files.
        path: Where the machine tells of its memory.

    Returns:
        `FIRST_RUN_BYTES` and `TIMES_FILES` times its files, `available_bytes` at most; None where the machine does not
        tell: nor would it then of the child.
    """
    available = available_bytes(path)
    return None if available is None else min(available, FIRST_RUN_BYTES + TIMES_FILES * files_bytes)


def own_bytes(process_id: int) -> int:
    """The memory that is the process's own, in RAM or swapped out; 0 if it is gone, or this system doesn't tell."""
    return sum(_kib(Path(f"/proc/{process_id}/status"), _OWN)) * 1024


def _kib(path: Path, names: tuple[str, ...]) -> list[int]:
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) for line in lines if line.startswith(names)]
