import numpy as np
import pytest
from support.fallback_fakes import signature, spec

from fallback_server.executors.base import JoinedInputs


@pytest.mark.parametrize(
    ("inputs", "outputs", "batches"),
    [
        ({"a": (-1, 2)}, {"y": (-1,)}, True),
        ({"a": (-1, 2), "b": (2,)}, {"y": (-1,)}, False),
        ({"a": (-1, 2)}, {"y": (3,)}, False),
        ({"a": (-1, 2)}, {"y": None}, False),
        ({"a": ()}, {"y": (-1,)}, False),
        ({}, {"y": (-1,)}, False),
    ],
)
def test_a_signature_batches_when_everything_has_a_batch_axis(inputs, outputs, batches):
    """A variable first dimension of every input and every output, and at least one input."""
    assert signature(inputs, outputs).batches is batches


def test_accepts():
    """The dtype, the rank and the fixed dimensions must agree; an unknown rank takes any."""
    assert spec("x", (-1, 2)).accepts(np.zeros((5, 2), np.float32))
    assert not spec("x", (-1, 2)).accepts(np.zeros((5, 2), np.float64))
    assert not spec("x", (-1, 2)).accepts(np.zeros((2,), np.float32))
    assert not spec("x", (-1, 2)).accepts(np.zeros((5, 3), np.float32))
    assert spec("x", None).accepts(np.zeros((5, 3, 1), np.float32))


def test_joined_inputs_are_one_behind_the_other():
    """By name in one piece, which is made once; or in pieces that are where they were, with the padding behind."""
    parts = [{"x": np.zeros((0, 2)), "y": np.ones((1, 1))}, {"x": np.full((2, 2), 3.0), "y": np.zeros((1, 1))}]
    inputs = JoinedInputs(parts, padding=2)
    assert list(inputs) == ["x", "y"]
    assert len(inputs) == 2
    assert inputs["x"].tolist() == [[3, 3]] * 4
    assert inputs["y"].tolist() == [[1], [0], [1], [1]]
    assert inputs["x"] is inputs["x"]
    assert [len(array) for array in inputs.arrays("x")] == [0, 2, 2]
    assert inputs.arrays("x")[1] is parts[1]["x"]
