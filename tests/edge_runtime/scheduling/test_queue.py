from hypothesis import given
from hypothesis import strategies as st
from support.edge_models import rows

from edge_runtime.scheduling.queue import RequestQueue
from edge_runtime.types import InferRequest


def request(count=1, deadline_s=None):
    return InferRequest(
        model="m",
        version=1,
        signature="s",
        inputs={"x": rows(count)},
        rows=count,
        start_s=0.0,
        deadline_s=deadline_s,
    )


@given(st.lists(st.one_of(st.none(), st.integers(1, 5).map(float)), max_size=20))
def test_earliest_deadline_first_then_first_come(deadlines):
    """Requests leave by deadline, those without one last, equals in the order in which they came."""
    queue = RequestQueue(1000, 10**6)
    for deadline_s in deadlines:
        queue.push(request(deadline_s=deadline_s), None, 0.0)
    left = [(entry.waiting.deadline_s, entry.order) for entry in queue.head(100)]
    assert left == sorted(left)
    assert len(left) == len(deadlines)


ROW_BYTES = 16


def test_sizes_are_counted_through_every_way_out():
    """Rows and bytes follow pushes, removals, returns and cancellations, so that the bound stays true."""
    queue = RequestQueue(10, 10 * ROW_BYTES)
    first, second = queue.push(request(3), None, 0.0), queue.push(request(4), None, 0.0)
    assert queue.rows == 7
    assert queue.has_room(3 * ROW_BYTES)
    assert not queue.has_room(4 * ROW_BYTES)
    queue.drop(first)
    queue.drop(first)
    assert queue.head(5) == [second]
    assert (queue.rows, queue.nbytes) == (0, 0)
    queue.put_back([second])
    assert (queue.rows, queue.nbytes) == (4, 4 * ROW_BYTES)


def test_requests_are_bounded_too():
    """Many tiny requests are refused by their number, before their bytes."""
    queue = RequestQueue(2, 10**6)
    queue.push(request(), None, 0.0)
    queue.push(request(), None, 0.0)
    assert not queue.has_room()


def test_oversized_request_is_let_in_alone():
    """A request larger than the whole bound can still be answered when nothing waits."""
    queue = RequestQueue(2, ROW_BYTES)
    assert queue.has_room(50 * ROW_BYTES)
    queue.push(request(50), None, 0.0)
    assert not queue.has_room()


def test_cancelled_entries_do_not_pile_up():
    """However many requests are queued and cancelled, the heap stays within a bound of those that wait."""
    queue = RequestQueue(10, 10**6)
    stays = queue.push(request(), None, 0.0)
    for _ in range(1000):
        queue.drop(queue.push(request(), None, 0.0))
    assert len(queue._heap) < 200
    assert queue.head(5) == [stays]
