"""Who has a place among the servers that are asked, however many addresses lead to one of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

MAX_OF_ONE = 8
"""Announced addresses at which one certificate is asked: who relays to a server proves at all of his to be that one."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One that is taken.

    Attributes:
        key: By whom.
        identity: The fingerprint of the certificate that was shown there; empty for none.
        given: Whether the configuration names it: then it stays.
        answers: Whether requests would be sent there now.
    """

    key: str
    identity: str
    given: bool
    answers: bool


class Full(Exception):
    """There is no place now, and nobody who has to give way."""


def who_gives_way(places: Collection[Place], identity: str, room: int) -> str | None:
    """Whose place one takes that has just proved itself: of one that no longer answers, or of who has far more of them.

    Those that answer stay otherwise: whoever comes last may be a relay.

    Args:
        places: All that are taken, but for its own.
        identity: The fingerprint of what it has shown.
        room: So many are there.

    Returns:
        A key; None where a place is free.

    Raises:
        Full: it has to wait.
    """
    others = [one for one in places if not one.given]
    own = [one for one in others if one.identity == identity]
    if len(own) < MAX_OF_ONE and len(places) < room:
        return None
    among = own if len(own) >= MAX_OF_ONE else others
    for place in among:
        if not place.answers:
            return place.key
    if among is others and others:
        most, count = Counter(one.identity for one in others).most_common(1)[0]
        if count > len(own) + 1:  # Else the two would take it from each other in turn.
            return next(one.key for one in others if one.identity == most)
    raise Full
