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

SLOW_S = 1.0
"""Who keeps a handshake's place for longer than that is slow..."""

SLOW_AGAIN_S = 30.0
"""...and is asked again after two seconds, then twice as long each time, and after so many at the latest..."""

SLOW_GIVEN_S = 10.0
"""...or after so many, where it is named or has proved who it is: somebody waits for it to return. A place that it
holds in vain is free for half of the time then."""

DOUBT_S = 10.0
"""For so long, and once at least, one that says nothing is asked anew whether it is still who is trusted; then it no
longer is."""


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
        slow: How often in a row it has kept a place for longer than `SLOW_S`, whatever it proved then.
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
    slow: int = 0
    doubted_s: float = math.inf


def due_s(subject: Subject) -> float:
    """The instant at which it is asked next."""
    if not subject.slow or subject.doubted_s < math.inf:
        return _wanted_s(subject)
    most_s = SLOW_GIVEN_S if subject.given or subject.proved else SLOW_AGAIN_S
    return max(_wanted_s(subject), subject.asked_s + min(2.0**subject.slow, most_s))


def _wanted_s(subject: Subject) -> float:
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


def is_new(subject: Subject) -> bool:
    """Whether it has never been asked: such have places of their own."""
    return subject.asked_s == -math.inf


def is_over(subject: Subject, now_s: float) -> bool:
    """Whether it is believed no longer: it was asked since it is doubted, and the time for that has passed."""
    return now_s - subject.doubted_s > DOUBT_S and subject.asked_s >= subject.doubted_s


def rank(subject: Subject) -> int:
    """Of those that are due the lowest goes first; among equals chance decides."""
    if subject.given or subject.proved:
        return 1 if subject.failures or subject.slow else 0
    if not is_new(subject):
        return 4
    return 2 if subject.direct else 3
