import numpy as np
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from support import tflite_files
from support.edge_models import rows, scale_model

from converter import graph_edit
from converter.graph import Graph, Tensor, read


def write(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return path


def test_a_rewritten_file_answers_as_before(tmp_path):
    """Taken apart and put together, LiteRT gives the same answers."""
    path = write(tmp_path, scale_model(3.0))
    graph_edit.save(graph_edit.load(path), tmp_path / "again.tflite")
    assert read(tmp_path / "again.tflite") == read(path)
    answer = tflite_files.answers(tmp_path / "again.tflite", {"x": rows(2)})
    np.testing.assert_array_equal(answer["y"], rows(2) * 3)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    """Packages are reproducible, so is what is rewritten for them."""
    path = write(tmp_path, scale_model(3.0))
    for name in ("a", "b"):
        graph_edit.save(graph_edit.load(path), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_constants_are_aligned(tmp_path):
    """Every constant begins at a multiple of 16 bytes, as the schema demands."""
    model = graph_edit.load(write(tmp_path, scale_model(3.0)))
    for size in (1, 3, 17, 64):
        graph_edit.constant(model, np.ones(size, np.uint8))
    graph_edit.save(model, tmp_path / "out.tflite")
    content = np.frombuffer((tmp_path / "out.tflite").read_bytes(), np.uint8)
    base = content.__array_interface__["data"][0]
    written = schema.Model.GetRootAs(content.data, 0)
    buffers = [written.Buffers(index) for index in range(written.BuffersLength())]
    places = [one.DataAsNumpy().__array_interface__["data"][0] - base for one in buffers if one.DataLength()]
    assert len(places) == 5
    assert {place % 16 for place in places} == {0}


def test_a_signature_is_set_and_found_by_litert(tmp_path):
    """A file without signatures can be called by names after it got one."""
    path = tflite_files.unsigned(write(tmp_path, scale_model(3.0)), tmp_path / "unsigned.tflite")
    assert read(path).signatures == ()
    model = graph_edit.load(path)
    graph_edit.set_signature(model, "serve", ["in"], ["out"])
    graph_edit.save(model, tmp_path / "signed.tflite")
    np.testing.assert_array_equal(tflite_files.answers(tmp_path / "signed.tflite", {"in": rows(1)})["out"], rows(1) * 3)


def test_unused_operator_codes_are_dropped(tmp_path):
    """A code that no operator has is gone, and the others still point right."""
    model = graph_edit.load(write(tmp_path, scale_model(3.0)))
    extra = schema.OperatorCodeT()
    extra.builtinCode = schema.BuiltinOperator.SHAPE
    model.operatorCodes.insert(0, extra)
    model.subgraphs[0].operators[0].opcodeIndex = 1
    graph_edit.drop_unused_codes(model)
    assert [code.builtinCode for code in model.operatorCodes] == [schema.BuiltinOperator.MUL]
    assert model.subgraphs[0].operators[0].opcodeIndex == 0


def named(*names):
    tensors = tuple(Tensor(index=index, name=name, dtype="int8", shape=()) for index, name in enumerate(names))
    return list(graph_edit.named_by_tensors(Graph(inputs=tensors, outputs=(), operators=()), "s").inputs)


def test_names_are_made_of_the_tensors():
    """What converters add is taken off; what is left is plain, and told apart."""
    assert named("serving_default_image:0", "a/b;model/Relu:0", "image", "", "::") == [
        "image",
        "model_Relu",
        "image_1",
        "input",
        "input_1",
    ]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_names_are_always_different_and_never_empty(names):
    """Whatever the tensors are called."""
    found = named(*names)
    assert len(set(found)) == len(names)
    assert all(found)
