import pytest
from support import tflite_files
from support.edge_models import scale_model

from converter.artifact import Quantization
from converter.edgetpu import is_compiled, report
from converter.edgetpu.mapping import RIM, foretell
from converter.graph import Graph, Operator, Tensor
from devices.operators import EDGE_TPU_CACHE_BYTES

SCALE = Quantization(scales=(0.5,), zero_points=(0,))


def tensor(index, dtype="int8", shape=(1, 40)):
    return Tensor(index=index, name=f"t{index}", dtype=dtype, shape=shape, quantization=SCALE)


def chain(*names, versions=None, dtype="int8", **changes):
    """A graph of one-input operators, each after the other."""
    versions = versions or {}
    tensors = [tensor(index, dtype) for index in range(len(names) + 1)]
    operators = tuple(
        Operator(index=index, name=name, version=versions.get(name, 1), inputs=(tensors[index],), outputs=(after,))
        for index, (name, after) in enumerate(zip(names, tensors[1:], strict=True))
    )
    return Graph(inputs=(tensors[0],), outputs=(tensors[-1],), operators=operators, **changes)


def test_the_first_operator_that_is_not_taken_ends_the_part():
    """It has its own reason; what follows is named as coming after it, even if it could be taken."""
    found = foretell(chain("RELU", "TANH", "FLOOR_MOD", "RELU", "SIN"))
    assert [one.mapped for one in found.operators] == [True, True, False, False, False]
    assert found.first_unmapped == 2
    assert "comes after operator 2, FLOOR_MOD" in found.operators[3].reason
    assert "SIN is not among" in found.operators[4].reason
    assert found.macs_mapped == pytest.approx(0.4)
    assert found.blockers == ()


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (chain("RELU", subgraphs=2), "2 subgraphs"),
        (chain("RELU", dtype="float32"), "nothing in it computes with int8"),
        (chain("edgetpu-custom-op"), "compiled already"),
        (chain("QUANTIZE", versions={"QUANTIZE": 3}), "version 3; edgetpu_compiler 16.0, the last, reads up to 2"),
        (chain("RELU", "EXP", versions={"EXP": 2}), "EXP at 't2' has version 2"),
    ],
)
def test_a_blocker_keeps_all_of_it_off(graph, says):
    """The sentence says what and how much; no operator is mapped then, and none before a first unmapped one."""
    found = foretell(graph)
    assert says in " ".join(found.blockers)
    assert not any(one.mapped for one in found.operators)
    assert (found.first_unmapped, found.macs_mapped, found.parameter_bytes) == (0, 0.0, 0)


def test_a_batch_of_two_is_a_blocker():
    """One sample at a time is what an Edge TPU takes."""
    graph = chain("RELU")
    graph = Graph(inputs=(tensor(0, shape=(2, 40)),), outputs=graph.outputs, operators=graph.operators)
    assert "batch of 2" in foretell(graph).blockers[0]


def test_a_graph_without_operators_is_no_fault():
    """A file that passes its input on has nothing to map."""
    assert foretell(Graph(inputs=(tensor(0),), outputs=(tensor(0),), operators=())).operators == ()


@pytest.mark.slow
def test_a_converted_int8_model_is_mapped_whole(server, tflite):
    """A real model with a variable batch: its static form has no shape arithmetic left, and all of it is taken."""
    found = server.run(report, 60.0, tflite / "int8.tflite")
    names = [one.operator for one in found.operators]
    assert names == ["CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
    assert all(one.mapped for one in found.operators)
    assert [one.macs for one in found.operators] == [36 * 16 * 27, 36 * 16 * 9, 0, 5760, 0]
    weights, biases = 27 * 16 + 9 * 16 + 5760, 4 * (16 + 16 + 10)
    assert found.parameter_bytes == pytest.approx(weights + biases, abs=4 * 32)  # Zero biases are shared.
    assert (found.by, found.first_unmapped, found.macs_mapped, found.blockers) == ("rules", None, 1.0, ())
    assert found.cache_bytes == EDGE_TPU_CACHE_BYTES


@pytest.mark.slow
def test_dense_layers_with_many_scales_end_the_part(server, tflite):
    """TensorFlow's default since 2024 is younger than the compiler."""
    found = server.run(report, 60.0, tflite / "int8_dense_scales.tflite")
    assert (found.first_unmapped, found.operators[3].operator) == (3, "FULLY_CONNECTED")
    assert "10 scales" in found.operators[3].reason
    assert found.macs_mapped == pytest.approx((36 * 16 * 36) / (36 * 16 * 36 + 5760))


@pytest.mark.slow
def test_floats_at_the_rim_end_nothing(server, tflite):
    """QUANTIZE at the input and DEQUANTIZE at the output stay on the CPU, and the part between is mapped."""
    found = server.run(report, 60.0, tflite / "int8_float_io.tflite")
    assert [found.operators[place].reason for place in (0, -1)] == [RIM, RIM]
    assert all(one.mapped for one in found.operators[1:-1])
    assert (found.first_unmapped, found.macs_mapped) == (None, 1.0)


@pytest.mark.slow
def test_uint8_at_the_rim_is_mapped(server, tflite):
    """A QUANTIZE between uint8 and int8 is an operator as any other."""
    found = server.run(report, 60.0, tflite / "uint8_io.tflite")
    assert found.operators[0].operator == "QUANTIZE"
    assert all(one.mapped for one in found.operators)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "dynamic", "float16"])
def test_models_with_floats_are_kept_off(server, tflite, name):
    """A blocker says what they lack."""
    found = server.run(report, 60.0, tflite / f"{name}.tflite")
    assert "nothing in it computes with int8" in found.blockers[0]
    assert found.macs_mapped == 0.0


@pytest.mark.slow
def test_a_real_streaming_model_is_kept_off_by_its_state(server):
    """Its variables need a second subgraph, and the first operator is about them."""
    path = tflite_files.shipped("pymicro-wakeword", "alexa.tflite")
    if path is None:
        pytest.skip("pymicro-wakeword is not installed")
    found = server.run(report, 60.0, path)
    assert "2 subgraphs" in found.blockers[0]
    assert "CALL_ONCE is not among" in found.operators[0].reason


def test_a_plain_file_is_not_compiled(tmp_path):
    """It holds no operator for the Edge TPU."""
    (tmp_path / "x.tflite").write_bytes(scale_model(1.0))
    assert not is_compiled(tmp_path / "x.tflite")
