"""When a request that the device has needs a copy. Pure: the device's snapshot and what servers take go in."""

from __future__ import annotations

import math

import msgspec

from edge_runtime.routing.policy import DeviceView
from edge_runtime.types import InferRequest

MIN_OWN_S = 0.005
"""Requests whose own run takes less are answered in the caller's thread, and are over before a copy could be sent."""

MIN_OWN_MS = MIN_OWN_S * 1e3

PATIENCE = 1.1
"""Past the percentile by a tenth. Most devices are so even that half of what is past it comes at once after it: a copy
of these is lost, and the budget with it."""

UNSURE_FACTOR = 2.0
"""While the percentile is not known, the device is late when it has taken so many times what was predicted."""

SLACK_S = 0.003
"""What a timer, the sending and two threads' waking take, with room."""

LENGTH_SHARE = 0.1
"""On a busy machine all that takes longer: so much of the time that a request had as a whole is left for it..."""

MOST_SLACK_S = 0.02
"""...up to this, which is more than a timer is late by where every core has something to do."""

GLANCE_S = 0.02
"""Never sooner, and never closer to the last call, is it looked whether the device stands still: each look wakes a
thread, and in less the device answers by itself."""

SLACK_SHARE = 0.25
"""What is expected of a place is a mean, which many answers take longer than."""


def copy_after_s(predicted_s: float, factor: float | None) -> float:
    """Seconds from the call after which an answer is later than nearly all. Pure.

    Args:
        predicted_s: What was predicted for the request.
        factor: See `Lateness`; None while it is not known.
    """
    return predicted_s * max(factor or 1.0, 1.0) * PATIENCE


def worth_a_copy(expected_s: float | None, remaining_s: float | None) -> bool:
    """Whether a copy may be in time. Pure.

    Args:
        expected_s: What the best server is expected to take; None if none may be asked.
        remaining_s: Seconds from its sending until the deadline; None for no deadline.
    """
    return expected_s is not None and (remaining_s is None or expected_s <= remaining_s)


def slack_s(length_s: float) -> float:
    """Seconds to have left, beside the answer's own, where a request had so many as a whole. Pure."""
    return min(max(length_s * LENGTH_SHARE, SLACK_S), MOST_SLACK_S)


def last_call_s(deadline_s: float, expected_s: float, slack_s: float = SLACK_S) -> float:
    """The instant at which a place must be asked at the latest, to answer in time. Pure.

    Args:
        deadline_s: Of the request.
        expected_s: What the place is expected to take.
        slack_s: What is to be left beside that.
    """
    return deadline_s - expected_s * (1 + SLACK_SHARE) - slack_s


def hopeless(now_s: float, deadline_s: float, stall_s: float | None) -> bool:
    """Whether a device that stands still is predicted to be too late. Pure.

    Args:
        now_s: The instant.
        deadline_s: Of the request.
        stall_s: Seconds that it will take by its prediction; None where it does not stand still.
    """
    return stall_s is not None and now_s + stall_s > deadline_s


def glance_s(now_s: float, deadline_s: float, last_s: float, stall_s: float | None) -> float | None:
    """The instant of the next look whether the device stands still; None where the last call is as near. Pure.

    What stands still is predicted to do so for as long again: with each second one more is predicted, and one less is
    left, so that half of what is between them makes it hopeless. What does not may do so any moment, and it is soon
    enough to know in the middle of what is left: it must have stood still for as long before it is too late.

    Args:
        now_s: The instant.
        deadline_s: Of the request.
        last_s: Of its last call.
        stall_s: As in `hopeless`.
    """
    ahead_s = (last_s - now_s) / 2 if stall_s is None else (deadline_s - now_s - stall_s) / 2
    at_s = now_s + max(ahead_s, GLANCE_S)
    return at_s if at_s + GLANCE_S < last_s else None


class Watch(msgspec.Struct, frozen=True, gc=False):
    """When a request that the device has is looked after.

    Attributes:
        predicted_s: Seconds from the call within which the device should answer.
        late_s: The instant from which it is later than nearly always.
        last_s: The instant at which a server can only just be in time; infinite where nothing is done then.
        copied: Whether a copy may be in time that is sent when the device is late.
        deadline_s: The request's; infinite for none.
    """

    predicted_s: float
    late_s: float
    last_s: float
    copied: bool
    deadline_s: float = math.inf


def watch_of(  # noqa: PLR0917  two snapshots, and three instants
    device: DeviceView, own_s: float, expected_s: float, factor: float | None, request: InferRequest, now_s: float
) -> Watch | None:
    """How a request for the device is looked after; None where nothing could be done for it. Pure.

    Args:
        device: Its snapshot.
        own_s: Seconds of the request's own run.
        expected_s: What the best server is expected to take.
        factor: See `Lateness`; None while it is not known.
        request: The request.
        now_s: The instant.
    """
    short = own_s < MIN_OWN_S
    late_s = request.start_s + copy_after_s(device.predicted_s, factor or UNSURE_FACTOR)
    deadline_s = request.deadline_s
    if deadline_s is None:
        return None if short else Watch(device.predicted_s, late_s, math.inf, copied=True)
    last_s = last_call_s(deadline_s, expected_s, slack_s(deadline_s - request.start_s))
    # What runs at once can be stalled only after it has had its time; what waits, by others' runs before.
    if last_s <= now_s or not (device.stalled if short else device.waits or last_s >= late_s):
        last_s = math.inf
    copied = not short and worth_a_copy(expected_s, deadline_s - max(now_s, late_s))
    return Watch(device.predicted_s, late_s, last_s, copied, deadline_s) if copied or last_s < math.inf else None
