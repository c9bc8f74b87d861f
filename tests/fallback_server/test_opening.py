"""How a version is loaded whose files leave a choice."""

import logging

import numpy as np
import pytest
from support import executor_forms
from support.edge_models import scale_model
from support.fallback_fakes import FakeExecutor, signature
from support.fallback_workers import record

from fallback_server import choosing
from fallback_server.batching.options import BatchingOptions
from fallback_server.choosing import made_up_requests
from fallback_server.core.errors import ExecutionFailed, InvalidInput, LoadFailed, VersionRefused
from fallback_server.executors.probing import made_up
from fallback_server.executors.registry import Platform, Registry, default_registry
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.opening import Opener, run_sizes
from fallback_server.protocol.proto import serving_pb2 as serving
from fallback_server.protocol.tensors import encode
from fallback_server.warmup import RECORDS

OPTIONS = BatchingOptions(max_batch_size_rows=4)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(choosing, "_TIMED_S", 0.0)


class Form(FakeExecutor):
    """y = x * factor; each run is as slow as it is told to be, on a clock that is not looked at."""

    def __init__(self, kind, *, factor=2.0, shape=(-1, 2), error=None):
        super().__init__(factor=factor, shape=shape)
        self.kind = kind
        self.error = error
        self.on_lost = None

    def run(self, name, inputs):
        if self.error is not None:
            raise self.error
        return super().run(name, inputs)


def opener(tmp_path, *forms, faults=None, lost=None, **options):
    """An opener of a folder that has all of these forms."""

    def platform(form):
        def open_it(path, *, title, on_lost, stop, sizes):
            if faults and form.kind in faults:
                raise faults[form.kind]
            form.on_lost = on_lost
            return form

        (tmp_path / form.kind).touch()
        return Platform(name=form.kind, files=(form.kind,), open=open_it, estimated_bytes=lambda path: 7)

    registry = Registry([platform(form) for form in forms])
    on_lost = (lambda how: None) if lost is None else lost.append
    return Opener(registry, tmp_path, OPTIONS, title="m/1", on_lost=on_lost, **options)


def faster(monkeypatch, kind):
    """Has one kind's runs seem ten times as fast as the others'."""
    monkeypatch.setattr(choosing.Candidate, "timed_s", lambda self, *_: 1.0 if self.kind == kind else 10.0)


@pytest.mark.parametrize("kind", ["tensorflow", "litert"])
def test_the_faster_of_two_forms_serves_and_the_other_is_closed(tmp_path, monkeypatch, caplog, kind):
    """The log says which, and why, with the figures."""
    faster(monkeypatch, kind)
    forms = {name: Form(name) for name in ("tensorflow", "litert")}
    with caplog.at_level(logging.INFO):
        opened = opener(tmp_path, *forms.values()).open()
    assert opened.executor is forms[kind]
    assert [form.kind for form in forms.values() if form.closed] == [name for name in forms if name != kind]
    assert opened.choice.kind == kind
    assert "median times" in opened.choice.why
    assert f"m/1: {opened.choice.why}" in caplog.messages


@pytest.mark.parametrize(
    ("litert", "said"),
    [
        (
            {"factor": 2.01},
            "LiteRT does not: another answer of signature 'serving_default': output 'y' differs by up to",
        ),
        ({"shape": (-1, 3)}, "LiteRT does not: another interface: signature 'serving_default': input 'x' is"),
        ({"error": InvalidInput("no")}, "LiteRT does not: another answer of signature 'serving_default': no"),
        (
            {"error": RuntimeError("it\n fails")},
            "LiteRT does not: another answer of signature 'serving_default': it fails",
        ),
    ],
)
def test_a_form_that_differs_does_not_serve_however_fast_it_is(tmp_path, monkeypatch, litert, said):
    """The SavedModel does, and the reason is told."""
    faster(monkeypatch, "litert")
    first, second = Form("tensorflow"), Form("litert", **litert)
    opened = opener(tmp_path, first, second).open()
    assert opened.executor is first
    assert opened.choice.why.startswith("the SavedModel serves; ")
    assert said in opened.choice.why
    assert second.closed
    assert not first.closed


def test_a_form_that_can_not_be_loaded_leaves_the_other(tmp_path):
    """Whichever it is; with none that can be, the load fails with what was said of each."""
    for broken, other in (("litert", "tensorflow"), ("tensorflow", "litert")):
        forms = [Form("tensorflow"), Form("litert")]
        opened = opener(tmp_path, *forms, faults={broken: LoadFailed("it crashes")}).open()
        assert opened.executor.kind == other
        assert "does not: it crashes" in opened.choice.why
    faults = {"tensorflow": LoadFailed("no graph"), "litert": VersionRefused("no file")}
    with pytest.raises(LoadFailed, match="tensorflow: no graph; litert: no file") as refusal:
        opener(tmp_path, Form("tensorflow"), Form("litert"), faults=faults).open()
    assert not isinstance(refusal.value, VersionRefused)
    faults["tensorflow"] = VersionRefused("no graph")
    with pytest.raises(VersionRefused):
        opener(tmp_path, Form("tensorflow"), Form("litert"), faults=faults).open()


def test_a_first_form_that_dies_while_it_is_compared_fails_the_load(tmp_path):
    """As it would have while it is warmed up; what was opened is closed."""
    first, second = Form("tensorflow", error=ExecutionFailed("its process ended")), Form("litert")
    with pytest.raises(LoadFailed, match="its process ended"):
        opener(tmp_path, first, second, warm=False).open()
    assert first.closed
    assert second.closed


def test_a_loss_is_told_of_what_serves_alone(tmp_path, monkeypatch):
    """Also where it came before the choice was made."""
    faster(monkeypatch, "litert")
    lost = []
    first, second = Form("tensorflow"), Form("litert")
    assert opener(tmp_path, first, second, lost=lost).open().executor is second
    first.on_lost("signal 9")
    assert lost == []
    second.on_lost("signal 6")
    assert lost == ["signal 6"]


def test_a_kind_that_is_pinned_is_not_compared(tmp_path):
    """No other is loaded; a version that has no such form is refused."""
    first, second = Form("tensorflow"), Form("litert")
    opened = opener(tmp_path, first, second, kind="litert").open()
    assert (opened.executor, opened.choice.why) == (second, "")
    assert first.on_lost is None
    with pytest.raises(VersionRefused, match="executor 'python' that was asked for: it holds none of"):
        opener(tmp_path, first, second, kind="python").open()


def test_a_program_beside_a_saved_model_is_no_form_of_it(tmp_path):
    """Only a LiteRT file is held against a SavedModel; else the first that fits serves."""
    for forms, kind in (
        (("tensorflow", "python"), "tensorflow"),
        (("litert", "onnx"), "litert"),
        (("python",), "python"),
    ):
        folder = tmp_path / "-".join(forms)
        folder.mkdir()
        made = [Form(name) for name in forms]
        assert opener(folder, *made).open().executor.kind == kind
        assert [form.kind for form in made if form.on_lost is not None] == [kind]


def test_recorded_requests_are_compared_too(tmp_path, monkeypatch):
    """A difference that made-up requests don't show."""
    faster(monkeypatch, "litert")

    class Odd(Form):
        def run(self, name, inputs):
            return {"y": super().run(name, inputs)["y"] + (inputs["x"] == 77)}

    predict = serving.PredictRequest(inputs={"x": encode(np.full((1, 2), 77, np.float32))})
    log = serving.PredictionLog(predict_log=serving.PredictLog(request=predict))
    (tmp_path / RECORDS).parent.mkdir()
    (tmp_path / RECORDS).write_bytes(record(log.SerializeToString()))
    opened = opener(tmp_path, Form("tensorflow"), Odd("litert")).open()
    assert "another answer" in opened.choice.why


def test_made_up_requests_are_the_same_each_time_and_differ_by_row():
    """Zeros first; then floats, bytes of any value, and whole numbers of as many places as there are."""
    one = signature({"x": (-1, 64), "i": ((-1, 64), np.int64), "b": ((-1, 64), np.uint8)}, {"y": (-1,)})
    first, *others = made_up_requests(one, made_up(one), {"i": 9})
    assert all(not value.any() for value in first.values())
    assert [len(each["x"]) for each in others] == [1, 3, 16]
    assert set(np.unique(others[0]["i"])) == set(range(9))
    assert others[1]["b"].max() > 200
    assert not np.array_equal(others[1]["x"][0], others[1]["x"][1])
    again = list(made_up_requests(one, made_up(one), {"i": 9}))
    np.testing.assert_array_equal(again[2]["x"], others[1]["x"])


class Function(Form):
    """y = f(x), of any dtype."""

    def __init__(self, kind, function, dtype=np.float32):
        super().__init__(kind)
        self.signatures = {"serving_default": signature({"x": ((-1, 2), dtype)}, {"y": (-1, 2)})}
        self.function = function
        self.refused = 0

    def run(self, name, inputs):
        try:
            return {"y": np.float32(self.function(inputs["x"]))}
        except (IndexError, ValueError):
            self.refused += 1
            raise InvalidInput("out of range") from None


TABLE = np.arange(100.0)


@pytest.mark.parametrize(
    ("first", "second", "dtype", "said"),
    [
        (lambda x: x * 1e-5, lambda x: x * -1e-5, np.float32, "another answer of signature"),
        (lambda x: x * np.nan, lambda x: x * np.nan, np.float32, "output 'y' is no finite number in any answer"),
        (lambda x: x > 50, lambda x: x > 5000, np.float32, "output 'y' is the same for all made-up requests"),
        (lambda i: TABLE[i], lambda i: np.where(TABLE < 2, TABLE, -7)[i], np.int64, "another answer of signature"),
        (lambda i: TABLE[i], lambda i: np.where(TABLE < 90, TABLE, -7)[i], np.int64, "another answer of signature"),
        (lambda x: x * 1e-5, lambda x: x * 1e-5, np.float32, ""),
        (lambda i: TABLE[i], lambda i: TABLE[i], np.int64, ""),
    ],
)
def test_a_form_that_nothing_shows_to_be_right_does_not_serve(tmp_path, monkeypatch, first, second, dtype, said):
    """Its answers are held against the other's own scale, and in all places of a table; it is asked none beyond."""
    faster(monkeypatch, "litert")
    forms = [Function("tensorflow", first, dtype), Function("litert", second, dtype)]
    opened = opener(tmp_path, *forms).open()
    assert opened.choice.kind == ("tensorflow" if said else "litert")
    assert said in opened.choice.why
    assert forms[1].refused == 0


def test_forms_are_timed_on_what_both_answer(tmp_path):
    """A first form that refuses zeros is none the worse."""

    def positive(x):
        if not x.any():
            raise ValueError
        return x

    opened = opener(tmp_path, Function("tensorflow", positive), Function("litert", positive), warm=False).open()
    assert "median times" in opened.choice.why


@pytest.mark.parametrize(("file", "kind"), [("model.py", "python"), ("model.onnx", "onnx")])
def test_a_manifest_of_any_name_is_no_form_beside_a_model(tmp_path, file, kind):
    """Many a program has a `manifest.json` of its own; a package that is laid into the folder is another matter."""
    registry = default_registry(SavedModelOptions())
    for name in (file, "manifest.json"):
        (tmp_path / name).touch()
    assert [form.name for form in registry.forms(tmp_path)] == [kind, "litert"]
    (tmp_path / file).unlink()
    assert [form.name for form in registry.forms(tmp_path)] == ["litert"]
    (tmp_path / file).touch()
    (tmp_path / "assets.extra" / "edge_package").mkdir(parents=True)
    (tmp_path / "assets.extra" / "edge_package" / "manifest.json").touch()
    assert [form.name for form in registry.forms(tmp_path)] == ["litert", kind]
    registry.close()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, (1, 2, 4, 8, 16, 32)),
        ({"max_batch_size_rows": 6}, (1, 2, 4, 6)),
        ({"max_batch_size_rows": 1}, (1,)),
        ({"max_batch_size_rows": 1000}, (1, 2, 4, 8, 16, 32, 64)),
        ({"max_batch_size_rows": 8, "allowed_batch_sizes": (4, 8)}, (1, 4, 8)),
        ({"max_batch_size_rows": 8, "allowed_batch_sizes": (1, 8)}, (1, 8)),
    ],
)
def test_sizes_are_those_that_batches_will_have(options, rows):
    """The allowed ones, else powers of two; one row always."""
    assert run_sizes(BatchingOptions(**options)).rows == rows


@pytest.mark.slow
def test_a_real_saved_model_and_its_lite_form(tmp_path, tensorflow):
    """LiteRT is faster for a tiny model, and has the SavedModel's own signatures; one that differs does not serve."""
    tensorflow.run(executor_forms.write_saved_models, 200.0, tmp_path)
    path = tmp_path / "scale" / "1"
    registry = default_registry(SavedModelOptions())

    def choice():
        opened = Opener(registry, path, OPTIONS, title="scale/1", on_lost=lambda how: None).open()
        y = opened.executor.run("serving_default", {"x": np.ones((3, 4), np.float32)})["y"]
        definitions = opened.executor.signature_defs
        opened.executor.close()
        return opened.choice, y.tolist(), definitions

    alone, answer, definitions = choice()
    assert (alone.kind, alone.why, answer) == ("tensorflow", "", [[2] * 4] * 3)
    (path / "model.tflite").write_bytes(scale_model(2.0))
    faster_one, answer, same = choice()
    assert (faster_one.kind, answer, same) == ("litert", [[2] * 4] * 3, definitions)
    (path / "model.tflite").write_bytes(scale_model(2.1))
    other, answer, _ = choice()
    assert (other.kind, answer) == ("tensorflow", [[2] * 4] * 3)
    assert "output 'y' differs by up to" in other.why
    registry.close()
