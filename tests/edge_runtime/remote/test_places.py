"""Who has a place among the servers that are asked, however many addresses lead to one of them."""

import pytest
from support.clock import FakeClock

from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import MAX_ENDPOINTS, EndpointTable
from edge_runtime.remote.places import MAX_OF_ONE, Full, Place, who_gives_way
from edge_runtime.remote.sightings import PlainText, Sighting
from edge_runtime.remote.suspects import Suspects


def places(identity, count, **changes):
    made = {"identity": identity, "given": False, "answers": True, **changes}
    return [Place(key=f"{identity}-{number}", **made) for number in range(count)]


def test_one_certificate_has_a_few_places():
    """One that answers keeps its own; where one does not, the latest that does has it. Given ones don't count."""
    taken = places("a", MAX_OF_ONE)
    with pytest.raises(Full):
        who_gives_way(taken, "a", 64)
    assert who_gives_way(taken, "b", 64) is None
    assert who_gives_way(taken[1:], "a", 64) is None
    assert who_gives_way([*taken[1:], *places("a", 9, given=True)], "a", 64) is None
    gone = Place(key="gone", identity="a", given=False, answers=False)
    assert who_gives_way([*taken[1:], gone], "a", 64) == "gone"


def test_when_all_are_taken_who_has_most_gives_way():
    """But first one that no longer answers; given ones stay, and two never take one from each other in turn."""
    given = places("g", 4, given=True, answers=False)
    taken = [*places("a", 3), *places("b", 2), *places("c", 1, answers=False), *given]
    assert who_gives_way(taken, "d", 10) == "c-0"
    taken = [*places("a", 3), *places("b", 2), *places("g", 5, given=True)]
    assert who_gives_way(taken, "d", 10) == "a-0"
    assert who_gives_way(taken, "d", 11) is None
    with pytest.raises(Full):
        who_gives_way(taken, "b", 10)
    with pytest.raises(Full):
        who_gives_way(places("g", 10, given=True), "d", 10)


def test_ghosts_of_this_machine_keep_no_server_out():
    """Without tls too: whom there is no place for is told again, and those that nobody answers at give way."""
    clock = FakeClock()
    table, suspects = EndpointTable(lambda address: Endpoint(address, clock), clock=clock), Suspects(clock)
    plain = PlainText(table, suspects, insecure=False)
    for number in range(MAX_ENDPOINTS):
        assert plain.add(Sighting(key=f"ghost-{number}", addresses=(f"127.0.0.1:{6000 + number}",), tls=False))
    real = Sighting(key="real", addresses=("127.0.0.1:8500",), tls=False)
    assert not plain.add(real)
    assert suspects.stats.dropped == 1
    table.all()[3].unheard(clock(), unreachable=True)
    assert plain.add(real)
    addresses = [one.address for one in table.all()]
    assert len(addresses) == MAX_ENDPOINTS
    assert "127.0.0.1:8500" in addresses
    assert "127.0.0.1:6003" not in addresses
    table.close()
