import pytest

from edge_runtime.remote.misfits import _MAX_KNOWN, HELD_S, REFUSALS_IN_A_ROW, Claim, Misfits

CLAIM = Claim("s:1", "scale", 1, None)


@pytest.fixture
def misfits():
    return Misfits()


def test_one_refusal_says_nothing(misfits):
    """It may be for what the request holds; an answer between them makes them none in a row."""
    for _ in range(5):
        for _ in range(REFUSALS_IN_A_ROW - 1):
            assert not misfits.refused(CLAIM, 0.0, surely=False)
        assert not misfits.answered(CLAIM)
    assert not misfits.held(CLAIM, 0.0)


@pytest.mark.parametrize("surely", [True, False])
def test_a_misfit_is_held_for_a_while(misfits, surely):
    """Then one more refusal holds it again; an answer ends it."""
    for left in range(0 if surely else REFUSALS_IN_A_ROW - 1, -1, -1):
        assert misfits.refused(CLAIM, 0.0, surely=surely) == (left == 0)
    assert misfits.held(CLAIM, HELD_S - 0.1)
    assert not misfits.held(CLAIM._replace(model="other"), 0.0)
    assert not misfits.held(CLAIM, HELD_S)
    assert misfits.refused(CLAIM, HELD_S, surely=surely)
    assert not misfits.refused(CLAIM, HELD_S, surely=surely)  # Nothing new.
    assert misfits.held(CLAIM, HELD_S)
    assert misfits.answered(CLAIM)
    assert not misfits.held(CLAIM, HELD_S)


def test_told_once(misfits):
    """Also where it was all right meanwhile."""
    assert misfits.tell(CLAIM)
    misfits.answered(CLAIM)
    assert not misfits.tell(CLAIM)


def test_bounded(misfits):
    """However many claims there are."""
    for version in range(_MAX_KNOWN + 10):
        misfits.refused(CLAIM._replace(version=version), 0.0, surely=True)
    assert not misfits.held(CLAIM._replace(version=9), 0.0)
    assert misfits.held(CLAIM._replace(version=_MAX_KNOWN + 9), 0.0)
