"""What the log says once of servers that refuse what the device could answer: they are set up otherwise than it."""

from __future__ import annotations

import logging

from edge_runtime.routing.chain import Refusal

_log = logging.getLogger(__name__)


class Complaint:
    """Said once, however many such refusals come."""

    def __init__(self, outcome: str) -> None:
        """Takes what becomes of such requests."""
        self._outcome = outcome
        self._said = False

    def about(self, error: BaseException) -> None:
        """Such a refusal has come."""
        if self._said:
            return
        self._said = True
        said = error if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        _log.warning("%s, since servers do not take the requests: %s", self._outcome, said)
