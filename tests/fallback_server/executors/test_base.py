import numpy as np
import pytest
from support.fallback_fakes import signature, spec


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
