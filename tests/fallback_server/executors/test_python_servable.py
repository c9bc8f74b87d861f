"""Classes of the user's own, in this process and in a worker."""

import logging
from pathlib import Path

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_workers import wait_until

from fallback_server.core.errors import ExecutionFailed, InvalidInput, LoadFailed
from fallback_server.executors import timing
from fallback_server.executors.python_servable import PythonExecutor
from fallback_server.executors.worker.executor import ModelFault, open_in_plain_worker
from fallback_server.executors.worker.nursery import NOTHING, Nursery

NAME = "serving_default"
ROWS = ("float32", (-1, 2))


def model(predict, inputs=None, outputs=None, **more):
    """An object as a class `Model` would make it."""
    signatures = {NAME: {"inputs": inputs or {"x": ROWS}, "outputs": outputs or {"y": ROWS}}}
    attributes = {"signatures": signatures, "predict": lambda self, signature, given: predict(given)} | more
    return type("Model", (), attributes)()


def ask(made, **inputs):
    return PythonExecutor(made).run(NAME, inputs or {"x": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("signatures", "said"),
    [
        (None, "Model.signatures must map names to inputs and outputs, got None"),
        ({}, "must map names"),
        ({"a": {"inputs": {}}}, 'signature \'a\' must have "inputs" and "outputs"'),
        ({"a": {"inputs": {}, "outputs": {}}}, "there must be an output"),
        (
            {"a": {"inputs": {"x": "float32"}, "outputs": {"y": ROWS}}},
            r"signature 'a', input 'x' must be \(dtype, shape\)",
        ),
        ({"a": {"inputs": {}, "outputs": {"y": ("float33", ())}}}, "output 'y' must be .*float33"),
        ({"a": {"inputs": {}, "outputs": {"y": ("float32", (-2,))}}}, "a size must be at least 0, or -1"),
        (
            {"a": {"inputs": {1: ROWS}, "outputs": {"y": ROWS}}},
            "input 1: a name must be a string, and not empty, got 1",
        ),
        ({"a": {"inputs": {}, "outputs": {"": ROWS}}}, "output '': a name must be a string"),
        ({None: {"inputs": {}, "outputs": {"y": ROWS}}}, "signature None: a name must be a string"),
        ({"a\udcff": {"inputs": {}, "outputs": {"y": ROWS}}}, "a name must be text that UTF-8 has"),
    ],
)
def test_signatures_that_are_none_are_refused(signatures, said):
    """By name, with what was given."""
    made = model(dict)
    type(made).signatures = signatures
    with pytest.raises(LoadFailed, match=said):
        PythonExecutor(made)


def test_a_class_without_predict_is_refused():
    """It can't answer."""
    with pytest.raises(LoadFailed, match="has no method predict"):
        PythonExecutor(object())


def test_dtypes_and_shapes_are_as_numpy_and_we_write_them():
    """A size that may vary is -1 or None, a rank that may is None, strings are bytes."""
    made = model(dict, {"a": (np.int64, (None, 3)), "b": ("string", None), "c": (bool, ())}, {"y": (bytes, (-1,))})
    signature = PythonExecutor(made).signatures[NAME]
    assert [str(spec) for spec in signature.inputs.values()] == ["int64 [-1, 3]", "string of any rank", "bool []"]
    assert str(signature.outputs["y"]) == "string [-1]"


def test_what_predict_gives_is_made_what_the_signature_says():
    """Lists become arrays, wider floats narrower ones, texts bytes; all else is the model's fault."""
    assert ask(model(lambda given: {"y": [[1.5, 2.5]]}))["y"].dtype == np.float32
    texts = model(lambda given: {"y": ["é", b"\xff"]}, outputs={"y": ("string", (-1,))})
    assert ask(texts)["y"].tolist() == ["é".encode(), b"\xff"]
    for given, said in (
        ({"z": [[1, 2]]}, r"gave \['z'\] for signature 'serving_default', which has \['y'\]"),
        ([1, 2], "gave list"),
        ({"y": [[1, 2, 3]]}, r"gave 'y' as float32 \[1, 3\], its signature says float32 \[-1, 2\]"),
        ({"y": [["a", "b"]]}, "Cannot cast"),
    ):
        with pytest.raises(TypeError, match=said):
            ask(model(lambda _, given=given: given))


def test_a_value_error_is_the_requests_fault():
    """With its text in one line; any other exception is as it was."""

    def refuse(given):
        raise ValueError("no\n  such thing")

    def fail(given):
        raise KeyError("secret")

    with pytest.raises(InvalidInput, match=r"^the model refused the values: no such thing$"):
        ask(model(refuse))
    with pytest.raises(KeyError):
        ask(model(fail))


def test_a_model_whose_rows_mix_is_not_merged():
    """As with any other."""
    executor = PythonExecutor(model(lambda given: {"y": given["x"] + given["x"].mean(axis=0)}))
    assert executor.signatures[NAME].batches
    executor.warm_up()
    assert not executor.signatures[NAME].batches


def test_how_long_a_row_takes_is_known_once_it_was_tried(monkeypatch):
    """Also where the class says that its rows keep apart, and it is run but once."""
    clock = FakeClock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)

    def predict(given):
        clock.advance(2.0 * len(given["x"]))
        return {"y": given["x"]}

    for more in ({}, {"batches": True}, {"batches": False}):
        executor = PythonExecutor(model(predict, **more))
        assert executor.run_s == 0.0
        executor.warm_up()
        assert executor.run_s == 2.0


def test_one_that_can_not_be_tried_is_merged_only_if_it_says_so():
    """Nobody knows of another whether it keeps rows apart; and one that says that it does not is not tried."""

    def refuse(given):
        raise ValueError("not that")

    def batches(predict, **more):
        executor = PythonExecutor(model(predict, **more))
        executor.warm_up()
        return executor.signatures[NAME].batches

    assert not batches(refuse)
    assert batches(refuse, batches=True)
    assert not batches(lambda given: {"y": given["x"]}, batches=False)
    with pytest.raises(LoadFailed, match=r"Model\.batches must be True or False, got 'yes'"):
        PythonExecutor(model(refuse, batches="yes"))


def test_whole_numbers_that_do_not_fit_are_no_answer():
    """They would become others; what fits is made narrower."""
    wide = model(lambda given: {"y": given["x"].astype(np.int64)[:, 0]}, outputs={"y": ("int32", (-1,))})
    assert ask(wide, x=np.float32([[7, 0]]))["y"].dtype == np.int32
    with pytest.raises(TypeError, match=r"gave 1099511627776 in 'y', which is out of the range of int32"):
        ask(wide, x=np.float32([[2**40, 0]]))


def test_an_answer_stays_as_it_is_when_the_model_goes_on():
    """Also where it gives the same array each time, or a view of its inputs; unless it says that it is thread safe."""
    kept = np.zeros((1, 2), np.float32)

    def fill(given):
        kept[:] = given["x"]
        return {"y": kept}

    executor = PythonExecutor(model(fill))
    first = executor.run(NAME, {"x": np.float32([[1, 1]])})["y"]
    assert executor.run(NAME, {"x": np.float32([[2, 2]])})["y"].tolist() == [[2, 2]]
    assert first.tolist() == [[1, 1]]
    executor = PythonExecutor(model(fill, thread_safe=True))
    assert executor.run(NAME, {"x": np.float32([[3, 3]])})["y"] is kept


PROGRAM = """
import os, threading, time
from pathlib import Path
import helper

class Model:
    signatures = {"serving_default": {"inputs": {"x": ("float32", (-1, 2))}, "outputs": {"y": ("float32", (-1, 2))}}}

    def __init__(self, path):
        print("made in", path.name)
        self.path, self.inside = path, 0

    def predict(self, signature, inputs):
        self.inside += 1
        assert self.inside == 1
        time.sleep(0.001)
        self.inside -= 1
        if (inputs["x"] == 13).any():
            os._exit(3)
        if (inputs["x"] == 14).any():
            raise KeyError("secret")
        return {"y": inputs["x"] * helper.FACTOR}

    def close(self):
        (self.path / "closed").touch()
"""


@pytest.fixture(scope="module")
def nursery():
    one = Nursery(NOTHING)
    yield one
    one.close()


def opened(nursery, path, on_lost=lambda how: None):
    return open_in_plain_worker(path, kind="python", nursery=nursery, title="m/1", on_lost=on_lost)


@pytest.mark.slow
def test_it_runs_in_a_process_of_its_own(nursery, tmp_path, caplog):
    """With modules beside it, what it prints in the log, one call at a time; it is closed when it is unloaded."""
    (tmp_path / "model.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text("FACTOR = 3")
    with caplog.at_level(logging.INFO):
        executor = opened(nursery, tmp_path)
    assert (executor.kind, executor.in_process, executor.platform, executor.at_once) == ("python", False, "python", 1)
    assert f"m/1: made in {tmp_path.name}" in caplog.messages
    x = np.ones((2, 2), np.float32)
    assert executor.run(NAME, {"x": x})["y"].tolist() == [[3, 3], [3, 3]]
    with pytest.raises(ModelFault):
        executor.run(NAME, {"x": x * 14})
    assert executor.run(NAME, {"x": x})["y"].tolist() == [[3, 3], [3, 3]]
    executor.close()
    assert (tmp_path / "closed").exists()


@pytest.mark.slow
def test_one_that_ends_its_process_is_lost_and_told(nursery, tmp_path):
    """The request fails, and whoever loaded it hears how it ended."""
    (tmp_path / "model.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text("FACTOR = 3")
    lost = []
    executor = opened(nursery, tmp_path, lost.append)
    with pytest.raises(ExecutionFailed, match=r"the model's process ended \(exit code 3\)"):
        executor.run(NAME, {"x": np.full((1, 2), 13, np.float32)})
    wait_until(lambda: lost)
    assert lost == ["exit code 3"]
    executor.close()


@pytest.mark.slow
def test_the_example_of_the_documents_works(nursery, tmp_path):
    """As it stands there."""
    text = (Path(__file__).parents[3] / "docs" / "operating.md").read_text("utf-8")
    (tmp_path / "model.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    executor = opened(nursery, tmp_path)
    assert executor.signatures[NAME].batches
    assert executor.run_s > 0
    assert executor.run(NAME, {"x": np.float32([[1, 2, 3]])})["y"].tolist() == [[1, 20, 300]]
    with pytest.raises(InvalidInput, match="x must not be negative"):
        executor.run(NAME, {"x": np.float32([[-1, 2, 3]])})
    executor.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = 1", r"model\.py has no class Model"),
        ("import nowhere", "No module named 'nowhere'"),
        ("x = (", "never closed"),
    ],
)
def test_a_file_that_can_not_be_loaded_says_why(nursery, tmp_path, program, said):
    """In one line."""
    (tmp_path / "model.py").write_text(program)
    with pytest.raises(LoadFailed, match=said):
        opened(nursery, tmp_path)
