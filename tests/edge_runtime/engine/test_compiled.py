import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import gpu_process, software_gpu
from support.interpreter_models import images, net_model, net_signature, pair_model, pair_signature

from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.compiled import CompiledSession
from edge_runtime.engine.interpreter import InterpreterSession

ROOT = Path(__file__).parents[3]


def spec(*signatures):
    return SessionSpec(subject="v/1", signatures=signatures)


@pytest.fixture
def session():
    one = CompiledSession(spec(net_signature()), net_model())
    yield one
    one.close()


def test_answers_are_the_interpreters(session):
    """Every number of rows, in any order and again, gives what the interpreter gives."""
    interpreter = InterpreterSession(spec(net_signature()), net_model())
    for count in (1, 3, 8, 1, 2, 5, 3):
        inputs = {"image": images(count, seed=count)}
        scores, other = (one.run("serving_default", inputs)["scores"] for one in (session, interpreter))
        assert scores.shape == (count, 10)
        np.testing.assert_allclose(scores, other, atol=1e-5)


def test_shapes_kept_are_bounded_and_shown(session):
    """Few models are kept for other shapes; the repr says for which, and whether all of the file is accelerated."""
    for count in range(1, 8):
        session.run("serving_default", {"image": images(count)})
    assert repr(session).count("16, 16, 3") == 4
    assert "cpu, fully accelerated" in repr(session)


def test_views_that_are_not_contiguous_are_read_as_they_show(session):
    """A strided view is copied in as what it shows."""
    x = images(4)
    (first, second) = (session.run("serving_default", {"image": view})["scores"] for view in (x[::2], x[::2].copy()))
    np.testing.assert_array_equal(first, second)


def test_outputs_outlive_the_next_run(session):
    """What a run returned stays as it was when the session runs again."""
    first = session.run("serving_default", {"image": images(1, seed=1)})["scores"]
    before = first.copy()
    session.run("serving_default", {"image": images(1, seed=2)})
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_dtypes_pass_as_they_are(dtype):
    """What LiteRT's buffers have no name for goes through them as well."""
    one = CompiledSession(spec(pair_signature(dtype=dtype)), pair_model(dtype))
    large = 2**40 if dtype == "int64" else 2**20
    answer = one.run("add", {"a": np.full((1, 4), 3, dtype), "b": np.full((1, 4), large, dtype)})["c"]
    assert answer.dtype == dtype
    assert answer.tolist() == [[large + 3] * 4]


def test_several_signatures_answer_in_turn():
    """Each signature runs its own graph, whatever the order of its inputs."""
    both = CompiledSession(spec(pair_signature("add"), pair_signature("mul")), pair_model(kinds=("ADD", "MUL")))
    three, five = np.full((1, 4), 3, np.float32), np.full((1, 4), 5, np.float32)
    for name, result in (("mul", 15), ("add", 8), ("mul", 15)):
        assert both.run(name, {"b": five, "a": three})["c"].tolist() == [[result] * 4]


def test_file_without_signatures_runs_by_its_tensors_names():
    """The tensors' own names are known, as to the interpreter."""
    one = CompiledSession(spec(), pair_model(signed=False, tensors=("p", "q", "r")))
    x = np.full((1, 4), 2, np.float32)
    assert one.run("", {"q": x, "p": x})["r"].tolist() == [[4] * 4]


def test_wrong_dtype_is_refused_and_the_session_goes_on(session):
    """LiteRT's buffers would take any bytes: a float64 is refused, and the next run answers."""
    with pytest.raises(EngineFailed, match="'image' is float64, the file takes float32"):
        session.run("serving_default", {"image": images(1).astype(np.float64)})
    assert session.run("serving_default", {"image": images(1)})["scores"].shape == (1, 10)


def test_strings_are_refused():
    """A file with strings needs the interpreter, and is told so before anything is compiled."""
    with pytest.raises(PackageRefused, match=r"cpu takes no strings, as are \['a', 'b', 'c'\]"):
        CompiledSession(spec(pair_signature(dtype="string")), pair_model("string"))


@pytest.mark.parametrize("content", [b"", b"no model at all", pair_model()[:200]])
def test_unreadable_model_is_refused(content):
    """A file that is no TFLite model is a named error."""
    with pytest.raises(EngineFailed, match="v/1"):
        CompiledSession(spec(pair_signature()), content)


@pytest.fixture(scope="module")
def gpu():
    """What a process that has a GPU found."""
    environment = software_gpu.required() | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, gpu_process.__file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_gpu_answers_as_the_cpu_does(gpu):
    """Every number of rows gives the CPU's answers within 1e-5, by a session that is all on the GPU."""
    for count, (shape, distance, largest) in zip(gpu_process.ROWS, gpu["batches"]["rows"], strict=True):
        assert shape == [count, 10]
        assert distance <= 1e-5
        assert largest > 0.1
    assert "gpu, fully accelerated" in gpu["batches"]["repr"]


@pytest.mark.slow
def test_gpu_runs_several_signatures(gpu):
    """Each signature runs its own graph there, too; answers are copies."""
    assert gpu["signatures"] == [[[8] * 4], [[15] * 4], [[8] * 4]]
    assert gpu["outlives"] is True


@pytest.mark.slow
def test_gpu_names_what_it_can_not_run(gpu):
    """A file that the GPU refuses is refused whole, with the operator and why."""
    assert "v/1: gpu can't run it" in gpu["refused"]
    assert "ADD: Tensor type(INT64) is not supported" in gpu["refused"]
    assert "\n" not in gpu["refused"]
