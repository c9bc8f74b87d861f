import numpy as np
import pytest
from support import tflite_files
from support.edge_models import scale_model

from converter.edgetpu import static_batch
from converter.errors import SourceInvalid, VariantUnusable
from converter.graph import read

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["int8", "int8_float_io", "uint8_io", "float32", "dynamic"])
def test_the_static_file_answers_bit_for_bit_as_the_dynamic_one(server, tflite, tmp_path, name):
    """LiteRT gives the same answers for both; the static one has no variable size and no shape arithmetic."""
    source, out = tflite / f"{name}.tflite", tmp_path / "static.tflite"
    server.run(static_batch, 60.0, source, out)
    graph = read(out)
    assert not graph.inputs[0].dynamic
    assert not any(tensor.dynamic for one in graph.operators for tensor in (*one.given, *one.outputs))
    assert not graph.uses("SHAPE", "STRIDED_SLICE", "PACK")
    assert read(source).uses("SHAPE", "STRIDED_SLICE", "PACK")
    for seed in range(5):
        image = tflite_files.images(1, seed)
        stored = image if graph.inputs[0].dtype == "float32" else (image * 200 - 100).astype(graph.inputs[0].dtype)
        inputs = {"image": stored}
        expected = server.run(tflite_files.answers, 60.0, source, inputs)
        found = server.run(tflite_files.answers, 60.0, out, inputs)
        np.testing.assert_array_equal(found["scores"], expected["scores"])


def test_it_is_the_same_each_time(server, tflite, tmp_path):
    """The same file gives the same bytes."""
    for name in ("a", "b"):
        server.run(static_batch, 60.0, tflite / "int8.tflite", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_with_fixed_sizes_is_copied_as_it_is(server, tmp_path):
    """Nothing is rewritten that needs no rewriting."""
    (tmp_path / "x.tflite").write_bytes(scale_model(2.0, batched=False))
    server.run(static_batch, 60.0, tmp_path / "x.tflite", tmp_path / "out.tflite")
    assert (tmp_path / "out.tflite").read_bytes() == (tmp_path / "x.tflite").read_bytes()


def test_another_variable_dimension_is_refused(server, tmp_path):
    """Only the batch has a size that is known to be right."""
    server.run(tflite_files.build_variable, 60.0, tmp_path)
    with pytest.raises(VariantUnusable, match=r"'\S*steps\S*' float32\[-1, -1, 3\] has a variable dimension besides"):
        server.run(static_batch, 60.0, tmp_path / "steps.tflite", tmp_path / "out.tflite")
    with pytest.raises(VariantUnusable, match="depends on the input's values"):
        server.run(static_batch, 60.0, tmp_path / "where.tflite", tmp_path / "out.tflite")


def test_no_tflite_file_is_told(server, tmp_path):
    """The error is the reader's."""
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(SourceInvalid, match="no TFLite file"):
        server.run(static_batch, 60.0, tmp_path / "x.tflite", tmp_path / "out.tflite")
