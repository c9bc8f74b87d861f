import numpy as np
import pytest
from support.typed_tensors import typed

from fallback_server.protocol.layout import MAX_FIELDS, Field, NotPlainError, Span, fields, holds, payload, tensor_map
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode


def test_fields():
    """Each field's number, where its value lies, and whether it has a length; also of a message within."""
    data = b"\x08\x96\x01" + b"\x12\x02ab" + b"\x1d1234" + b"\x2112345678"
    found = [
        Field(1, Span(1, 3), delimited=False),
        Field(2, Span(5, 7), delimited=True),
        Field(3, Span(8, 12), delimited=False),
        Field(4, Span(13, 21), delimited=False),
    ]
    assert fields(data) == found
    assert fields(b"xx" + data, Span(5, 9)) == [Field(2, Span(7, 9), delimited=True)]
    assert fields(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x03ab",
        b"\x12",
        b"\x12\x80",
        b"\x08\x96",
        b"\x1d123",
        b"\x21123",
        b"\x0b\x0c",
        b"\x0e",
        b"\x00\x00",
        b"\x12\x82\x00ab",
        b"\x92\x00\x02ab",
        b"\x80\x80\x80\x80\x80\x00",
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x08\x00" * (MAX_FIELDS + 1),
    ],
)
def test_what_is_not_plain(data):
    """Bytes that end too soon, groups, no number, longer tags and lengths than need be, and too many fields."""
    with pytest.raises(NotPlainError):
        fields(data)


@pytest.mark.parametrize("form", [encode, typed])
def test_payloads(form):
    """The tensors' bytes are found where they are, and are the arrays'."""
    arrays = {"a": np.float32([[1, 2]]), "b": np.complex128([3 + 1j])}
    data = pb.PredictRequest(inputs={name: form(array) for name, array in arrays.items()}).SerializeToString()
    tensors = tensor_map(data, fields(data), 2)
    for name, array in arrays.items():
        span = payload(tensors[name], array)
        assert data[span.begin : span.end] == array.tobytes()
        assert holds(data, span, array)
        assert not holds(data, span, array + 1)
        assert not holds(data, span, array.astype(array.dtype.newbyteorder(">")))
        assert not holds(data, span, array.reshape(-1)[:0])
