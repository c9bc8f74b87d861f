import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import FakeClock

from edge_runtime.remote.network import HALF_LIFE_S, LARGE_BYTES, WINDOW_S, Link

PICTURE = 150_000


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def link(clock):
    return Link(clock)


def test_round_trip_is_the_shortest_of_late(clock, link):
    """One small call that was held up says nothing of the way; a way that has become longer is known after a while."""
    for took_s in (0.02, 0.01, 0.5):
        link.small(took_s)
    assert link.round_trip_s == 0.01
    clock.advance(WINDOW_S + 1)
    link.small(0.1)
    assert link.round_trip_s == 0.1


def test_bandwidth_is_what_bytes_took_beside_the_servers_own_time(link):
    """A megabyte in 0.2 s, of which 0.1 s were round trip and server, passes at ten megabytes a second."""
    link.small(0.02)
    link.large(10**6, 0.2, 0.08)
    assert link.bandwidth_bytes_s == pytest.approx(1e7)
    assert link.transfer_s(PICTURE) == pytest.approx(0.015)


def test_largest_bandwidth_of_late_counts(clock, link):
    """Calls that share the way look slower than it is; one that had it for itself says what it carries."""
    link.large(PICTURE, 1.0, 0.0)
    link.large(PICTURE, 0.015, 0.0)
    link.large(PICTURE, 0.5, 0.0)
    assert link.bandwidth_bytes_s == pytest.approx(1e7)
    clock.advance(WINDOW_S + 1)
    link.large(PICTURE, 0.15, 0.0)
    assert link.bandwidth_bytes_s == pytest.approx(1e6)


def test_small_calls_and_servers_that_do_not_say_measure_no_bandwidth(link):
    """What a server doesn't say of its own time may have been all of it."""
    link.large(LARGE_BYTES - 1, 1.0, 0.0)
    link.large(PICTURE, 1.0, None)
    assert link.bandwidth_bytes_s is None
    assert link.transfer_s(PICTURE) == 0.0


def test_late_call_bounds_the_bandwidth(link):
    """Of what did not come through in its time, as much again is not expected to."""
    assert link.late(PICTURE, 0.05)
    assert link.transfer_s(PICTURE) == pytest.approx(0.05)
    assert link.transfer_s(2 * PICTURE) == pytest.approx(0.1)


def test_what_lies_in_the_buffers_counts(link):
    """A small call that comes through behind what was given up shows how long that took to drain."""
    link.small(0.01)
    link.late(PICTURE, 0.05)
    link.small(18.0)
    assert link.transfer_s(PICTURE) == pytest.approx(18.05)
    link.small(0.01)
    assert link.transfer_s(PICTURE) == pytest.approx(18.05)


def test_bound_is_given_up_by_and_by(clock, link):
    """While nothing large is sent, what is held against the way is halved again and again; an answer ends it."""
    link.late(PICTURE, 10.0)
    clock.advance(HALF_LIFE_S)
    link.small(0.01)
    assert link.transfer_s(PICTURE) == pytest.approx(5.0, rel=0.01)
    link.large(PICTURE, 0.025, None)
    assert link.transfer_s(PICTURE) == pytest.approx(0.015)


def test_late_call_on_a_way_that_is_known_to_be_fast_is_the_servers(clock, link):
    """Where others came through of late in half of the time, the bytes are not to blame; later they may be."""
    link.large(PICTURE, 0.01, 0.0)
    assert not link.late(PICTURE, 0.05)
    assert not link.late(100, 0.05)
    clock.advance(WINDOW_S + 1)
    assert link.late(PICTURE, 0.05)


def test_bytes_wait_for_those_that_were_sent_before(clock, link):
    """Each call's bytes go behind those before, until these have gone through or nothing is under way any more."""
    link.large(10**6, 0.1, 0.0)
    for _ in range(3):
        link.sent(PICTURE)
    assert link.transfer_s(PICTURE) == pytest.approx(0.06)
    clock.advance(0.03)
    assert link.transfer_s(PICTURE) == pytest.approx(0.03)
    link.empty()
    assert link.transfer_s(PICTURE) == pytest.approx(0.015)


def test_other_way_is_another_link(link):
    """Nothing is kept of a way that has changed."""
    link.small(0.5)
    link.late(PICTURE, 1.0)
    link.forget()
    assert (link.round_trip_s, link.bandwidth_bytes_s, link.trips) == (0.0, None, 0)


FIGURE = st.floats(0, 100)
STEP = st.one_of(
    st.tuples(st.just("small"), FIGURE),
    st.tuples(st.just("large"), st.integers(0, 10**9), FIGURE, st.none() | FIGURE),
    st.tuples(st.just("late"), st.integers(0, 10**9), FIGURE),
    st.tuples(st.just("sent"), st.integers(0, 10**9)),
    st.tuples(st.just("advance"), FIGURE),
)


@given(st.lists(STEP, max_size=50))
def test_figures_stay_sane(steps):
    """Whatever is measured, in whatever order, times are finite and not negative."""
    clock = FakeClock()
    link = Link(clock)
    for name, *values in steps:
        (clock.advance if name == "advance" else getattr(link, name))(*values)
        assert 0 <= link.round_trip_s <= 100
        assert 0 <= link.byte_s < 1
        assert 0 <= link.transfer_s(10**6) < float("inf")
