import numpy as np
import pytest
from support.preprocess_cases import picture, spec, tensorflow_resized

from converter.artifact import RawInvalid
from converter.artifact.preprocess import InputPreprocess
from converter.artifact.preprocess_images import crop, geometry
from converter.artifact.preprocess_resize import resize

METHODS = ["nearest", "bilinear", "bicubic", "lanczos3", "area"]
SIZES = [
    ((48, 64), (20, 20)),
    ((48, 64), (96, 31)),
    ((7, 5), (30, 40)),
    ((1, 9), (3, 2)),
    ((64, 64), (64, 10)),
    ((30, 30), (29, 31)),
    ((300, 200), (7, 11)),
]
TOLERANCE = 1e-3 * 255
"""TensorFlow's bicubic rounds the distances from a pixel to 1/1024, so that no implementation is equal to the bit."""


@pytest.mark.slow
def test_resizing_is_tensorflows(server, tmp_path):
    """Each method, with antialias and without, larger and smaller, gives tf.image.resize's numbers."""
    cases, own = [], []
    for index, (have, want) in enumerate(SIZES):
        image = picture(*have, seed=index)
        file = tmp_path / f"image{index}.npy"
        np.save(file, image)
        for method in METHODS:
            for antialias in (False, True):
                cases.append((file, *want, method, antialias, "stretch"))
                own.append(resize(image, want, method, antialias=antialias))
        # With pad, TensorFlow makes a side of 0 pixels of the fourth, and by float32 puts the sixth a column off.
        if index not in (3, 5):
            cases.append((file, *want, "bilinear", True, "pad"))
            own.append(geometry(image, window=None, size=want, method="bilinear", antialias=True, fit="pad", pad=0.0))
        cases.append((file, *want, "bilinear", True, "central"))
        own.append(crop(image, 0.6))
    folder = tmp_path / "reference"
    folder.mkdir()
    server.run(tensorflow_resized, 120.0, cases, folder)
    for index, (case, found) in enumerate(zip(cases, own, strict=True)):
        reference = np.load(folder / f"{index}.npy")
        np.testing.assert_allclose(found.astype(np.float32), reference, rtol=0, atol=TOLERANCE, err_msg=str(case[1:]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("antialias", [False, True])
def test_a_flat_image_stays_flat(method, antialias):
    """The weights of each output pixel sum to one, at the edges too."""
    image = np.full((33, 50, 3), 200, np.uint8)
    for size in ((7, 9), (80, 120), (33, 1)):
        found = resize(image, size, method, antialias=antialias)
        assert found.shape == (*size, 3)
        np.testing.assert_allclose(found, 200.0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_is_the_same_image(method):
    """Nothing is computed, and the dtype stays."""
    image = picture(6, 7)
    assert resize(image, (6, 7), method, antialias=True) is image


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (70_000, 1, 3)])
def test_impossible_images_are_refused(shape):
    """No pixels, and sides that would take much memory for the filter."""
    with pytest.raises(RawInvalid, match=f"{shape[0]} x {shape[1]} pixels"):
        resize(np.zeros(shape, np.uint8), (4, 4), "bilinear", antialias=False)


def test_fit_crop_keeps_the_middle_and_the_ratio():
    """A wide image loses the same at both ends, and nothing is stretched."""
    image = np.zeros((4, 12, 1), np.uint8)
    image[:, 4:8] = 9
    found = geometry(image, window=None, size=(2, 2), method="area", antialias=False, fit="crop", pad=0.0)
    assert found.tolist() == [[[9.0], [9.0]]] * 2


def test_fit_pad_fills_with_the_raw_value():
    """A wide image is put between bands of the pad value, which scale, mean and std then meet too."""
    step = InputPreprocess(resize=(4, 4), method="nearest", fit="pad", pad=100.0, scale=0.5)
    found = step.apply(np.full((2, 8, 1), 10, np.uint8), spec(-1, 4, 4, 1))
    assert found[0, :, 0, 0].tolist() == [50.0, 5.0, 50.0, 50.0]


def test_a_window_beyond_the_image_is_refused():
    """With the window and the image's size."""
    with pytest.raises(RawInvalid, match=r"crop \[0, 0, 9, 9\] reaches beyond the image's 8 x 9 pixels"):
        crop(picture(8, 9), (0, 0, 9, 9))
