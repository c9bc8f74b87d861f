import dataclasses

import numpy as np
import pytest
from support.fallback_fakes import signature

from fallback_server.core.errors import ExecutionFailed, InvalidInput, QueueFull
from fallback_server.late_inputs import LateInputs, made
from fallback_server.sequences.state import SequenceState

STEP = signature({"x": (-1, 2), "state": (-1, 3)}, {"y": (-1, 2), "state": (-1, 3)})
PAIRS = {"state": "state"}


def state_of(step=STEP, pairs=PAIRS):
    sizes = []
    return SequenceState(step, pairs, sizes.append), sizes


def ones(*shape):
    return np.ones(shape, np.float32)


def test_zeros_have_the_rows_of_the_step():
    """And are counted before they take memory."""
    state, sizes = state_of()
    given = state.inputs({"x": ones(4, 2)}, reset=False)
    assert given["state"].tolist() == np.zeros((4, 3)).tolist()
    assert sizes == [48]


def test_zeros_that_would_be_too_much_are_never_made():
    """A step of no bytes can have two thousand million rows."""
    step = signature({"x": (-1, 0), "state": (-1, 3)}, {"state": (-1, 3)})

    def refuse(size):
        raise QueueFull(str(size))

    with pytest.raises(QueueFull, match=str((2**31 - 1) * 12)):
        SequenceState(step, PAIRS, refuse).inputs({"x": np.empty((2**31 - 1, 0), np.float32)}, reset=False)


def test_a_step_keeps_its_state_apart_from_the_batch():
    """A view would keep all rows of the batch in memory."""
    state, sizes = state_of()
    batch = ones(32, 3)
    state.inputs({"x": ones(1, 2)}, reset=False)
    assert list(state.advance({"y": ones(1, 2), "state": batch[3:4]})) == ["y"]
    assert state.arrays["state"].base is None
    assert (state.step, sizes[-1]) == (1, 12)


def test_a_reset_forgets():
    """The state's bytes too, before the new zeros take some."""
    state, sizes = state_of()
    state.inputs({"x": ones(1, 2)}, reset=False)
    state.advance({"y": ones(1, 2), "state": ones(1, 3)})
    given = state.inputs({"x": ones(2, 2)}, reset=True)
    assert given["state"].tolist() == np.zeros((2, 3)).tolist()
    assert (state.step, sizes) == (0, [12, 0, 24])


@pytest.mark.parametrize(
    ("after", "is_alike"),
    [(ones(1, 3), True), (ones(2, 3), False), (np.ones((1, 3), np.float64), False), (ones(1, 4), False)],
)
def test_a_state_has_one_form_while_its_dtypes_and_shapes_last(after, is_alike):
    """What was checked of a step holds no longer than that, and a reset always begins another."""
    state, sizes = state_of()
    state.inputs({"x": ones(1, 2)}, reset=False)
    before = state.form
    state.advance({"y": ones(1, 2), "state": after})
    assert (state.form is before) == is_alike
    assert sizes == [12] + [after.nbytes] * (not is_alike)
    before = state.form
    state.inputs({"x": ones(1, 2)}, reset=True)
    assert state.form is not before


def test_strings_have_another_form_at_each_step():
    """Their bytes are counted anew."""
    step = signature({"state": (-1, 1)}, {"state": (-1, 1)})
    state, sizes = state_of(step)
    for text in (b"a", b"long"):
        state.inputs({}, reset=False)
        before = state.form
        state.advance({"state": np.array([[text]], object)})
        assert state.form is not before
    assert sizes[-1] - sizes[-2] == 3


@pytest.mark.parametrize("mixes", [False, True])
def test_a_step_has_the_rows_of_the_first(mixes):
    """Whether its rows mix, so that nobody else looks at them, or not; and whatever it sends of the state."""
    state, _ = state_of(dataclasses.replace(STEP, mixes_rows=mixes))
    state.inputs({"x": ones(2, 2)}, reset=False)
    state.advance({"y": ones(2, 2), "state": ones(2, 3)})
    for sent in ({"x": ones(1, 2)}, {"x": ones(2, 2), "state": ones(1, 3)}, {"x": ones(3, 2), "state": ones(3, 3)}):
        with pytest.raises(InvalidInput, match="must have as many rows as the first of its sequence: that has 2"):
            state.inputs(sent, reset=False)
    assert state.inputs({"x": ones(2, 2)}, reset=False)["state"].shape == (2, 3)
    assert state.inputs({"x": ones(1, 2)}, reset=True)["state"].shape == (1, 3)
    with pytest.raises(InvalidInput, match="that has 1, 'state' has 2"):
        state_of()[0].inputs({"x": ones(1, 2), "state": ones(2, 3)}, reset=False)


def test_a_state_without_rows_leaves_them_to_the_step():
    """There a first dimension that varies can be time."""
    state, _ = state_of(signature({"x": (-1, 2), "state": (1, 3)}, {"state": (1, 3)}))
    for steps in (5, 7):
        assert state.inputs({"x": ones(steps, 2)}, reset=False)["state"].shape == (1, 3)


def test_strings_begin_empty():
    """And count with what they point to."""
    text = ((-1,), object)
    state, sizes = state_of(signature({"x": (-1, 2), "state": text}, {"state": text}))
    assert state.inputs({"x": ones(2, 2)}, reset=False)["state"].tolist() == [b"", b""]
    state.advance({"state": np.array([b"abc", b"d"], object)})
    assert sizes == [16, 20]


def test_what_comes_late_stays_late():
    """Beside a state: it is made when the step runs."""
    state, _ = state_of()
    late = LateInputs({"x": np.broadcast_to(np.float32(1), (2, 2))}, {"x": lambda: ones(2, 2) * 7})
    given = state.inputs(late, reset=False)
    assert sorted(given) == ["state", "x"]
    assert (made(given)["x"] == 7).all()


def test_a_model_that_gives_no_state_is_told():
    """Not with a KeyError."""
    state, _ = state_of()
    state.inputs({"x": ones(1, 2)}, reset=False)
    with pytest.raises(ExecutionFailed, match="the model gave no output 'state'"):
        state.advance({"y": ones(1, 2)})


def test_fixed_and_unknown_shapes():
    """A fixed one needs no rows; an unknown one has no zeros."""
    fixed = signature({"x": (1, 2), "state": (1, 3)}, {"state": (1, 3)})
    state, _ = state_of(fixed)
    assert state.inputs({"x": ones(1, 2)}, reset=False)["state"].shape == (1, 3)
    state, _ = state_of(signature({"x": (-1, 2), "state": None}, {"state": None}))
    with pytest.raises(InvalidInput, match="'state' is float32 of any rank, and has no zeros to begin with"):
        state.inputs({"x": ones(1, 2)}, reset=False)
    assert state.inputs({"x": ones(1, 2), "state": ones(5)}, reset=False)["state"].shape == (5,)
