import json

import numpy as np
import pytest
from support.fallback_fakes import signature

from fallback_server.core.errors import InvalidInput
from fallback_server.transport.rest import json_codec
from fallback_server.transport.rest.json_codec import parse, read_inputs, write_outputs

ONE = signature({"x": (-1, 2)}, {"y": (-1, 2)})
TWO = signature({"a": (-1,), "s": ((-1,), object)}, {"y": (-1,)})


def read(document, spec=ONE):
    arrays, rows = read_inputs(document, spec)
    return {name: array.tolist() for name, array in arrays.items()}, rows


def test_rows_and_columns_are_read_with_and_without_names():
    """Instances are rows; inputs are whole tensors; with one input, its name may be left out of both."""
    assert read({"instances": [[1, 2], [3, 4]]}) == ({"x": [[1, 2], [3, 4]]}, True)
    assert read({"instances": [{"x": [1, 2]}]}) == ({"x": [[1, 2]]}, True)
    assert read({"inputs": [[1, 2]]}) == ({"x": [[1, 2]]}, False)
    assert read({"inputs": {"x": 5}}) == ({"x": 5}, False)
    both = {"a": [1, 2], "s": [b"hi", b"\xff"]}
    rows = [{"a": 1, "s": "hi"}, {"a": 2, "s": {"b64": "/w=="}}]
    assert read({"instances": rows}, TWO) == (both, True)
    assert read({"inputs": {"a": [1, 2], "s": ["hi", {"b64": "/w=="}]}}, TWO) == (both, False)


REFUSED = [
    ({}, ONE, "Missing 'inputs' or 'instances' key"),
    ({"instances": 1}, ONE, "JSON Value: {\"instances\":1} Excepting 'instances' to be an list/array"),
    ({"instances": []}, ONE, "JSON Value: {\"instances\":[]} No values in 'instances' array"),
    (
        {"instances": [], "inputs": 1},
        ONE,
        (
            'JSON Value: {"instances":[],"inputs":1} Not formatted correctly expecting only one of '
            "'inputs' or 'instances' keys to exist "
        ),
    ),
    (
        {"instances": [1]},
        TWO,
        (
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        ),
    ),
    (
        {"inputs": [1]},
        TWO,
        (
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        ),
    ),
    ({"inputs": {"a": 1}}, TWO, "Missing named input: s in 'inputs' object."),
    ({"instances": [[1, 2], {"x": [1, 2]}]}, ONE, "Expecting value/list but got object at item 1 of input list"),
    ({"instances": [{"x": [1, 2]}, [1, 2]]}, ONE, "Expecting object but got list at item 1 of input list"),
    (
        {"instances": [{"a": 1}]},
        TWO,
        "Failed to process element: 0 of 'instances' list. JSON object: {\"a\":1} keys must be equal to: a,s",
    ),
    (
        {"instances": [{"z": 1}]},
        ONE,
        (
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z"
        ),
    ),
    (
        {"instances": [[1, 2], [3]]},
        ONE,
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 1"
        ),
    ),
    (
        {"instances": [1, [3, 4]]},
        ONE,
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 1 but got: 2"
        ),
    ),
    (
        {"instances": [{"a": 1, "s": "x"}, {"a": "no", "s": "x"}]},
        TWO,
        (
            "Failed to process element: 1 key: a of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "no" Type: String is not of expected type: float'
        ),
    ),
    (
        {"instances": [[[1, 2], [3, 4]], [[1, 2], [3, "x"]]]},
        ONE,
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "x" Type: String is not of expected type: float'
        ),
    ),
]


@pytest.mark.parametrize(("document", "spec", "text"), REFUSED)
def test_a_request_that_does_not_fit_is_refused_in_tensorflow_servings_words(document, spec, text):
    """The text names the element, the key and the value."""
    with pytest.raises(InvalidInput) as refused:
        read_inputs(document, spec)
    assert str(refused.value) == text


BODIES = [
    (b"", "JSON Parse error: The document is empty"),
    (b"{", "JSON Parse error: .* at offset: 1"),
    (b'{"a": NaN', "JSON Parse error: .* at offset: 9"),
    (b"[1]", r"JSON Value: \[1\] Is not object"),
    (b'{"a": "\xff"}', "JSON Parse error"),
    (b'{"a": NaN, "b": "\xff"}', "JSON Parse error"),
    (b'{"a": NaN, "b": 1e400}', "JSON Parse error: number is infinity when parsed as double"),
    (b'{"a": NaN, "b": -1E+0309}', "JSON Parse error: number is infinity when parsed as double"),
    (b'{"a": NaN, "b": ' + b"9" * 250 + b".0e99}", "JSON Parse error: number is infinity when parsed as double"),
    (b'{"a": NaN, "b": ' + b"9" * 5000 + b"}", "JSON Parse error"),
]


@pytest.mark.parametrize(("body", "text"), BODIES)
def test_a_body_that_is_no_json_object_is_refused(body, text):
    """The text says where the fault is."""
    with pytest.raises(InvalidInput, match=text):
        parse(body)


def test_a_signature_name_must_be_a_string():
    """As TensorFlow Serving says it."""
    with pytest.raises(InvalidInput, match="'signature_name' key must be a string value"):
        json_codec.signature_name({"signature_name": 1})


def test_outputs_are_written_by_rows_and_by_columns():
    """One output has no name; several are objects; floats never look like integers, and are as short as they can be."""
    y = np.array([[0.2, 1], [np.nan, -np.inf]], np.float32)
    assert write_outputs({"y": y}, rows=True) == b'{"predictions":[[0.2,1.0],[NaN,-Infinity]]}'
    assert write_outputs({"y": y}, rows=False) == b'{"outputs":[[0.2,1.0],[NaN,-Infinity]]}'
    both = {"y": y, "n": np.array([7, 8], np.int64), "f": np.array([0.1, np.inf], np.float32)}
    assert write_outputs(both, rows=True) == (
        b'{"predictions":[{"y":[0.2,1.0],"n":7,"f":0.1},{"y":[NaN,-Infinity],"n":8,"f":Infinity}]}'
    )
    assert write_outputs(both, rows=False) == (
        b'{"outputs":{"y":[[0.2,1.0],[NaN,-Infinity]],"n":[7,8],"f":[0.1,Infinity]}}'
    )
    assert write_outputs({"n": np.float32(3)}, rows=False) == b'{"outputs":3.0}'


def test_strings_are_text_and_bytes_are_base64():
    """An output named `..._bytes` is base64 throughout; elsewhere only what is no UTF-8."""
    words = np.array([b"hi", b"\xff"], object)
    assert json.loads(write_outputs({"w": words}, rows=True)) == {"predictions": ["hi", {"b64": "/w=="}]}
    expected = {"predictions": [{"b64": "aGk="}, {"b64": "/w=="}]}
    assert json.loads(write_outputs({"w_bytes": words}, rows=True)) == expected


UNWRITABLE = [
    ({}, "Cannot convert empty tensor map to JSON"),
    ({"y": np.float32(1)}, "Tensor name: y has no shape information "),
    ({"y": np.zeros(2), "z": np.zeros(3)}, "Tensor name: z has inconsistent batch size: 3 expecting: 2"),
    ({"y": np.zeros(2, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
]


@pytest.mark.parametrize(("outputs", "text"), UNWRITABLE)
def test_outputs_that_have_no_row_form_are_refused(outputs, text):
    """As TensorFlow Serving says it."""
    with pytest.raises(InvalidInput) as refused:
        write_outputs(outputs, rows=True)
    assert str(refused.value) == text


def test_odd_layouts_are_written():
    """Transposed, big-endian and half-precision arrays give the same JSON as plain ones."""
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    for odd in (np.asfortranarray(plain), plain.astype(">f4"), plain.astype(np.float16), plain[::1]):
        assert write_outputs({"y": odd}, rows=False) == write_outputs({"y": plain}, rows=False)
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert write_outputs({"y": plain.astype(bfloat16)}, rows=False) == write_outputs({"y": plain}, rows=False)


@pytest.mark.parametrize("shape", [(1, 1, 9), (9,), (5, 2), (2, 3, 5), (1, 5, 0), (7, 1, 1)])
def test_large_arrays_are_written_by_and_by(monkeypatch, shape):
    """In pieces that make up the same text, also where some are no numbers."""
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    odd = np.where(array % 3, array, np.nan)
    whole = [write_outputs({"y": one}, rows=False) for one in (array, odd, array.astype(np.int64))]
    monkeypatch.setattr(json_codec, "_TEXT_ITEMS", 4)
    assert [write_outputs({"y": one}, rows=False) for one in (array, odd, array.astype(np.int64))] == whole
