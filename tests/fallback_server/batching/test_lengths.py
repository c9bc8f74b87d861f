"""Inputs of different lengths that run as one batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_stand import BatchStand, make
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.lengths import Lengths
from fallback_server.batching.tasks import Task

AXES = {"x": frozenset({1})}


def seen_by(run, **options):
    stand = BatchStand(pad_variable_length_inputs=True, **options)
    return stand, stand.queue(run, variable_axes=AXES)


def test_shorter_inputs_are_padded_with_their_own_first_element():
    """As TensorFlow Serving pads: up to the longest of the batch. What is half as long runs in another."""
    batches = []

    def run(inputs):
        batches.append(inputs["x"].tolist())
        return {"y": inputs["x"].sum(axis=1, keepdims=True)}

    stand, queue = seen_by(run)
    arrays = [np.array([[1, 2, 3]], np.float32), np.array([[4, 5, 6, 7]], np.float32), np.array([[8]], np.float32)]
    tasks, _ = stand.submit(queue, *arrays)
    outcomes = stand.run()
    assert batches == [[[1, 2, 3, 1], [4, 5, 6, 7]], [[8]]]
    assert outcomes[tasks[0]]["y"].tolist() == [[7]]
    assert stand.idle()


def test_allowed_lengths_are_the_only_ones_that_run():
    """Each is padded up to the next, alone too; what is longer than all runs as it is."""
    executor = FakeExecutor()
    shapes = []

    def run(inputs):
        shapes.append(inputs["x"].shape)
        return executor.run("", inputs)

    stand, queue = seen_by(run, allowed_lengths=(4, 16))
    stand.submit(queue, *[np.ones((1, length), np.float32) for length in (3, 4, 5, 16, 20)])
    stand.run()
    assert shapes == [(2, 4), (2, 16), (1, 20)]


def test_without_the_option_or_variable_dimensions_shapes_run_apart():
    """A dimension that the signature fixes is never padded."""
    executor = FakeExecutor()
    stand = BatchStand(pad_variable_length_inputs=True)
    queue = stand.queue(executor, variable_axes={"x": frozenset()})
    stand.submit(queue, np.ones((1, 3), np.float32), np.ones((1, 4), np.float32))
    stand.run()
    assert executor.batches == [1, 1]


def test_strings_and_empty_inputs_are_padded():
    """Of nothing there is no first element: with nothing."""
    lengths = Lengths(axes=AXES)
    text = [{"x": np.array([[b"a", b"b"]], object)}, {"x": np.empty((1, 0), object)}]
    assert [part["x"].tolist() for part in lengths.alike(text)] == [[[b"a", b"b"]], [[b"", b""]]]
    numbers = [{"x": np.empty((0, 1), np.int64)}, {"x": np.ones((1, 2), np.int64)}]
    assert [part["x"].shape for part in lengths.alike(numbers)] == [(0, 2), (1, 2)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
    st.sampled_from([(), (3, 8)]),
)
def test_what_was_sent_stays_where_it_was(sizes, allowed):
    """Every part keeps its rows and its values in the corner where they were; all have one inner shape."""
    lengths = Lengths(axes={"x": frozenset({1, 2})}, allowed=allowed)
    parts = [{"x": np.arange(n * h * w, dtype=np.int32).reshape(n, h, w), "z": np.full((n, 2), n)} for n, h, w in sizes]
    alike = lengths.alike(parts)
    assert len({part["x"].shape[1:] for part in alike}) == 1
    for part, (n, h, w), old in zip(alike, sizes, parts, strict=True):
        assert part["x"].shape[0] == n
        np.testing.assert_array_equal(part["x"][:, :h, :w], old["x"])
        assert part["z"] is old["z"]
        if n * h * w:
            outside = np.ones(part["x"].shape, bool)
            outside[:, :h, :w] = False
            assert (part["x"][outside] == old["x"].reshape(-1)[0]).all()


@pytest.mark.parametrize(
    ("length", "allowed", "size"),
    [(0, (), 0), (1, (), 1), (3, (), 4), (4, (), 4), (5, (), 8), (3, (4, 16), 4), (17, (4, 16), 17)],
)
def test_classes(length, allowed, size):
    """The next power of two, or the next allowed length."""
    lengths = Lengths(axes=AXES, allowed=allowed)
    assert lengths.class_of({"x": np.empty((2, length))}) == ((size,),)
    assert make(np.empty((1, 1))).rows == 1


def test_what_is_exact_runs_beside_its_own_shapes_alone():
    """A step of a sequence is not padded, nor to allowed lengths; two of one shape run together."""
    shapes = []

    def run(inputs):
        shapes.append(inputs["x"].shape)
        return {"y": inputs["x"]}

    stand, queue = seen_by(run, allowed_lengths=(4, 16))
    arrays = [np.ones((1, length), np.float32) for length in (3, 4, 3, 2)]
    tasks = [Task(caller=make(arrays[0]).caller, inputs={"x": each}, deadline_s=None, exact=True) for each in arrays]
    stand.scheduler.submit([(queue, task) for task in tasks])
    stand.submit(queue, arrays[0], arrays[1])
    outcomes = stand.run()
    assert sorted(shapes) == [(1, 2), (1, 4), (2, 3), (2, 4)]
    assert [outcomes[task]["y"].shape for task in tasks] == [(1, 3), (1, 4), (1, 3), (1, 2)]
    assert stand.idle()


def test_a_step_and_a_plain_request_run_together_where_nothing_is_padded():
    """What is exact is kept apart from what may be padded, and from nothing else."""
    for options in ({}, {"pad_variable_length_inputs": True}):
        stand, executor = BatchStand(**options), FakeExecutor()
        queue = stand.queue(executor, variable_axes={"x": frozenset()})
        tasks = [
            Task(caller=make(np.ones((1, 1))).caller, inputs={"x": np.ones((1, 2))}, deadline_s=None, exact=exact)
            for exact in (False, True, False, True)
        ]
        stand.scheduler.submit([(queue, task) for task in tasks])
        stand.run()
        assert executor.batches == [4]


@pytest.mark.parametrize("allowed", [(), (8,)])
def test_pieces_of_one_request_are_as_long_as_each_other(allowed):
    """Its last one runs beside no longer request, unless all are filled up to one length: each gets its own answer."""
    stand, queue = seen_by(lambda inputs: {"y": inputs["x"]}, max_batch_size_rows=4, allowed_lengths=allowed)
    large, small = np.arange(25, dtype=np.float32).reshape(5, 5), np.full((1, 7), 3, np.float32)
    tasks, refusals = stand.submit(queue, large, small)
    assert refusals == [None, None]
    outcomes = stand.run()
    assert outcomes[tasks[0]]["y"].shape == (5, 8 if allowed else 5)
    np.testing.assert_array_equal(outcomes[tasks[0]]["y"][:, :5], large)
    np.testing.assert_array_equal(outcomes[tasks[1]]["y"][:, :7], small)
    assert len(stand.batches) == (2 if allowed else 3)
    assert stand.idle()
