"""How many connections may wait until the native server takes them: of itself it has room for 128."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

BACKLOG = 4096
"""As grpcio's server has it; the kernel may have less (`net.core.somaxconn`). Who comes when 128 wait is not heard, and
says so again after a second, and after three: so it is with devices that all come back at once to a new server."""

_DESCRIPTORS = Path("/proc/self/fd")


def widen(port: int) -> int:
    """Gives the sockets of this process that listen on a port that room: to listen anew changes nothing else of them.

    Returns:
        How many there were; 0 where a machine doesn't say what is open: the room stays what it was.
    """
    try:
        numbers = [int(entry.name) for entry in _DESCRIPTORS.iterdir()]
    except OSError:
        return 0
    return sum(_widened(number, port) for number in numbers)


def _widened(number: int, port: int) -> bool:
    with suppress(OSError):  # Other threads close what is theirs meanwhile.
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        with socket.socket(fileno=os.dup(number)) as found:
            if found.family not in {socket.AF_INET, socket.AF_INET6} or found.getsockname()[1] != port:
                return False
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.listen(BACKLOG)
                return True
    return False
