import subprocess
import sys
from importlib import metadata

import pytest

from edge_runtime import EngineFailed
from edge_runtime.engine import library


def test_library_that_is_there_is_found():
    """The living library is preferred, and its version is the distribution's."""
    assert library.installed() == ("ai-edge-litert", metadata.version("ai-edge-litert"))
    assert library.interpreter_module().__name__ == "ai_edge_litert.interpreter"


@pytest.mark.slow
def test_asking_for_the_version_loads_nothing():
    """The version is told without the interpreter being loaded, so that a start stays cheap."""
    asks = "import sys; from edge_runtime.engine.library import installed; installed()"
    check = f"{asks}; print([name for name in sys.modules if name.startswith('ai_edge_litert.')])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_broken_library_gives_way_to_the_next(monkeypatch, tmp_path):
    """A library that is there but can't be loaded does not stand in the way of one that can."""
    (tmp_path / "broken_litert").mkdir()
    (tmp_path / "broken_litert/interpreter.py").write_text("raise ImportError('libc is too old')")
    monkeypatch.syspath_prepend(tmp_path)
    ours = {"broken_litert": ("broken-litert",), **library._LIBRARIES}
    monkeypatch.setattr(library, "_LIBRARIES", ours)
    assert library.interpreter_module().__name__ == "ai_edge_litert.interpreter"
    assert library.installed() == ("broken-litert", "unknown")


def test_no_library_is_a_named_error(monkeypatch):
    """Where there is none, the error says what was tried and what to install."""
    monkeypatch.setattr(library, "_LIBRARIES", {"no_such_litert": ("no-such-litert",)})
    with pytest.raises(EngineFailed, match=r"no_such_litert: No module named.*install ai-edge-litert"):
        library.interpreter_module()
    with pytest.raises(EngineFailed, match="install ai-edge-litert"):
        library.installed()
