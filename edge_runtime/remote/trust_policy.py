"""When a server is asked to prove who it is. Pure."""

from __future__ import annotations

import math

import msgspec

AGAIN_S = 30.0
"""After which an announced server that has not proved it is asked again without a new announcement..."""

FLOOR_S = 2.0
"""...and with one, however many there are."""

GIVEN_S = 5.0
"""The same for servers that the configuration names: somebody is waiting for them."""

CHECK_S = 600.0
"""After which one that has proved it is asked again: its certificate may have ended since."""

WITHDRAWN_S = 5.0
"""The same for one that was withdrawn. Anybody can withdraw anybody: it goes when it no longer answers."""

AWAY_S = 5.0
"""At the latest, for one that no longer answers requests: it may have another certificate. Sooner at first."""


DOUBT_S = 10.0
"""For so long one that says nothing is asked anew whether it is still who is trusted; then it no longer is."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server at one instant.

    Attributes:
        given: Whether the configuration names it.
        announced: Whether it is announced.
        direct: Whether packets come from where it is said to be.
        proved: Whether it has proved who it is.
        away: Whether nobody answers requests there.
        heard_s: When it was last announced, withdrawn or named, or the device's own files changed.
        asked_s: When it was last asked; minus infinity for never.
        failures: How often it has failed to prove it since it last did.
        doubted_s: Since when it has to prove it anew, since what is trusted has changed; infinite for not.
    """

    given: bool
    announced: bool
    direct: bool = True
    proved: bool
    away: bool
    heard_s: float
    asked_s: float = -math.inf
    failures: int = 0
    doubted_s: float = math.inf


def due_s(subject: Subject) -> float:
    """The instant at which it is asked next."""
    asked_s = subject.asked_s
    if subject.heard_s > asked_s:
        return max(subject.heard_s, asked_s + (0.0 if subject.given else FLOOR_S))
    if subject.proved and (subject.away or subject.doubted_s < math.inf):
        return asked_s + min(2.0**subject.failures, AWAY_S)
    if subject.proved:
        return asked_s + (CHECK_S if subject.announced or subject.given else WITHDRAWN_S)
    if subject.given:
        return asked_s + min(2.0 ** (subject.failures - 1), GIVEN_S)
    return asked_s + AGAIN_S


def rank(subject: Subject) -> int:
    """Of those that are due the lowest goes first; among equals chance decides."""
    if subject.given or subject.proved:
        return 0
    if subject.asked_s > -math.inf:
        return 3
    return 1 if subject.direct else 2
