"""Standard input and output of a command: there, whatever it was started with, and given up where nobody reads."""

from __future__ import annotations

import os
import select
import sys


def have() -> None:
    """Opens those that are closed as the null device, so that no file of a store takes the place of one."""
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= 2:  # They come in their order.
        os.set_inheritable(opened, True)
        opened = os.open(os.devnull, os.O_RDWR)
    os.close(opened)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  as long as the process
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  likewise
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  likewise


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False  # No file at all.


def finish() -> OSError | None:
    """Has what was written go out, and what can't be dropped; why it can't, unless nobody reads it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        gone = nobody_reads()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return None if gone else OSError(error.errno, error.strerror, "standard output")
    return None
