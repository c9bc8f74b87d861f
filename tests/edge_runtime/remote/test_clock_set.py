"""A machine's clock that is set: what was not valid by it may be, and no server waits to be asked again."""

from contextlib import closing

import pytest
from support.clock import FakeClock
from support.far_servers import until

from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.handshake import NotTrusted
from edge_runtime.remote.sightings import Sighting
from edge_runtime.remote.suspects import Suspects
from edge_runtime.remote.tls_files import Material
from edge_runtime.remote.trust import CLOCK_SET_S, Trust
from edge_runtime.remote.trust_policy import AGAIN_S, FLOOR_S


class Files:
    """What is trusted, which stays."""

    now = Material()

    def look(self):
        return False


@pytest.mark.parametrize(("set_s", "asked"), [(-365 * 86400.0, 2), (CLOCK_SET_S, 2), (CLOCK_SET_S - 1, 1), (0.0, 1)])
def test_who_was_refused_is_asked_anew_when_the_clock_is_set(set_s, asked):
    """An announced server would wait for half a minute; seconds by which a clock is kept right are nothing."""
    clock, ahead, calls = FakeClock(), [0.0], []

    def prove(address, _material, _limit_s):
        calls.append(address)
        raise NotTrusted("certificate", "its certificate: certificate is not yet valid")

    table = EndpointTable(lambda address: Endpoint(address, clock), clock=clock)
    trust = Trust(table, Files(), Suspects(clock), clock=clock, ahead=lambda: ahead[0], proves=prove)
    with closing(table), closing(trust):
        trust.add(Sighting(key="s", addresses=("10.0.0.7:8500",), tls=True, direct=True))
        for _ in range(3):
            trust.tick()
            until(lambda: not trust._asking, "its refusal")
            assert FLOOR_S * 3 < AGAIN_S
            clock.advance(FLOOR_S)
            ahead[0] = set_s
    assert len(calls) == asked
