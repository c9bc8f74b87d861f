import pytest
from support.allocated import measured

from fallback_server.core.errors import InvalidInput
from fallback_server.protocol.proto import example_pb2 as pb
from fallback_server.transport.rest.examples import read_examples


def read(document):
    features = [pb.Example.FromString(data).features.feature for data in read_examples(document)]
    return [{name: kind(value) for name, value in one.items()} for one in features]


def kind(feature):
    values = getattr(feature, feature.WhichOneof("kind")).value if feature.WhichOneof("kind") else []
    return feature.WhichOneof("kind"), list(values)


def test_features_take_their_kind_from_the_first_value():
    """Scalars and lists; text and base64 are bytes, whole numbers and booleans int64, the others float."""
    example = {"a": 1, "b": [0.5, 2.0], "c": ["x", {"b64": "/w=="}], "d": [True, False], "e": []}
    assert read({"examples": [example]}) == [
        {
            "a": ("int64_list", [1]),
            "b": ("float_list", [0.5, 2.0]),
            "c": ("bytes_list", [b"x", b"\xff"]),
            "d": ("int64_list", [1, 0]),
            "e": (None, []),
        }
    ]


def test_the_context_goes_into_every_example_and_gives_way_to_it():
    """As TensorFlow Serving joins them: the context's bytes stand before each example's."""
    document = {"context": {"c": 1, "a": 7}, "examples": [{"a": 2}, {"b": 3}]}
    ints = [{name: value[1][-1] for name, value in one.items()} for one in read(document)]
    assert ints == [{"c": 1, "a": 2}, {"c": 1, "a": 7, "b": 3}]


REFUSED = [
    ({}, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
    ({"examples": 1}, "JSON Value: {\"examples\":1} Expecting 'examples' value to be an list/array"),
    ({"examples": []}, "JSON Value: {\"examples\":[]} 'examples' value is an empty array"),
    ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
    ({"examples": [{"a": None}]}, "Feature: a has element with unexpected JSON type: Null"),
    ({"examples": [{"a": [[1]]}]}, "Feature: a has element with unexpected JSON type: Array"),
    ({"examples": [{"a": {"x": 1}}]}, "Feature: a has element with unexpected JSON type: Object"),
    ({"examples": [{"a": [1, 0.5]}]}, "Unexpected element type in feature: a expecting type: int64"),
    ({"examples": [{"a": [0.5, "x"]}]}, "Unexpected element type in feature: a expecting type: float"),
    ({"examples": [{"a": 2**63}]}, "Feature: a has uint64 element. Only int64 is supported."),
    ({"examples": [{"a": 1e39}]}, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
]


@pytest.mark.parametrize(("document", "text"), REFUSED)
def test_what_no_feature_can_hold_is_refused(document, text):
    """In TensorFlow Serving's words."""
    with pytest.raises(InvalidInput) as refused:
        read_examples(document)
    assert str(refused.value) == text


def test_a_large_context_is_repeated_within_a_bound():
    """It is joined to its examples when they run, and no more of it than a bound."""
    document = {"context": {"c": "x" * 100_000}, "examples": [{}] * 600}
    with measured() as memory:
        assert len(read_examples(document)) == 600
    assert memory.peak_bytes < 2**21
    document["examples"] *= 2
    with pytest.raises(InvalidInput, match=r"before each of 1200 examples takes 1200\d+ bytes: at most 67108864"):
        read_examples(document)
