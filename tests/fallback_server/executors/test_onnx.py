"""ONNX files, where the extra is not installed; what it does where it is, tests/conformance/ holds."""

import pytest
from support import executor_forms

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
