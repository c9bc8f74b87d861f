"""The budget of extra requests."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.routing.budget import Budget


def spent(budget: Budget, most: int = 1000) -> int:
    count = 0
    while count < most and budget.spend():
        count += 1
    return count


def test_a_new_budget_is_full() -> None:
    """The first requests of a runtime may be sent again, up to the burst."""
    assert spent(Budget(0.1, 10)) == 10


@pytest.mark.parametrize(("share", "firsts", "extras"), [(0.05, 20, 1), (0.05, 19, 0), (0.1, 10, 1), (0.1, 50, 5)])
def test_first_requests_earn_their_share(share: float, firsts: int, extras: int) -> None:
    """A share of 5 % is one extra for twenty first requests, not one sooner and none lost to rounding."""
    budget = Budget(share, 10)
    spent(budget)
    for _ in range(firsts):
        budget.earn()
    assert spent(budget) == extras


def test_a_quiet_time_is_not_saved_up_for_a_storm() -> None:
    """However many requests were sent without an extra, no more than the burst is kept."""
    budget = Budget(0.1, 3)
    for _ in range(1000):
        budget.earn()
    assert spent(budget) == 3


def test_what_was_not_sent_is_given_back() -> None:
    """An extra that found nobody to send it to counts as unspent, and never overfills."""
    budget = Budget(0.1, 2)
    assert budget.spend()
    budget.give_back()
    budget.give_back()
    assert spent(budget) == 2


def test_several_at_once_are_all_or_none() -> None:
    """What carries several requests is sent again only where the budget has room for each of them."""
    budget = Budget(0.1, 3)
    assert not budget.spend(4)
    assert budget.spend(3)
    budget.earn(20)
    assert spent(budget) == 2


@given(st.lists(st.booleans(), max_size=200), st.floats(0.01, 1.0), st.integers(1, 20))
def test_extras_never_pass_share_and_burst(steps: list[bool], share: float, burst: int) -> None:
    """In any order of first and extra requests, the extras are at most the burst and their share of the first."""
    budget = Budget(share, burst)
    firsts = extras = 0
    for first in steps:
        if first:
            budget.earn()
            firsts += 1
        else:
            extras += budget.spend()
        assert extras <= burst + share * firsts + 1e-6


def test_threads_share_it() -> None:
    """Many threads that spend at once get exactly the burst between them."""
    budget = Budget(0.1, 100)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(spent(budget))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100


@pytest.mark.parametrize(("share", "burst"), [(0, 10), (-1, 10), (0.1, 0), (float("nan"), 10), (0.1, float("nan"))])
def test_bounds_are_checked(share: float, burst: float) -> None:
    """A budget that could never be spent is a mistake, and says so."""
    with pytest.raises(ValueError, match="not"):
        Budget(share, burst)
