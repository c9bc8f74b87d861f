import pytest
from support import source_models

from converter.errors import OperatorsUnsupported
from converter.sources import source
from converter.sources.operators import UnsupportedOperator, advice, describe, unsupported
from converter.sources.source import SourceTask

DEEP = (
    'loc(callsite(fused["MatrixInverse:", "net/head/MatrixInverse@__inference_call_1"] at callsite('
    'fused["PartitionedCall:", "PartitionedCall@__inference_wrapper_2"] at fused["PartitionedCall:", '
    '"PartitionedCall_1"])))'
)
CALLED = (
    'loc(callsite(fused["Roll:", "Roll_1@__inference_standard_lstm_1"] at callsite('
    'fused["PartitionedCall:", "model/lstm/PartitionedCall@__inference_wrapped_2"] at '
    'fused["StatefulPartitionedCall:", "StatefulPartitionedCall"])))'
)
ALONE = 'loc(callsite(fused["MyOp:", "MyOp@__inference_f_1"] at fused["PartitionedCall:", "PartitionedCall"]))'
MESSAGE = f"""Could not translate MLIR to FlatBuffer.<unknown>:0: error: {DEEP}: 'tf.MatrixInverse' op is neither
<unknown>:0: note: {DEEP}: Error code: ERROR_NEEDS_FLEX_OPS
<unknown>:0: error: {CALLED}: 'tf.Roll' op is neither a custom op nor a flex op
<unknown>:0: error: {ALONE}: 'tf.MyOp' op is neither a custom op nor a flex op
<unknown>:0: error: failed while converting: 'main':
Some ops are not supported by the native TFLite runtime, you can enable TF kernels fallback using TF Select.
TF Select ops: MatrixInverse, Roll
Details:
\ttf.MatrixInverse(tensor<?x3x3xf32>) -> (tensor<?x3x3xf32>) : {{adjoint = false}}
Some ops in the model are custom ops, See instructions
Custom ops: MyOp
Details:
"""
LIST = (
    '<unknown>:0: error: loc(fused["TensorListReserve:", "net/lstm_1/TensorArrayV2_1@__inference_call_5"]): failed to '
    "legalize operation 'tf.TensorListReserve' that was explicitly marked illegal"
)


def test_operators_and_their_layers_are_read_from_the_message():
    """A layer is the scope of the innermost call that has one; without any, the node itself is named."""
    assert unsupported(MESSAGE) == (
        UnsupportedOperator(name="MatrixInverse", kind="flex", layers=("net/head",)),
        UnsupportedOperator(name="MyOp", kind="custom", layers=("MyOp",)),
        UnsupportedOperator(name="Roll", kind="flex", layers=("model/lstm",)),
    )
    assert [(one.name, one.kind) for one in unsupported(LIST)] == [("TensorListReserve", "flex")]
    assert unsupported("out of memory") == ()
    assert unsupported("") == ()


def test_one_line_says_what_where_and_what_to_do():
    """Many layers are counted, not listed."""
    many = UnsupportedOperator(name="Roll", kind="flex", layers=("a", "b", "c", "d", "e"))
    unknown = UnsupportedOperator(name="MyOp", kind="custom")
    text = describe([many, unknown])
    assert text == (
        "LiteRT lacks operators of this model: Roll (in a, b, c, and 2 more): join two slices in its place; "
        "MyOp: write it with operators that LiteRT has, or move it out of the model"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MatrixDeterminant", "products and sums"),
        ("StringLower", "before the model"),
        ("StaticRegexReplace", "before the model"),
        ("StringFormat", "without tf.print"),
        ("CropAndResize", "slicing"),
        ("CombinedNonMaxSuppression", "tf.image.non_max_suppression"),
        ("NonMaxSuppressionV3", "one image"),
        ("RaggedTensorToTensor", "dense"),
        ("IFFT2D", "real values"),
        ("EagerPyFunc", "Python"),
        ("TensorListReserve", "--shape"),
        ("SomethingElse", "write it with operators"),
    ],
)
def test_frequent_operators_have_their_own_advice(name, says):
    """And any other has a general one."""
    found = advice(UnsupportedOperator(name=name, kind="flex"))
    assert says in found


@pytest.mark.slow
def test_what_the_converter_really_says_is_understood(server, sources, tmp_path):
    """TensorFlow's own text for a model of strings: both operators, their scope, and what to do."""
    task = SourceTask(
        path=sources / "lower_case", kind="saved_model", signatures=("serving_default",), folder=tmp_path / "work"
    )
    found = server.run(source.prepare, 60.0, task)
    assert server.run(source.check_operators, 60.0, found) == ()
    with pytest.raises(OperatorsUnsupported) as caught:
        server.run(source_models.translated, 60.0, found)
    assert "StringLength (in head): turn the text into numbers before the model" in str(caught.value)
    assert "StringLower (in head)" in str(caught.value)
