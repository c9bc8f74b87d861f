"""Which group is next is known without a look at all of them."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows

from fallback_server.batching.groups import precedence_s
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.order import Order
from fallback_server.batching.queue import BatchQueue


def task_at(enqueued_s, priority=0):
    task = make(rows(1), priority=priority)
    task.enqueued_s = enqueued_s
    return task


class Looks:
    """When a group is due: two seconds after its first came. Counts who asks."""

    def __init__(self):
        self.count = 0

    def __call__(self, group):
        self.count += 1
        return group.oldest_s() + 2.0


def test_each_group_is_looked_at_when_it_has_changed():
    """Of 1000 that wait none is looked at when nothing has happened, and one when one came or went."""
    looks = Looks()
    order = Order(looks)
    for number in range(1000):
        order.group(((number,),)).put(task_at(float(number)))
    assert order.due_at_s() == 2.0
    assert order.first(1.0) is None
    assert order.soonest() == ((0,),)
    assert looks.count == 1000
    assert order.first(10.0) == ((0,),)
    order[((0,),)].pop()
    order.changed(((0,),))
    assert order.first(10.0) == ((1,),)
    order.group(((7,),)).put(task_at(10.0, priority=10))
    assert order.first(10.0) == ((7,),)
    assert looks.count == 1001


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(-1, 1), st.sampled_from(["put", "put", "pop", "look"])), max_size=80
    ),
    st.booleans(),
)
def test_it_is_the_one_that_a_look_at_all_would_find(steps, waits):
    """Among those that are due the one whose head comes first; if none is, which is due first."""
    due_at_s = Looks() if waits else lambda group: -math.inf
    order = Order(due_at_s if waits else None)
    now_s = 0.0
    for number, priority, what in steps:
        now_s += 0.3
        key = ((number,),)
        if what == "put":
            order.group(key).put(task_at(now_s, priority))
        elif what == "pop" and any(key == each for each, _ in order.items()):
            order[key].pop()
            order.changed(key)
        due = [(precedence_s(group.head()), key) for key, group in order.items() if due_at_s(group) <= now_s]
        first = order.first(now_s)
        assert (first is None) == (not due)
        if due:
            assert precedence_s(order[first].head()) == min(due)[0]
        elif len(order):
            soonest_s = min(due_at_s(group) for _, group in order.items())
            assert due_at_s(order[order.soonest()]) == soonest_s == order.due_at_s()
        else:
            assert order.due_at_s() == math.inf


def test_what_became_untrue_does_not_pile_up():
    """A thousand changes of two groups leave no more entries than a few times as many as there are groups."""
    order = Order(Looks())
    for number in range(1000):
        for key in (((0,),), ((1,),)):
            order.group(key).put(task_at(float(number)))
            if number:
                order[key].pop()
                order.changed(key)
        order.first(number + 1.0)
    assert len(order._later) + len(order._ready) < 200


def test_a_queue_that_has_to_wait_for_another_batch_is_not_asked_when_it_is_due():
    """That may look at much, under the lock that all need."""
    asked = []

    class Watched(BatchQueue):
        def due_at_s(self):
            asked.append(len(self))
            return super().due_at_s()

    stand = BatchStand(num_batch_threads=1)

    def run(inputs):
        if len(asked) == 1:
            stand.submit(queue, rows(2))
            assert not stand.scheduler.step()
        return {"y": inputs["x"]}

    queue = Watched(name="m", run=run, options=BatchingOptions(num_batch_threads=1), merges=True)
    stand.submit(queue, rows(1))
    assert stand.scheduler.step()
    assert asked == [1]
    assert stand.scheduler.step()


def test_of_many_that_become_due_at_once_some_are_put_in_order_at_a_time():
    """Nobody is left out: a thousand come one after the other, the first due first."""
    order = Order(Looks())
    for number in range(1000):
        order.group(((number,),)).put(task_at(number / 1e4))
    served = []
    while len(order):
        before = len(order._ready)
        key = order.first(100.0)
        assert len(order._ready) - before <= 256
        order[key].pop()
        order.changed(key)
        served.append(key[0][0])
    assert served == list(range(1000))
