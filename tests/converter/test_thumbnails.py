import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from converter.artifact import Signature, TensorSpec
from converter.data import Dataset
from converter.thumbnails import image_input, make, pixels_of


@pytest.fixture
def dataset(tmp_path):
    """Makes a dataset of arrays by input name, and the signature that takes them."""

    def made(**inputs):
        files = {name: tmp_path / f"{name}.npy" for name in inputs}
        for name, array in inputs.items():
            np.save(files[name], array)
        specs = tuple(TensorSpec(name=name, dtype="float32", shape=(-1, *a.shape[1:])) for name, a in inputs.items())
        signature = Signature(name="serving_default", inputs=specs, outputs=specs, batch_axis=0)
        samples = len(next(iter(inputs.values())))
        return Dataset(origin="x", samples=samples, files=files, batched=True, keeps_axis=True), signature

    return made


def ramp(samples, height, width, channels):
    count = samples * height * width * channels
    return np.arange(count, dtype=np.float32).reshape(samples, height, width, channels)


@pytest.mark.parametrize(
    ("shape", "mode", "size"),
    [((28, 28, 1), "L", (28, 28)), ((20, 30, 3), "RGB", (30, 20)), ((200, 400, 3), "RGB", (96, 48))],
)
def test_images_become_small_pictures(dataset, shape, mode, size):
    """Grey and colour, at most 96 pixels a side, and no sample that was not asked for or is not there."""
    found = make(*dataset(image=ramp(3, *shape)), [2, 0, 2, 99, -1])
    assert sorted(found) == [0, 2]
    picture = Image.open(io.BytesIO(found[0]))
    assert (picture.mode, picture.size) == (mode, size)
    if size == shape[1::-1]:
        assert picture.getextrema() in ((0, 255), ((0, 254), (0, 255), (0, 255)), ((0, 255),) * 3)


def test_the_same_samples_give_the_same_bytes(dataset):
    """A report is reproducible, and so are its pictures."""
    given_ = dataset(image=ramp(2, 28, 28, 1))
    assert make(*given_, [0, 1]) == make(*given_, [1, 0])


@pytest.mark.parametrize("shape", [(4,), (28, 28), (28, 28, 2), (7, 28, 1), (4000, 8, 1)])
def test_what_is_no_image_has_no_picture(dataset, shape):
    """Tables, sounds, feature maps and tiny grids."""
    data, signature = dataset(x=np.zeros((1, *shape), np.float32))
    assert image_input(data) is None
    assert make(data, signature, [0]) == {}


def test_the_image_among_several_inputs_is_found(dataset):
    """By its shape, whatever its name."""
    data, signature = dataset(age=np.zeros((2, 1), np.float32), picture=ramp(2, 8, 8, 3))
    assert image_input(data) == "picture"
    assert len(make(data, signature, [0, 1])) == 2


@given(arrays.arrays(np.float64, (8, 9, 1), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_any_numbers_are_pixels(image):
    """NaN, infinity and ranges that pass the largest double make a picture and no error."""
    pixels = pixels_of(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == image.shape
    assert pixels.min() == 0 or len(np.unique(pixels)) == 1
