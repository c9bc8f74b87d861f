import numpy as np
import pytest

from edge_runtime import InvalidInput
from edge_runtime.tasks import resize_mask, segment

SCORES = np.random.default_rng(0).normal(size=(1, 3, 5, 4)).astype(np.float32)


def test_the_best_class_of_each_pixel():
    """Of scores, real or stored; of several pictures the one that is named."""
    wanted = SCORES[0].argmax(axis=-1)
    for answer in (SCORES, (SCORES * 30).astype(np.int8), {"mask": SCORES}):
        mask = segment(answer)
        assert (mask.dtype, mask.shape) == (np.uint8, (3, 5))
    assert (segment(SCORES) == wanted).all()
    assert (segment(np.concatenate([SCORES, -SCORES]), row=1) == SCORES[0].argmin(axis=-1)).all()


def test_classes_pass_as_they_are():
    """Integers a pixel, with or without an axis of one."""
    classes = np.arange(15).reshape(1, 3, 5)
    assert (segment(classes) == classes[0]).all()
    assert (segment(classes[..., np.newaxis]) == classes[0]).all()


def test_one_score_a_pixel_needs_a_threshold():
    """Nothing else tells where the second class begins."""
    scores = np.linspace(0, 1, 15, dtype=np.float32).reshape(1, 3, 5, 1)
    assert segment(scores, threshold=0.5).sum() == 7
    with pytest.raises(InvalidInput, match="one score a pixel; give threshold="):
        segment(scores)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (np.zeros((1, 3), np.float32), r"scores \[N, H, W, C\] or classes \[N, H, W\] are needed"),
        (np.zeros((1, 2, 2, 300), np.float32), "2 to 256 classes are needed"),
        (np.full((1, 2, 2), 256), "classes from 256 to 256, 0 to 255 fit a mask"),
        (np.full((1, 2, 2), -1), "classes from -1 to -1"),
    ],
)
def test_other_shapes_are_named(answer, says):
    """The text says what is needed."""
    with pytest.raises(InvalidInput, match=says):
        segment(answer)


def test_masks_are_resized_without_mixing_classes():
    """Twice the size repeats each pixel, the same size changes nothing, a smaller one takes the nearest."""
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (resize_mask(mask, (6, 4)) == np.repeat(np.repeat(mask, 2, 0), 2, 1)).all()
    assert (resize_mask(mask, (3, 2)) == mask).all()
    assert resize_mask(mask, (1, 1)).tolist() == [[4]]
    with pytest.raises(InvalidInput, match="size must be"):
        resize_mask(mask, (0, 4))
    with pytest.raises(InvalidInput, match="a mask"):
        resize_mask(np.zeros(3), (4, 4))
    with pytest.raises(InvalidInput, match=r"size must be two whole numbers, \(width, height\), got 5"):
        resize_mask(mask, 5)
    with pytest.raises(InvalidInput, match="size must be two whole numbers"):
        resize_mask(mask, (2.5, 2))


def test_a_score_that_is_no_number_is_none():
    """NaN hides no other score; a pixel without any has no class, and nothing is made up for it."""
    scores = SCORES.copy()
    scores[0, 1, 2, 3] = np.nan
    without = np.where(np.isnan(scores), -np.inf, scores)
    assert (segment(scores) == without[0].argmax(axis=-1)).all()
    scores[0, 0, 0] = np.nan
    with pytest.raises(InvalidInput, match="1 of 15 pixels have no score but NaN"):
        segment(scores)
    with pytest.raises(InvalidInput, match="15 of 15 pixels have no score"):
        segment(np.full((1, 3, 5, 1), np.nan, np.float32), threshold=0.5)
    with pytest.raises(InvalidInput, match="threshold must be a number, got 'a'"):
        segment(np.zeros((1, 3, 5), np.float32), threshold="a")
