"""How many requests are answered together follows from how many come at a time."""

from hypothesis import given
from hypothesis import strategies as st

from fallback_server.transport.crowd import MOST, PROBE, Crowd


class Callers:
    """So many callers, each of whom asks again as soon as it was answered: a crowd's story in groups."""

    def __init__(self, crowd, count, idle=0.1):
        self.crowd = crowd
        self.count = count
        self.idle = idle
        self.groups = []
        self.vain = 0

    def ask(self, requests, at_first):
        """Has requests come; of a group that may wait `at_first` are there before the loop has rest."""
        alone = 0
        while requests > 0:
            if not self.crowd.joins():
                requests -= 1
                alone += 1
                continue
            most = self.crowd.most
            there = min(at_first, most)
            size = there if self.crowd.size < 2 else min(most, self.count)
            in_vain = self.crowd.size > 1 and size < most
            self.vain += in_vain
            self.groups.append(size)
            self.crowd.gathered(size, in_vain=in_vain, idle=self.idle)
            requests -= size
        return alone


def test_who_comes_alone_never_waits():
    """Of one caller's requests a few try out whether there are others, ever fewer, and none waits for any."""
    crowd = Crowd()
    callers = Callers(crowd, 1)
    assert callers.ask(10_000, at_first=1) >= 10_000 - 10_000 // 256 - 10
    assert callers.vain == 0
    assert crowd.size == 1


def test_many_callers_are_answered_in_large_groups():
    """And none waits in vain, once they are as large as can be."""
    crowd = Crowd()
    callers = Callers(crowd, 32)
    callers.ask(2_000, at_first=3)
    assert crowd.size == MOST
    assert set(callers.groups[-20:]) == {MOST}
    assert callers.vain == 0


def test_few_callers_hardly_wait_in_vain():
    """Groups are as large as half of them, and larger ones are tried ever more seldom."""
    crowd = Crowd()
    callers = Callers(crowd, 4)
    callers.ask(40_000, at_first=3)
    assert callers.vain < 40_000 / 512
    assert crowd.size == 2


def test_when_the_crowd_goes_nobody_waits_any_more():
    """The first to come alone wait for a moment; then it is as if there had been none."""
    crowd = Crowd()
    Callers(crowd, 32).ask(2_000, at_first=3)
    last = Callers(crowd, 1)
    last.ask(1_000, at_first=1)
    assert crowd.size == 1
    assert last.vain <= 20


def test_when_a_crowd_comes_it_is_found():
    """Within a thousand requests, however long nobody came."""
    crowd = Crowd()
    Callers(crowd, 1).ask(100_000, at_first=1)
    Callers(crowd, 32).ask(1_000, at_first=3)
    assert crowd.size == MOST


def test_where_the_loop_has_time_nobody_waits():
    """Callers that fill groups while the loop does nothing for most of the time are answered as they come."""
    crowd = Crowd()
    callers = Callers(crowd, 32, idle=0.8)
    assert callers.ask(10_000, at_first=3) > 8_500
    assert crowd.size == 1


def test_a_loop_without_rest_makes_groups_no_larger_than_come():
    """Who waited as long as may be, and not in vain, is as many as come; a caller by itself is alone again."""
    crowd = Crowd()
    Callers(crowd, 32).ask(2_000, at_first=3)
    crowd.gathered(9, in_vain=False)
    assert crowd.size == 9
    crowd.gathered(2, in_vain=False)
    assert crowd.size == 2
    crowd.gathered(1, in_vain=False)
    assert crowd.size == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(1, MOST), st.booleans(), st.floats(0, 1)), max_size=400))
def test_it_keeps_its_bounds(story):
    """Whatever comes: a group has at least two of those that wait, and at most as many as are answered together."""
    crowd = Crowd()
    for asks, count, in_vain, idle in story:
        if asks:
            crowd.joins()
        most = crowd.most
        assert (crowd.size == 1 and most == PROBE) or 2 <= crowd.size == most <= MOST
        crowd.gathered(min(count, most), in_vain=in_vain, idle=idle)
