import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduling.fairness import Share
from edge_runtime.scheduling.gate import Gate

WAIT_S = 10


class Users:
    """Threads that wait at a gate whose only permit the test holds; who got in, in order."""

    def __init__(self, gate):
        self.gate = gate
        self.entered = []
        self.threads = []

    def wait(self, share, permits=1, run_s=1.0):
        """Starts a thread that enters, notes its share and leaves; returns when it waits."""

        def work():
            self.gate.enter(share, permits)
            self.entered.append(share.name)
            self.gate.leave(share, run_s, permits)

        thread = threading.Thread(target=work)
        waiting = len(self.gate._waiting)
        thread.start()
        while len(self.gate._waiting) == waiting:
            pass
        self.threads.append(thread)

    def join(self):
        for thread in self.threads:
            thread.join(WAIT_S)
        return "".join(self.entered)


def test_permits_are_bounded():
    """No more get in than there are permits, and whoever tries never waits."""
    gate = Gate(2)
    share = gate.join()
    assert gate.try_enter(share)
    assert not gate.try_enter(share, 2)
    assert gate.try_enter(share)
    assert not gate.try_enter(share)
    gate.leave(share, 0.1)
    assert gate.try_enter(share)


def test_waiting_users_take_turns_by_weight():
    """Of two users that always want to run, one of thrice the weight runs thrice as often."""
    gate = Gate(1)
    light, heavy = gate.join(1.0, "l"), gate.join(3.0, "h")
    assert gate.try_enter(light)
    users = Users(gate)
    for _ in range(4):
        users.wait(light)
    for _ in range(12):
        users.wait(heavy)
    gate.leave(light, 1.0)
    order = users.join()
    assert order[:8].count("h") in {6, 7}
    assert order.count("l") == 4


def test_an_idle_user_saves_nothing_up():
    """A user that comes after long idleness shares from then on, and does not make up for the past."""
    gate = Gate(1)
    busy, late = gate.join(name="b"), gate.join(name="l")
    for _ in range(100):
        assert gate.try_enter(busy)
        gate.leave(busy, 1.0)
    assert gate.try_enter(busy)
    users = Users(gate)
    for _ in range(3):
        users.wait(busy)
    for _ in range(3):
        users.wait(late)
    gate.leave(busy, 1.0)
    assert users.join() in {"lblblb", "lbllbb", "lblbbl"}


def test_short_runs_come_more_often():
    """Time is shared, not turns: a user whose runs take a tenth has several of them for each of the other's."""
    gate = Gate(1)
    short, long = gate.join(name="s"), gate.join(name="l")
    assert gate.try_enter(short)
    users = Users(gate)
    for _ in range(10):
        users.wait(short, run_s=0.1)
    for _ in range(3):
        users.wait(long, run_s=1.0)
    gate.leave(short, 0.1)
    assert users.join().index("ll") > 8


def test_who_needs_all_permits_is_not_starved():
    """A run that needs the whole device holds up those behind it until it has had its turn."""
    gate = Gate(2)
    share = gate.join(name="s")
    whole = gate.join(name="w")
    assert gate.try_enter(share)
    assert gate.try_enter(share)
    users = Users(gate)
    users.wait(whole, permits=2)
    assert not gate.try_enter(share)
    users.wait(share)
    gate.leave(share, 1.0)
    assert users.entered == []
    gate.leave(share, 1.0)
    assert users.join() == "ws"


@given(
    st.lists(st.tuples(st.floats(0.5, 4.0), st.floats(0.01, 1.0)), min_size=2, max_size=4),
    st.integers(50, 200),
)
def test_backlogged_users_get_time_by_weight(users, turns):
    """However long their runs, users that always wait differ by no more than a run a unit of weight."""
    shares = [Share(weight) for weight, _ in users]
    used = [0.0] * len(users)
    virtual_s = 0.0
    for _ in range(turns):
        i = min(range(len(users)), key=lambda i: shares[i].tag_s)
        virtual_s = shares[i].start(virtual_s)
        shares[i].end(users[i][1])
        used[i] += users[i][1]
    per_weight = [time / weight for time, (weight, _) in zip(used, users, strict=True)]
    assert max(per_weight) - min(per_weight) <= 2 * max(run_s / weight for weight, run_s in users) + 1e-9


def test_impossible_values_are_refused():
    """A gate has a permit and a share a weight."""
    with pytest.raises(ValueError, match="capacity"):
        Gate(0)
    with pytest.raises(ValueError, match="weight"):
        Gate(1).join(0.0)
