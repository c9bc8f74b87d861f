import msgspec

from converter.artifact import Signature, TensorSpec
from converter.asking import why_not


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


FIRST = Signature(
    name="first", inputs=(spec("x", -1, 4), spec("z", -1)), outputs=(spec("y", -1, 2), spec("b:y", -1)), batch_axis=0
)


def other(**changes):
    return msgspec.structs.replace(FIRST, **{"name": "other", "outputs": (spec("y", -1),), **changes})


def test_data_are_for_signatures_that_take_the_same():
    """Names, dtypes and shapes are the same, in whatever order."""
    assert why_not(FIRST, other(inputs=FIRST.inputs[::-1])) == ""
    for inputs in (
        (spec("x", -1, 4),),
        (spec("x", -1, 4), spec("z", -1, dtype="int32")),
        (spec("x", -1, 5), spec("z", -1)),
        (spec("x", -1, 4), spec("w", -1)),
    ):
        assert why_not(FIRST, other(inputs=inputs)) == "the data are for 'first'"


def test_answers_are_one_for_each_sample():
    """A sum over the batch can't be compared sample by sample; a batch of one that comes out as a number neither."""
    assert "not one for each sample" in why_not(FIRST, other(outputs=(spec("y"),), batch_axis=None))
    single = Signature(name="first", inputs=(spec("x", 1, 4),), outputs=(spec("y", 1, 2),))
    assert why_not(single, msgspec.structs.replace(single, name="other")) == ""
    assert "not one for each" in why_not(single, msgspec.structs.replace(single, name="other", outputs=(spec("y"),)))


def test_names_that_would_be_mixed_up_are_kept_apart():
    """An output of the first that is called as one of the other's."""
    assert why_not(FIRST, other(name="b")) == "outputs of 'first' are called as its own"
