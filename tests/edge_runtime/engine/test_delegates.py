import sys

import numpy as np
import pytest
from support import edge_delegates
from support.edge_models import rows, scale_model, scale_signature
from support.edgetpu_models import edgetpu_model
from support.interpreter_models import images, net_model, net_signature

from converter.artifact import Signature, TensorSpec
from devices import DELEGATES
from edge_runtime import EngineFailed
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.compiled import CompiledSession
from edge_runtime.engine.delegates import FACTORIES, keeps_weights, open_session
from edge_runtime.engine.interpreter import InterpreterSession

LARGE = net_model(hidden=2048, classes=256)


def test_every_delegate_has_a_factory():
    """Whatever a device string may ask for can be opened."""
    assert set(FACTORIES) == {one.name for one in DELEGATES}


def test_cpu_runs_in_the_interpreter():
    """Without a folder for packed weights it is the classic interpreter, which lets other threads run."""
    session = open_session(SessionSpec(subject="scale/1", signatures=(scale_signature(),)), scale_model(2.0))
    assert isinstance(session, InterpreterSession)
    np.testing.assert_array_equal(session.run("serving_default", {"x": rows(2)})["y"], rows(2) * 2)


def test_large_file_keeps_its_weights(tmp_path):
    """With a folder, a file of 1 MiB or more reads its packed weights from there, and answers the same."""
    plain = SessionSpec(subject="net/1", signatures=(net_signature(classes=256),))
    kept = SessionSpec(subject="net/1", signatures=plain.signatures, weight_cache=str(tmp_path))
    sessions = [open_session(one, LARGE) for one in (plain, kept)]
    assert [type(one) for one in sessions] == [InterpreterSession, CompiledSession]
    first, second = (one.run("serving_default", {"image": images(3)})["scores"] for one in sessions)
    np.testing.assert_allclose(first, second, atol=1e-5)
    for one in sessions:
        one.close()


def output(shape, dtype="float32"):
    return Signature(
        name="s",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", dtype=dtype, shape=shape),),
        batch_axis=0 if shape else None,
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "keeps"),
    [
        ((-1, 4), "float32", True),
        ((-1, -1), "float32", False),
        ((), "float32", False),
        ((-1, 4), "string", False),
    ],
)
def test_outputs_of_unknown_size_need_the_interpreter(shape, dtype, keeps):
    """CompiledModel can't run a file whose outputs are as large as the data says, nor strings."""
    spec = SessionSpec(subject="v/1", signatures=(output(shape, dtype),), weight_cache="/cache")
    assert keeps_weights(spec, LARGE) is keeps
    assert not keeps_weights(spec, LARGE[: 2**20 - 1])


def test_what_compiled_model_refuses_runs_in_the_interpreter(tmp_path, monkeypatch):
    """Kept weights are a gain, not a condition: where CompiledModel can't be had, the file runs without them."""
    monkeypatch.setitem(sys.modules, "ai_edge_litert.compiled_model", None)
    spec = SessionSpec(subject="net/1", signatures=(net_signature(classes=256),), weight_cache=str(tmp_path))
    assert isinstance(open_session(spec, LARGE), InterpreterSession)


@pytest.fixture
def edgetpu(tmp_path, monkeypatch):
    """An Edge TPU's library at its usual name, and the file where it writes which device it was asked for."""
    if edge_delegates.COMPILER is None:
        pytest.skip("no C compiler")
    record = tmp_path / "record"
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(record_file=record))
    return edge_delegates.build_edgetpu(tmp_path), record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "asked"),
    [
        ("edgetpu", ""),
        ("edgetpu:usb", "usb"),
        ("edgetpu:usb:0", "usb:0"),
        ("edgetpu:pci:1", "pci:1"),
        ("edgetpu::1", ":1"),
    ],
)
def test_edgetpu_is_asked_for_by_pycorals_names(edgetpu, device, asked):
    """The library gets the device as pycoral gives it, and nothing where any will do; what is compiled for it runs."""
    library, record = edgetpu
    spec = SessionSpec(subject="coral/1", delegate="edgetpu", device=device, library=str(library))
    session = open_session(spec, edgetpu_model(2.0, dtype="float32", signature=None))
    np.testing.assert_array_equal(session.run("", {"x": rows(1)})["y"], rows(1) * 2)
    session.close()
    assert record.read_text() == f"device={asked}\n"


@pytest.mark.slow
def test_external_librarys_options_are_in_its_device_string(tmp_path):
    """A spec that names no library takes the one of its device string, with its options."""
    if edge_delegates.COMPILER is None:
        pytest.skip("no C compiler")
    count = tmp_path / "count"
    device = edge_delegates.device(edge_delegates.build(tmp_path), count_file=count)
    spec = SessionSpec(subject="s/1", delegate="external", device=device, signatures=(scale_signature(batched=False),))
    session = open_session(spec, scale_model(2.0, batched=False))
    np.testing.assert_array_equal(session.run("serving_default", {"x": rows(1)})["y"], rows(1) * 2)
    assert edge_delegates.count(count) == 1


@pytest.mark.parametrize("device", ["external:", "edgetpu:moon"])
def test_device_string_that_is_none_is_refused(device):
    """What can't be a device is a named error."""
    spec = SessionSpec(subject="s/1", delegate="external", device=device, signatures=(scale_signature(),))
    with pytest.raises(EngineFailed, match=r"s/1: delegate"):
        open_session(spec, scale_model(2.0))


def test_npu_that_is_not_there_is_told_by_its_missing_parts():
    """Where no NPU of the wheel's makers is, the file is refused with what was looked for."""
    spec = SessionSpec(subject="s/1", delegate="npu", device="npu", signatures=(scale_signature(),))
    with pytest.raises(EngineFailed, match=r"s/1: npu can't run it: .*not accelerated.*[Pp]lugin"):
        open_session(spec, scale_model(2.0))
