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
        version: What it answers as, where the request names no version; 0 where that is not known.
        misfit: Whether it refused of late what it should take, or answered otherwise than it should.
        refused: Whether it was full, or loading, when it was last asked, a short while ago.
    """

    serves: Serves
    gone: bool
    server_id: str
    expected_s: float
    version: int = 0
    misfit: bool = False
    refused: bool = False


class Ranks(msgspec.Struct, frozen=True, gc=False):
    """Places in the sequence of endpoints.

    Attributes:
        near: Those that are alike, in the order that they were given.
        far: Those that serve it too, the sooner first: much slower ones, and further ways to a server that is near; and
            misfits behind all of them.
        behind: Those that would answer as an older version than others that may be asked, the newer first; and those of
            which that is not known. At last those that refused of late, the sooner first.
        last: Those to ask where no other is left: nobody was there of late, or the version is still loading.
        lacking: Those that don't have it.
    """

    near: tuple[int, ...]
    far: tuple[int, ...]
    behind: tuple[int, ...]
    last: tuple[int, ...]
    lacking: tuple[int, ...]


def rank(standings: Sequence[Standing]) -> Ranks:
    """Sorts the endpoints.

    Where it is not known whether one serves the version, it may be asked. Of two ways to one server the sooner counts.
    What "the latest" is, or a label, the servers may see differently: the newest version of those that may be asked is
    what a request without a version gets, whichever of them is the sooner. Those that refused of late are as good as
    any other where all did.
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
    ready = [place for place in able if not standings[place].refused]
    refusing: list[int] = []
    if any(standings[place].expected_s < math.inf and not standings[place].misfit for place in ready):
        refusing = [place for place in able if standings[place].refused]
        refusing.sort(key=lambda place: standings[place].expected_s)
        able = ready
    newest = max((standings[place].version for place in able if standings[place].expected_s < math.inf), default=0)
    behind = [place for place in able if standings[place].version < newest]
    behind.sort(key=lambda place: (-standings[place].version, standings[place].expected_s))
    able = [place for place in able if standings[place].version >= newest]
    able.sort(key=lambda place: (standings[place].misfit, standings[place].expected_s))
    last.sort(key=lambda place: (standings[place].gone, standings[place].expected_s))
    limit_s = standings[able[0]].expected_s * _FACTOR + _MARGIN_S if able else 0.0
    seen: set[str] = set()
    near: list[int] = []
    far: list[int] = []
    for place in able:
        one = standings[place]
        alike = one.expected_s <= limit_s and one.expected_s < math.inf and not one.misfit
        again = bool(one.server_id) and one.server_id in seen
        (near if alike and not again else far).append(place)
        seen.add(one.server_id)
    return Ranks(
        near=tuple(sorted(near)),
        far=tuple(far),
        behind=(*behind, *refusing),
        last=tuple(last),
        lacking=tuple(lacking),
    )
