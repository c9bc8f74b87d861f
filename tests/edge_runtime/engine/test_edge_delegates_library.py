"""The delegate library that the fault tests use does what its options say, under the bare LiteRT interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, load_delegate
from support import edge_delegates
from support.edge_models import rows, scale_model
from support.edgetpu_models import edgetpu_model, int8_model, publish_edgetpu, segment_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler"),
]


@pytest.fixture
def library(tmp_path):
    return str(edge_delegates.build(tmp_path))


@pytest.fixture
def edgetpu(tmp_path):
    return str(edge_delegates.build_edgetpu(tmp_path))


def _interpreter(content: bytes, library: str, **options) -> Interpreter:
    delegate = load_delegate(library, options)
    interpreter = Interpreter(model_content=content, experimental_delegates=[delegate])
    interpreter.allocate_tensors()
    return interpreter


def _run(interpreter: Interpreter, x: np.ndarray) -> np.ndarray:
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    if list(entry["shape"]) != list(x.shape):
        interpreter.resize_tensor_input(entry["index"], x.shape)
        interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(exit_["index"])


def _child(code: str, library: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a child after an interpreter of the library has been made there."""
    start = f"""
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter, load_delegate
        from support.edge_models import scale_model
        delegate = load_delegate({library!r}, {options!r})
        interpreter = Interpreter(model_content=scale_model(3.0), experimental_delegates=[delegate])
        interpreter.allocate_tensors()
    """
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (2, 3))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_computes_what_it_claims_for_any_batch(library, tmp_path):
    """A MUL runs in the delegate, and right, whatever rows it is resized to."""
    counted = tmp_path / "count"
    interpreter = _interpreter(scale_model(3.0), library, count_file=str(counted))
    for count in (1, 5, 2):
        np.testing.assert_array_equal(_run(interpreter, rows(count)), rows(count) * 3)
    assert edge_delegates.count(counted) == 3


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_the_edge_tpus_library_runs_its_operator_alone(edgetpu, dtype):
    """libedgetpu.so.1 runs `edgetpu-custom-op` in each dtype, with quantized results that saturate."""
    x = np.array([[0, 1, 40, 100]], dtype)
    y = _run(_interpreter(edgetpu_model(3.0, dtype=dtype), edgetpu, device="usb:0"), x)
    limit = {"float32": np.inf, "int8": 127, "uint8": 255}[dtype]
    np.testing.assert_array_equal(y, np.minimum(np.array([[0.0, 3.0, 120.0, 300.0]]), limit))
    assert y.dtype == x.dtype
    counted = _interpreter(scale_model(2.0), edgetpu)
    assert [one["op_name"] for one in counted._get_ops_details()].count("MUL") == 1


def test_without_the_library_the_custom_operator_is_unresolved():
    """The Edge TPU's file can't run on the CPU: LiteRT says so when tensors are allocated."""
    interpreter = Interpreter(model_content=edgetpu_model(2.0))
    with pytest.raises(RuntimeError, match="edgetpu-custom-op"):
        interpreter.allocate_tensors()


def test_segments_feed_one_another_by_name(edgetpu):
    """Each segment's outputs carry the names of the next one's inputs, and together they are the model."""
    x, names = np.array([[1, 2, 3, 4]], np.int8), []
    for content in segment_models(3.0, 3):
        interpreter = _interpreter(content, edgetpu)
        names += [interpreter.get_input_details()[0]["name"], interpreter.get_output_details()[0]["name"]]
        assert interpreter.get_signature_list() == {}
        x = _run(interpreter, x)
    np.testing.assert_array_equal(x, [[3, 6, 9, 12]])
    assert names == ["x", "cut_1", "cut_1", "cut_2", "cut_2", "y"]


def test_a_package_has_the_same_answer_in_every_variant(edgetpu, tmp_path):
    """A published package opens, and its CPU and Edge TPU variants agree."""
    package = publish_edgetpu(tmp_path / "store", 3, 2.0, segments=2)
    assert [one.name for one in package.manifest.variants] == ["float32", "int8", "int8-edgetpu"]
    x = np.array([[-4, 1, 2, 30]], np.int8)
    y = x
    for path in package.manifest.variant("int8-edgetpu").segments:
        y = _run(_interpreter(package.read(path), edgetpu), y)
    np.testing.assert_array_equal(y, x * 2)
    cpu = Interpreter(model_content=int8_model(2.0))
    cpu.allocate_tensors()
    np.testing.assert_array_equal(_run(cpu, x), x * 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"refuse": "1"}, "refused as asked"),
        ({"volume": "11"}, "unknown option"),
        ({"fail_at": "many"}, "unknown option"),
        ({"vanish_file": "/nowhere/stick"}, "no device"),
    ],
)
def test_it_refuses_to_load(library, options, said):
    """No delegate is made, and the reason reaches the error."""
    with pytest.raises(ValueError, match=said):
        load_delegate(library, options)


def test_it_refuses_a_model(library):
    """The delegate loads, and the model is not taken."""
    with pytest.raises(RuntimeError, match="refuses the model"):
        _interpreter(scale_model(2.0), library, refuse_model="1")


def test_runs_fail_by_number(library):
    """The n-th run fails, and so does every m-th; those between are right."""
    interpreter = _interpreter(scale_model(2.0), library, fail_at="2", fail_every="5")
    failed = []
    for number in range(1, 11):
        try:
            np.testing.assert_array_equal(_run(interpreter, rows(1)), rows(1) * 2)
        except RuntimeError as error:
            assert f"fails at invoke {number}" in str(error)  # noqa: PT017  which of them fail is what is looked at
            failed.append(number)
    assert failed == [2, 5, 10]


def test_a_device_vanishes_and_returns(library, tmp_path):
    """While the file is gone every run fails and no delegate can be made; then the same interpreter runs again."""
    stick = tmp_path / "stick"
    stick.touch()
    interpreter = _interpreter(scale_model(2.0), library, vanish_file=str(stick))
    stick.unlink()
    with pytest.raises(RuntimeError, match="device is gone"):
        _run(interpreter, rows(1))
    with pytest.raises(ValueError, match="no device"):
        load_delegate(library, {"vanish_file": str(stick)})
    stick.touch()
    np.testing.assert_array_equal(_run(interpreter, rows(1)), rows(1) * 2)


def test_faults_wait_for_their_file_and_their_device(library, tmp_path):
    """`when_file` arms faults and starts the count; `only` keeps them to one device."""
    armed = tmp_path / "armed"
    ill = _interpreter(scale_model(2.0), library, device="usb:1", only="usb:1", fail_at="1", when_file=str(armed))
    _run(ill, rows(1))
    armed.touch()
    with pytest.raises(RuntimeError, match="fails at invoke 1"):
        _run(ill, rows(1))
    _run(_interpreter(scale_model(2.0), library, device="usb:0", only="usb:1", fail_every="1"), rows(1))


def test_the_edge_tpus_options_come_from_the_environment(edgetpu, tmp_path, monkeypatch):
    """FAKE_EDGETPU holds the options; which device was opened and which ran is told by files."""
    record, counted = tmp_path / "record", tmp_path / "count"
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(record_file=record, count_file=counted))
    content = edgetpu_model(2.0)
    for number, runs in ((0, 1), (1, 2)):
        interpreter = _interpreter(content, edgetpu, device=f"usb:{number}")
        for _ in range(runs):
            _run(interpreter, np.ones((1, 4), np.int8))
    assert record.read_text() == "device=usb:0\ndevice=usb:1\n"
    assert (edge_delegates.count(counted, "0"), edge_delegates.count(counted, "1")) == (1, 2)


def test_a_device_is_held_by_one_process(library, tmp_path):
    """With a lock folder another process is refused as busy, and has the device once it is let go."""
    options = {"lock_dir": str(tmp_path), "device": "usb:0"}
    delegate = load_delegate(library, options)
    assert "the device is busy" in _child("", library, **options).stderr
    del delegate
    assert _child("", library, **options).returncode == 0


@pytest.mark.parametrize(
    ("options", "ended", "said"),
    [
        ({"crash_on_load": "1"}, signal.SIGSEGV, ""),
        ({"segfault_at": "2"}, signal.SIGSEGV, ""),
        ({"abort_at": "2"}, signal.SIGABRT, "aborts at invoke 2"),
        ({"abort_every": "2"}, signal.SIGABRT, "aborts at invoke 2"),
    ],
)
def test_it_takes_its_process_along(library, options, ended, said):
    """Crashes and aborts end the process by their signal, at the run that was asked for."""
    child = _child("for _ in range(2): interpreter.invoke(); print('ran', flush=True)", library, **options)
    assert child.returncode == -ended
    assert child.stdout == ("" if "crash_on_load" in options else "ran\n")
    assert said in child.stderr


def test_a_run_never_returns(library):
    """A hanging run holds its thread and lets the GIL go: the rest of the process lives on."""
    code = """
        import threading
        thread = threading.Thread(target=interpreter.invoke, daemon=True)
        thread.start()
        thread.join(0.2)
        print(thread.is_alive(), flush=True)
        import os; os._exit(0)
    """
    assert _child(code, library, hang_at="1").stdout == "True\n"


def test_a_count_across_processes_makes_a_fault_happen_once(library, tmp_path):
    """With a `count_file` its bytes number the runs: what aborts at the third does not again in a new process."""
    options = {"count_file": str(tmp_path / "count"), "abort_at": "3"}
    code = "for _ in range(4): interpreter.invoke()"
    assert [_child(code, library, **options).returncode for _ in range(2)] == [-signal.SIGABRT, 0]
    assert edge_delegates.count(tmp_path / "count") == 7
