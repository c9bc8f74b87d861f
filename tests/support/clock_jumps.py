"""A wall clock that a test sets, for processes that it starts: by a library that the loader puts before libc's.

It needs the system's C compiler: see `support.edge_delegates.COMPILER`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.edge_delegates import COMPILER

_SOURCE = Path(__file__).with_name("clock_jumps.c")


class JumpingClock:
    """The wall clock of the processes that are started with its `environment`."""

    def __init__(self, folder: Path) -> None:
        assert COMPILER, "ask COMPILER first"
        self._library, self._file = folder / "libclockjumps.so", folder / "jumped"
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *flags, "-o", str(self._library), str(_SOURCE)], check=True)
        self.jump(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_JUMPS": str(self._file)}

    def jump(self, added_s: float) -> None:
        """Sets their clock so far from this machine's, at once."""
        with self._file.open("r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(int(added_s * 1e9).to_bytes(8, "little", signed=True))
