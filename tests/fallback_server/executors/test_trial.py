"""Files that harm whoever runs them, tried in real processes."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from support import interpreter_models, operator_files
from support.edge_models import scale_model
from support.fallback_workers import alive, wait_until
from support.harmful_models import looping_model

from fallback_server.core.errors import LoadFailed, ProcessLost
from fallback_server.core.loader import LoadStop
from fallback_server.executors import trial, tried_litert
from fallback_server.executors.base import RunSizes, Signature, TensorSpec
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.trial import try_out
from fallback_server.executors.tried_litert import litert_bytes, open_tried, why_apart
from fallback_server.executors.worker.messages import Load
from fallback_server.executors.worker.nursery import NOTHING, Nursery

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nursery():
    one = Nursery(NOTHING)
    yield one
    one.close()


def opened(path, nursery, **options):
    options = {"title": "m/1", "on_lost": lambda how: None, "sizes": RunSizes(), "threads": 0} | options
    return open_tried(path, nursery=nursery, **options)


def write(tmp_path, content):
    (tmp_path / "model.tflite").write_bytes(content)
    return tmp_path


def test_a_file_that_ends_its_process_is_refused_by_name(nursery, tmp_path):
    """With the signal; the server's own process never had it."""
    with pytest.raises(LoadFailed, match=r"^model\.tflite: LiteRT's trial run failed: .*\(signal 11\)"):
        opened(write(tmp_path, looping_model(itself=True)), nursery)


def test_a_file_that_hangs_is_ended(nursery):
    """After the limit, and says so."""
    with (
        SealedFileOf(looping_model()) as file,
        pytest.raises(LoadFailed, match=r"LiteRT's trial run hangs: it was ended after 1 s without a step"),
    ):
        try_out(Load(kind="litert", path="/", beside_others=False), file.fd, nursery=nursery, title="m/1", limit_s=1.0)


@pytest.mark.parametrize(("heard", "late"), [("sss-", True), ("ssssso", False), ("o", False), ("so", False)])
def test_each_step_is_waited_for_anew(monkeypatch, heard, late):
    """A slow but sound file may take longer than a step altogether."""
    ended = []
    watch = trial._Watch(SimpleNamespace(kill_soon=lambda: ended.append(None)), 60.0)
    script, waits = list(heard), []
    with monkeypatch.context() as patched:
        patched.setattr(trial.select, "poll", lambda: _Poll(watch, script, waits))
        with watch:
            watch._thread.join(30)
    assert (watch.late, bool(ended)) == (late, late)
    assert waits == [60_000.0] * len(heard)


class _Poll:
    """Hears what a script says: a step, the end, or nothing until the time is over."""

    def __init__(self, watch, script, waits):
        self._fds, self._script, self._waits = watch._fds, script, waits

    def register(self, fd, events):
        """Nothing to do."""

    def poll(self, wait_ms):
        self._waits.append(wait_ms)
        heard = self._script.pop(0)
        if heard == "s":
            os.write(self._fds[1], b".")
            return [(self._fds[0], 1)]
        return [(self._fds[2], 1)] if heard == "o" else []


@pytest.mark.parametrize(("other", "limit_s"), [("", 60.0), ("saved_model.pb", 20.0), ("saved_model.pbtxt", 20.0)])
def test_another_form_waits_less_for_a_trial(nursery, tmp_path, monkeypatch, other, limit_s):
    """The version is served by that meanwhile not yet, but soon."""
    given = []

    def refuse(*_, **options):
        given.append(options["limit_s"])
        raise LoadFailed("enough")

    monkeypatch.setattr(tried_litert, "try_out", refuse)
    if other:
        (tmp_path / other).write_bytes(b"")
    with pytest.raises(LoadFailed, match=r"model\.tflite: enough"):
        opened(write(tmp_path, scale_model(2.0)), nursery)
    assert given == [limit_s]


def test_what_values_can_end_stays_where_it_was_tried(nursery, tmp_path):
    """A quotient that does not fit ends that process; this one tells whose request it was, and lives."""
    file = operator_files.operator_file("FLOOR_MOD", "int32")
    lost = []
    executor = opened(write(tmp_path, file), nursery, on_lost=lost.append)
    assert not executor.in_process
    inputs = {name: np.full((1, 4, 4, 4), 7, np.int32) for name in ("in0", "in1")}
    assert executor.run("serving_default", inputs)["out0"].tolist() == np.zeros((1, 4, 4, 4)).tolist()
    inputs = {"in0": np.full((1, 4, 4, 4), -(2**31), np.int32), "in1": np.full((1, 4, 4, 4), -1, np.int32)}
    with pytest.raises(ProcessLost, match=r"\(signal 8\) while it ran the request"):
        executor.run("serving_default", inputs)
    wait_until(lambda: lost)
    executor.close()


def test_what_is_planned_for_as_it_comes_stays_where_it_was_tried(nursery, tmp_path):
    """It takes as much time and memory as a caller likes."""
    file = interpreter_models._File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (-1, -1)), file.tensor(graph, "y", (-1, -1))
    file.operator(graph, "ADD", [x, x], [y])
    graph.inputs, graph.outputs = [x], [y]
    executor = opened(write(tmp_path, file.bytes()), nursery)
    assert not executor.in_process
    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    assert executor.run("serving_default", {"x": x})["y"].tolist() == (x + x).tolist()
    executor.close()


def test_what_hangs_on_any_size_is_found_by_the_trial(nursery, tmp_path):
    """Also where the file leaves its sizes to callers."""
    content = looping_model(itself=True, shape=(1, -1))
    with pytest.raises(LoadFailed, match=r"trial run failed: .*\(signal 11\)"):
        opened(write(tmp_path, content), nursery)


def signature(*shape, **options):
    x = TensorSpec(name="x", dtype=np.dtype(np.float32), shape=shape)
    return {"s": Signature(name="s", inputs={"x": x}, outputs={"y": x}, **options)}


@pytest.mark.parametrize(
    ("signatures", "run_s", "content", "why"),
    [
        (signature(-1, 4), 1e-5, scale_model(2.0), ""),
        (signature(1, 4), 1e-5, scale_model(2.0), ""),
        (signature(-1, 4), 1e-5, bytes(2**25 + 1), "the file has 32 MiB"),
        (signature(-1, 4), 3e-3, scale_model(2.0), "a run takes 3 ms"),
        (signature(-1, 4), 0.0, scale_model(2.0), "not all of its signatures ran on zeros"),
        (signature(-1, -1), 1e-5, scale_model(2.0), "whose sizes are known from requests alone: float32 [-1, -1]"),
        (signature(-1, 4, mixes_rows=True), 1e-5, scale_model(2.0), "whose sizes are known from requests alone"),
        (signature(1, 4), 1e-5, looping_model(), "how long its operator WHILE takes"),
        (signature(1, 4), 1e-5, b"", "it is no TFLite file"),
    ],
)
def test_only_what_is_small_and_harmless_may_run_in_the_server(signatures, run_s, content, why):
    """And was tried, in all the sizes that may come."""
    found = why_apart(signatures, run_s, content)
    assert why in found
    assert bool(found) == bool(why)


class SealedFileOf:
    def __init__(self, content):
        self._file = SealedFile.of(content, "m")

    def __enter__(self):
        return self._file

    def __exit__(self, *error):
        self._file.close()


def test_a_load_that_is_stopped_ends_its_trial(nursery, tmp_path):
    """At once, though the file hangs."""
    stop = LoadStop()
    stop.ask()
    with pytest.raises(LoadFailed, match="the load was stopped"):
        opened(write(tmp_path, looping_model()), nursery, stop=stop)


def test_a_sound_file_comes_in_and_its_trial_is_gone(nursery, tmp_path, monkeypatch):
    """One process was started, and has ended; what was written over the file since changes nothing."""
    spawned = []
    spawn = nursery.spawn
    monkeypatch.setattr(nursery, "spawn", lambda title: spawned.append(spawn(title)) or spawned[-1])
    executor = opened(write(tmp_path, scale_model(2.0)), nursery)
    (worker,) = spawned
    assert executor.in_process
    wait_until(lambda: not alive(worker.pid))
    (tmp_path / "model.tflite").write_bytes(b"")
    assert executor.run("serving_default", {"x": np.ones((3, 4), np.float32)})["y"].tolist() == [[2] * 4] * 3
    executor.close()


@pytest.mark.parametrize("bound", ["LONG_S", "LARGE_BYTES"])
def test_a_large_model_stays_where_it_was_tried(nursery, tmp_path, monkeypatch, bound):
    """A hop is little beside its runs, and its plans would hold up the server; its process's loss is told."""
    monkeypatch.setattr(tried_litert, bound, 0)
    lost = []
    executor = opened(write(tmp_path, scale_model(2.0)), nursery, on_lost=lost.append)
    assert (executor.kind, executor.platform, executor.in_process) == ("litert", "tensorflow", False)
    x = np.ones((3, 4), np.float32)
    assert executor.run("serving_default", {"x": x})["y"].tolist() == (x * 2).tolist()
    os.kill(executor._worker.pid, signal.SIGKILL)
    wait_until(lambda: lost)
    assert lost == ["signal 9"]
    executor.close()


def test_memory_is_estimated_from_the_file(tmp_path):
    """The file, and its weights packed for a few shapes."""
    write(tmp_path, bytes(1000))
    assert litert_bytes(tmp_path) == 2**25 + 5 * 1000
