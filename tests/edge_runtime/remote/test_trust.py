"""What becomes of announcements: a fake answers for servers, the table of endpoints is real."""

import time
from contextlib import closing

import pytest
from support.trust_stand import EVIL, OTHER, REAL, WAIT_S, TrustStand, authority, bad, proof

from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.places import MAX_OF_ONE
from edge_runtime.remote.sightings import PlainText, Sighting
from edge_runtime.remote.told import server_stats, why_not_asked
from edge_runtime.remote.trust import A_SECOND, AT_ONCE, MAX_SUBJECTS
from edge_runtime.remote.trust_policy import AGAIN_S, CHECK_S, DOUBT_S, FLOOR_S, WITHDRAWN_S
from edge_runtime.remote.way import PLAIN


@pytest.fixture
def stand():
    with closing(TrustStand()) as made:
        yield made


def test_only_what_has_proved_itself_is_an_endpoint(stand):
    """An announcement alone makes none; what fails is counted and shown, and what proves itself is told of."""
    stand.says = {REAL: proof(), EVIL: bad()}
    stand.announce()
    stand.announce(EVIL, key="e")
    stand.announce("10.0.0.9:1", key="p", tls=False)
    assert stand.table.all() == []
    assert sorted(stand.settle()) == [EVIL, REAL]
    assert stand.trusted == [REAL]
    stats = stand.suspects.stats
    assert {one.address: one.reason for one in stats.untrusted} == {EVIL: "certificate", "10.0.0.9:1": "plain-text"}
    assert stats.counts == {"certificate": 1, "plain-text": 1}
    (told,) = server_stats(stand.table.all(), stand.trust.certificates())
    assert (told.certificate, told.certificate_until_s) == ("gpu-1", 1e10)


def test_announcements_cost_no_more_handshakes_than_time_allows(stand):
    """However often one is repeated; and without, it is asked again now and then."""
    stand.says = {EVIL: bad()}
    for _ in range(10):
        stand.announce(EVIL)
        stand.settle(0.01)
    assert stand.asked == [EVIL]
    stand.announce(EVIL)
    assert stand.settle(FLOOR_S) == [EVIL]
    assert stand.settle(AGAIN_S - 1) == []
    assert stand.settle(1) == [EVIL]
    assert stand.suspects.stats.counts == {"certificate": 3}


def test_one_that_said_nothing_is_asked_once_more_soon(stand):
    """With more patience than the first time: it may be slow, or this device."""
    stand.says = {EVIL: bad("silent")}
    stand.announce(EVIL)
    assert stand.settle() == [EVIL]
    stand.clock.advance(0.001)
    assert stand.settle(FLOOR_S) == [EVIL]
    assert stand.settle(FLOOR_S) == []
    assert stand.settle(AGAIN_S) == [EVIL]


def test_another_address_under_a_servers_name_takes_nothing_from_it(stand):
    """A replayed record leads to the server's own address first, and to nobody else where that is proved."""
    stand.says = {REAL: proof(), EVIL: bad()}
    stand.announce()
    stand.settle()
    (endpoint,) = stand.table.all()
    stand.announce(EVIL)
    assert stand.settle(FLOOR_S) == [REAL]
    stand.announce(EVIL, tls=False)
    assert stand.table.all() == [endpoint]
    assert endpoint.way is not None


def test_a_server_is_found_behind_an_impostors_addresses(stand):
    """Where a name stands for both, each is asked."""
    stand.says = {REAL: proof(), EVIL: bad()}
    stand.announce(EVIL, REAL)
    assert stand.settle() == [EVIL, REAL]
    assert stand.trusted == [REAL]
    assert [one.address for one in stand.suspects.stats.untrusted] == [EVIL]


def test_a_withdrawal_is_a_hint_too(stand):
    """A server that still proves itself stays; it goes when it no longer does."""
    stand.says = {REAL: proof()}
    stand.announce()
    stand.settle()
    stand.withdraw()
    assert stand.settle(FLOOR_S) == [REAL]
    assert stand.trusted == [REAL]
    assert stand.settle(WITHDRAWN_S) == [REAL]
    assert stand.trusted == [REAL]
    stand.says = {}
    stand.settle(WITHDRAWN_S)
    assert stand.table.all() == []
    assert stand.settle(1000) == []


def test_an_impostor_that_withdraws_is_forgotten(stand):
    """It is neither asked nor shown any more."""
    stand.says = {EVIL: bad()}
    stand.announce(EVIL)
    stand.settle()
    stand.withdraw()
    assert stand.suspects.stats.untrusted == ()
    assert stand.settle(1000) == []


def test_a_server_that_moves_is_followed(stand):
    """Its old address no longer answers; the new one proves the same."""
    stand.says = {REAL: proof()}
    stand.announce()
    stand.settle()
    stand.says = {OTHER: proof()}
    stand.announce(OTHER)
    assert stand.settle(FLOOR_S) == [REAL, OTHER]
    assert stand.trusted == [OTHER]


def test_a_server_that_is_away_keeps_its_proof(stand):
    """Nobody there is no other there: gRPC verifies whoever comes; who shows something else is out at once."""
    stand.says = {REAL: proof()}
    stand.announce()
    stand.settle()
    stand.says = {}
    assert stand.settle(CHECK_S) == [REAL]
    assert stand.trusted == [REAL]
    assert stand.suspects.stats.untrusted == ()
    stand.says = {REAL: bad()}
    assert stand.settle(CHECK_S) == [REAL]
    assert stand.table.all() == []
    assert stand.suspects.stats.counts == {"certificate": 1}


def test_a_server_that_no_longer_answers_is_asked_for_another_certificate(stand):
    """It may have been started with one that what was proved does not know."""
    stand.says = {REAL: proof()}
    stand.announce()
    stand.settle()
    (endpoint,) = stand.table.all()
    endpoint.unheard(stand.clock(), unreachable=True)
    stand.says = {REAL: proof("gpu-1 anew")}
    assert stand.settle(1) == [REAL]
    assert stand.table.all() == [endpoint]
    assert endpoint.way.roots == b"gpu-1 anew"
    assert endpoint.away_s is None


def test_new_files_have_all_asked_anew(stand):
    """A token goes with the next call; who is trusted no more is out."""
    stand.says = {REAL: proof(), OTHER: proof("gpu-2")}
    stand.announce()
    stand.announce(OTHER, key="o")
    stand.settle()
    stand.says = {REAL: proof(token="t-2"), OTHER: bad()}
    stand.files.put(token="t-2")
    assert sorted(stand.settle(FLOOR_S)) == [REAL, OTHER]
    (endpoint,) = stand.table.all()
    assert endpoint.way.metadata == (("authorization", "Bearer t-2"),)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("reason", ["silent", "unreachable"])
def test_who_says_nothing_of_a_new_list_is_trusted_for_seconds_only(stand, reason, given):
    """It is asked again soon, and may be slow; whoever is revoked can't stay by not answering."""
    stand.says = {REAL: proof()}
    stand.trust.give(REAL) if given else stand.announce()
    stand.settle()
    stand.files.put(crl=b"2")
    stand.says = {REAL: bad(reason)}
    assert stand.settle(FLOOR_S) == [REAL]
    assert stand.trusted == [REAL]
    asked = [stand.settle(1.0) for _ in range(int(DOUBT_S))]
    assert len([one for one in asked if one]) >= 2
    assert stand.trusted == [REAL]
    stand.settle(0.5)
    assert stand.trusted == []
    stand.says = {REAL: proof()}
    stand.settle(AGAIN_S)
    assert stand.trusted == [REAL]


def test_who_is_slow_once_after_a_new_list_stays(stand):
    """Its calls are not cut, and the doubt is over when it has proved itself."""
    stand.says = {REAL: proof()}
    stand.announce()
    stand.settle()
    stand.files.put(crl=b"2")
    stand.says = {REAL: bad("silent")}
    stand.settle(FLOOR_S)
    stand.says = {REAL: proof()}
    assert stand.settle(2.0) == [REAL]
    assert stand.settle(DOUBT_S + 1) == []
    assert stand.trusted == [REAL]


@pytest.mark.parametrize("given", [False, True])
def test_who_an_authority_vouched_for_that_is_gone_is_asked_nothing_meanwhile(stand, given):
    """Until it has proved itself by those that are left; one more authority takes nothing from anybody."""
    stand.says = {REAL: proof()}
    stand.trust.give(REAL) if given else stand.announce()
    stand.settle()
    (endpoint,) = stand.table.all()
    stand.hold.clear()
    stand.clock.advance(FLOOR_S)
    stand.files.put(ca=authority("a") + authority("b"))
    stand.trust.tick()
    assert stand.trusted == [REAL]
    stand.files.put(ca=authority("b"))
    stand.trust.tick()
    assert stand.trusted == []
    stand.hold.set()
    stand.settle()
    assert stand.trusted == []  # What was asked before the change says nothing after it.
    stand.says = {REAL: proof("gpu-1 by b")}
    assert stand.settle(FLOOR_S) == [REAL]
    assert stand.table.all() == [endpoint]
    assert endpoint.way.roots == b"gpu-1 by b"
    stand.files.put(ca=authority("c"))
    stand.says = {REAL: bad("silent")}
    stand.settle(FLOOR_S)
    stand.settle(DOUBT_S + 1)
    assert stand.trusted == []
    assert stand.table.all() == ([endpoint] if given else [])


def test_a_given_server_is_known_and_asked_nothing_before_it_has_proved_itself(stand):
    """Statistics and errors say why; it is asked soon again."""
    stand.trust.give(REAL)
    (endpoint,) = stand.table.all()
    assert endpoint.try_begin() is None
    assert not endpoint.allows
    assert "not proved yet" in why_not_asked(endpoint, lacks=False)
    assert server_stats([endpoint])[0].state == "unproved"
    with pytest.raises(ValueError, match="not proved"):
        endpoint.ask(None, None, 1.0)
    stand.says = {REAL: bad()}
    stand.settle()
    assert server_stats([endpoint])[0].state == "untrusted"
    assert "not trusted: no good" in why_not_asked(endpoint, lacks=False)
    assert not stand.table.wait_for_any(0)
    stand.says = {REAL: proof()}
    assert stand.settle(1) == [REAL]
    assert stand.table.wait_for_any(0)
    assert stand.table.all() == [endpoint]
    assert endpoint.try_begin() is not None
    stand.says = {REAL: bad()}
    stand.settle(CHECK_S)
    assert endpoint.try_begin() is None
    assert stand.table.all() == [endpoint]


def test_nobody_sees_an_endpoint_before_it_is_known_how_it_is_spoken_to(stand, monkeypatch):
    """While it is said, the table has none that might be asked in plain text."""
    seen, say = [], Endpoint.trust

    def trust(endpoint, way, why=""):
        seen.append([one.way for one in stand.table.all()])
        say(endpoint, way, why)

    monkeypatch.setattr(Endpoint, "trust", trust)
    stand.trust.give(REAL)
    assert seen == [[]]
    stand.says = {REAL: proof(), OTHER: proof("gpu-2")}
    stand.announce(OTHER)
    stand.settle()
    assert PLAIN not in [way for ways in seen for way in ways]
    assert stand.trusted == [REAL, OTHER]


def test_one_server_by_many_names_is_one(stand):
    """Names that lead to a server don't fill the table, and withdrawing them takes nothing away."""
    stand.says = {REAL: proof()}
    for number in range(MAX_SUBJECTS // 2):
        stand.announce(key=f"name-{number}")
        stand.settle(1)
    assert len(stand.table._endpoints) == 1
    assert stand.trusted == [REAL]
    for number in range(MAX_SUBJECTS // 2):
        stand.withdraw(f"name-{number}")
    stand.settle(FLOOR_S)
    assert stand.trusted == [REAL]


def test_relays_to_a_server_do_not_take_all_places(stand):
    """A few are asked; the server itself has the place of one that no longer answers."""
    relays = [f"10.0.0.66:{port}" for port in range(1, MAX_OF_ONE + 5)]
    stand.says = dict.fromkeys((REAL, *relays), proof())
    for address in (*relays, REAL):
        stand.announce(address, key=address + "!")
        stand.settle(1.0)
    assert len(stand.table.all()) == MAX_OF_ONE
    assert stand.suspects.stats.dropped == 5
    gone = stand.table.all()[0]
    gone.unheard(stand.clock(), unreachable=True)
    del stand.says[gone.address]
    stand.announce(REAL, key=REAL + "!")
    stand.settle(FLOOR_S)
    assert REAL in stand.trusted
    assert len(stand.table.all()) == MAX_OF_ONE


def test_a_flood_is_bounded_and_does_not_keep_servers_out(stand):
    """In what is remembered, in handshakes at once, and in those of a second; who is given goes first."""
    stand.hold.clear()
    stand.says = {REAL: proof(), OTHER: proof("gpu-2")}
    taken = sum(
        stand.announce(f"10.1.{number // 250}.{number % 250}:1", key=f"ghost-{number}", direct=False)
        for number in range(1000)
    )
    assert taken == len(stand.trust._known) == MAX_SUBJECTS
    stand.trust.tick()
    assert stand.trust._asking == AT_ONCE
    stand.trust.give(REAL)
    assert stand.announce(OTHER, key="o")  # It is said to be where packets come from: it has another's room.
    assert stand.suspects.stats.dropped == 1
    stand.hold.set()
    end_s = time.monotonic() + WAIT_S
    while len(stand.asked) < A_SECOND:
        assert time.monotonic() < end_s
        stand.settle()
    assert stand.trusted == [REAL, OTHER]
    assert stand.asked.index(OTHER) < AT_ONCE * 2 + 2
    stand.settle()
    assert len(stand.asked) == A_SECOND
    assert len(stand.settle(1.0)) == AT_ONCE


def test_one_that_was_asked_in_vain_gives_way_to_one_that_was_not(stand):
    """And who would drive out those that wait is told to come again."""
    for number in range(MAX_SUBJECTS):
        assert stand.announce(f"10.1.0.{number}:1", key=f"ghost-{number}")
    assert not stand.announce()
    stand.settle()
    stand.says = {REAL: proof()}
    assert stand.announce()
    assert len(stand.trust._known) == MAX_SUBJECTS


def test_hosts_are_asked_in_turn_however_many_ports_they_announce(stand):
    """The draw is by host first."""
    drawn = []

    def last(choices):
        drawn.append(list(choices))
        return choices[-1]

    stand.trust._draw = last
    for port in range(1, 40):
        stand.announce(f"10.0.0.66:{port}", key=f"ghost-{port}")
    stand.says = {REAL: proof()}
    stand.announce()
    assert stand.settle()[:1] != []
    assert drawn[0] == ["10.0.0.66", "10.0.0.7"]
    assert stand.trusted == [REAL]


def test_what_ends_after_closing_changes_nothing(stand):
    """A handshake that is under way is not waited for."""
    stand.says = {REAL: proof()}
    stand.hold.clear()
    stand.announce()
    stand.trust.tick()
    stand.trust.close()
    stand.hold.set()
    stand.settle()
    assert stand.table.all() == []


def test_a_fault_of_ours_at_a_strangers_bytes_is_its_fault(stand):
    """It ends no thread and no look at others."""
    stand.says = {EVIL: IndexError("odd"), REAL: proof()}
    stand.announce(EVIL, key="e")
    stand.announce()
    stand.settle()
    assert stand.trusted == [REAL]
    assert stand.suspects.stats.untrusted[0].said == "IndexError: odd"


@pytest.mark.parametrize(
    ("addresses", "tls", "insecure", "endpoints", "reason"),
    [
        ((REAL,), False, False, [], "plain-text"),
        ((REAL,), False, True, [REAL], None),
        ((REAL, "127.0.0.1:8500"), False, False, ["127.0.0.1:8500"], None),
        (("127.0.0.1:8500",), True, False, [], "unprepared"),
        (("127.0.0.1:8500",), True, True, [], "unprepared"),
    ],
)
def test_without_tls_only_this_machine_is_believed(stand, addresses, tls, insecure, endpoints, reason):
    """Unless the configuration believes anybody; a server that speaks TLS is told of."""
    plain = PlainText(stand.table, stand.suspects, insecure=insecure)
    plain.add(Sighting(key="s", addresses=addresses, tls=tls))
    assert [one.address for one in stand.table.all()] == endpoints
    assert [one.reason for one in stand.suspects.stats.untrusted] == ([] if reason is None else [reason])
    plain.remove("s")
    assert stand.table.all() == []
    assert stand.suspects.stats.untrusted == ()
