"""Who is asked first where many are silent: a fake answers for servers, the table of endpoints is real."""

import time
from contextlib import closing
from itertools import pairwise

import pytest
from support.trust_stand import REAL, WAIT_S, TrustStand, bad, proof

from edge_runtime.remote.trust import A_SECOND, AT_ONCE, KEPT, KEPT_A_SECOND
from edge_runtime.remote.trust_policy import DOUBT_S, FLOOR_S, GIVEN_S, SLOW_GIVEN_S

MANY = [f"10.0.1.{number}:1" for number in range(40)]


@pytest.fixture
def stand():
    with closing(TrustStand()) as made:
        yield made


def begun(stand, count):
    """Waits until so many handshakes have begun."""
    end_s = time.monotonic() + WAIT_S
    while len(stand.asked) < count:
        assert time.monotonic() < end_s
        time.sleep(0.001)


@pytest.mark.parametrize("named", [False, True])
def test_a_new_server_is_asked_while_those_before_it_are_silent(stand, named):
    """Whether the configuration names them or they have proved themselves: two places are never theirs again."""
    some = MANY[: 2 * AT_ONCE]
    stand.says = {} if named else {address: proof(address) for address in some}
    for address in some:
        stand.trust.give(address) if named else stand.announce(address, key=address)
        stand.settle(1.0)
    assert sorted(set(stand.asked)) == sorted(some)
    stand.asked.clear()
    stand.hold.clear()
    stand.clock.advance(GIVEN_S + 1)
    for address in some if not named else ():
        stand.announce(address, key=address)
    stand.trust.tick()
    begun(stand, AT_ONCE - KEPT)
    stand.says = {REAL: proof()}
    stand.announce()
    stand.trust.tick()
    begun(stand, AT_ONCE - KEPT + 1)
    assert stand.asked[-1] == REAL
    assert stand.trust._asking == AT_ONCE - KEPT + 1


def test_those_that_fail_at_once_leave_handshakes_for_new_ones(stand):
    """Nobody holds a place for long here, but there are twenty in a second."""
    for address in MANY:
        stand.trust.give(address)
    for _ in range(6):
        stand.settle(1.0)
    stand.clock.advance(GIVEN_S + 1)
    stand.asked.clear()
    for _ in range(A_SECOND):
        stand.settle()
    assert len(stand.asked) == A_SECOND - KEPT_A_SECOND
    stand.announce()
    assert stand.settle() == [REAL]


def test_who_keeps_places_for_long_is_asked_ever_more_seldom(stand):
    """Announced anew or not, and whatever it proves in the end; until it answers soon again."""
    stand.slow = {REAL}
    stand.trust.give(REAL)
    at_s = []
    for _ in range(200):
        begin_s = stand.clock() + 1.0
        if stand.settle(1.0):
            at_s.append(begin_s)
    between = [round(later - earlier) for earlier, later in pairwise(at_s)]
    assert between[:4] == sorted(between[:4])
    assert SLOW_GIVEN_S <= between[-1] <= SLOW_GIVEN_S + 6
    stand.slow, stand.says = set(), {REAL: proof()}
    stand.settle(SLOW_GIVEN_S)
    assert stand.trusted == [REAL]


def test_nobody_is_put_out_unasked(stand):
    """A list of revoked certificates is renewed while others are silent: their turns come late, and are waited for."""
    stand.says = {REAL: proof()}
    stand.announce()
    stand.settle()
    stand.hold.clear()
    for address in MANY[: AT_ONCE - KEPT]:  # They were asked before, and hold all places that are not for new ones.
        stand.trust.give(address)
    stand.hold.set()
    stand.settle()
    stand.hold.clear()
    stand.clock.advance(GIVEN_S)
    stand.trust.tick()
    assert stand.trust._asking == AT_ONCE - KEPT
    stand.files.put(crl=b"2")
    stand.clock.advance(FLOOR_S)
    stand.trust.tick()
    stand.clock.advance(DOUBT_S + 5)
    stand.trust.tick()
    assert stand.trusted == [REAL]
    stand.hold.set()
    stand.says = {REAL: bad("silent")}
    stand.settle()
    assert REAL in stand.settle()
    stand.settle()
    assert stand.trusted == []


def test_after_new_files_who_answered_last_is_asked_first(stand):
    """Those that were silent before most likely still are."""
    for address in MANY[:20]:
        stand.trust.give(address)
    for _ in range(5):
        stand.settle(1.0)
    stand.says = {REAL: proof()}
    stand.announce(key="z")
    stand.settle(1.0)
    stand.files.put(crl=b"2")
    assert stand.settle(FLOOR_S + 2)[0] == REAL
