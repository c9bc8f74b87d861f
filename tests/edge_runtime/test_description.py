import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_models import scale_signature

from edge_runtime import ServerFailed
from edge_runtime.description import DOUBT_LIMIT_S, DOUBT_PAUSE_S, Doubts
from edge_runtime.target import Target


class Stand:
    """A request that was refused for description 0, and servers that say by `ask` what is in force."""

    def __init__(self, *, moves=False, error=None):
        self.clock = FakeClock()
        self.moves = moves
        self.error = error
        self.generation = 0
        self.spans = []
        self._doubts = Doubts()

    def ask(self, begun_s, until_s):
        self.spans.append(until_s - begun_s)
        if self.error is not None:
            raise self.error
        self.generation += self.moves

    def settled(self, seen=0, deadline_s=None):
        return self._doubts.settled(seen, lambda: self.generation, self.ask, deadline_s, self.clock)


@pytest.mark.parametrize("moves", [False, True])
def test_servers_say_whether_a_refusal_holds(moves):
    """It doesn't where they describe what they have in another way now."""
    stand = Stand(moves=moves)
    assert stand.settled() is moves
    assert stand.spans == [DOUBT_LIMIT_S]


@pytest.mark.parametrize("error", [None, ServerFailed("m/latest", {}, lacking=True)])
def test_a_question_in_vain_is_asked_again_after_a_while_only(error):
    """Whoever is refused meanwhile hears so at once; after that servers may have moved."""
    stand = Stand(error=error)
    assert [stand.settled() for _ in range(10)] == [False] * 10
    stand.clock.advance(DOUBT_PAUSE_S)
    stand.moves, stand.error = True, None
    assert stand.settled()
    assert len(stand.spans) == 2


def test_what_has_changed_since_the_check_is_not_asked_for():
    """Another has asked: the request is made again, also in the pause."""
    stand = Stand()
    assert not stand.settled()
    assert stand.settled(seen=-1)
    assert len(stand.spans) == 1


def test_nobody_waits_beyond_the_deadline():
    """Nor beyond the limit, which is for a refusal that the caller has already."""
    stand = Stand()
    stand.settled(deadline_s=stand.clock() + 0.5)
    assert stand.spans == [0.5]


def test_parts_of_two_descriptions_are_never_mixed():
    """Inputs that one description takes leave under its signature's name, whatever is described meanwhile."""
    target = Target("m", None, None, None)
    narrow, wide = ({name: scale_signature(name=name, width=width)} for name, width in (("narrow", 4), ("wide", 8)))
    target.describe(narrow, 0.0)
    way = target.description.ways[None]

    def check(inputs):
        checked = way.check(inputs)
        target.describe(wide, 1.0)
        return checked

    target.description.ways[None] = way._replace(check=check)
    request = target.request(np.ones((1, 4), np.float32), None, 0.0, None)
    assert (request.signature, request.described) == ("narrow", 1)
    assert (target.default, target.description.generation) == ("wide", 2)


def test_descriptions_that_come_at_once_have_generations_of_their_own():
    """Else a request could not tell that what it was checked against is no longer in force."""
    target = Target("m", None, None, None)
    others = [{"a": scale_signature(name="a", width=width)} for width in range(1, 9)]
    gate = threading.Barrier(8)

    def describe(signatures):
        gate.wait(30)
        target.describe(signatures, 0.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(describe, others))
    assert target.description.generation == 8


def test_the_same_again_is_the_same_generation():
    """It is believed for longer, and that is all."""
    target = Target("m", None, None, None)
    target.describe({"a": scale_signature(name="a")}, 0.0)
    target.describe({"a": scale_signature(name="a")}, 5.0)
    assert target.description.generation == 1
    assert not target.needs_description(12.0)
