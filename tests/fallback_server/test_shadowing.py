from types import SimpleNamespace

import numpy as np
import pytest

from fallback_server import shadowing
from fallback_server.shadowing import Shadowing, divergence
from fallback_server.statistics import VersionStatistics

SOFT = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (SOFT, SOFT, 0.0),
        (SOFT, np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]], np.float32), 0.5),
        (np.array([3.0, 4.0]), np.array([3.0, 4.0]), 0.0),
        (np.array([3.0, 4.0]), np.array([3.3, 4.4]), 0.1),
        (np.array([3.0]), np.array([300.0]), 1.0),
        (np.array([0.0]), np.array([0.0]), 0.0),
        (np.array([0.0]), np.array([1.0]), 1.0),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 0.0),
        (np.array([np.inf, 1.0]), np.array([1.0, 1.0]), 1.0),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), 0.5),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0.0),
        (np.zeros(2), np.zeros(3), 1.0),
        (np.zeros(2, np.float32), np.zeros(2), 1.0),
    ],
)
def test_divergence_suits_what_the_output_is(one, other, expected):
    """Scores by their best class, numbers by their distance, anything else by what differs."""
    assert divergence(one, other) == pytest.approx(expected)


def version():
    return SimpleNamespace(statistics=VersionStatistics())


def compared(shadow):
    figures = shadow.statistics.figures()
    return figures.compared, figures.diverged


@pytest.mark.parametrize("primary_first", [True, False])
def test_the_shadow_is_charged_whoever_is_done_first(primary_first):
    """Answers come in any order; what both gave is compared, and the shadow's version counts it."""
    owner, primary, shadow = Shadowing(), version(), version()
    one = owner.begin(primary, shadow)
    steps = [lambda: one.primary({"y": np.ones(2)}), lambda: one.shadow({"y": np.ones(2) * 2, "z": np.ones(1)})]
    for step in steps if primary_first else reversed(steps):
        assert compared(shadow) == (0, 0)
        step()
    assert compared(shadow) == (1, 1)
    assert compared(primary) == (0, 0)


def test_a_failure_is_no_divergence():
    """Where one of both failed there is nothing to compare, and room for the next."""
    owner, shadow = Shadowing(), version()
    for _ in range(2 * shadowing.MAX_OPEN):
        one = owner.begin(version(), shadow)
        one.primary(None)
        one.shadow({"y": np.ones(2)})
    assert compared(shadow) == (0, 0)


def test_comparisons_are_bounded():
    """Answers that wait for their second are few, whatever happens to it."""
    owner = Shadowing()
    open_ = [owner.begin(version(), version()) for _ in range(shadowing.MAX_OPEN)]
    assert owner.begin(version(), version()) is None
    open_[0].primary(None)
    open_[0].shadow(None)
    assert owner.begin(version(), version()) is not None


def test_a_version_is_no_shadow_of_itself():
    """A configuration that shadows what answers anyway costs nothing."""
    one = version()
    assert Shadowing().begin(one, one) is None


def test_large_answers_are_not_kept():
    """An answer over the bound is not compared."""
    owner, shadow = Shadowing(), version()
    one = owner.begin(version(), shadow)
    big = {"y": np.zeros(shadowing.MAX_BYTES // 8 + 1)}
    one.primary(big)
    one.shadow(big)
    assert compared(shadow) == (0, 0)
