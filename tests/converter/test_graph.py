import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.edge_models import scale_model

from converter.errors import SourceInvalid
from converter.graph import Graph, Operator, Tensor, macs, read

SCALE = scale_model(2.0)


def tensor(*shape, dtype="int8", data=None):
    return Tensor(index=0, name="t", dtype=dtype, shape=shape, data=data)


def operator(name, inputs, output, **options):
    return Operator(index=0, name=name, inputs=tuple(inputs), outputs=(output,), options=options)


@pytest.fixture
def scale_file(tmp_path):
    path = tmp_path / "scale.tflite"
    path.write_bytes(SCALE)
    return path


def test_a_file_is_read_as_it_was_written(scale_file):
    """Operators, tensors, constants, options and signatures are the schema's, variable sizes the signature's."""
    graph = read(scale_file)
    assert [(one.name, one.version, one.activation, one.output_name) for one in graph.operators] == [
        ("MUL", 1, "NONE", "y")
    ]
    x, factor = graph.operators[0].given
    assert (x.shape, x.dtype, x.constant, x.dynamic) == ((-1, 4), "float32", False, True)
    assert (factor.constant, factor.size_bytes, factor.zero()) == (True, 4, False)
    assert graph.inputs == (x,)
    assert list(graph.signatures[0].inputs) == ["x"]
    assert graph.signatures[0].outputs["y"] == graph.outputs[0]
    assert graph.uses("MUL")
    assert not graph.uses("ADD")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (operator("CONV_2D", [tensor(1, 8, 8, 3), tensor(16, 3, 3, 3)], tensor(1, 6, 6, 16)), 6 * 6 * 16 * 27),
        (operator("CONV_2D", [tensor(1, 8, 8, 4), tensor(8, 1, 1, 2)], tensor(1, 8, 8, 8)), 8 * 8 * 8 * 2),
        (operator("CONV_2D", [tensor(-1, 8, 8, 3), tensor(16, 3, 3, 3)], tensor(-1, 6, 6, 16)), 6 * 6 * 16 * 27),
        (operator("DEPTHWISE_CONV_2D", [tensor(1, 8, 8, 3), tensor(1, 3, 3, 6)], tensor(1, 8, 8, 6)), 64 * 6 * 9),
        (
            operator("TRANSPOSE_CONV", [tensor(4), tensor(5, 2, 2, 3), tensor(1, 4, 4, 3)], tensor(1, 8, 8, 5)),
            4 * 4 * 3 * 2 * 2 * 5,
        ),
        (operator("FULLY_CONNECTED", [tensor(1, 288), tensor(10, 288)], tensor(1, 10)), 2880),
        (operator("BATCH_MATMUL", [tensor(2, 3, 4), tensor(2, 4, 5)], tensor(2, 3, 5)), 2 * 3 * 5 * 4),
        (operator("BATCH_MATMUL", [tensor(2, 4, 3), tensor(2, 4, 5)], tensor(2, 3, 5), adj_x=True), 2 * 3 * 5 * 4),
        (operator("ADD", [tensor(1, 8), tensor(1, 8)], tensor(1, 8)), 0),
    ],
)
def test_multiply_accumulates_are_counted_by_the_formula(found, expected):
    """Each formula against a count by hand; grouped convolutions count their own channels, variable sizes 1."""
    assert macs(found) == expected


def test_constants_show_their_integers_and_zeros():
    """Axes are read as numbers; zero means the stored zero point where there is one."""
    axes = tensor(2, dtype="int32", data=np.frombuffer(np.array([1, -2], np.int32).tobytes(), np.uint8))
    assert axes.integers() == (1, -2)
    assert tensor(2).integers() is None
    assert tensor(2, data=np.zeros(2, np.uint8)).zero()
    assert not axes.zero()


@pytest.mark.parametrize("content", [b"", b"TFL3", b"x" * 100, b"PK\3\4TFL4" * 9])
def test_what_is_no_tflite_file_is_told(tmp_path, content):
    """The identifier is looked at before anything else."""
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(SourceInvalid, match=r"x\.tflite: no TFLite file"):
        read(tmp_path / "x.tflite")


def test_a_file_that_is_not_there_is_told(tmp_path):
    """The operating system's reason is passed on."""
    with pytest.raises(SourceInvalid, match="can't be read: No such file"):
        read(tmp_path / "none.tflite")


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(8, len(SCALE)), place=st.integers(8, len(SCALE) - 1), value=st.integers(0, 255))
def test_a_damaged_file_is_an_error_or_a_graph_and_nothing_else(tmp_path_factory, cut, place, value):
    """Cut anywhere, and with any byte changed, it gives a graph or the one error."""
    path = tmp_path_factory.getbasetemp() / "damaged.tflite"
    damaged = bytearray(SCALE)
    damaged[place] = value
    path.write_bytes(damaged[:cut])
    with contextlib.suppress(SourceInvalid):
        assert isinstance(read(path), Graph)
