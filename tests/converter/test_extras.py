import pytest
from support.converter_packages import signature

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
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(write, text, says):
    """Unknown inputs and keys, impossible constants, broken TOML: each with the file and what is wrong."""
    with pytest.raises(DataInvalid, match=says) as caught:
        read_preprocess(write(text), signature())
    assert "file" in str(caught.value)
