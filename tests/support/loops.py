"""Waiting for what another process does, without timing anything."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    """Returns when the condition holds; fails after the limit, which is for broken code only."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.005)
