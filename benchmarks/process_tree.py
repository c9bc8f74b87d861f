"""What a process and all that it has started take of the machine."""

from __future__ import annotations

from pathlib import Path


def processes(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            found += [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found


def pss_mib(root: int) -> float:
    """The memory of a process and all below it, what they share counted once, in MiB."""
    total = 0
    for pid in processes(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
