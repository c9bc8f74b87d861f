"""How fast packages come where that is bounded; the waits are the test's."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import FakeClock
from support.edge_models import publish_scale
from support.fetch_stands import standing

from edge_runtime import fetching
from edge_runtime.fetch_pace import Pace


def waiting(pace, clock):
    """Waits of the pace's, which take no time, and end when it is ended."""
    waits = []

    def wait(seconds):
        waits.append(seconds)
        clock.advance(seconds)

    pace._ended.wait = wait
    return waits


@given(st.lists(st.integers(0, 100_000), max_size=20), st.floats(1_000, 1e6), st.floats(0, 100))
def test_no_more_comes_on_the_average(sizes, bytes_s, until_s):
    """But for the last chunk, whose wait is cut off where the turn ends, and still to be waited for then."""
    clock = FakeClock()
    begun_s = clock()
    pace = Pace(bytes_s, clock)
    waits = waiting(pace, clock)
    came = [len(chunk) for chunk in pace.paced((b"x" * size for size in sizes), begun_s + until_s)]
    took_s = clock() - begun_s
    assert came == sizes[: len(came)]
    assert took_s == pytest.approx(sum(waits))
    assert took_s <= until_s + 1e-6
    assert took_s + pace.wait_s == pytest.approx(sum(came) / bytes_s)
    if len(came) < len(sizes):
        assert took_s == pytest.approx(until_s)


def test_without_a_bound_nobody_waits():
    """Nor where it was ended: then at once."""
    pace = Pace(None, FakeClock())
    assert list(pace.paced([b"x" * 10**6], 10.0)) == [b"x" * 10**6]
    assert pace.wait_s == 0
    slow = Pace(1_000, FakeClock())
    slow.end()
    assert list(slow.paced([b"x" * 10**7], 10.0**9)) == [b"x" * 10**7]


def test_a_package_comes_no_faster_than_it_may(tmp_path):
    """Over several turns, in which it goes on where it was; and it comes whole."""
    package = publish_scale(tmp_path / "published", 1, 1.0, content=os.urandom(50_000))
    with standing(tmp_path, package, pin=1, bytes_s=1_000) as (_, stand):
        begun_s = stand.clock()
        waits = waiting(stand.fetcher._pace, stand.clock)
        turns = 0
        while stand.versions != [1]:
            stand.clock.advance(stand.step())
            turns += 1
        took_s = stand.clock() - begun_s
        total = sum(path.stat().st_size for path in package.path.rglob("*") if path.is_file())
        assert total / 1_000 - 1 <= took_s <= total / 1_000 + fetching.FOLLOW_S
        assert max(waits) <= fetching.TURN_S
        assert turns >= 2
