import contextlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.typed_tensors import NUMBERS, arrays, field_in_pieces, header

from fallback_server.core.errors import InvalidInput
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import CUTTABLE, decode, encode, encode_parts
from fallback_server.protocol.typed_values import TENSOR_CONTENT
from fallback_server.transport import large

SIZES = st.integers(0, 40)
THRESHOLD = 64


def cut(data):
    return large.cut_map(data, field=2, cut=CUTTABLE, threshold=THRESHOLD)


@given(st.dictionaries(st.text(max_size=3), SIZES, max_size=4), st.text(max_size=3))
def test_what_is_cut_and_what_remains_are_the_message(sizes, name):
    """Tensors of over the threshold come as views, the others stay, and together they are what was sent."""
    arrays = {key: np.arange(size, dtype=np.float64) for key, size in sizes.items()}
    inputs = {key: encode(array) for key, array in arrays.items()}
    sent = pb.PredictRequest(model_spec=pb.ModelSpec(name=name), inputs=inputs, output_filter=["y"], client_id=b"c")
    rest, contents = cut(sent.SerializeToString())
    assert set(contents) == {
        key for key, array in arrays.items() if array.nbytes + 9 >= THRESHOLD and array.nbytes >= THRESHOLD
    }
    request = pb.PredictRequest.FromString(rest)
    assert (request.model_spec.name, list(request.output_filter), request.client_id) == (name, ["y"], b"c")
    for key, array in arrays.items():
        np.testing.assert_array_equal(decode(request.inputs[key], cut=contents.get(key, {})), array)


def test_views_read_the_message_in_place():
    """Nothing of what is cut out is copied."""
    data = pb.PredictRequest(inputs={"x": encode(np.arange(100.0))}).SerializeToString()
    assert cut(data)[1]["x"][TENSOR_CONTENT].obj is data


def test_the_last_of_what_comes_twice_counts():
    """A key or a tensor_content that comes twice: as protobuf reads it."""
    first, second = np.zeros(100), np.ones(100)
    entries = [pb.PredictRequest(inputs={"x": encode(array)}).SerializeToString() for array in (first, second)]
    rest, contents = cut(b"".join(entries))
    np.testing.assert_array_equal(decode(pb.PredictRequest.FromString(rest).inputs["x"], cut=contents["x"]), second)
    small = pb.PredictRequest(inputs={"x": encode(np.zeros(1))}).SerializeToString()
    rest, contents = cut(entries[0] + small)
    assert not contents.get("x")
    assert decode(pb.PredictRequest.FromString(rest).inputs["x"]).shape == (1,)


def entry(name, *values):
    """A map's entry whose value comes in pieces."""
    body = b"".join(large.field_parts(1, [name.encode()]))
    return b"".join(large.field_parts(2, [body + b"".join(b"".join(large.field_parts(2, [each])) for each in values)]))


@given(arrays(max_size=40), st.integers(1, 3), st.booleans(), st.booleans())
@settings(deadline=None)
def test_typed_values_are_read_as_protobuf_reads_them(array, pieces, packed, merged):
    """In one packed field, in several, each value on its own, or in two messages that are merged: every dtype."""
    field = field_in_pieces(array, pieces, packed=packed)
    whole = np.concatenate([array, array]) if merged else array
    values = [header(whole).SerializeToString() + field] + [field] * merged
    data = entry("x", *values)
    rest, contents = large.cut_map(data, field=2, cut=CUTTABLE, threshold=1)
    back = decode(pb.PredictRequest.FromString(rest).inputs["x"], cut=contents.get("x", {}))
    expected = decode(pb.PredictRequest.FromString(data).inputs["x"])
    assert (back.dtype, back.tobytes()) == (array.dtype, expected.tobytes())
    if array.dtype.itemsize > 1:  # Of `float8_val`, which is bytes, the last counts.
        assert back.tobytes() == whole.tobytes()


def test_of_a_field_in_several_pieces_nothing_is_cut_out():
    """Packed numbers follow each other, and of bytes the last counts: protobuf knows."""
    array = np.arange(100, dtype=np.float32)
    head, field = header(array).SerializeToString(), field_in_pieces(array, 2, packed=True)
    data = entry("x", head + field)
    assert cut(data) == (data, {})
    one = entry("x", head + field_in_pieces(array, 1, packed=True))
    assert list(cut(one)[1]["x"]) == [NUMBERS["float_val"]]


def test_beyond_a_bound_of_fields_the_rest_is_left_to_protobuf():
    """A message of countless small fields is not walked through in Python."""
    names = [str(number) for number in range(10_000)]
    sent = pb.PredictRequest(output_filter=names, inputs={"x": encode(np.zeros(100))})
    rest, contents = cut(sent.SerializeToString())
    request = pb.PredictRequest.FromString(rest)
    assert list(request.output_filter) == names
    assert decode(request.inputs["x"], cut=contents.get("x", {})).shape == (100,)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(data):
    """What protobuf parses is cut into the same message; what is malformed is the caller's fault."""
    with contextlib.suppress(InvalidInput, DecodeError):
        rest, contents = large.cut_map(data, field=2, cut=[TENSOR_CONTENT], threshold=1)
        request = pb.PredictRequest.FromString(rest)
        for key, content in contents.items():
            if key in request.inputs:
                request.inputs[key].tensor_content = bytes(content[TENSOR_CONTENT])
        whole = pb.PredictRequest.FromString(data)
        assert request.model_spec == whole.model_spec
        assert set(request.inputs) == set(whole.inputs)


@pytest.mark.parametrize("data", [b"\xff" * 10, b"\x12\x50abc", b"\x16", b"\x09123", b"\x12"])
def test_malformed_bytes(data):
    """Endless numbers, lengths beyond the end, types that there are not, and halves of fields."""
    with pytest.raises(InvalidInput, match="no message"):
        cut(data)


def test_what_protobuf_skips_is_left_to_it():
    """Groups, and entries of a map with fields that none has: nothing is cut, and nothing refused."""
    entry = pb.PredictRequest.InputsEntry(key="x")
    entry.value.tensor_content = bytes(100)
    for data in (b"\x53\x54" + bytes.fromhex("1200"), b"\x12\x6e" + entry.SerializeToString() + b"\x2a\x01y"):
        assert cut(data) == (data, {})
    assert large.cut_repeated(b"\x53\x54\x3a\x02ab", field=7, threshold=1) == (b"\x53\x54\x3a\x02ab", {})


@given(st.lists(SIZES, max_size=5))
def test_repeated_items_keep_their_places(sizes):
    """Raw contents over the threshold come as views by position, with nothing left in their place."""
    items = [bytes([size]) * size * 8 for size in sizes]
    sent = oip.ModelInferRequest(model_name="m", raw_input_contents=items).SerializeToString()
    rest, contents = large.cut_repeated(sent, field=7, threshold=THRESHOLD)
    request = oip.ModelInferRequest.FromString(rest)
    back = [bytes(contents.get(index, item)) for index, item in enumerate(request.raw_input_contents)]
    assert (request.model_name, back) == ("m", items)


@pytest.mark.parametrize("size", [3, large.LARGE_BYTES // 8 + 3])
def test_assembled_pieces_are_the_message(size):
    """Small and large: the bytes are those that protobuf would write, in an object of their own."""
    array = np.random.default_rng(0).random(size)
    parts = large.field_parts(1, [*large.field_parts(1, [b"x"]), *large.field_parts(2, encode_parts(array))])
    data = large.assemble(parts)
    assert type(data) is bytes
    assert data == pb.PredictResponse(outputs={"x": encode(array)}).SerializeToString()
