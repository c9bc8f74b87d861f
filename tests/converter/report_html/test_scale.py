import itertools

from hypothesis import given
from hypothesis import strategies as st

from converter.report_html.scale import Axis, Box, Mark, place, tick_text, ticks

FRAME = Box(left=50.0, top=20.0, right=860.0, bottom=390.0)
marks = st.builds(
    Mark,
    x=st.floats(60, 850),
    y=st.floats(30, 380),
    radius=st.floats(4, 21),
    width=st.floats(20, 200),
)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_few_round_and_inside(low, span, count):
    """Between a third of what was asked for and a few more, evenly apart."""
    found = ticks(low, low + span, count)
    assert len(found) <= count + 1
    assert all(low - span * 1e-6 <= one <= low + span * (1 + 1e-6) for one in found)
    if found[1:]:
        step = found[1] - found[0]
        assert all(abs(b - a - step) <= step * 1e-3 for a, b in itertools.pairwise(found))


def test_ticks_say_as_much_as_their_step():
    """0.05 apart needs two digits, 20 apart none."""
    assert [tick_text(one, 0.05) for one in (0.0, 0.05, 0.1)] == ["0.00", "0.05", "0.10"]
    assert tick_text(120.0, 20.0) == "120"
    assert tick_text(-0.0, 0.5) == "0.0"


def test_an_axis_keeps_what_is_beyond_it_at_its_end():
    """A value off the scale is drawn at the edge, not outside of the picture."""
    axis = Axis(low=0.0, high=2.0, start=400.0, end=0.0)
    assert [axis.at(one) for one in (0.0, 1.0, 2.0, 99.0, -1.0)] == [400.0, 200.0, 0.0, 0.0, 400.0]


@given(st.lists(marks, max_size=10))
def test_labels_lie_inside_and_apart(found):
    """However the marks fall: each label in the frame, and none over another."""
    boxes = place(found, FRAME)
    assert len(boxes) == len(found)
    assert all(one.inside(Box(left=50, top=20, right=860.001, bottom=390.001)) for one in boxes)
    assert not [(one, other) for index, one in enumerate(boxes) for other in boxes[index + 1 :] if one.meets(other)]


def test_a_lonely_mark_has_its_label_beside_it():
    """To the right, unless the frame ends there."""
    near, far = Mark(x=100, y=100, radius=5, width=40), Mark(x=850, y=100, radius=5, width=40)
    assert place([near], FRAME)[0].left > near.x
    assert place([far], FRAME)[0].right < far.x
