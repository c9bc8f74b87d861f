"""What every executor promises, held against each of them with the same tiny models."""

import importlib.util
import threading

import numpy as np
import pytest
from support import executor_forms
from support.complete import require

from fallback_server.core.errors import InvalidInput, VersionNotReady
from fallback_server.executors.base import KINDS, GivenInputs, RunSizes
from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.protocol.proto import tensor_pb2 as pb

pytestmark = pytest.mark.slow

NAME = "serving_default"
WITH_ONNX = importlib.util.find_spec("onnxruntime") is not None


@pytest.fixture(scope="module")
def registry():
    one = default_registry(SavedModelOptions())
    yield one
    one.close()


@pytest.fixture(scope="module", params=KINDS)
def form(request, registry, tensorflow, tmp_path_factory):
    """Opens a model in one form; what was opened is kept, since no test harms it."""
    kind = request.param
    require(kind != "onnx" or WITH_ONNX, "the extra `onnx`")
    output = tmp_path_factory.mktemp(kind)
    if kind == "tensorflow":
        tensorflow.run(executor_forms.write_saved_models, 200.0, output)
    else:
        getattr(executor_forms, f"write_{kind}")(output)
    kept = {}

    def opened(name):
        if name not in kept:
            kept[name] = registry.open(output / name / "1", kind=kind, sizes=RunSizes(threads=2))
        return kept[name]

    opened.kind, opened.path = kind, output
    yield opened
    for executor in kept.values():
        executor.close()


def rows(count, start=0):
    return np.arange(start, start + count * 4, dtype=np.float32).reshape(count, 4)


def test_it_says_what_it_is(form):
    """Its kind, whether it is in this process, its signatures, and the same signatures as clients ask for them."""
    executor = form("scale")
    assert executor.kind == form.kind
    assert executor.in_process == (form.kind == "litert")
    signature = executor.signatures[NAME]
    assert {key: str(spec) for key, spec in signature.inputs.items()} == {"x": "float32 [-1, 4]"}
    assert {key: str(spec) for key, spec in signature.outputs.items()} == {"y": "float32 [-1, 4]"}
    assert (signature.batches, signature.mixes_rows) == (True, False)
    assert signature.method == "tensorflow/serving/predict"
    definition = pb.SignatureDefMap.FromString(executor.signature_defs).signature_def[NAME]
    assert definition.method_name == signature.method
    assert [dim.size for dim in definition.inputs["x"].tensor_shape.dim] == [-1, 4]
    assert definition.outputs["y"].dtype == 1


def test_a_fixed_first_dimension_is_no_batch(form):
    """Its requests are never merged."""
    executor = form("fixed")
    assert not executor.signatures[NAME].batches
    assert executor.run(NAME, {"x": rows(1)})["y"].tolist() == (rows(1) * 2).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 33, 100])
def test_any_number_of_rows_is_answered_row_by_row(form, count):
    """Also between and beyond the sizes that it was prepared for."""
    x = rows(count)
    outputs = form("scale").run(NAME, {"x": x})
    assert outputs.keys() == {"y"}
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], x * 2)


def test_no_rows_are_an_answer_without_rows(form):
    """Of the outputs' own inner shape."""
    assert form("scale").run(NAME, {"x": rows(0)})["y"].shape == (0, 4)
    assert form("pick").run(NAME, {"index": np.int64([])})["value"].shape == (0,)


def test_answers_are_the_callers_own(form):
    """A later run changes none of those before, and no run changes its inputs."""
    executor = form("scale")
    given = [rows(1, start) for start in range(5)]
    before = [each.copy() for each in given]
    answers = [executor.run(NAME, {"x": each})["y"] for each in given]
    for x, y, was in zip(given, answers, before, strict=True):
        np.testing.assert_array_equal(x, was)
        np.testing.assert_array_equal(y, was * 2)


def test_inputs_come_in_any_memory_layout(form):
    """Views that are not contiguous, or not aligned, and read-only arrays: a request's lie in its very bytes."""
    x = rows(8)[::2]
    x.flags.writeable = False
    np.testing.assert_array_equal(form("scale").run(NAME, {"x": x})["y"], x * 2)
    turned = np.asfortranarray(rows(3))
    np.testing.assert_array_equal(form("scale").run(NAME, {"x": turned})["y"], turned * 2)
    for begin in range(1, 16):
        odd = np.frombuffer(bytes(begin) + rows(3).tobytes(), np.float32, 12, begin).reshape(3, 4)
        np.testing.assert_array_equal(form("scale").run(NAME, {"x": odd})["y"], rows(3) * 2)


def test_only_given_inputs_may_be_emptied(form):
    """The mapping of anybody else stays as it is."""
    kept = {"x": rows(2)}
    form("scale").run(NAME, kept)
    assert list(kept) == ["x"]
    assert form("scale").run(NAME, GivenInputs(x=rows(2)))["y"].shape == (2, 4)


def test_threads_get_their_own_answers(form):
    """More of them than runs go side by side."""
    executor = form("scale")
    wrong = []

    def ask(seed):
        for step in range(40):
            x = rows(1 + step % 5, seed * 1000 + step)
            if not np.array_equal(executor.run(NAME, {"x": x})["y"], x * 2):
                wrong.append((seed, step))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_values_that_it_refuses_are_the_requests_fault(form):
    """`InvalidInput`, in one line; the next request is answered."""
    executor = form("pick")
    for _ in range(3):
        with pytest.raises(InvalidInput, match=r"^the model refused the values: [^\n]+$"):
            executor.run(NAME, {"index": np.int64([0, 7])})
    assert executor.run(NAME, {"index": np.int64([2, 0, 1])})["value"].tolist() == [30, 10, 20]


def test_a_closed_one_runs_nothing(form, registry):
    """It says that the version is gone, and may be closed again."""
    executor = registry.open(form.path / "scale" / "1", kind=form.kind)
    executor.run(NAME, {"x": rows(1)})
    executor.close()
    executor.close()
    with pytest.raises(VersionNotReady, match="taken out of service"):
        executor.run(NAME, {"x": rows(1)})
