"""Deficit round robin: who is served next, whatever runs cost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback_server.batching.fairness import MAX_ACCOUNTS, DeficitRoundRobin, Turn

QUANTUM_S = 0.001
weights = st.floats(0.1, 10.0)
costs_s = st.floats(1e-4, 0.05)


def served(shares, ring, costs, steps):
    """Serves the first of the ring that is chosen, and puts it at its end; the seconds that each got."""
    got = Counter()
    for step in range(steps):
        index = shares.choose(iter(ring))
        turn = ring.pop(index)
        ring.append(turn)
        cost_s = costs[turn.key][step % len(costs[turn.key])]
        shares.charge(turn, cost_s)
        got[turn.key] += cost_s
    return got


@settings(deadline=None)
@given(
    st.lists(st.tuples(weights, st.lists(costs_s, min_size=1, max_size=5)), min_size=2, max_size=6),
    st.integers(1, 400),
)
def test_those_that_are_always_ready_get_their_shares_at_any_time(queues, steps):
    """Weighted seconds of two never lie further apart than the costliest runs of both, and a quantum."""
    ring = [Turn(key, weight) for key, (weight, _) in enumerate(queues)]
    got = served(DeficitRoundRobin(QUANTUM_S), list(ring), [costs for _, costs in queues], steps)
    for one in ring:
        for other in ring:
            apart = got[one.key] / one.weight - got[other.key] / other.weight
            most = max(queues[one.key][1]) / one.weight + max(queues[other.key][1]) / other.weight
            assert apart <= most + 2 * QUANTUM_S + 1e-9


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), costs_s), max_size=200))
def test_somebody_is_served_whenever_somebody_is_ready(steps):
    """Work conserving: whoever is ready, one of them is chosen; nobody where nobody is."""
    shares = DeficitRoundRobin(QUANTUM_S)
    ready = dict.fromkeys([Turn(0, 1.0)])
    for key, enters, cost_s in steps:
        turn = Turn(key, key + 0.5)
        if enters:
            ready[turn] = None
        else:
            ready.pop(turn, None)
        index = shares.choose(iter(ready))
        assert (index is None) == (not ready)
        if index is not None:
            shares.charge(list(ready)[index], cost_s)


def test_a_queue_that_comes_after_a_rest_goes_before_one_that_has_run_for_long():
    """It owes nothing; and it has saved up no more than a round."""
    shares, busy, quiet = DeficitRoundRobin(QUANTUM_S), Turn(1, 1.0), Turn(2, 1.0)
    for _ in range(1000):
        assert shares.choose([busy]) == 0
        shares.charge(busy, 0.01)
    assert shares.choose([busy, quiet]) == 1
    assert shares.deficit_s(quiet) == pytest.approx(QUANTUM_S)
    shares.charge(quiet, 0.01)
    shares.charge(quiet, 0.01)
    assert shares.choose([quiet, busy]) == 1


def test_what_is_charged_before_a_run_is_put_right_after_it():
    """An estimate of 10 ms that came out as 1 ms leaves the queue where a charge of 1 ms does."""
    one, other, turn = DeficitRoundRobin(), DeficitRoundRobin(), Turn(1, 2.0)
    one.charge(turn, 0.01)
    one.charge(turn, 0.001 - 0.01)
    other.charge(turn, 0.001)
    assert one.deficit_s(turn) == pytest.approx(other.deficit_s(turn))


def test_accounts_are_bounded():
    """Queues that are gone are forgotten."""
    shares = DeficitRoundRobin()
    for key in range(MAX_ACCOUNTS + 10):
        shares.charge(Turn(key, 1.0), 0.01)
    assert f"{MAX_ACCOUNTS} accounts" in repr(shares)
