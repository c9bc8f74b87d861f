from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.arguments import convert_options, convert_parser, data_spec, pairs, parse_shape, read_config
from converter.config import Budget
from converter.errors import OptionInvalid

BASE = ["m", "--name", "n", "--version", "1", "--output", "o"]


def options(*words):
    parsed = vars(convert_parser().parse_args([str(word) for word in words]))
    return convert_options({name: value for name, value in parsed.items() if name not in ("json", "debug")})


def test_every_flag_reaches_its_option():
    """What is typed is what the conversion is asked for."""
    found = options(
        *BASE,
        *("--calibration", "train.npz", "--evaluation", "my_data:samples", "--signature", "a", "--signature", "b"),
        *(
            "--shape",
            "x=1,-1,8",
            "--target",
            "coral-usb",
            "--max-accuracy-drop",
            "relative:1%",
            "--optimize",
            "latency",
        ),
        *("--metric", "scores=topk:5", "--search-time", "7", "--uint8-input", "--edgetpu-segments", "2", "--report"),
        *("--no-latency", "--only-chosen", "--replace", "--into", "sm/1", "--memory-limit-mib", "2"),
        *("--custom-objects", "a:B", "--edgetpu-compiler", "/x", "--variant", "int8", "--time-limit-s", "9"),
    )
    assert (found.saved_model, found.calibration, found.evaluation) == (Path("m"), Path("train.npz"), "my_data:samples")
    assert (found.signatures, found.shapes, found.targets) == (("a", "b"), {"x": (1, -1, 8)}, ("coral-usb",))
    assert (found.budget, found.optimize, found.metrics) == (
        Budget(points=1.0, relative=True),
        "latency",
        {"scores": "topk:5"},
    )
    assert (found.search_time_s, found.uint8_input, found.edgetpu_segments, found.report) == (7.0, True, 2, True)
    assert (found.measure_latency, found.only_chosen, found.replace, found.into) == (False, True, True, Path("sm/1"))
    assert (found.memory_limit_bytes, found.custom_objects, found.edgetpu_compiler) == (2 * 2**20, "a:B", "/x")
    assert (found.variants, found.time_limit_s) == (("int8",), 9.0)


def test_what_is_not_typed_has_the_documented_default():
    """No target, no budget, latency measured, no report."""
    found = options(*BASE)
    assert (found.targets, found.budget, found.measure_latency, found.report) == ((), None, True, False)
    assert found.signatures == ("serving_default",)


def test_a_file_holds_all_of_it_and_flags_win(tmp_path):
    """Its relative paths are relative to the file."""
    file = tmp_path / "convert.toml"
    file.write_text(
        'saved_model = "sm/1"\nname = "digits"\nversion = 3\noutput = "packages"\ncalibration = "train.npz"\n'
        'evaluation = "my_data:samples"\ntarget = ["coral-usb"]\n'
        "max-accuracy-drop = 0.5\nreport = true\nlatency = false\n"
        '[metric]\nscores = "topk:5"\n[shape]\nx = [1, 20, 8]\n'
    )
    found = options("--config", file, "--version", "4")
    assert (found.saved_model, found.output, found.version) == (tmp_path / "sm/1", tmp_path / "packages", 4)
    assert (found.calibration, found.evaluation) == (tmp_path / "train.npz", "my_data:samples")
    assert (found.targets, found.budget, found.report) == (("coral-usb",), Budget(points=0.5), True)
    assert (found.metrics, found.shapes, found.measure_latency) == ({"scores": "topk:5"}, {"x": (1, 20, 8)}, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae = 'x'", "unknown key 'nmae'; known are: calibration"),
        ("version = '3'", "version must be int, got '3'"),
        ("report = 1", "report must be bool, got 1"),
        ("version = true", "version must be int, got True"),
        ("shape = {x = ['a']}", "not a list of integers"),
        ("max_accuracy_drop = 'much'", "max accuracy drop: 'much'"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, says):
    """The file, the key and the value are named."""
    file = tmp_path / "convert.toml"
    file.write_text(text)
    with pytest.raises(OptionInvalid, match=says) as caught:
        read_config(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    """As any other bad input."""
    with pytest.raises(OptionInvalid, match="No such file"):
        read_config(tmp_path / "none.toml")


def test_what_is_required_is_named_as_it_is_typed():
    """The model by its place, the others by their flags."""
    with pytest.raises(OptionInvalid, match="required: SAVED_MODEL, --version, --output"):
        convert_options({"name": "n"})


@pytest.mark.parametrize("given_pairs", [["x"], ["=1"], ["x="], ["x=1", "x=2"]])
def test_what_is_no_pair_is_refused(given_pairs):
    """Nothing before or behind the sign, none at all, or one name twice."""
    with pytest.raises(OptionInvalid, match="shape"):
        pairs("shape", given_pairs)


@pytest.mark.parametrize("dims", ["", "a", "1,,2", "0", "-2", "1.5"])
def test_impossible_dimensions_are_refused(dims):
    """Each is an integer from 1 up, or -1."""
    with pytest.raises(OptionInvalid, match="shape of 'x'"):
        parse_shape({"x": dims})


@given(st.lists(st.integers(1, 10**6) | st.just(-1), min_size=1, max_size=6))
def test_dimensions_read_back_as_they_are_written(dims):
    """As words with commas and as lists."""
    written = ",".join(map(str, dims))
    assert parse_shape({"x": written}) == parse_shape({"x": dims}) == {"x": tuple(dims)}


def test_data_with_a_colon_are_a_function_unless_the_path_is_there(tmp_path):
    """A directory called `a:b` stays reachable."""
    (tmp_path / "a:b").mkdir()
    assert data_spec("a:b", tmp_path) == tmp_path / "a:b"
    assert data_spec("c:d", tmp_path) == "c:d"


def test_an_empty_word_is_no_path(tmp_path):
    """What an unset variable leaves would be the working directory."""
    with pytest.raises(OptionInvalid, match="output: must not be empty"):
        options("m", "--name", "n", "--version", "1", "--output", "")
    (tmp_path / "c.toml").write_text("a=" + "[" * 100_000)
    with pytest.raises(OptionInvalid, match="nested too deeply"):
        read_config(tmp_path / "c.toml")


@pytest.mark.parametrize("dims", [[1, 1.5], [True, 2]])
def test_dimensions_are_integers_in_a_file_too(dims):
    """Nothing is cut off in silence."""
    with pytest.raises(OptionInvalid, match="not a list of integers"):
        parse_shape({"x": dims})
