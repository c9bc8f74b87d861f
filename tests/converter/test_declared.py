import pytest

from converter.artifact import Quantization, Signature, TensorSpec, Variant
from converter.declared import check_declared
from converter.errors import VariantUnusable


def quantization(scale=0.5, point=-3):
    return Quantization(scales=(scale,), zero_points=(point,))


def signature(*, name="serving_default", dtype="int8", shape=(-1, 4), stored=None, output="y"):
    x = TensorSpec(name="x", dtype=dtype, shape=shape, quantization=stored)
    return Signature(name=name, inputs=(x,), outputs=(TensorSpec(name=output, dtype="float32", shape=(-1, 2)),))


def variant(*signatures):
    return Variant(name="int8", file="int8.tflite", size_bytes=1, signatures=signatures)


@pytest.mark.parametrize(
    "found",
    [
        signature(stored=quantization()),
        signature(stored=quantization(0.5 * (1 + 1e-8))),
        signature(stored=quantization(), shape=(1, 4)),
    ],
)
def test_the_same_tensors_pass(found):
    """A scale's last digits, and a dimension that one side knows, are no difference."""
    check_declared(variant(signature(stored=quantization()), signature(name="other")), [found])


def test_how_floats_were_stored_once_does_not_matter():
    """Nothing reads the quantization of a float tensor."""
    check_declared(variant(signature(dtype="float32")), [signature(dtype="float32", stored=quantization())])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (signature(dtype="float32"), r"input 'x' is float32\[-1, 4\] in the file, the manifest says int8\[-1, 4\]"),
        (signature(stored=quantization(), shape=(-1, 5)), r"is int8\[-1, 5\] in the file"),
        (signature(stored=quantization(), shape=(-1, 4, 1)), r"is int8\[-1, 4, 1\] in the file"),
        (signature(), "has no quantization in the file, the manifest says the scale 0.5 and zero point -3"),
        (signature(stored=quantization(0.25)), "has the scale 0.25 and zero point -3 in the file"),
        (signature(stored=quantization(point=0)), "has the scale 0.5 and zero point 0 in the file"),
        (
            signature(stored=Quantization(scales=(0.5, 0.25), zero_points=(0, 0), axis=1)),
            "has 2 scales along axis 1, 0.5 first in the file",
        ),
        (signature(stored=quantization(), output="z"), "says nothing of its output 'z'"),
        (signature(name="other"), "says nothing of its signature 'other'"),
    ],
)
def test_other_tensors_are_refused(found, said):
    """The first that differs is named, with both sides."""
    with pytest.raises(VariantUnusable, match=said):
        check_declared(variant(signature(stored=quantization())), [found])
