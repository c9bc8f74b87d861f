import pytest

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime import PackageRefused
from edge_runtime.engine.wiring import wiring


def spec(name, dtype="int8", shape=(1, 4), scale=None):
    quantization = None if scale is None else Quantization(scales=(scale,), zero_points=(0,))
    return TensorSpec(name=name, dtype=dtype, shape=shape, quantization=quantization)


def signature(inputs, outputs, name="serving_default"):
    def specs(given):
        return tuple(one if isinstance(one, TensorSpec) else spec(one) for one in given)

    return Signature(name=name, inputs=specs(inputs), outputs=specs(outputs))


def wired(segments, package):
    return wiring([signature(*one, name="") for one in segments], signature(*package), "digits/3")


def test_a_chain_is_joined_by_names():
    """Each segment takes what the one before it gives; what is not needed any more is dropped."""
    found = wired([(["x"], ["a"]), (["a"], ["b"]), (["b"], ["y"])], (["x"], ["y"]))
    assert (found.inputs, found.outputs) == ({"x": "x"}, {"y": "y"})
    assert [step.takes for step in found.steps] == [("x",), ("a",), ("b",)]
    assert [step.kept for step in found.steps] == [{"a"}, {"b"}, {"y"}]


def test_tensors_can_skip_segments():
    """A segment may take what an earlier one gave, or the model's own input; both are kept until then."""
    found = wired([(["x"], ["a", "b"]), (["a"], ["c"]), (["c", "b", "x"], ["y"])], (["x"], ["y"]))
    assert [step.kept for step in found.steps] == [{"a", "b", "x"}, {"c", "b", "x"}, {"y"}]


def test_an_output_may_come_early():
    """An output of an earlier segment is kept to the end."""
    found = wired([(["x"], ["a", "early"]), (["a"], ["y"])], (["x"], ["y", "early"]))
    assert found.outputs == {"y": "y", "early": "early"}
    assert found.steps[1].kept == {"y", "early"}
    also = wired([(["x"], ["a"]), (["a"], ["y"])], (["x"], ["y", "a"]))
    assert also.outputs == {"y": "y", "a": "a"}


@pytest.mark.parametrize(
    ("tensor", "name"),
    [("serving_default_image:0", "image"), ("image:0", "image"), ("model/dense/image;other;image", "image")],
)
def test_names_are_found_as_tensorflow_decorates_them(tensor, name):
    """The package's name is found in the tensor's, before anything is guessed from the order."""
    found = wired([(["first", tensor], ["y"])], ([name, "second"], ["y"]))
    assert found.inputs == {name: tensor, "second": "first"}


def test_quantization_tells_outputs_apart():
    """Outputs whose names say nothing are told by dtype, shape and quantization, whatever their order."""
    tensors = [spec("StatefulPartitionedCall:0", scale=0.5), spec("StatefulPartitionedCall:1", scale=0.25)]
    outputs = [spec("boxes", scale=0.25), spec("scores", scale=0.5)]
    found = wired([(["x"], tensors)], (["x"], outputs))
    assert found.outputs == {"boxes": "StatefulPartitionedCall:1", "scores": "StatefulPartitionedCall:0"}


def test_what_is_alike_goes_by_its_place():
    """Where neither name nor kind tells them apart, the order does."""
    found = wired([(["p", "q"], ["r", "s"])], (["a", "b"], ["c", "d"]))
    assert (found.inputs, found.outputs) == ({"a": "p", "b": "q"}, {"c": "r", "d": "s"})


@pytest.mark.parametrize(
    ("segments", "package", "said"),
    [
        ([(["x"], ["a"]), (["a", "lost"], ["y"])], (["x"], ["y"]), "segment 2 of 2 takes 'lost', which no segment"),
        ([(["x"], ["a"]), ([spec("a", shape=(1, 5))], ["y"])], (["x"], ["y"]), r"takes 'a' as int8\[1, 5\], where"),
        ([(["x"], ["y"])], (["x", "more"], ["y"]), r"'more', int8\[1, 4\], can't be told .*: none"),
        ([(["x"], ["p", "q"])], (["x"], ["y"]), r"'y', int8\[1, 4\], can't be told .*: 'p' int8\[1, 4\], 'q'"),
        ([(["x"], ["y"])], ([spec("x", "uint8")], ["y"]), r"'x' is uint8\[1, 4\] in the manifest, and int8\[1, 4\]"),
        ([(["x"], ["r"])], (["x"], [spec("y", shape=(1, 9))]), r"'y' is int8\[1, 9\] in the manifest"),
    ],
)
def test_what_does_not_fit_is_refused(segments, package, said):
    """A tensor that is missing, of another kind or not to be told is named before anything runs."""
    with pytest.raises(PackageRefused, match=f"digits/3: .*{said}"):
        wired(segments, package)
