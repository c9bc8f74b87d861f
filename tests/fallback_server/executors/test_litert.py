"""The LiteRT executor beyond what all executors promise, with real files."""

import contextlib
import gc
import math
import threading
import weakref
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from support.clock import FakeClock
from support.edge_models import publish_scale, scale_model
from support.interpreter_models import images, net_model, pair_model
from support.operator_files import know
from support.stateful_models import counting_model

from fallback_server.core.errors import LoadFailed, VersionNotReady, VersionRefused
from fallback_server.executors import litert, litert_runner
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert import open_litert
from fallback_server.executors.litert_files import SealedFile, holds_litert, read_form, size_bytes

NAME = "serving_default"


def opened(content, **options):
    sizes = options.pop("sizes", RunSizes(rows=(1, 2, 4, 8), threads=2))
    return open_litert(SealedFile.of(content, "m"), sizes=sizes, **options)


def test_every_signature_of_a_file_can_be_called():
    """By its own graph, which need not be the first, and with several inputs by name."""
    executor = opened(pair_model(kinds=("ADD", "MUL"), rows=-1))
    assert sorted(executor.signatures) == ["add", "mul"]
    a, b = np.full((3, 4), 2, np.float32), np.full((3, 4), 5, np.float32)
    assert executor.run("mul", {"b": b, "a": a})["c"].tolist() == (a * b).tolist()
    assert executor.run("add", {"a": a, "b": b})["c"].tolist() == (a + b).tolist()
    executor.close()


def test_a_file_without_signatures_is_its_first_graph():
    """By the tensors' own names; two of one name can't be told apart."""
    executor = opened(pair_model(signed=False))
    assert {name: str(spec) for name, spec in executor.signatures[NAME].inputs.items()} == {
        "x": "float32 [1, 4]",
        "y": "float32 [1, 4]",
    }
    executor.close()
    with pytest.raises(LoadFailed, match="two of its tensors have one name"):
        opened(pair_model(signed=False, tensors=("x", "x", "z")))


def test_odd_numbers_of_rows_are_answered_as_a_bare_interpreter_does():
    """Padded or in parts: the same scores as one by one."""
    executor = opened(net_model())
    batch = images(21)
    alone = np.concatenate([executor.run(NAME, {"image": batch[at : at + 1]})["scores"] for at in range(21)])
    for rows in (1, 2, 3, 5, 6, 7, 9, 15, 21):
        found = executor.run(NAME, {"image": batch[:rows]})["scores"]
        np.testing.assert_allclose(found, alone[:rows], rtol=1e-5, atol=1e-6)
    executor.close()


def test_a_second_variable_dimension_is_planned_for_as_it_comes(monkeypatch):
    """Each combination has its own interpreters, and only so many are kept."""
    monkeypatch.setattr(litert_runner, "MAX_SHAPES", 2)
    executor = opened(_steps_model())
    for rows, steps in ((1, 3), (4, 7), (2, 1), (1, 3)):
        x = np.arange(rows * steps * 2, dtype=np.float32).reshape(rows, steps, 2)
        np.testing.assert_array_equal(executor.run(NAME, {"x": x})["y"], x + x)
    assert executor.run(NAME, {"x": np.empty((0, 5, 2), np.float32)})["y"].shape == (0, 5, 2)
    assert len(executor._runners[NAME]._shapes) == 2
    executor.close()


def test_shapes_that_come_in_turn_are_planned_once(monkeypatch):
    """While there is memory, however many there are."""
    executor = opened(_steps_model())
    plans = counted_plans(monkeypatch)
    for steps in [*range(1, 40)] * 3:
        x = np.ones((2, steps, 2), np.float32)
        np.testing.assert_array_equal(executor.run(NAME, {"x": x})["y"], x + x)
    assert len(plans) == 39
    executor.close()


def counted_plans(monkeypatch):
    """The shapes of the plans that are made from now on."""
    plans = []
    plan = litert_runner.planned
    monkeypatch.setattr(
        litert_runner, "planned", lambda *given, **named: plans.append(named["shapes"]) or plan(*given, **named)
    )
    return plans


def test_shapes_give_way_when_they_take_too_much_memory(monkeypatch):
    """Those that were used longest ago; one that takes a great part of it alone is not kept at all."""
    executor = opened(_steps_model())
    runner = executor._runners[NAME]
    runner._shapes.clear()
    runner._most_bytes = 1000
    planning = []

    def resident_bytes():
        """100 for each step of the shapes that are kept, and of the one that is planned."""
        return runner._before_bytes + 100 * (sum(shape[1] for (shape,) in runner._shapes) + sum(planning))

    def plan(*given, shapes, planned=litert_runner.planned, **named):
        planning.append(shapes["x"][1])
        return planned(*given, shapes=shapes, **named)

    monkeypatch.setattr(litert_runner, "resident_bytes", resident_bytes)
    monkeypatch.setattr(litert_runner, "planned", plan)
    for steps, kept in ((2, [2]), (1, [2, 1]), (2, [1, 2]), (9, [1, 2]), (1, [2, 1])):
        executor.run(NAME, {"x": np.ones((1, steps, 2), np.float32)})
        planning.clear()
        assert [shape[1] for (shape,) in runner._shapes] == kept
    runner._most_bytes = 50
    executor.run(NAME, {"x": np.ones((1, 0, 2), np.float32)})
    assert [shape[1] for (shape,) in runner._shapes] == [0]
    executor.close()


def _steps_model():
    from support.interpreter_models import _File

    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (-1, -1, 2)), file.tensor(graph, "y", (-1, -1, 2))
    file.operator(graph, "ADD", [x, x], [y])
    graph.inputs, graph.outputs = [x], [y]
    file.sign(NAME, 0, {"x": x}, {"y": y})
    return file.bytes()


def test_a_model_whose_rows_mix_is_not_merged():
    """Its first dimension is a time axis, or it sums up over it: found at the load."""
    executor = opened(_mean_model())
    assert not executor.signatures[NAME].batches
    x = np.float32([[1, 2], [3, 6]])
    assert executor.run(NAME, {"x": x})["y"].tolist() == [[3, 6], [5, 10]]
    executor.close()


def _mean_model():
    """Y = x + the mean of its rows."""
    from support.interpreter_models import _File

    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (-1, 2)), file.tensor(graph, "y", (-1, 2))
    axes = file.tensor(graph, "axes", (1,), "int32", np.array([0], np.int32))
    mean = file.tensor(graph, "mean", (1, 2))
    file.operator(graph, "MEAN", [x, axes], [mean], keepDims=True)
    file.operator(graph, "ADD", [x, mean], [y])
    graph.inputs, graph.outputs = [x], [y]
    file.sign(NAME, 0, {"x": x}, {"y": y})
    return file.bytes()


def test_many_rows_are_run_in_parts_that_are_planned(monkeypatch):
    """A piece of a large request takes no more memory than its inputs and outputs."""
    executor = opened(net_model())
    plans = counted_plans(monkeypatch)
    batch = np.resize(images(16), (1024, 16, 16, 3))
    found = executor.run(NAME, {"image": batch})["scores"]
    np.testing.assert_allclose(found[:16], executor.run(NAME, {"image": images(16)})["scores"], rtol=1e-5, atol=1e-6)
    assert found.shape == (1024, 10)
    assert plans == []
    executor.close()


def test_nothing_is_planned_once_all_is_filled(monkeypatch):
    """However many threads run, in whatever sizes: planning holds Python's lock."""
    executor = opened(net_model(), fill=True)
    plans = counted_plans(monkeypatch)
    gate = threading.Barrier(2)

    def ask():
        gate.wait(30)
        for rows in range(1, 20):
            executor.run(NAME, {"image": images(rows)})

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert plans == []
    executor.close()


def test_no_rows_of_strings_are_an_answer_without_rows():
    """Of the outputs' inner shape, as numbers are; and strings are what they were."""
    executor = opened(_words_model())
    found = executor.run(NAME, {"x": np.array([b"a", b"", b"\0b"], object)})["y"]
    assert found.tolist() == [[b"a"], [b""], [b"\0b"]]
    assert executor.run(NAME, {"x": np.empty(0, object)})["y"].shape == (0, 1)
    executor.close()


def _words_model():
    """X string [-1] -> y [-1, 1]."""
    from support.interpreter_models import _File

    know("RESHAPE")
    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (-1,), "string"), file.tensor(graph, "y", (-1, 1), "string")
    shape = file.tensor(graph, "shape", (2,), "int32", np.array([-1, 1], np.int32))
    file.operator(graph, "RESHAPE", [x, shape], [y])
    graph.inputs, graph.outputs = [x], [y]
    file.sign(NAME, 0, {"x": x}, {"y": y})
    return file.bytes()


def _reversing_model(*, strings):
    """X -> y: the rows of x in reverse; strings come along, and are read by nobody."""
    from support.interpreter_models import _File

    know("REVERSE_V2")
    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (-1, 3)), file.tensor(graph, "y", (-1, 3))
    axis = file.tensor(graph, "axis", (1,), "int32", np.array([0], np.int32))
    words = {"words": file.tensor(graph, "words", (-1,), "string")} if strings else {}
    file.operator(graph, "REVERSE_V2", [x, axis], [y])
    graph.inputs, graph.outputs = [x, *words.values()], [y]
    file.sign(NAME, 0, {"x": x, **words}, {"y": y})
    return file.bytes()


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("rows", [(1,), (1, 8), (1, 2, 4, 8)])
def test_rows_are_tried_together_whatever_sizes_are_prepared(strings, rows):
    """Four that are run in parts of one would show nothing: a model that reverses them would be merged."""
    executor = opened(_reversing_model(strings=strings), sizes=RunSizes(rows=rows, threads=1))
    assert not executor.signatures[NAME].batches
    executor.close()


def test_sizes_whose_rows_take_no_less_time_are_not_kept(monkeypatch):
    """Requests are merged up to the others: a large model's plans take hundreds of megabytes."""
    monkeypatch.setattr(
        litert_runner, "least_s", lambda run, *, progress: 0.01 * len(run.args[0]["x"]) + bool(progress()) * 0
    )
    executor = opened(scale_model(2.0))
    assert executor.signatures[NAME].worth_rows == 1
    assert sorted(executor._runners[NAME]._pools) == [1]
    assert executor.run(NAME, {"x": np.ones((3, 4), np.float32)})["y"].shape == (3, 4)
    executor.close()


def test_sizes_that_take_too_long_are_not_measured(monkeypatch):
    """They are run in parts: a row that takes 0.9 s has no batch of four."""
    monkeypatch.setattr(
        litert_runner, "least_s", lambda run, *, progress: 0.4 + 0.5 * len(run.args[0]["x"]) + bool(progress()) * 0
    )
    executor = opened(scale_model(2.0))
    assert sorted(executor._runners[NAME]._pools) == [1, 2]
    assert executor.run(NAME, {"x": np.ones((5, 4), np.float32)})["y"].tolist() == [[2] * 4] * 5
    executor.close()


def test_a_large_file_has_fewer_interpreters(monkeypatch):
    """Each packs the weights anew: sizes between are left out, and runs wait for one another."""
    monkeypatch.setattr(litert, "KEPT_BYTES", 5 * len(net_model()))
    executor = opened(net_model(), sizes=RunSizes(rows=(1, 2, 4, 8, 16, 32), threads=2))
    assert executor._sizes == (1, 32)
    assert executor.run(NAME, {"image": images(3)})["scores"].shape == (3, 10)
    executor.close()


def test_sizes_that_take_too_much_memory_are_left_out(monkeypatch):
    """By how the process grows when they are planned; more rows are then run in parts."""
    grown = iter(range(0, 10**9, 100))
    monkeypatch.setattr("fallback_server.executors.litert_runner.resident_bytes", lambda: next(grown))
    monkeypatch.setattr(litert, "KEPT_BYTES", 500)
    monkeypatch.setattr(litert, "_MIN_KEPT", 100)
    executor = opened(scale_model(2.0), sizes=RunSizes(rows=(1, 2, 4, 8, 16), threads=2))
    assert sorted(executor._runners[NAME]._pools) == [1, 2, 4]
    x = np.arange(4 * 21, dtype=np.float32).reshape(21, 4)
    assert executor.run(NAME, {"x": x})["y"].tolist() == (x * 2).tolist()
    executor.close()


def test_requests_that_must_not_be_merged_are_not():
    """Where the package says that a signature has no batch axis."""
    executor = opened(scale_model(2.0), whole=frozenset({NAME}))
    assert not executor.signatures[NAME].batches
    assert executor.run(NAME, {"x": np.ones((3, 4), np.float32)})["y"].tolist() == [[2] * 4] * 3
    executor.close()


def test_each_request_begins_without_what_was_before():
    """A file with variables answers as if each request were its first."""
    executor = opened(counting_model())
    x = np.ones((1, 4), np.float32)
    assert [executor.run(NAME, {"x": x})["y"].tolist() for _ in range(3)] == [[[2] * 4]] * 3
    executor.run(NAME, {"x": x * 100})
    assert executor.run(NAME, {"x": x})["y"].tolist() == [[2] * 4]
    executor.close()


def test_a_run_that_outlasts_the_close_ends_well():
    """Its interpreter is its own until it has ended."""
    executor = opened(net_model())
    batch = images(8)
    failures = []

    def work():
        for _ in range(200):
            try:
                executor.run(NAME, {"image": batch})
            except Exception as error:  # noqa: BLE001  seen below
                failures.append(str(error))
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    executor.close()
    for thread in threads:
        thread.join(30)
    assert set(failures) <= {"the version is taken out of service; the request was not run"}


def test_a_close_frees_all_interpreters_at_once():
    """Nothing is left to the collector of cycles, which may come much later."""
    gc.collect()
    gc.disable()
    try:
        executor = opened(net_model())
        executor.run(NAME, {"image": images(3)})
        left = [weakref.ref(runner) for runner in executor._runners.values()]
        executor.close()
        assert [ref() for ref in left] == [None] * len(left)
    finally:
        gc.enable()


class Threads(litert_runner.Runner):
    """Notes how many threads each run has; those of several threads wait for `gate`."""

    seen: ClassVar[list[int]] = []
    begun = threading.Event()
    gate = threading.Event()

    def __init__(self, interpreter, *arguments, **options):
        super().__init__(interpreter, *arguments, **options)
        self.threads = interpreter.args[0]

    def run(self, inputs):
        self.seen.append(self.threads)
        if self.threads > 1:
            self.begun.set()
            assert self.gate.wait(30)
        return super().run(inputs)


def wide_executor(monkeypatch, clearly, **options):
    """An executor for which several threads count as faster where they take so many times as long."""
    monkeypatch.setattr(litert, "LONG_RUN_S", 0.0)
    monkeypatch.setattr(litert, "_CLEARLY", clearly)
    monkeypatch.setattr(litert, "Runner", Threads)
    Threads.gate.set()
    Threads.seen.clear()
    return opened(net_model(), **options)


def test_what_runs_beside_others_has_one_thread(monkeypatch):
    """And what has the processors to itself several, if that was found to be faster; the answers are the same."""
    monkeypatch.setattr(litert, "usable_cores", lambda: 2)
    clock = FakeClock()
    wide = wide_executor(monkeypatch, math.inf)
    monkeypatch.setattr(litert, "time", SimpleNamespace(monotonic=clock))
    for each in (Threads.begun, Threads.seen, Threads.gate):
        each.clear()
    found = {}
    first = threading.Thread(target=lambda: found.update(wide.run(NAME, {"image": images(1)})), daemon=True)
    first.start()
    assert Threads.begun.wait(30)
    beside = wide.run(NAME, {"image": images(5)})
    assert Threads.seen == [2, 1]
    Threads.gate.set()
    first.join(30)
    np.testing.assert_allclose(found["scores"], beside["scores"][:1], rtol=1e-5, atol=1e-6)
    wide.run(NAME, {"image": images(9)})
    assert Threads.seen == [2, 1, 1]  # Others have run up to now: the next of them is on its way.
    clock.advance(litert._MOMENT_S + 0.01)
    wide.run(NAME, {"image": images(9)})
    assert Threads.seen == [2, 1, 1, 2]
    wide.close()
    with pytest.raises(VersionNotReady, match="taken out of service"):
        wide.run(NAME, {"image": images(1)})


@pytest.mark.parametrize(("clearly", "threads"), [(math.inf, 2), (0.0, 1)])
def test_threads_are_chosen_on_the_cores_that_there_will_be(monkeypatch, clearly, threads):
    """A load that keeps to one core has both for all that two threads run; also where one is to run all from then."""
    cores, beside = [1], []

    @contextlib.contextmanager
    def all_cores():
        cores[0], before = 2, len(Threads.seen)
        yield
        cores[0] = 1
        beside.extend(Threads.seen[before:])

    monkeypatch.setattr(litert, "usable_cores", lambda: cores[0])
    executor = wide_executor(monkeypatch, clearly, all_cores=all_cores)
    assert executor.threads == threads
    assert Threads.seen.count(2) == beside.count(2) > 0
    executor.close()


def test_words_of_the_other_form_are_taken_over():
    """Clients of a version with two forms see the SavedModel's own signatures, whichever serves."""
    executor = opened(scale_model(2.0))
    executor.stands_for({NAME: "tensorflow/serving/regress"}, b"theirs")
    assert executor.signature_defs == b"theirs"
    assert executor.signatures[NAME].method == "tensorflow/serving/regress"
    executor.close()


def test_what_can_not_be_loaded_fails_with_the_reason_and_lets_its_bytes_go():
    """What is no such file, before LiteRT sees it; and with LiteRT's words, what it refuses."""
    damaged, unknown = SealedFile.of(b"    TFL3" + bytes(100), "m"), SealedFile.of(_unknown_operator(), "m")
    with pytest.raises(LoadFailed, match="it can't be told what it would run: it is no TFLite file"):
        open_litert(damaged, sizes=RunSizes())
    with pytest.raises(LoadFailed, match="LiteRT can't load it"):
        open_litert(unknown, sizes=RunSizes())
    assert max(damaged.fd, unknown.fd) < 0


def _unknown_operator():
    """Its operator is of a version that nobody has made."""
    from support.interpreter_models import _File

    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (1, 4)), file.tensor(graph, "y", (1, 4))
    file.operator(graph, "ADD", [x, x], [y])
    file.model.operatorCodes[0].version = 1000
    graph.inputs, graph.outputs = [x], [y]
    return file.bytes()


def test_the_bytes_can_not_be_changed_any_more():
    """Neither longer, nor shorter, nor others; closing twice does nothing."""
    file = SealedFile.of(b"content", "m")
    with pytest.raises(PermissionError), open(file.fd, "r+b", closefd=False, buffering=0) as stream:
        stream.write(b"x")
    assert file.size_bytes == 7
    file.close()
    file.close()


def test_the_form_is_the_file_else_the_packages_float_variant(tmp_path):
    """A package in the folder, or one that is the folder; its digest is held against the bytes that are run."""
    package = publish_scale(tmp_path / "store", 1, 3.0)
    assert holds_litert(package.path)
    form = read_form(package.path)
    assert (form.source, form.whole) == ("the package's float32 variant", frozenset())
    assert size_bytes(package.path) == len(form.content)
    inner = tmp_path / "m" / "1" / "assets.extra" / "edge_package"
    inner.parent.mkdir(parents=True)
    package.path.rename(inner)
    assert read_form(tmp_path / "m" / "1").content == form.content
    (tmp_path / "m" / "1" / "model.tflite").write_bytes(scale_model(4.0))
    assert read_form(tmp_path / "m" / "1").source == "model.tflite"
    variant = inner / "variants" / "float32.tflite"
    variant.write_bytes(variant.read_bytes()[:-1] + b"!")
    (tmp_path / "m" / "1" / "model.tflite").unlink()
    with pytest.raises(VersionRefused, match=r"its package can't be used: .*SHA-256"):
        read_form(tmp_path / "m" / "1")


def test_a_folder_without_a_form_is_refused(tmp_path):
    """And so is a file that is none; each refusal says what is there."""
    assert not holds_litert(tmp_path)
    with pytest.raises(VersionRefused, match=r"holds no model\.tflite and no package"):
        read_form(tmp_path)
    (tmp_path / "model.tflite").write_bytes(b"PK\x03\x04")
    with pytest.raises(VersionRefused, match="is no TFLite file: its identifier is not TFL3"):
        read_form(tmp_path)
