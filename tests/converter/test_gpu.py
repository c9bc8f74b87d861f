import pytest
from support import tflite_files

from converter.edgetpu import static_batch
from converter.errors import SourceInvalid
from converter.gpu import problems_in, report

pytestmark = pytest.mark.slow

WARNED = """Subgraph#0 main(T#0) -> [T#2]
  Op#0 CONV_2D(T#0, T#1) -> [T#3]
  Op#1 SIN(T#3) -> [T#2]
GPU COMPATIBILITY WARNING: Not supported op SIN

GPU COMPATIBILITY WARNING: Subgraph#0 has GPU delegate compatibility issues at nodes 1 with TFLite runtime version 2.9.0
"""


@pytest.fixture(scope="module")
def tflite(server, tmp_path_factory):
    return tflite_files.built(server, tmp_path_factory.getbasetemp())


def test_a_model_that_is_taken_has_no_problems(server, tflite, tmp_path):
    """TensorFlow's analyzer runs on a real file, and the list of operators finds nothing either."""
    server.run(static_batch, 60.0, tflite / "int8.tflite", tmp_path / "static.tflite")
    found = server.run(report, 60.0, tmp_path / "static.tflite")
    assert (found.compatible, found.problems) == (True, ())


def test_operators_that_the_delegate_lacks_are_named(server, tflite):
    """Even where the analyzer of this TensorFlow finds nothing wrong with any model."""
    found = server.run(report, 60.0, tflite / "odd.tflite")
    assert found.problems == ("operator 1, TOPK_V2: not among the operators that the GPU delegate takes",)


def test_the_analyzers_warnings_are_read():
    """Each with its operator; the summary says nothing new."""
    assert problems_in(WARNED) == ["operator 1, SIN: Not supported op SIN"]
    assert problems_in("Your model looks compatible with GPU delegate") == []


def test_a_damaged_file_is_told_before_the_analyzer_sees_it(server, tmp_path):
    """The analyzer checks nothing."""
    (tmp_path / "x.tflite").write_bytes(b"\0\0\0\xffTFL3" + b"\xff" * 64)
    with pytest.raises(SourceInvalid, match="damaged"):
        server.run(report, 60.0, tmp_path / "x.tflite")
