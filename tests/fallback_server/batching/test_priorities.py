"""Who is served before others of the same signature."""

from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make, rows
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.policy import MAX_OVERTAKEN_S, precedence_s


def order(stand):
    """The first values of the rows, as they were answered."""
    return [int(answer["y"][0, 0]) for _, answer in stand.done]


def test_a_higher_priority_is_served_first_and_a_lower_one_last():
    """Within one priority in the order in which they came."""
    stand = BatchStand(max_batch_size_rows=1)
    queue = stand.queue(FakeExecutor())
    for number, priority in enumerate((0, -1, 1, 0, 1, -1)):
        stand.submit(queue, rows(number), priority=priority)
    stand.run()
    assert order(stand) == [2, 4, 0, 3, 1, 5]
    assert stand.idle()


def test_nobody_is_overtaken_by_whom_came_more_than_a_second_later():
    """A flood of high ones keeps a normal one waiting for so long, and no longer."""
    stand = BatchStand(max_batch_size_rows=1)
    queue = stand.queue(FakeExecutor())
    stand.submit(queue, rows(0))
    for number in range(1, 15):
        stand.clock.advance(0.1)
        stand.submit(queue, rows(number), priority=1)
    stand.run()
    assert order(stand)[:12].index(0) in (9, 10)


def test_other_inner_shapes_wait_behind_a_higher_priority_too():
    """The group whose head comes first is served first, whatever its shape."""
    stand = BatchStand(max_batch_size_rows=4)
    queue = stand.queue(FakeExecutor())
    stand.submit(queue, rows(0), rows(1))
    stand.submit(queue, rows(2, width=3), priority=1)
    stand.run()
    assert order(stand) == [2, 0, 1]


def test_a_batch_is_filled_with_lower_ones():
    """What has room runs with those before it."""
    stand, executor = BatchStand(max_batch_size_rows=3), FakeExecutor()
    queue = stand.queue(executor)
    stand.submit(queue, rows(0), rows(1), rows(2))
    stand.submit(queue, rows(3), priority=1)
    stand.run()
    assert executor.batches == [3, 1]
    assert order(stand) == [3, 0, 1, 2]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 1), st.floats(0.0, 0.7)), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_the_order_is_kept_within_a_priority_and_bounded_between_two(steps, max_rows):
    """Within one: as they came. Between two: only by those that came within a second for each step."""
    stand = BatchStand(max_batch_size_rows=max_rows, max_enqueued_batches=1000)
    queue = stand.queue(FakeExecutor())
    tasks = []
    for number, (priority, pause_s) in enumerate(steps):
        task = make(rows(number), priority=priority)
        stand.scheduler.submit([(queue, task)])
        tasks.append(task)
        stand.clock.advance(pause_s)
    stand.run()
    answered = [tasks[number] for number in order(stand)]
    assert len(answered) == len(tasks)
    for level in (-1, 0, 1):
        numbers = [number for number in order(stand) if tasks[number].priority == level]
        assert numbers == sorted(numbers)
    for index, task in enumerate(answered):
        for earlier in answered[:index]:
            steps_apart = earlier.priority - task.priority
            assert earlier.enqueued_s - task.enqueued_s <= max(0, steps_apart) * MAX_OVERTAKEN_S + 1e-9


def test_precedence():
    """A second for each step."""
    assert precedence_s(stands_s=5.0, priority=1) == 4.0
    assert precedence_s(stands_s=5.0, priority=-1) == 6.0
