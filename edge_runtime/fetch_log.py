"""What a fetcher says of what it could not fetch: servers' words in it are bounded, and nothing is said twice."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Hashable

from converter.artifact.placing import STAGING_PREFIX
from edge_runtime.remote.log_limit import LogLimit

_MAX_SAID = 1024
"""Warnings that are remembered as said."""

_MAX_CHARACTERS = 400
"""Of one reason."""

_STAGING = re.compile(re.escape(STAGING_PREFIX) + r"\w+")


def plain(text: str) -> str:
    """A reason in which a server's words, or a package's, may be: on one line, cut, and without control characters.

    Staging folders, whose names are drawn by lot, are all called alike, so that the same is seen to be the same.
    """
    named = _STAGING.sub(f"{STAGING_PREFIX}*", text[: 4 * _MAX_CHARACTERS])
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in named)
    return shown if len(shown) <= _MAX_CHARACTERS else f"{shown[:_MAX_CHARACTERS]}..."


class FetchLog:
    """Warnings, each unless its cause is that of what was said last of the same. For one thread."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        """Takes the log, and monotonic seconds."""
        self._limit = LogLimit(log, clock)
        self._said: dict[Hashable, Hashable] = {}

    def say(self, key: Hashable, text: str, cause: Hashable = None) -> None:
        """Says something of what is wanted, unless it was said last: it is tried again and again.

        Args:
            key: Of what.
            text: What.
            cause: What has to be another one for it to be said again, though figures in the text are others; None for
                the text.
        """
        cause = text if cause is None else cause
        if self._said.get(key) != cause:
            while len(self._said) >= _MAX_SAID:
                del self._said[next(iter(self._said))]
            self._said[key] = cause
            self._limit.warning("%s", text)

    def forget(self, key: Hashable) -> None:
        """It was fetched: the next failure is told even if it is the same."""
        self._said.pop(key, None)
