"""What a worker's process prints beside its log, as LiteRT's C++ does: brought into this process's log."""

from __future__ import annotations

import logging
import threading
import time
from typing import IO

from fallback_server.executors.worker.line_limit import LineLimit

_log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1000
"""Longer lines come in pieces."""


def follow(index: int, output: IO[bytes]) -> None:
    """Logs what is printed, at most so many lines a second as `LineLimit` admits, in a thread, until its end.

    Args:
        index: The worker's number.
        output: Where it can be read; closed at its end.
    """
    threading.Thread(target=_follow, args=(index, output), name=f"printed-{index}", daemon=True).start()


def _follow(index: int, output: IO[bytes]) -> None:
    limit = LineLimit(time.monotonic)
    with output:
        while line := output.readline(MAX_LINE_BYTES):
            text = line.decode(errors="replace").strip()
            if text and limit.admits():
                if left_out := limit.taken_left_out():
                    _log.info("worker %d: ... %d lines left out", index, left_out)
                _log.info("worker %d: %s", index, text)
    if left_out := limit.taken_left_out():
        _log.info("worker %d: ... %d lines left out", index, left_out)
