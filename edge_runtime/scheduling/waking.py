"""Waking what sleeps on a bare lock."""

from __future__ import annotations

import contextlib
from _thread import LockType


def wake(sleeper: LockType | None) -> None:
    """Lets go on who sleeps on the lock; does nothing where it is awake already, or nobody sleeps."""
    if sleeper is not None:
        with contextlib.suppress(RuntimeError):  # It is awake already.
            sleeper.release()
