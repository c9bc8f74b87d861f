import pytest
from support.converter_packages import signature

from converter.artifact import Signature, TensorSpec
from converter.errors import DataInvalid
from converter.extras import read_labels, read_preprocess

TEN = "".join(f"{digit}\n" for digit in range(10))


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "file"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


@pytest.mark.parametrize("text", [TEN, TEN.rstrip("\n"), TEN + "\n\n", TEN.replace("\n", "\r\n")])
def test_labels_are_the_lines(write, text):
    """Whatever the line ends, and whether or not there is one at the end."""
    assert read_labels(write(text), signature()) == tuple("0123456789")


@pytest.mark.parametrize(
    ("text", "says"),
    [("a\nb\n", "2 class names.*'scores': 10"), ("a\n\nb", "line 2 is empty"), ("", "line 1"), (b"\xff\n", "can't be")],
)
def test_labels_that_do_not_fit_are_refused(write, text, says):
    """Another number than the output has classes, gaps, and what is no text."""
    with pytest.raises(DataInvalid, match=says):
        read_labels(write(text), signature())


def test_preprocessing_is_read_from_toml(write):
    """Integers are numbers too, and one value stands for all channels."""
    found = read_preprocess(write("[inputs.image]\nscale = 2\nmean = [1]\nstd = [0.5]\n"), signature())
    assert found.inputs["image"].canonical == (2.0, (1.0,), (0.5,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[inputs.sound]\nscale = 2.0\n", r"'sound' is no input .*\['image'\]"),
        ("[inputs.image]\nzoom = 2.0\n", "zoom"),
        ("[input.image]\nscale = 2.0\n", "input"),
        ("[inputs.image]\nscale = 'large'\n", "scale"),
        ("[inputs.image]\nscale = 0.0\n", "scale must be"),
        ("[inputs.image]\nstd = [-1.0]\n", "std must be"),
        ("[inputs.image]\nmean = [1.0, 2.0]\n", "mean of 'image' has 2 values, the input's last axis has 1"),
        ("[inputs.image\n", "line 1"),
        (
            "[inputs.image]\nresize = [8, 9]\n",
            r"resize of 'image' makes .* width 9, the input float32\[-1, 8, 8, 1\] has 8",
        ),
        ("[inputs.image]\nresize = [8]\n", "resize"),
        ("[inputs.image]\nresize = [8, 8]\nmethod = 'cubic'\n", "method"),
        ("[inputs.image]\ndecode = 'image'\n", "color of 'image' makes .* channels 3, the input .* has 1"),
        ("[inputs.image]\ncolor = 'rgb'\n", "color of 'image' is rgb, which has 3 channels, .* last axis has 1"),
        ("[inputs.image]\ncrop = [0, 0, 9, 8]\n", "crop of 'image' makes .* height 9, the input .* has 8"),
        ("[inputs.image]\nlayout = 'chw'\ncolor = 'gray'\narray_color = 'rgb'\n", "color of 'image' .* channels 1"),
        ("[inputs.image]\ndtype = 'uint8'\n", r"dtype of 'image' is uint8, the input is float32\[-1, 8, 8, 1\]"),
        (
            "[inputs.image]\ndecode = 'wav'\n",
            "decode of 'image' makes samples, with a batch axis or without",
        ),
        ("[inputs.image]\nframe = 4\n", r"frame of 'image' makes frames x frame with frame 4, the input .* has 8"),
        ("[inputs.image]\nfields = [{name = 'a', kind = 'x'}]\n", "kind"),
        ("[inputs.image]\nfields = [{name = 'a'}]\n", "fields of 'image' makes fields"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(write, text, says):
    """Unknown inputs and keys, impossible constants, broken TOML: each with the file and what is wrong."""
    with pytest.raises(DataInvalid, match=says) as caught:
        read_preprocess(write(text), signature())
    assert "file" in str(caught.value)


def table(columns, name="person", dtype="float32"):
    return Signature(
        name=f"of-{columns}",
        inputs=(TensorSpec(name=name, dtype=dtype, shape=(-1, columns)),),
        outputs=(TensorSpec(name="score", dtype="float32", shape=(-1, 10)),),
        batch_axis=0,
    )


def test_every_step_that_fits_is_taken(write):
    """An image, with everything that can be said of it."""
    text = """
        [inputs.image]
        decode = "image"
        crop = 0.875
        resize = [8, 8]
        method = "bicubic"
        antialias = true
        fit = "pad"
        pad = 127
        color = "gray"
        array_color = "bgr"
        dtype = "float32"
        layout = "hwc"
        scale = 0.5
        mean = [1]
    """
    found = read_preprocess(write(text), signature()).inputs["image"]
    assert (found.crop, found.resize, found.pad, found.color) == (0.875, (8, 8), 127.0, "gray")


def test_channels_first_are_found_where_they_are(write):
    """With layout chw, mean and std have a value for each of the first of the three image axes."""
    first = Signature(
        name="s",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 8, 8)),),
        outputs=signature().outputs,
        batch_axis=0,
    )
    fitting = "[inputs.image]\nresize = [8, 8]\nlayout = 'chw'\nmean = [1, 2, 3]\n"
    assert read_preprocess(write(fitting), first).inputs["image"].mean == (1.0, 2.0, 3.0)
    with pytest.raises(DataInvalid, match=r"mean of 'image' has 2 values, .* first of the three image axes has 3"):
        read_preprocess(write(fitting.replace("1, 2, 3", "1, 2")), first)


def test_several_signatures_are_all_held_against(write):
    """Each input of each, and labels of any output."""
    both = (signature(), table(2))
    text = "[inputs.image]\nscale = 2.0\n[inputs.person]\nfields = [{name = 'a'}, {name = 'b', default = 1}]\n"
    assert set(read_preprocess(write(text), both).inputs) == {"image", "person"}
    with pytest.raises(DataInvalid, match=r"fields of 'person' makes fields with fields 2, .*float32\[-1, 3\] has 3"):
        read_preprocess(write(text), (signature(), table(3)))
    assert len(read_labels(write(TEN), (table(2), signature()))) == 10


def test_strings_are_not_preprocessed(write):
    """An input of strings takes no steps."""
    with pytest.raises(DataInvalid, match="strings are not preprocessed"):
        read_preprocess(write("[inputs.person]\nscale = 2.0\n"), table(2, dtype="string"))
