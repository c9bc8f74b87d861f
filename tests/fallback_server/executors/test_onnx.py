"""ONNX files, where the extra is not installed; what it does where it is, tests/conformance/ holds, but for shapes."""

import importlib.util
import struct

import numpy as np
import pytest
from support import executor_forms
from support.complete import require

from fallback_server.core.errors import VersionRefused
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


@pytest.mark.slow
def test_a_shape_that_the_file_does_not_tell_may_be_any(tmp_path):
    """ONNX Runtime shows it as it shows a scalar: both are taken in any rank."""
    require(importlib.util.find_spec("onnxruntime") is not None, "the extra `onnx`")

    def value(name):
        tensor = executor_forms._field(1, 1)
        return executor_forms._field(1, name) + executor_forms._field(2, executor_forms._field(1, tensor))

    factor = executor_forms._tensor("factor", 1, [], struct.pack("<f", 2.0))
    content = executor_forms._graph("Mul", ["x", "factor"], "y", factor, value("x"), value("y"))
    (tmp_path / "model.onnx").write_bytes(content)
    executor = onnx.open_onnx(tmp_path, threads=1)
    signature = executor.signatures[onnx.SIGNATURE]
    assert (signature.inputs["x"].shape, signature.outputs["y"].shape, signature.batches) == (None, None, False)
    for x in (np.array(3, np.float32), np.ones((2, 3), np.float32)):
        np.testing.assert_array_equal(executor.run(onnx.SIGNATURE, {"x": x})["y"], x * 2)
    executor.close()
