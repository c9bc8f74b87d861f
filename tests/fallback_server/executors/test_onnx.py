"""ONNX files, where the extra is not installed; what it does where it is, tests/conformance/ holds, but for shapes."""

import importlib.util
import struct

import numpy as np
import pytest
from support import executor_forms
from support.complete import require

from fallback_server.core.errors import InvalidInput, VersionRefused
from fallback_server.executors import onnx
from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions


def test_without_the_extra_a_version_is_refused_with_what_to_install(tmp_path, monkeypatch):
    """Before any process is started."""
    monkeypatch.setattr(onnx, "_LIBRARY", "no_such_library")
    executor_forms.write_onnx(tmp_path)
    registry = default_registry(SavedModelOptions())
    with pytest.raises(VersionRefused, match=r"model\.onnx needs ONNX Runtime.*pip install 'edge-runtime\[onnx\]'"):
        registry.open(tmp_path / "scale" / "1")
    assert registry.estimated_bytes(tmp_path / "scale" / "1") > 2**27
    registry.close()


def _value(name, kind=1, shape=None):
    """A graph's input or output: float32 of any shape, or of named and fixed sizes."""
    field = executor_forms._field
    tensor = field(1, kind)
    if shape is not None:
        sizes = [field(1, size) if isinstance(size, int) else field(2, size) for size in shape]
        tensor += field(2, b"".join(field(1, size) for size in sizes))
    return field(1, name) + field(2, field(1, tensor))


def _node(operator, inputs, output):
    """A file of one operator."""
    field = executor_forms._field
    node = b"".join(field(1, name) for name, *_ in inputs) + field(2, output[0]) + field(4, operator)
    graph = field(1, node) + field(2, "graph") + b"".join(field(11, _value(*each)) for each in inputs)
    return field(1, 8) + field(7, graph + field(12, _value(*output))) + field(8, field(1, "") + field(2, 13))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        (
            _node("Add", [("x", 1, ("n", "m")), ("z", 1, ("n", "k"))], ("y", 1, ("n", "q"))),
            {"x": np.ones((1, 2), np.float32), "z": np.ones((1, 2), np.float32)},
            {"x": np.ones((1, 2), np.float32), "z": np.ones((1, 3), np.float32)},
        ),
        (
            _node("Reshape", [("x", 1, ("n", "m")), ("s", 7, (2,))], ("y", 1, ("a", "b"))),
            {"x": np.ones((1, 6), np.float32), "s": np.array([2, 3])},
            {"x": np.ones((1, 6), np.float32), "s": np.array([5, 5])},
        ),
        (
            _node("Gather", [("x", 1, (4,)), ("i", 7, ("n",))], ("y", 1, ("n",))),
            {"x": np.ones(4, np.float32), "i": np.array([3])},
            {"x": np.ones(4, np.float32), "i": np.array([9])},
        ),
    ],
    ids=["Add", "Reshape", "Gather"],
)
def test_values_that_the_graph_refuses_are_the_callers_fault(tmp_path, capfd, content, good, bad):
    """Also where ONNX Runtime says only that an operator failed, once the graph has run; and the log has nothing."""
    require(importlib.util.find_spec("onnxruntime") is not None, "the extra `onnx`")
    (tmp_path / "model.onnx").write_bytes(content)
    executor = onnx.open_onnx(tmp_path, threads=1)
    executor.run(onnx.SIGNATURE, good)
    capfd.readouterr()
    with pytest.raises(InvalidInput, match="the model refused the values"):
        executor.run(onnx.SIGNATURE, bad)
    assert capfd.readouterr() == ("", "")
    executor.run(onnx.SIGNATURE, good)
    executor.close()


@pytest.mark.slow
def test_what_never_ran_or_lacks_memory_is_not_the_callers_fault(tmp_path):
    """Then nobody can tell, or it is the machine's."""
    require(importlib.util.find_spec("onnxruntime") is not None, "the extra `onnx`")
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    executor_forms.write_onnx(tmp_path)
    executor = onnx.open_onnx(tmp_path / "scale" / "1", threads=1)
    assert executor._refuses(Fail("Non-zero status code returned while running Add node"))
    assert not executor._refuses(RuntimeException("Failed to allocate memory for requested buffer of size 4"))
    executor._has_run = False
    assert not executor._refuses(Fail("Non-zero status code returned while running Add node"))
    assert executor._refuses(InvalidArgument("indices element out of data bounds"))
    executor.close()


@pytest.mark.slow
def test_a_shape_that_the_file_does_not_tell_may_be_any(tmp_path):
    """ONNX Runtime shows it as it shows a scalar: both are taken in any rank."""
    require(importlib.util.find_spec("onnxruntime") is not None, "the extra `onnx`")

    factor = executor_forms._tensor("factor", 1, [], struct.pack("<f", 2.0))
    content = executor_forms._graph("Mul", ["x", "factor"], "y", factor, _value("x"), _value("y"))
    (tmp_path / "model.onnx").write_bytes(content)
    executor = onnx.open_onnx(tmp_path, threads=1)
    signature = executor.signatures[onnx.SIGNATURE]
    assert (signature.inputs["x"].shape, signature.outputs["y"].shape, signature.batches) == (None, None, False)
    for x in (np.array(3, np.float32), np.ones((2, 3), np.float32)):
        np.testing.assert_array_equal(executor.run(onnx.SIGNATURE, {"x": x})["y"], x * 2)
    executor.close()
