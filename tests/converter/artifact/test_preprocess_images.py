import contextlib
import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.preprocess_cases import encoded, picture, spec

from converter.artifact import DecoderMissing, InputPreprocess, ManifestInvalid, Preprocess, RawInvalid
from converter.artifact import preprocess_images as images

IMAGE = spec(-1, 6, 8, 3)
PIXELS = picture(6, 8)


def apply(raw, wanted=IMAGE, **settings):
    return InputPreprocess(**settings).apply(raw, wanted)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_bytes_and_arrays_are_the_same_image(kind):
    """A file's bytes give what the array of its pixels gives, with the batch axis that one sample lacks."""
    found = apply(encoded(PIXELS, kind), decode="image", scale=0.5)
    np.testing.assert_array_equal(found, apply(PIXELS, decode="image", scale=0.5))
    np.testing.assert_array_equal(found, PIXELS[None] * np.float32(0.5))
    assert found.dtype == np.float32


def test_one_sample_a_batch_and_a_list():
    """Each has the batch axis at the end, and a list may mix bytes and arrays."""
    other = picture(6, 8, seed=1)
    both = np.stack([PIXELS, other]).astype(np.float32)
    assert apply(PIXELS, decode="image").shape == (1, 6, 8, 3)
    np.testing.assert_array_equal(apply(np.stack([PIXELS, other]), decode="image"), both)
    np.testing.assert_array_equal(apply([encoded(PIXELS), other], decode="image"), both)


def test_images_of_different_sizes_meet_after_resize():
    """A list of photographs becomes one batch."""
    found = apply([picture(9, 9), encoded(picture(20, 5))], decode="image", resize=(6, 8))
    assert found.shape == (2, 6, 8, 3)
    with pytest.raises(RawInvalid, match=r"'x': samples of one call become different shapes"):
        apply([picture(9, 9), picture(20, 5)], decode="image")


def test_an_input_without_a_batch_axis_takes_one_sample():
    """The result has the rank of the spec."""
    assert apply(PIXELS, spec(6, 8, 3), decode="image").shape == (6, 8, 3)
    with pytest.raises(RawInvalid, match=r"2 of the shape \[6, 8, 3\] came out, the input is float32\[6, 8, 3\]"):
        apply([PIXELS, PIXELS], spec(6, 8, 3), decode="image")


def test_the_result_is_held_against_the_spec():
    """Another size than the model's is refused with both shapes."""
    with pytest.raises(RawInvalid, match=r"1 of the shape \[5, 8, 3\] came out, the input is float32\[-1, 6, 8, 3\]"):
        apply(PIXELS[1:], decode="image")


@pytest.mark.parametrize(
    ("color", "array_color", "want"),
    [
        ("rgb", "rgb", PIXELS),
        ("bgr", "rgb", PIXELS[..., ::-1]),
        ("rgb", "bgr", PIXELS[..., ::-1]),
        ("bgr", "bgr", PIXELS),
        ("gray", "rgb", PIXELS @ np.array([[0.299], [0.587], [0.114]])),
        ("gray", "bgr", PIXELS @ np.array([[0.114], [0.587], [0.299]])),
    ],
)
def test_colours(color, array_color, want):
    """Arrays are rgb unless it is said otherwise; gray is the luma of BT.601."""
    found = apply(PIXELS, spec(-1, 6, 8, want.shape[-1]), decode="image", color=color, array_color=array_color)
    np.testing.assert_allclose(found[0], want, atol=1e-3)


def test_decoded_images_are_rgb_whatever_arrays_are():
    """The order of a camera's arrays says nothing of files."""
    found = apply(encoded(PIXELS), decode="image", color="bgr", array_color="bgr")
    np.testing.assert_array_equal(found[0], PIXELS[..., ::-1])
    with pytest.raises(RawInvalid, match="bytes, which decode to rgb, and arrays of bgr in one list"):
        apply([encoded(PIXELS), PIXELS], decode="image", color="bgr", array_color="bgr")


def test_gray_arrays_may_lack_their_last_axis():
    """A frame [height, width] and a batch [n, height, width] of a gray camera, and a model that knows no channels."""
    frames = picture(12, 8, 1).reshape(2, 6, 8)
    settings = {"decode": "image", "color": "gray", "array_color": "gray"}
    assert apply(frames, spec(-1, 6, 8, 1), **settings).shape == (2, 6, 8, 1)
    assert apply(frames[0], spec(-1, 6, 8, 1), **settings).shape == (1, 6, 8, 1)
    np.testing.assert_array_equal(apply(frames, spec(-1, 6, 8), layout="hw", **settings), frames)
    assert apply(frames[0], IMAGE, decode="image", array_color="gray").shape == (1, 6, 8, 3)


def test_channels_come_first_at_the_very_end():
    """Mean and std go by the channels, then the layout changes."""
    found = apply(PIXELS, spec(-1, 3, 6, 8), layout="chw", mean=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(found[0], PIXELS.transpose(2, 0, 1) - np.array([1, 2, 3]).reshape(3, 1, 1))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied(orientation):
    """A photograph stands upright whichever way the camera was held, as Pillow itself turns it."""
    from PIL import Image, ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PIXELS, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    found = images.decode_image(data)
    np.testing.assert_array_equal(found, upright)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_large_images_are_taken_out_by_bands(mode, monkeypatch):
    """Where an image is larger than a band, its bands are together what it is at once, in each kind of colours."""
    from PIL import Image

    monkeypatch.setattr(images, "_BAND_PIXELS", 3 * PIXELS.shape[1])
    image, file = Image.fromarray(PIXELS).convert(mode), io.BytesIO()
    image.save(file, "TIFF")
    np.testing.assert_array_equal(images.decode_image(file.getvalue()), np.asarray(image.convert("RGB")))


def chunk(name, content):
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def png_of(width, height):
    """A PNG of a few bytes that claims to be so large."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (png_of(9_000, 9_000), "9000 x 9000 pixels; at most 67108864 are decoded"),
        (png_of(30_000, 30_000), "exceeds limit"),
        (png_of(70_000, 2), "2 x 70000 pixels"),
        (b"", "0 bytes are no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "are no image of a kind out of"),
        (encoded(PIXELS)[:60], "can't be decoded"),
        (encoded(PIXELS.astype(np.int32)[..., 0], "TIFF"), "pixels of the kind I"),
    ],
)
def test_what_is_no_image_is_refused(data, says):
    """Bombs by their header, empty, foreign and cut files, and other than 8 bits: one line with the input's name."""
    with pytest.raises(RawInvalid, match=f"preprocessing of 'x': .*{says}") as caught:
        apply(data, decode="image")
    assert "\n" not in str(caught.value)


@given(
    st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP"]), st.binary(max_size=4), st.integers(0, 150), st.booleans()
)
def test_damage_is_a_named_error(kind, noise, at, cut):
    """Whatever a decoder makes of damaged bytes: pixels, or one line that says so."""
    data = encoded(PIXELS, kind)
    damaged = data[:at] + noise + (b"" if cut else data[at + len(noise) :])
    with contextlib.suppress(RawInvalid):
        assert images.decode_image(damaged).dtype == np.uint8


def test_the_sample_is_named():
    """In a list, what is wrong says where."""
    with pytest.raises(RawInvalid, match="sample 1: 3 bytes are no image"):
        apply([encoded(PIXELS), b"abc"], decode="image")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("photo.jpg", "got a str; a file is given by its bytes"),
        (np.zeros(5), r"the axes \[height, width, channels\], got \[5\]"),
        (np.zeros((2, 2), object), "an array of numbers, got object"),
        ([[1, 2], [3]], "got no array"),
        ([], "an array of numbers, got|the axes"),
        ([PIXELS[None]], "sample 0: an image has the axes"),
    ],
)
def test_what_is_no_array_is_refused(raw, says):
    """Paths too: they are another machine's as likely as not."""
    with pytest.raises(RawInvalid, match=says):
        apply(raw, decode="image")


def test_bytes_need_decode():
    """Where it is not set, bytes are refused by name, and not shown."""
    with pytest.raises(RawInvalid, match="'x': it takes arrays, got bytes; decode is not set"):
        apply(encoded(PIXELS), scale=0.5)
    with pytest.raises(RawInvalid, match="'x': an image is an array of numbers"):
        apply(encoded(PIXELS), resize=(6, 8))


def test_pillow_is_asked_for_where_it_is_missing():
    """The error says what to install; and importing the contract does not load it."""
    program = (
        "import sys\n"
        "import converter.artifact as artifact\n"
        "assert not any(name.partition('.')[0] == 'PIL' for name in sys.modules)\n"
        "sys.modules['PIL'] = None\n"
        "try: artifact.preprocess_images.decode_image(b'')\n"
        "except artifact.DecoderMissing as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "decoding images needs Pillow: pip install 'edge-runtime[images]'\n"
    assert issubclass(DecoderMissing, Exception)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"crop": 0.0}, "crop must be above 0 and at most 1, got 0.0"),
        ({"crop": (0, 0, 0, 4)}, r"crop must be .* got \[0, 0, 0, 4\]"),
        ({"resize": (0, 4)}, r"resize must be .* 1 to 8192, got \[0, 4\]"),
        ({"resize": (4, 9000)}, r"got \[4, 9000\]"),
        ({"pad": float("nan")}, "pad must be finite"),
        ({"layout": "hw", "color": "rgb"}, "color must be gray, got rgb"),
        ({"dtype": "float31"}, "dtype must be one of .*got 'float31'"),
        ({"resize": (4, 4), "frame": 4}, "exclude each other, got frame, resize"),
    ],
)
def test_settings_out_of_their_bounds_are_refused(settings, says):
    """Each by name, bound and value."""
    with pytest.raises(ManifestInvalid, match=says):
        InputPreprocess(**settings)


def test_the_dtype_that_is_said_must_be_the_inputs():
    """It records what the preprocessing was written for."""
    with pytest.raises(ManifestInvalid, match=r"dtype is uint8, the input is float32\[-1, 6, 8, 3\]"):
        apply(PIXELS, dtype="uint8")


def test_integer_inputs_are_rounded_once():
    """What resizing makes is rounded to the nearest integer and clipped, whatever the filter overshoots."""
    edge = np.zeros((6, 40, 1), np.uint8)
    edge[:, 20:] = 255
    found = apply(edge, spec(-1, 6, 8, 1, dtype="uint8"), resize=(6, 8), method="lanczos3")
    assert found.dtype == np.uint8
    assert set(found[0, :, 0, 0]) | set(found[0, :, -1, 0]) == {0, 255}


FOLDABLE = InputPreprocess(decode="image", resize=(6, 8), scale=1 / 127.5, mean=(1.0, 1.0, 1.0))


def test_folding_gives_the_range_of_the_pixels():
    """The quantized input's range is what 0 and 255 become."""
    assert FOLDABLE.folds_into_uint8() == pytest.approx((-1.0, 1.0))
    assert InputPreprocess().folds_into_uint8() == (0.0, 255.0)
    assert InputPreprocess(scale=1 / 255, mean=(0.5,), std=(0.25,)).folds_into_uint8() == pytest.approx((-2.0, 2.0))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (InputPreprocess(mean=(1.0, 2.0)), "mean differs by channel"),
        (InputPreprocess(std=(1.0, 2.0)), "std differs by channel"),
        (InputPreprocess(scale=-1.0), "scale is below 0"),
        (InputPreprocess(mean=(-1.0,)), "pixels become 1 to 256"),
        (InputPreprocess(frame=4), "it is for sound"),
        (InputPreprocess(dtype="int32"), "the model's input is int32"),
    ],
)
def test_what_can_not_be_folded_says_why(step, says):
    """One clause, for the user who asked for it."""
    assert step.folds_into_uint8() is None
    assert says in step.unfoldable
    with pytest.raises(ManifestInvalid, match="can't be folded into uint8"):
        step.pixels(PIXELS, IMAGE)


def test_pixels_are_everything_but_the_numbers():
    """uint8 pixels, from which the real values come out as if they had gone the long way, within the rounding."""
    preprocess = Preprocess(inputs={"x": FOLDABLE})
    photo = picture(40, 30)
    pixels = preprocess.pixels("x", encoded(photo), IMAGE)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (1, 6, 8, 3))
    back = preprocess.from_pixels("x", pixels, IMAGE)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, preprocess.apply("x", photo, IMAGE), atol=0.5 / 127.5 + 1e-6)


def test_pixels_of_a_camera_are_not_copied():
    """Without steps before the numbers, what goes in is the frame itself."""
    frame = PIXELS[None]
    assert InputPreprocess(scale=0.5).pixels(frame, IMAGE) is frame


def test_sizes_of_filters_are_bounded():
    """Keeping filters costs a bounded amount of memory, whatever sizes pass by."""
    from converter.artifact.preprocess_resize import _filter

    assert _filter.cache_info().maxsize <= 64
    assert images.MAX_IMAGE_PIXELS * 3 < 256 * 2**20
