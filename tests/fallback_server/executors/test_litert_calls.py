"""Pools of calls, with real threads."""

import threading

import pytest

from fallback_server.executors.litert_calls import CallPool

LIMIT_S = 30


def test_a_call_is_used_again_and_no_more_are_made_than_run_side_by_side():
    """One thread needs one."""
    made = []

    def make():
        made.append(len(made))
        return lambda inputs, number=made[-1]: {"number": number}

    pool = CallPool(make, limit=3)
    assert [pool.run({})["number"] for _ in range(5)] == [0] * 5
    assert made == [0]


def test_runs_beyond_the_limit_wait_and_none_is_lost():
    """However many threads there are, each gets its answer, and at most `limit` calls were ever made."""
    inside, most, made, answers = [], [], [], []

    def make():
        made.append(None)

        def call(inputs):
            inside.append(None)
            most.append(len(inside))
            inside.pop()
            return dict(inputs)

        return call

    pool = CallPool(make, limit=2)

    def work(number):
        answers.extend(pool.run({"x": (number, step)})["x"] == (number, step) for step in range(300))

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(answers) == 8 * 300
    assert all(answers)
    assert len(made) <= 2
    assert max(most) <= 2


def test_a_waiting_run_begins_when_another_ends():
    """It is woken, also by one that fails; a call that failed is made anew."""
    gate, begun = threading.Event(), threading.Event()
    made = []

    def make():
        made.append(None)

        def call(inputs):
            if inputs["fails"]:
                begun.set()
                assert gate.wait(LIMIT_S)
                raise RuntimeError("it fails")
            return {"made": len(made)}

        return call

    pool = CallPool(make, limit=1)
    found = []

    def fail():
        with pytest.raises(RuntimeError):
            pool.run({"fails": True})

    threads = [threading.Thread(target=fail, daemon=True)]
    threads[0].start()
    assert begun.wait(LIMIT_S)
    threads.append(threading.Thread(target=lambda: found.append(pool.run({"fails": False})), daemon=True))
    threads[1].start()
    gate.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert found == [{"made": 2}]


def test_a_call_that_can_not_be_made_leaves_its_place():
    """The next run tries again."""
    faults = [MemoryError("no room")]

    def make():
        if faults:
            raise faults.pop()
        return dict

    pool = CallPool(make, limit=1)
    with pytest.raises(MemoryError):
        pool.run({})
    assert pool.run({"x": 1}) == {"x": 1}
