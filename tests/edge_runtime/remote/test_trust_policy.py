import math

import pytest

from edge_runtime.remote.trust_policy import (
    AGAIN_S,
    AWAY_S,
    CHECK_S,
    DOUBT_S,
    FLOOR_S,
    GIVEN_S,
    SLOW_AGAIN_S,
    SLOW_GIVEN_S,
    WITHDRAWN_S,
    Subject,
    due_s,
    is_new,
    is_over,
    rank,
)

NOW_S = 1000.0


def subject(**other):
    values = {"given": False, "announced": True, "proved": False, "away": False, "heard_s": NOW_S - 1, "asked_s": NOW_S}
    return Subject(**{**values, **other})


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"asked_s": -math.inf}, NOW_S - 1),
        ({"failures": 1}, NOW_S + AGAIN_S),
        ({"failures": 9}, NOW_S + AGAIN_S),
        ({"failures": 1, "heard_s": NOW_S + 0.1}, NOW_S + FLOOR_S),
        ({"failures": 1, "heard_s": NOW_S + 10}, NOW_S + 10),
        ({"given": True, "announced": False, "failures": 1}, NOW_S + 1),
        ({"given": True, "announced": False, "failures": 9}, NOW_S + GIVEN_S),
        ({"given": True, "announced": False, "failures": 9, "heard_s": NOW_S + 0.1}, NOW_S + 0.1),
        ({"proved": True}, NOW_S + CHECK_S),
        ({"proved": True, "announced": False}, NOW_S + WITHDRAWN_S),
        ({"proved": True, "announced": False, "given": True}, NOW_S + CHECK_S),
        ({"proved": True, "away": True}, NOW_S + 1),
        ({"proved": True, "away": True, "failures": 9}, NOW_S + AWAY_S),
        ({"proved": True, "doubted_s": NOW_S - 1}, NOW_S + 1),
        ({"proved": True, "doubted_s": NOW_S - 1, "failures": 9}, NOW_S + AWAY_S),
        ({"proved": True, "heard_s": NOW_S + 0.1}, NOW_S + FLOOR_S),
        ({"given": True, "slow": 3, "failures": 3}, NOW_S + 8),
        ({"proved": True, "away": True, "slow": 9, "failures": 9}, NOW_S + SLOW_GIVEN_S),
        ({"given": True, "slow": 9, "failures": 9}, NOW_S + SLOW_GIVEN_S),
        ({"slow": 9, "failures": 9, "heard_s": NOW_S + 0.1}, NOW_S + SLOW_AGAIN_S),
        ({"proved": True, "slow": 3, "heard_s": NOW_S + 0.1}, NOW_S + 8),
        ({"proved": True, "slow": 9}, NOW_S + CHECK_S),
        ({"proved": True, "slow": 9, "doubted_s": NOW_S + 1, "heard_s": NOW_S + 1}, NOW_S + FLOOR_S),
    ],
)
def test_when_a_server_is_asked(changes, due):
    """At once when it is new; then by whether somebody waits for it, and never as often as it is announced."""
    assert due_s(subject(**changes)) == due


def test_who_goes_first():
    """Who is given or has proved itself, who answered last before others; then who is new."""
    named, proved = subject(given=True), subject(proved=True)
    mute, slow = subject(given=True, failures=1), subject(proved=True, slow=1)
    new, odd = subject(asked_s=-math.inf), subject(asked_s=-math.inf, direct=False)
    assert rank(named) == rank(proved) < rank(mute) == rank(slow) < rank(new) < rank(odd) < rank(subject(failures=1))
    assert (is_new(new), is_new(named)) == (True, False)


@pytest.mark.parametrize(
    ("doubted_ago_s", "asked_ago_s", "over"),
    [
        (math.inf, 1.0, True),
        (DOUBT_S + 1, DOUBT_S + 1, True),
        (DOUBT_S + 1, DOUBT_S + 2, False),
        (DOUBT_S + 1, math.inf, False),
        (DOUBT_S, 1.0, False),
        (-math.inf, 1.0, False),
    ],
)
def test_when_a_doubt_is_over(doubted_ago_s, asked_ago_s, over):
    """When its time is, and not before it was asked."""
    one = subject(proved=True, doubted_s=NOW_S - doubted_ago_s, asked_s=NOW_S - asked_ago_s)
    assert is_over(one, NOW_S) == over
