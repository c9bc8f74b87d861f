import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from fallback_server.core.errors import InvalidInput, Unimplemented
from fallback_server.transport.rest.json_arrays import read_array
from fallback_server.transport.rest.json_codec import column, dump, parse

DTYPES = [np.float16, np.float32, np.float64, np.bool_]
DTYPES += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@given(st.sampled_from(DTYPES).flatmap(lambda kind: hn.arrays(kind, hn.array_shapes(min_dims=0, max_dims=4))))
def test_what_is_written_reads_back_as_the_same_bits_of_meaning(array):
    """Every number of every dtype, NaN and the infinities too, survives the way to JSON and back; so do shapes."""
    document = parse(dump({"v": column("v", array)}))
    np.testing.assert_array_equal(read_array(document["v"], array.dtype), array)


@given(st.lists(st.binary(max_size=8), max_size=5), st.sampled_from(["text", "image_bytes"]))
def test_strings_survive_both_ways(values, name):
    """Strings come back as text, as base64 where the name or the bytes ask for it, and are read back the same."""
    array = np.array([*values, b""], object)[:-1]
    written = orjson.loads(dump(column(name, array)))
    assert read_array(written, np.dtype(object)).tolist() == values
    if name == "image_bytes":
        assert all(isinstance(item, dict) for item in written)


REFUSED = [
    ("text", np.float32, 'JSON Value: "text" Type: String is not of expected type: float'),
    (True, np.float32, "JSON Value: true Type: True is not of expected type: float"),
    ([1.0, None], np.float32, "JSON Value: null Type: Null is not of expected type: float"),
    ([1, True], np.int32, "JSON Value: true Type: True is not of expected type: int32"),
    ([1.5], np.int64, "JSON Value: 1.5 Type: Number is not of expected type: int64"),
    ([1, 300], np.uint8, "JSON Value: 300 Type: Number is not of expected type: uint8"),
    ([-1], np.uint64, "JSON Value: -1 Type: Number is not of expected type: uint64"),
    ([2**70], np.int64, "JSON Value: a number of 71 bits Type: Number is not of expected type: int64"),
    ([10**400], np.float64, "Cannot convert JSON value: a number of 1329 bits to double without loss of precision."),
    ([0.5, 16777217], np.float32, "Cannot convert JSON value: 16777217 to float without loss of precision."),
    ([1e39], np.float32, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
    ([1], np.bool_, "JSON Value: 1 Type: Number is not of expected type: bool"),
    ([1], object, "JSON Value: 1 Type: Number is not of expected type: string"),
    ({"b64": "!"}, object, "Unable to base64 decode"),
    ({"b64": 1}, object, 'JSON Value: {"b64":1} not formatted correctly for base64 data'),
    ({"a": 1}, np.float32, 'JSON Value: {"a":1} Type: Object is not of expected type: float'),
    ([[1, 2], [3]], np.float32, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ([1, [2]], np.float32, "Encountered list at unexpected level: 1 expected < 1"),
    ([[1], 2], np.float32, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
]


@pytest.mark.parametrize(("value", "dtype", "text"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_value(value, dtype, text):
    """Nothing is rounded, cut, wrapped or parsed out of a string; the text says what came and what was expected."""
    with pytest.raises(InvalidInput) as refused:
        read_array(value, np.dtype(dtype))
    assert str(refused.value) == text


def test_numbers_without_a_fraction_may_stand_for_floats():
    """Integers are floats where floats are expected, up to what the dtype holds exactly."""
    assert read_array([[1, 2.5], [16777215, -3]], np.dtype(np.float32)).tolist() == [[1, 2.5], [16777215, -3]]
    assert np.isnan(read_array(float("nan"), np.dtype(np.float32)))


def test_white_space_and_missing_padding_are_no_fault_of_base64():
    """What other decoders let pass is let pass."""
    assert read_array({"b64": "aGk"}, np.dtype(object)).item() == b"hi"
    assert read_array({"b64": "aG\nk="}, np.dtype(object)).item() == b"hi"


def test_a_dtype_without_json_form_is_unimplemented():
    """Complex numbers can't be asked for in JSON."""
    with pytest.raises(Unimplemented, match="Conversion of JSON Value: 1 to type: complex64"):
        read_array(1, np.dtype(np.complex64))


def test_lists_nested_too_deep_are_refused():
    """The nesting that a body can have ends in a refusal, never in a recursion."""
    value = 1
    for _ in range(100):
        value = [value]
    with pytest.raises(InvalidInput, match="deeper than 64 levels"):
        read_array(value, np.dtype(np.float32))
    with pytest.raises(InvalidInput, match="JSON Parse error"):
        parse(b'{"a": ' + b"[" * 100_000)
    with pytest.raises(InvalidInput, match="JSON Parse error"):
        parse(b'{"a": NaN, "b": ' + b"[" * 100_000)
