import heapq
import threading
from _thread import allocate_lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduling.gate import Gate

WAIT_S = 10


def held():
    """A lock to sleep on."""
    lock = allocate_lock()
    lock.acquire()
    return lock


def enter(gate, share, permits=1):
    """Takes permits, and sleeps until they are there."""
    waiter = gate.ask(share, permits, object(), awake := held())
    assert waiter.given or awake.acquire(timeout=WAIT_S)
    return waiter.token


class Users:
    """Threads that wait at a gate whose only permit the test holds; who got in, in order."""

    def __init__(self, gate):
        self.gate = gate
        self.entered = []
        self.threads = []

    def wait(self, share, permits=1, run_s=1.0):
        """Starts a thread that enters, notes its share and leaves; returns when it waits."""

        def work():
            token = enter(self.gate, share, permits)
            self.entered.append(share.name)
            self.gate.leave(share, run_s, permits, token)

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


def kept_busy(gate, users, turns):
    """Device seconds of users (weight, run seconds) that ask again when a run ends, with a slot for each permit."""
    shares = [gate.join(weight, str(i)) for i, (weight, _) in enumerate(users)]
    used, running, waiting, now_s = [0.0] * len(users), [], {}, 0.0

    def ask(i, token):
        waiter = gate.ask(shares[i], 1, token, held())
        if waiter.given:
            heapq.heappush(running, (now_s + users[i][1], i, token))
        else:
            waiting[waiter] = i

    for token in range(len(users) * gate.capacity):
        ask(token // gate.capacity, token)
    for _ in range(turns):
        now_s, i, token = heapq.heappop(running)
        used[i] += users[i][1]
        if gate.stays(shares[i], users[i][1], 1, token):
            heapq.heappush(running, (now_s + users[i][1], i, token))
        else:
            ask(i, token)
        for one in [one for one in waiting if one.given]:
            i = waiting.pop(one)
            heapq.heappush(running, (now_s + users[i][1], i, one.token))
        assert len(running) == gate.capacity
    return used


@given(
    st.lists(st.tuples(st.floats(0.5, 10.0), st.floats(0.01, 1.0)), min_size=2, max_size=4),
    st.integers(100, 300),
)
def test_backlogged_users_get_time_by_weight(users, turns):
    """However long their runs, users that always want the device differ by a few runs a unit of weight at most."""
    used = kept_busy(Gate(1), users, turns)
    per_weight = [time / weight for time, (weight, _) in zip(used, users, strict=True)]
    assert max(per_weight) - min(per_weight) <= 4 * max(run_s / weight for weight, run_s in users) + 1e-9


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_weights_hold_with_several_permits(capacity):
    """With several permits, and runs of different lengths, time is shared by weight as well."""
    light, heavy = kept_busy(Gate(capacity), [(1.0, 0.02), (4.0, 0.013)], 4000)
    assert 3.5 < heavy / light < 4.5


def test_weight_counts_for_who_runs_on_and_on():
    """A user that goes on where it may is let in ten times as often as one of a tenth of its weight."""
    gate = Gate(1)
    light, heavy = gate.join(1.0, "l"), gate.join(10.0, "h")
    assert gate.try_enter(light)
    waiter = gate.ask(heavy, 1, heavy, held())
    order, running, other = "", light, heavy
    for _ in range(110):
        order += running.name
        if not gate.stays(running, 0.01):
            assert waiter.given
            waiter = gate.ask(running, 1, running, held())
            running, other = other, running
    assert 95 <= order.count("h") <= 101


def test_who_stays_is_not_in_its_own_way():
    """A user goes on though another worker of its own waits, which would only have to be woken for the same."""
    gate = Gate(1)
    share = gate.join()
    assert gate.try_enter(share, 1, "slot")
    waiter = gate.ask(share, 1, "other", held())
    assert not gate.wanted(share)
    assert gate.stays(share, 0.01, 1, "slot")
    assert not waiter.given


def test_impossible_values_are_refused():
    """A gate has a permit and a share a weight."""
    with pytest.raises(ValueError, match="capacity"):
        Gate(0)
    with pytest.raises(ValueError, match="weight"):
        Gate(1).join(0.0)


def test_recovery_counts_from_who_has_permits():
    """After an interrupt what the interrupted caller had is free; others keep theirs, and who waits goes on."""
    gate = Gate(2)
    one, other = gate.join(name="a"), gate.join(name="b")
    assert gate.try_enter(one, 1, "mine")
    assert gate.try_enter(other, 1, "theirs")
    waiter = gate.ask(other, 1, "next", held())
    gate._free, one.active = -7, 5
    gate.recover(["mine"])
    assert waiter.given
    assert not waiter.awake.locked()
    assert (gate._free, one.active, other.active) == (0, 0, 2)
    gate.leave(other, 0.1, 1, "theirs")
    gate.leave(other, 0.1, 1, "next")
    assert (gate._free, gate._users) == (2, {})


def test_recovery_tells_who_was_let_in():
    """Who was let in by a caller that was interrupted before it could say so is told, and counted once."""
    gate = Gate(1)
    one, other = gate.join(name="a"), gate.join(name="b")
    assert gate.try_enter(one, 1, "mine")
    waiter = gate.ask(other, 1, "next", held())
    with gate._lock:
        gate._drop(1, "mine")
        gate._take(other, 1, "next")
    gate.recover(["mine"])
    assert waiter.given
    assert not waiter.awake.locked()
    assert (gate._free, gate._waiting) == (0, [])


def test_whoever_waits_in_vain_leaves_its_place():
    """Who withdraws before its turn has come leaves nothing behind; a turn that has just come is taken."""
    gate = Gate(1)
    one, other = gate.join(name="a"), gate.join(name="b")
    assert gate.try_enter(one)
    assert gate.withdraw(gate.ask(other, 1, "x", held()))
    waiter = gate.ask(other, 1, "x", held())
    gate.leave(one, 0.1)
    assert not gate.withdraw(waiter)
    gate.leave(other, 0.0, 1, "x")
    assert (gate._free, gate._waiting, gate._users) == (1, [], {})
