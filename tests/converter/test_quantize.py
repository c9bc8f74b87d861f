import pytest

from converter.quantize import operators_without_tflite

FLEX = """Could not translate MLIR to FlatBuffer.<unknown>:0: error: failed
Some ops are not supported by the native TFLite runtime, you can enable TF kernels fallback using TF Select.
TF Select ops: MatrixDeterminant, Svd
Details:
\ttf.MatrixDeterminant(tensor<?x3x3xf32>) -> (tensor<?xf32>)
Some ops in the model are custom ops
Custom ops: MyOp
"""


@pytest.mark.parametrize(
    ("message", "operators"), [(FLEX, ["MatrixDeterminant", "MyOp", "Svd"]), ("out of memory", []), ("", [])]
)
def test_operators_that_tflite_lacks_are_read_from_the_message(message, operators):
    """Their names are all that a user can act on; another message has none."""
    assert operators_without_tflite(message) == operators
