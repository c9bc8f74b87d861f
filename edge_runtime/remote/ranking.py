"""Which endpoints may answer a request, in which order: pure, of what each is known to serve and expected to take."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edge_runtime.remote.catalog import Serves

_FACTOR = 3.0
_MARGIN_S = 0.005
"""Endpoints that are expected to take no more than so much longer than the best are alike: of them two are drawn."""


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What is known of one endpoint with regard to one version.

    Attributes:
        serves: Whether it answers for it.
        gone: Whether nobody was there of late.
        server_id: Which server it is; empty where that is not known.
        expected_s: Seconds in which it should answer; infinite where it may not be asked.
    """

    serves: Serves
    gone: bool
    server_id: str
    expected_s: float


class Ranks(msgspec.Struct, frozen=True, gc=False):
    """Places in the sequence of endpoints.

    Attributes:
        near: Those that are alike, in the order that they were given.
        far: Those that serve it too, the sooner first: much slower ones, and further ways to a server that is near.
        last: Those to ask where no other is left: nobody was there of late, or the version is still loading.
        lacking: Those that don't have it.
    """

    near: tuple[int, ...]
    far: tuple[int, ...]
    last: tuple[int, ...]
    lacking: tuple[int, ...]


def rank(standings: Sequence[Standing]) -> Ranks:
    """Sorts the endpoints.

    Where it is not known whether one serves the version, it may be asked. Of two ways to one server the sooner counts.
    """
    able: list[int] = []
    last: list[int] = []
    lacking: list[int] = []
    for place, one in enumerate(standings):
        if one.serves is Serves.NO:
            lacking.append(place)
        elif one.gone or one.serves is Serves.SOON:
            last.append(place)
        else:
            able.append(place)
    able.sort(key=lambda place: standings[place].expected_s)
    last.sort(key=lambda place: (standings[place].gone, standings[place].expected_s))
    limit_s = standings[able[0]].expected_s * _FACTOR + _MARGIN_S if able else 0.0
    seen: set[str] = set()
    near: list[int] = []
    far: list[int] = []
    for place in able:
        one = standings[place]
        alike = one.expected_s <= limit_s and one.expected_s < math.inf
        again = bool(one.server_id) and one.server_id in seen
        (near if alike and not again else far).append(place)
        seen.add(one.server_id)
    return Ranks(near=tuple(sorted(near)), far=tuple(far), last=tuple(last), lacking=tuple(lacking))
