import time

import pytest
from support.delegate_libraries import COMPILER, build

from edge_runtime.trial import try_delegate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C compiler to build a delegate's library with"),
]


def test_the_cpu_runs_a_model():
    """The interpreter that is installed adds two vectors."""
    trial = try_delegate("cpu")
    assert (trial.ok, trial.ran_model, trial.error) == (True, True, "")


def test_a_delegate_that_works_is_handed_a_model(tmp_path):
    """It loads, prepares a model and is let go; what it prints does not spoil the answer."""
    library = build(tmp_path)
    trial = try_delegate("edgetpu", library=library)
    assert (trial.ok, trial.ran_model) == (True, False)
    assert library in trial.detail


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("SEGFAULT", "killed by SIGSEGV"),
        ("ABORT_IN_PREPARE", "killed by SIGABRT"),
        ("EXIT", "ended with status 3 and no answer"),
        ("REFUSE", "Failed to load delegate from "),
        ("REFUSE_THE_MODEL", "delegate"),
        ("NO_DELEGATE", "undefined symbol: tflite_plugin_create_delegate"),
    ],
)
def test_a_library_that_misbehaves_is_an_answer(tmp_path, behaviour, error):
    """Whatever it does to the process that loads it, this one goes on and says what happened."""
    trial = try_delegate("edgetpu", library=build(tmp_path, behaviour))
    assert not trial.ok
    assert error in trial.error


def test_a_library_that_hangs_is_killed_at_the_limit(tmp_path):
    """The error says how long was waited, and holds what the library had printed."""
    started_s = time.monotonic()
    trial = try_delegate("edgetpu", library=build(tmp_path, "HANG"), limit_s=1.5)
    assert time.monotonic() - started_s < 10
    assert trial.error == "no answer within 1.5 s\nwaiting for the device"


def test_a_library_that_is_not_there():
    """The loader's own text arrives."""
    trial = try_delegate("edgetpu", library="/nowhere/libedgetpu.so.1")
    assert trial.error.startswith("/nowhere/libedgetpu.so.1: cannot open shared object file")


def test_the_loader_of_a_gpu_is_only_loaded(tmp_path):
    """Any library that loads will do: nothing is run on a GPU."""
    trial = try_delegate("gpu", library=build(tmp_path, "NO_DELEGATE", name="libvulkan.so.1"))
    assert (trial.ok, trial.ran_model) == (True, False)


def test_the_current_directory_does_not_shadow_the_standard_library(tmp_path, monkeypatch):
    """The child works from any current directory, also one that holds modules of the standard library's names."""
    (tmp_path / "types.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert try_delegate("cpu").ok
