import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.tasks import BBox

SIDES = st.integers(-1000, 1000)
BOXES = st.builds(lambda x, y, w, h: BBox(x, y, x + w, y + h), SIDES, SIDES, st.integers(0, 500), st.integers(0, 500))


def test_a_box_in_pycorals_terms():
    """Width, height, area, scaling, moving and mapping, on one box."""
    box = BBox(1.5, 2.0, 4.5, 4.0)
    assert (box.width, box.height, box.area, box.valid) == (3.0, 2.0, 6.0, True)
    assert box.scale(2, 10) == (3.0, 20.0, 9.0, 40.0)
    assert box.translate(1, -2) == (2.5, 0.0, 5.5, 2.0)
    assert box.map(int) == (1, 2, 4, 4)
    assert not BBox(2, 0, 1, 1).valid
    assert BBox(1, 1, 1, 1).valid


@given(BOXES, BOXES)
def test_intersection_and_union_enclose(one, other):
    """Both are the same either way round; the union holds both boxes, the intersection lies in both if it is valid."""
    common, around = BBox.intersect(one, other), BBox.union(one, other)
    assert (common, around) == (BBox.intersect(other, one), BBox.union(other, one))
    for box in (one, other):
        assert BBox.union(around, box) == around
        assert not common.valid or BBox.intersect(common, box) == common


@given(BOXES, BOXES, SIDES, SIDES)
def test_iou_is_a_share_that_moving_does_not_change(one, other, dx, dy):
    """It is in 0..1, symmetric, 1 for a box with an area and itself, 0 for boxes apart."""
    value = BBox.iou(one, other)
    assert 0 <= value <= 1
    assert value == BBox.iou(other, one) == BBox.iou(one.translate(dx, dy), other.translate(dx, dy))
    assert BBox.iou(one, one) == (1.0 if one.area else 0.0)
    assert BBox.iou(one, one.translate(one.width + 1, 0)) == 0.0


def test_iou_of_halves():
    """Two boxes that share half of each."""
    assert BBox.iou(BBox(0, 0, 2, 1), BBox(1, 0, 3, 1)) == pytest.approx(1 / 3)
