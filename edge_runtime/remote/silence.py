"""When a call goes to a second server though no copy was due: its first one has fallen silent. Pure.

That has no budget: who says nothing does nothing, so that there is no more to do than there was before. A server that
is only slow answers others meanwhile, and what it is late with is for the budget of copies.
"""

from __future__ import annotations

import msgspec

from edge_runtime.routing.watch import GLANCE_S, UNSURE_FACTOR, last_call_s, slack_s

_LEAST_QUIET_S = 0.02
"""Whatever is expected: a thread that is not woken for so long is nothing unusual."""

MUTE_S = 0.25
"""A look that waits for so long, and for some round trips, is answered by nobody: it is a few bytes."""

MUTE_TRIPS = 4

LONGEST_S = 0.5
"""From one look to the next, where the last call is far."""


class Silence(msgspec.Struct, frozen=True, gc=False):
    """What is known of a call and its server.

    Attributes:
        quiet_s: Seconds since the call began, or since the server answered any call later than that.
        expected_s: Seconds in which the call should have been answered.
        unheard_s: Seconds for which a look at the server has waited without that anything was answered; 0 for none.
        round_trip_s: Seconds there and back; 0 while that is not known.
    """

    quiet_s: float
    expected_s: float
    unheard_s: float
    round_trip_s: float


def is_late(known: Silence) -> bool:
    """Whether the server has answered nobody for so long that the call should have been answered twice."""
    return known.quiet_s >= max(UNSURE_FACTOR * known.expected_s, _LEAST_QUIET_S)


def is_silent(known: Silence) -> bool:
    """Whether it answers no look, and the call has had its time: nothing is gained by waiting for the last call."""
    return is_mute(known.unheard_s, known.round_trip_s) and known.quiet_s >= max(known.expected_s, _LEAST_QUIET_S)


def is_mute(unheard_s: float, round_trip_s: float) -> bool:
    """Whether a server answers no look, which has waited for so long; see `Silence`."""
    return unheard_s >= max(MUTE_S, MUTE_TRIPS * round_trip_s)


def is_lost(known: Silence, *, last: bool) -> bool:
    """Whether the call is to go to another server: at the last moment, also where that was expected to take longer."""
    return is_silent(known) or (last and (is_late(known) or is_mute(known.unheard_s, known.round_trip_s)))


def last_s(start_s: float, deadlines_s: tuple[float, ...], other_s: float, now_s: float) -> float | None:
    """The next instant at which another server can only just be in time; None if there is none any more.

    Args:
        start_s: When the caller asked.
        deadlines_s: The first and the last, of those that wait for the call.
        other_s: What the best other server is expected to take.
        now_s: The instant.
    """
    instants = (last_call_s(deadline_s, other_s, slack_s(deadline_s - start_s)) for deadline_s in deadlines_s)
    return min((one for one in instants if one > now_s), default=None)


def look_s(now_s: float, last_s: float) -> float:
    """The instant of the next look at the call: in the middle of what is left, or the last one."""
    at_s = now_s + min(max((last_s - now_s) / 2, GLANCE_S), LONGEST_S)
    return at_s if at_s + GLANCE_S < last_s else last_s
