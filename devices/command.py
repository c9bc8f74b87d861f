"""The answer of a small command, such as vcgencmd: bounded in time and length, and whatever bytes it is of."""

from __future__ import annotations

import os
import select
import time

LIMIT_S = 2.0
"""A firmware's command answers within milliseconds; one that does not must not hold the caller up."""

_MOST_BYTES = 4096
"""Of an answer: it has one line."""


def answer(*command: str, limit_s: float = LIMIT_S) -> str | None:
    """What it writes, until it closes its output or has written 4 KB; it is ended then.

    Args:
        command: The program and its arguments.
        limit_s: How long it may take.

    Returns:
        The text, with U+FFFD for what is no UTF-8; None where there is no such program or it is late.
    """
    import subprocess  # noqa: PLC0415  an application that only reads device strings need not pay for it

    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    with process:
        try:
            said = None if process.stdout is None else _read(process.stdout.fileno(), time.monotonic() + limit_s)
        finally:
            process.kill()
    return None if said is None else said.decode("utf-8", errors="replace")


def _read(output: int, until_s: float) -> bytes | None:
    said = b""
    while len(said) < _MOST_BYTES:
        ready, _, _ = select.select([output], [], [], max(until_s - time.monotonic(), 0.0))
        if not ready:
            return None
        part = os.read(output, _MOST_BYTES)
        if not part:
            break
        said += part
    return said
