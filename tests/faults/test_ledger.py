"""The account of requests: whatever is not as it must be is found, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledger import BASE, LARGEST, Answered, Ledger, Refused, read, row

NUMBERS = st.integers(0, LARGEST)
VERSIONS = st.integers(1, BASE - 1)
SPOIL = ("lost", "doubled", "swapped", "spoiled", "misnamed", "late", "unnamed")


@given(NUMBERS, VERSIONS)
def test_an_answer_says_whose_it_is_and_which_version_gave_it(number, version):
    """Of any number and any version, exactly, in float32."""
    assert read(row(number) * np.float32(version)) == (number, version)


@given(NUMBERS, NUMBERS, VERSIONS, st.integers(1, 3))
def test_cells_of_two_requests_are_nobodys_answer_or_one_of_theirs(one, other, version, cut):
    """A row that was put together wrongly says no third number."""
    mixed = np.concatenate([row(one)[:, :cut], row(other)[:, cut:]], axis=1) * np.float32(version)
    assert read(mixed) in (None, (one, version), (other, version))


@pytest.mark.parametrize("answer", [np.zeros((1, 4)), np.full((1, 4), np.nan), np.ones((2, 4)), np.ones((1, 3))])
def test_what_no_version_gives_is_nobodys(answer):
    """Neither zeros, nor no numbers, nor other shapes."""
    assert read(answer) is None


@pytest.mark.parametrize("number", [-1, LARGEST + 1])
def test_a_number_that_cells_do_not_hold_is_refused(number):
    """Rather than taken for another."""
    with pytest.raises(ValueError, match=str(number)):
        row(number)


def _well(number, answered):
    return Answered(1.0, (number, 3), 3) if answered else Refused(1.0, "Overloaded", known=True)


def _outcomes(number, answered, spoil):
    """What comes for a request that something is wrong with."""
    well = _well(number, answered)
    return {
        "": [well],
        "lost": [],
        "doubled": [well, well],
        "swapped": [Answered(1.0, (number + 1, 3), 3)],
        "spoiled": [Answered(1.0, None, 3)],
        "misnamed": [Answered(1.0, (number, 4), 3)],
        "late": [Answered(2.6, (number, 3), 3)],
        "unnamed": [Refused(1.0, "KeyError", known=False)],
    }[spoil]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(("", "", *SPOIL))), max_size=40), st.integers(0, 3))
def test_whatever_goes_wrong_with_whichever_requests_is_found_and_nothing_else(fates, unasked):
    """Each fault under its own name, with the requests' numbers; what is well is counted."""
    ledger = Ledger()
    numbers = [ledger.ask(0.0, 2.0, 3) for _ in fates]
    for number, (answered, spoil) in zip(numbers, fates, strict=True):
        for one in _outcomes(number, answered, spoil):
            ledger.come(number, one)
    strangers = [len(fates) + 7 + more for more in range(unasked)]
    for stranger in strangers:
        ledger.come(stranger, _well(stranger, answered=True))
    account = ledger.account(allowed_s=0.5)
    for spoil in SPOIL:
        assert getattr(account, spoil) == [n for n, (_, one) in enumerate(fates) if one == spoil]
    assert account.unasked == strangers
    well = [answered for answered, spoil in fates for _ in range({"": 1, "doubled": 2}.get(spoil, 0))]
    assert (account.answered, account.refused.total()) == (sum(well), len(well) - sum(well))
    assert bool(account.faults) == bool(strangers or any(spoil for _, spoil in fates))


def test_a_version_that_was_not_asked_for_is_found():
    """Also where the reply is true to itself."""
    ledger = Ledger()
    ledger.come(ledger.ask(0.0, 1.0, version=2), Answered(0.5, (0, 3), 3))
    assert ledger.account().faults == {"misnamed": [0]}
    assert "1 misnamed [0]" in str(ledger.account())


def test_what_came_of_late_and_what_is_open_is_told():
    """For who waits until service is back."""
    ledger = Ledger()
    first, second = ledger.ask(0.0, 1.0), ledger.ask(0.0, 1.0)
    ledger.come(first, Answered(0.5, (first, 1), 1))
    assert ledger.open() == [second]
    assert ledger.since(0.6) == []
    assert [number for number, _ in ledger.since(0.5)] == [first]
    assert ledger.account().lost == [second]
