"""Counts the requests that can't be read: the data plane will not hear of them otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from fallback_server.core.errors import ServerError
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, Verb

Refused = Callable[[PredictCall, ServerError], None]
"""Is told of a call that could not be read, as far as it was, and why."""


class Reading:
    """What is known of a request while it is read.

    Attributes:
        name: The model's; empty as long as it is not known.
        verb: What is asked.
    """

    __slots__ = ("name", "verb")

    def __init__(self, verb: Verb) -> None:
        self.name = ""
        self.verb = verb


@contextlib.contextmanager
def counted(refused: Refused | None, verb: Verb = Verb.PREDICT) -> Iterator[Reading]:
    """Tells of a refusal within what was known by then, and lets it go on.

    Args:
        refused: Is told; None for nobody.
        verb: What is asked, as far as the call's kind says.
    """
    reading = Reading(verb)
    try:
        yield reading
    except ServerError as error:
        if refused is not None:
            refused(PredictCall(target=ModelTarget(name=reading.name), verb=reading.verb), error)
        raise
